-- Workflows whose wake_at has come, earliest first.
-- ?1: now, ms. ?2: most workflows. ?3: how many to pass over.
SELECT record
FROM workflows INDEXED BY workflow_wake
WHERE wake_at <= ?1
ORDER BY wake_at, id
LIMIT ?2 OFFSET ?3;
