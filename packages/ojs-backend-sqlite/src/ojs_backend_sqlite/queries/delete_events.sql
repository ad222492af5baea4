-- Remove the oldest events.
-- ?1: the last one to go.
DELETE FROM events WHERE seq <= ?1;
