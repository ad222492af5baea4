-- What is neither a commit nor a claim: heartbeats, pauses, directives, the end of workers and events, counting up.

-- `beat`: note a worker, and renew the leases it names.
-- id, at (ms), report (JSON): the worker. started: data of the event of a first beat (JSON). job_ids, lease_ms (NULL:
-- as taken): the leases.
-- Answers one row without a job and with the worker's kept fields, then the named jobs, renewed or not.
CREATE FUNCTION ojs.beat(id text, at bigint, report bytea, started bytea, job_ids text[], lease_ms bigint)
RETURNS TABLE (renewed bool, first_seen_at bigint, beats bigint, directive text, job ojs.job)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    kept ojs.worker;
    mine text[];
BEGIN
    INSERT INTO ojs.worker AS w (id, first_seen_at, last_seen_at, beats, report)
    VALUES (beat.id, beat.at, beat.at, 1, beat.report)
    ON CONFLICT (id) DO UPDATE SET last_seen_at = excluded.last_seen_at, beats = w.beats + 1, report = excluded.report
    RETURNING w.* INTO kept;
    RETURN QUERY SELECT NULL::bool, kept.first_seen_at, kept.beats, kept.directive, NULL::ojs.job;
    PERFORM ojs.begin_log();
    IF kept.beats = 1 THEN
        INSERT INTO ojs.event (at, type, subject, data) VALUES (beat.at, 'worker.started', beat.id, beat.started);
    END IF;
    IF cardinality(job_ids) > 0 THEN
        PERFORM FROM ojs.job j WHERE j.id = ANY (job_ids) ORDER BY j.id FOR NO KEY UPDATE;
        mine := ARRAY(
            SELECT j.id FROM ojs.job j
            WHERE j.id = ANY (job_ids) AND j.state = 'active' AND (j.worker_id IS NULL OR j.worker_id = beat.id)
        );
        RETURN QUERY
        SELECT false, NULL::bigint, NULL::bigint, NULL::text, j FROM ojs.job j
        WHERE j.id = ANY (job_ids) AND j.id <> ALL (mine);
        RETURN QUERY
        WITH after AS (
            UPDATE ojs.job j SET
                version = j.version + 1,
                lease_ms = coalesce(nullif(beat.lease_ms, 0), j.lease_ms, 0),
                lease_expires_at = beat.at + coalesce(nullif(beat.lease_ms, 0), j.lease_ms, 0),
                wake_at = least(beat.at + coalesce(nullif(beat.lease_ms, 0), j.lease_ms, 0), j.timeout_at)
            WHERE j.id = ANY (mine)
            RETURNING j AS job
        ), logged AS (
            INSERT INTO ojs.event (
                at, type, subject, queue, job_type, state, attempt, priority, worker_id, started_at, lease_expires_at,
                workflow_id, trace
            )
            SELECT
                beat.at, 'job.heartbeat', (a.job).id, (a.job).queue, (a.job).type, (a.job).state, (a.job).attempt,
                (a.job).priority, (a.job).worker_id, (a.job).started_at, (a.job).lease_expires_at,
                (a.job).workflow_id, (a.job).trace
            FROM after a
        )
        SELECT true, NULL::bigint, NULL::bigint, NULL::text, a.job FROM after a;
    END IF;
END
$$;

-- Pause or resume a queue, made if it was never seen, with an event if that changed anything.
-- at: ms. data: of the event (JSON). Answers the queue, and whether it changed.
CREATE FUNCTION ojs.set_paused(name text, at bigint, paused bool, data bytea)
RETURNS TABLE (changed bool, queue ojs.queue) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    changed bool;
BEGIN
    INSERT INTO ojs.queue (name, created_at) VALUES (set_paused.name, set_paused.at) ON CONFLICT DO NOTHING;
    UPDATE ojs.queue q SET paused_at = CASE WHEN set_paused.paused THEN set_paused.at END
    WHERE q.name = set_paused.name AND (q.paused_at IS NOT NULL) <> set_paused.paused;
    changed := FOUND;
    IF changed THEN
        PERFORM ojs.begin_log();
        INSERT INTO ojs.event (at, type, subject, queue, data)
        VALUES (
            set_paused.at, CASE WHEN set_paused.paused THEN 'queue.paused' ELSE 'queue.resumed' END, set_paused.name,
            set_paused.name, set_paused.data
        );
    END IF;
    RETURN QUERY SELECT changed, q FROM ojs.queue q WHERE q.name = set_paused.name;
END
$$;

-- Forget a worker that was last seen before an instant (ms), and log one event. Answers whether it was forgotten.
CREATE FUNCTION ojs.remove_worker(
    worker text, seen_before bigint, type text, at bigint, subject text, queue text, job_type text, data bytea
) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM ojs.worker w WHERE w.id = remove_worker.worker AND w.last_seen_at < remove_worker.seen_before;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM ojs.begin_log();
    INSERT INTO ojs.event (at, type, subject, queue, job_type, data)
    VALUES (
        remove_worker.at, remove_worker.type, remove_worker.subject, remove_worker.queue, remove_worker.job_type,
        remove_worker.data
    );
    RETURN true;
END
$$;

-- Add the changes since the last time to the counts, at most 20000 rows of each. Several servers may do so at once.
-- Answers whether there may be more.
CREATE FUNCTION ojs.count_up() RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    met bigint;
    more bool;
BEGIN
    -- First of all, so that `reset` comes before it or after it.
    LOCK TABLE ojs.counted IN ROW EXCLUSIVE MODE;
    WITH gone AS (
        DELETE FROM ojs.tally t
        WHERE t.ctid = ANY (ARRAY(SELECT t.ctid FROM ojs.tally t LIMIT 20000 FOR UPDATE SKIP LOCKED))
        RETURNING t.*
    ), added AS (
        INSERT INTO ojs.counted AS c (queue, state, jobs)
        SELECT g.queue, g.state, sum(g.jobs) FROM gone g GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (queue, state) DO UPDATE SET jobs = c.jobs + excluded.jobs
    )
    SELECT count(*) INTO met FROM gone;
    more := met = 20000;
    WITH gone AS (
        DELETE FROM ojs.run r
        WHERE r.ctid = ANY (ARRAY(SELECT r.ctid FROM ojs.run r LIMIT 20000 FOR UPDATE SKIP LOCKED))
        RETURNING r.*
    ), added AS (
        INSERT INTO ojs.minute AS m (queue, minute, completed, failed, run_ms, wait_ms)
        SELECT g.queue, g.minute, sum(g.completed), sum(g.failed), sum(g.run_ms), sum(g.wait_ms)
        FROM gone g GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (queue, minute) DO UPDATE SET
            completed = m.completed + excluded.completed, failed = m.failed + excluded.failed,
            run_ms = m.run_ms + excluded.run_ms, wait_ms = m.wait_ms + excluded.wait_ms
    ), old AS (
        -- A new minute pushes the old ones out: an hour is kept.
        DELETE FROM ojs.minute m USING (SELECT g.queue, max(g.minute) AS newest FROM gone g GROUP BY 1) n
        WHERE m.queue = n.queue AND m.minute <= n.newest - 60
    )
    SELECT count(*) INTO met FROM gone;
    RETURN more OR met = 20000;
END
$$;
