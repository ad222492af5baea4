-- Sums over the executions of a queue that ended after a minute.
-- ?1: queue. ?2: minute (ms since the epoch / 60000).
SELECT
    coalesce(sum(completed), 0),
    coalesce(sum(failed), 0),
    coalesce(sum(duration_ms), 0),
    coalesce(sum(wait_ms), 0)
FROM minutes
WHERE queue = ?1 AND minute > ?2;
