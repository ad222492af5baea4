-- Write the counters of the store.
-- ?1: the last place in a queue. ?2: the last event.
UPDATE store SET seq = ?1, event_seq = ?2;
