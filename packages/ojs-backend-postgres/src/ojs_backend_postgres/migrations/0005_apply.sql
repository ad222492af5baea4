-- What `commit` does once it knows that it may. Rows to swap are locked by the caller.

-- Make queues that were never seen, by the first job put into each, and set the limits that came with jobs.
-- names, created (ms), limits: as they come; the first instant and the last limit of a name count.
CREATE FUNCTION ojs.see_queues(names text[], created bigint[], limits bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO ojs.queue (name, created_at)
    SELECT DISTINCT ON (n.name) n.name, n.created_at
    FROM unnest(names, created) WITH ORDINALITY n (name, created_at, place)
    WHERE NOT EXISTS (SELECT FROM ojs.queue q WHERE q.name = n.name)
    ORDER BY n.name, n.place
    ON CONFLICT DO NOTHING;
    IF array_length(array_remove(limits, NULL), 1) > 0 THEN
        UPDATE ojs.queue q SET max_per_second = n.max_per_second
        FROM (
            SELECT DISTINCT ON (n.name) n.name, n.max_per_second
            FROM unnest(names, limits) WITH ORDINALITY n (name, max_per_second, place)
            WHERE n.max_per_second IS NOT NULL
            ORDER BY n.name, n.place DESC
        ) n
        WHERE q.name = n.name AND q.max_per_second IS DISTINCT FROM n.max_per_second;
    END IF;
END
$$;

-- Insert jobs, with their events, counts and queues. taken: the places of this call.
CREATE FUNCTION ojs.apply_inserts(new_jobs ojs.new_job[], taken bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (
        SELECT FROM unnest(new_jobs) n
        WHERE n.max_per_second IS NOT NULL OR NOT EXISTS (SELECT FROM ojs.queue q WHERE q.name = n.queue)
    ) THEN
        PERFORM ojs.see_queues(
            array_agg(n.queue ORDER BY n.c, n.i), array_agg(n.created_at ORDER BY n.c, n.i),
            array_agg(n.max_per_second ORDER BY n.c, n.i)
        ) FROM unnest(new_jobs) n;
    END IF;
    INSERT INTO ojs.job (
        id, queue, type, state, priority, seq, version, fence, attempt, requeues, wake_at, expires_at, created_at,
        enqueued_at, started_at, completed_at, cancelled_at, discarded_at, timeout_ms, visibility_timeout_ms,
        worker_id, lease_ms, lease_expires_at, timeout_at, retry_delay_ms, next_retry_at, dead, advanced, workflow_id,
        workflow_step, fingerprint, trace, error, errors, result, doc
    )
    SELECT
        n.id, n.queue, n.type, n.state, n.priority, coalesce(taken[n.o], n.seq), 1, n.fence, n.attempt, n.requeues,
        n.wake_at, n.expires_at, n.created_at, n.enqueued_at, n.started_at, n.completed_at, n.cancelled_at,
        n.discarded_at, n.timeout_ms, n.visibility_timeout_ms, n.worker_id, n.lease_ms, n.lease_expires_at,
        n.timeout_at, n.retry_delay_ms, n.next_retry_at, n.dead, n.advanced, n.workflow_id, n.workflow_step,
        n.fingerprint, n.trace, n.error, n.errors, n.result, n.doc
    FROM unnest(new_jobs) n;
    INSERT INTO ojs.event (
        at, type, subject, queue, job_type, data, state, attempt, priority, worker_id, started_at, lease_expires_at,
        workflow_id, trace
    )
    SELECT
        n.created_at, d.type, n.id, n.queue, n.type, d.data, n.state, n.attempt, n.priority, n.worker_id, n.started_at,
        n.lease_expires_at, n.workflow_id, n.trace
    FROM unnest(new_jobs) n, unnest(n.drafts) WITH ORDINALITY d (type, data, place)
    ORDER BY n.c, n.i, d.place;
    INSERT INTO ojs.tally (queue, state, jobs)
    SELECT n.queue, n.state, count(*) FROM unnest(new_jobs) n GROUP BY 1, 2;
END
$$;

-- Swap jobs, with their events, counts and queues. taken: the places of this call.
CREATE FUNCTION ojs.apply_swaps(swaps ojs.swap[], taken bigint[])
RETURNS TABLE (c int, i int, was text, job ojs.job) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM unnest(swaps) u WHERE u.sets & 1 <> 0) THEN
        PERFORM ojs.see_queues(array_agg(u.queue ORDER BY u.c, u.i), array_agg(u.at ORDER BY u.c, u.i), NULL)
        FROM unnest(swaps) u WHERE u.sets & 1 <> 0;
    END IF;
    RETURN QUERY
    WITH after AS (
        UPDATE ojs.job j SET
            state = u.state,
            version = j.version + 1,
            seq = CASE WHEN u.state = 'available' THEN taken[u.o] ELSE j.seq END,
            wake_at = CASE
                WHEN u.state IN ('completed', 'cancelled', 'discarded')
                THEN CASE WHEN j.workflow_id IS NULL THEN u.wake_at ELSE u.member_wake_at END
                ELSE nullif(
                    least(u.wake_at, CASE WHEN u.sets & 16 <> 0 THEN u.expires_at ELSE j.expires_at END),
                    9223372036854775807
                )
            END,
            queue = CASE WHEN u.sets & 1 <> 0 THEN u.queue ELSE j.queue END,
            priority = CASE WHEN u.sets & 2 <> 0 THEN u.priority ELSE j.priority END,
            attempt = CASE WHEN u.sets & 4 <> 0 THEN u.attempt ELSE j.attempt END,
            requeues = CASE WHEN u.sets & 8 <> 0 THEN u.requeues ELSE j.requeues END,
            expires_at = CASE WHEN u.sets & 16 <> 0 THEN u.expires_at ELSE j.expires_at END,
            enqueued_at = CASE WHEN u.sets & 32 <> 0 THEN u.enqueued_at ELSE j.enqueued_at END,
            started_at = CASE WHEN u.sets & 64 <> 0 THEN u.started_at ELSE j.started_at END,
            completed_at = CASE WHEN u.sets & 128 <> 0 THEN u.completed_at ELSE j.completed_at END,
            cancelled_at = CASE WHEN u.sets & 256 <> 0 THEN u.cancelled_at ELSE j.cancelled_at END,
            discarded_at = CASE WHEN u.sets & 512 <> 0 THEN u.discarded_at ELSE j.discarded_at END,
            timeout_ms = CASE WHEN u.sets & 1024 <> 0 THEN u.timeout_ms ELSE j.timeout_ms END,
            visibility_timeout_ms =
                CASE WHEN u.sets & 2048 <> 0 THEN u.visibility_timeout_ms ELSE j.visibility_timeout_ms END,
            worker_id = CASE WHEN u.sets & 4096 <> 0 THEN u.worker_id ELSE j.worker_id END,
            lease_ms = CASE WHEN u.sets & 8192 <> 0 THEN u.lease_ms ELSE j.lease_ms END,
            lease_expires_at = CASE WHEN u.sets & 16384 <> 0 THEN u.lease_expires_at ELSE j.lease_expires_at END,
            timeout_at = CASE WHEN u.sets & 32768 <> 0 THEN u.timeout_at ELSE j.timeout_at END,
            retry_delay_ms = CASE WHEN u.sets & 65536 <> 0 THEN u.retry_delay_ms ELSE j.retry_delay_ms END,
            next_retry_at = CASE WHEN u.sets & 131072 <> 0 THEN u.next_retry_at ELSE j.next_retry_at END,
            dead = CASE WHEN u.sets & 262144 <> 0 THEN u.dead ELSE j.dead END,
            advanced = CASE WHEN u.sets & 524288 <> 0 THEN u.advanced ELSE j.advanced END,
            workflow_id = CASE WHEN u.sets & 1048576 <> 0 THEN u.workflow_id ELSE j.workflow_id END,
            workflow_step = CASE WHEN u.sets & 2097152 <> 0 THEN u.workflow_step ELSE j.workflow_step END,
            error = CASE
                WHEN u.failure IS NOT NULL THEN u.failure
                WHEN u.sets & 4194304 <> 0 THEN u.error
                ELSE j.error
            END,
            -- The newest 20 stay (ERRORS_KEPT).
            errors = CASE
                WHEN u.failure IS NULL THEN j.errors
                ELSE (j.errors || u.failure)[greatest(1, coalesce(cardinality(j.errors), 0) - 18):]
            END,
            result = CASE WHEN u.sets & 8388608 <> 0 THEN u.result ELSE j.result END,
            -- Of a key that is there twice the reader takes the last.
            doc = CASE
                WHEN u.patch IS NULL THEN j.doc
                ELSE substr(j.doc, 1, length(j.doc) - 1) || ','::bytea || substr(u.patch, 2)
            END
        FROM (
            SELECT u.*, o.state AS was, o.started_at AS ran_from, o.enqueued_at AS waited_from, o.error AS old_error,
                o.queue AS old_queue
            FROM unnest(swaps) u JOIN ojs.job o ON o.id = ANY (ARRAY[u.id])
        ) u
        WHERE j.id = ANY (ARRAY[u.id])
        RETURNING u.c, u.i, u.at, u.was, u.ran_from, u.waited_from, u.old_queue, u.drafts,
            u.failure IS NOT NULL OR (u.sets & 4194304 <> 0 AND u.error IS DISTINCT FROM u.old_error) AS failed, j AS job
    ), logged AS (
        INSERT INTO ojs.event (
            at, type, subject, queue, job_type, data, state, attempt, priority, worker_id, started_at,
            lease_expires_at, workflow_id, trace
        )
        SELECT
            a.at, d.type, (a.job).id, (a.job).queue, (a.job).type, d.data, (a.job).state, (a.job).attempt,
            (a.job).priority, (a.job).worker_id, coalesce(a.ran_from, (a.job).started_at), (a.job).lease_expires_at,
            (a.job).workflow_id, (a.job).trace
        FROM after a, unnest(a.drafts) WITH ORDINALITY d (type, data, place)
        ORDER BY a.c, a.i, d.place
    ), counted AS (
        INSERT INTO ojs.tally (queue, state, jobs)
        SELECT t.queue, t.state, sum(t.jobs)
        FROM (
            SELECT a.old_queue AS queue, a.was AS state, -1 AS jobs FROM after a
            UNION ALL
            SELECT (a.job).queue, (a.job).state, 1 FROM after a
        ) t
        GROUP BY 1, 2 HAVING sum(t.jobs) <> 0
    ), ran AS (
        INSERT INTO ojs.run (queue, minute, completed, failed, run_ms, wait_ms)
        SELECT
            (a.job).queue, a.at / 60000, count(*) FILTER (WHERE (a.job).state = 'completed'),
            count(*) FILTER (WHERE (a.job).state <> 'completed'),
            coalesce(sum(a.at - a.ran_from) FILTER (WHERE (a.job).state = 'completed'), 0),
            coalesce(sum(a.ran_from - coalesce(a.waited_from, a.ran_from))
                FILTER (WHERE (a.job).state = 'completed'), 0)
        FROM after a
        WHERE a.was = 'active' AND a.ran_from IS NOT NULL AND ((a.job).state = 'completed' OR a.failed)
        GROUP BY 1, 2
    )
    SELECT a.c, a.i, a.was, a.job FROM after a;
END
$$;
