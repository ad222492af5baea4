-- All cron entries by name.
SELECT CAST('[' || group_concat(record) || ']' AS BLOB) FROM (SELECT record FROM crons ORDER BY name);
