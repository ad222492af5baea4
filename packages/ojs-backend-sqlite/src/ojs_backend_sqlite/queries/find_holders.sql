-- Jobs that have a fingerprint and could conflict with a hold on it, oldest first.
-- ?1: fingerprint. ?2: JSON array of states. ?3: created later than this, ms (the least integer: however old). ?4: most jobs.
SELECT record
FROM jobs INDEXED BY hold
WHERE fingerprint = ?1 AND state IN (SELECT value FROM json_each(?2)) AND created_at > ?3
ORDER BY n
LIMIT ?4;
