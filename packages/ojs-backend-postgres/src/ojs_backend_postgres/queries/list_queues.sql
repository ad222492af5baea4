-- All queues by name.
SELECT * FROM ojs.queue ORDER BY name;
