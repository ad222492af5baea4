-- Workers, longest silent first.
-- $1: only those last seen before this instant, ms. $2: most workers.
SELECT * FROM ojs.worker WHERE last_seen_at < $1 ORDER BY last_seen_at, id LIMIT $2;
