-- All cron entries by name.
SELECT record FROM ojs.cron ORDER BY key;
