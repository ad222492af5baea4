-- The first event of a stretch of the log that is not old yet (NULL: all are).
-- ?1 and ?2: its first event, and the one after its last. ?3: events from this instant on are not old, ms.
SELECT min(seq) FROM events WHERE seq >= ?1 AND seq < ?2 AND at >= ?3;
