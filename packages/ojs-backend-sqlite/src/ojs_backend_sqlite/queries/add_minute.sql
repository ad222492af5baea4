-- Add to a queue's minute.
-- ?1: queue. ?2: minute (ms since the epoch / 60000). ?3 to ?6: completed, failed, sums of duration and wait in ms.
INSERT INTO minutes (queue, minute, completed, failed, duration_ms, wait_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (queue, minute) DO UPDATE SET
    completed = completed + excluded.completed,
    failed = failed + excluded.failed,
    duration_ms = duration_ms + excluded.duration_ms,
    wait_ms = wait_ms + excluded.wait_ms;
