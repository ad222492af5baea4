-- Cron entries whose wake_at has come, earliest first.
-- ?1: now, ms. ?2: most entries.
SELECT record
FROM crons INDEXED BY cron_wake
WHERE wake_at <= ?1
ORDER BY wake_at, name
LIMIT ?2;
