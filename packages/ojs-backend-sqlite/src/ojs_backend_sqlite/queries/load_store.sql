-- The counters of the store: the last place in a queue, and the last event.
SELECT seq, event_seq FROM store;
