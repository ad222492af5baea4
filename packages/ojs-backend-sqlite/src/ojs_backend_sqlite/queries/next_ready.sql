-- The next jobs of a queue, in the order in which they are handed out.
-- ?1: queue. ?2: pass over jobs that expired at or before this instant, ms (0: none). ?3: most jobs.
SELECT record
FROM jobs INDEXED BY ready
WHERE state = 'available' AND queue = ?1 AND (expires_at IS NULL OR expires_at > ?2)
ORDER BY priority DESC, seq
LIMIT ?3;
