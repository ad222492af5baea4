-- Remove the oldest events: those before an instant, and those beyond the newest of a number. Counted by their own
-- numbers, so that nobody walks over what is kept; a number that was taken for nothing counts as an event.
-- $1: instant, ms. $2: how many to keep. $3: most events.
WITH oldest AS (
    SELECT n, at FROM ojs.event ORDER BY n LIMIT $3
), gone AS (
    DELETE FROM ojs.event e
    WHERE e.n = ANY (ARRAY(
        SELECT o.n FROM oldest o
        WHERE o.n <= (SELECT max(k.n) FROM ojs.event k) - $2::bigint
            OR o.n < coalesce((SELECT min(y.n) FROM oldest y WHERE y.at >= $1), 9223372036854775807)
    ))
    RETURNING 1
)
SELECT count(*) FROM gone;
