-- Jobs whose wake_at has come, earliest first.
-- ?1: now, ms. ?2: most jobs. ?3: how many to pass over.
SELECT record
FROM jobs INDEXED BY wake
WHERE wake_at <= ?1
ORDER BY wake_at, seq, id
LIMIT ?2 OFFSET ?3;
