-- The earliest wake_at of all jobs, cron entries and workflows.
SELECT least(
    (SELECT min(wake_at) FROM ojs.job WHERE wake_at IS NOT NULL),
    (SELECT min(wake_at) FROM ojs.cron WHERE wake_at IS NOT NULL),
    (SELECT min(wake_at) FROM ojs.workflow WHERE wake_at IS NOT NULL)
);
