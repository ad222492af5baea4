-- The first and the last event there are (NULL: none).
SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events);
