-- All cron entries by name.
SELECT record
FROM crons
ORDER BY name;
