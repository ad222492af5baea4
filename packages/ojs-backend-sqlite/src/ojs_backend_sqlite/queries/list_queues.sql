-- All queues by name.
SELECT record
FROM queues
ORDER BY name;
