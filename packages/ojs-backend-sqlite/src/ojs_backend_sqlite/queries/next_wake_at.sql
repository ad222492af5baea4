-- The earliest wake_at of all jobs, cron entries and workflows.
SELECT min(wake_at)
FROM (
    SELECT min(wake_at) AS wake_at FROM jobs WHERE wake_at IS NOT NULL
    UNION ALL
    SELECT min(wake_at) FROM crons WHERE wake_at IS NOT NULL
    UNION ALL
    SELECT min(wake_at) FROM workflows WHERE wake_at IS NOT NULL
);
