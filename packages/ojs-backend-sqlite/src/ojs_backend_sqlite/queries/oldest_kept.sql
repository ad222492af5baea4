-- The first of the oldest events that is not old yet (NULL: all are).
-- ?1: most events to look at. ?2: events from this instant on are not old, ms.
SELECT min(seq) FROM (SELECT seq, at FROM events ORDER BY seq LIMIT ?1) WHERE at >= ?2;
