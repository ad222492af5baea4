-- Jobs of a queue by state.
-- ?1: queue.
SELECT state, jobs FROM counts WHERE queue = ?1;
