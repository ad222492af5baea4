-- Cron entries whose wake_at has come, earliest first.
-- $1: now, ms. $2: most entries.
SELECT record FROM ojs.cron WHERE wake_at <= $1 ORDER BY wake_at, key LIMIT $2;
