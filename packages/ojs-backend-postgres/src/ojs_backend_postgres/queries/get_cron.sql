-- One cron entry.
-- $1: name.
SELECT record FROM ojs.cron WHERE key = $1;
