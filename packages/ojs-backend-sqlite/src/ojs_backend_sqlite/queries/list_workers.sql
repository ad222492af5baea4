-- Workers, longest silent first.
-- ?1: only those last seen before this instant, ms. ?2: most workers.
SELECT record
FROM workers INDEXED BY silent
WHERE last_seen_at < ?1
ORDER BY last_seen_at, id
LIMIT ?2;
