-- A queue and its numbers: jobs by state (JSON object), and sums over the executions that ended after a minute.
-- $1: queue. $2: minute (ms since the epoch / 60000).
SELECT q.*, s.states::text AS states, m.*
FROM ojs.queue q
CROSS JOIN LATERAL (
    SELECT json_object_agg(t.state, t.jobs) AS states
    FROM (
        SELECT t.state, sum(t.jobs) AS jobs
        FROM (
            SELECT state, jobs FROM ojs.counted WHERE queue = $1
            UNION ALL
            SELECT state, jobs FROM ojs.tally WHERE queue = $1
        ) t
        GROUP BY t.state
    ) t
) s
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(m.completed), 0)::bigint AS completed_last_hour,
        coalesce(sum(m.failed), 0)::bigint AS failed_last_hour,
        coalesce(sum(m.run_ms), 0)::bigint AS duration_ms_sum,
        coalesce(sum(m.wait_ms), 0)::bigint AS wait_ms_sum
    FROM (
        SELECT minute, completed, failed, run_ms, wait_ms FROM ojs.minute WHERE queue = $1
        UNION ALL
        SELECT minute, completed, failed, run_ms, wait_ms FROM ojs.run WHERE queue = $1
    ) m
    WHERE m.minute > $2
) m
WHERE q.name = $1;
