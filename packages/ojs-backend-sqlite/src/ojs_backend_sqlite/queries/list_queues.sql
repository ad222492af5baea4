-- All queues by name.
SELECT CAST('[' || group_concat(record) || ']' AS BLOB) FROM (SELECT record FROM queues ORDER BY name);
