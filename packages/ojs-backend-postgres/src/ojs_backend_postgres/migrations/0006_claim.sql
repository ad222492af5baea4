-- `claim`: hand out jobs, queues left to right, priority high to low, then place.
--
-- requests: in the order in which they are served; those of one `line` ask the same queues and are served together.
-- lines, queues: the queues of each line, in order (two arrays of one length).
--
-- Answers the jobs handed out (`expired` false) with the request each is for, in order, and available jobs that have
-- expired, at most 100 of a queue.

-- What the rate limit of a queue leaves now; see ojs_core.rate, which this repeats.
CREATE FUNCTION ojs.window_at(slot bigint, spent bigint[], now bigint) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN spent IS NULL OR slot - now / 100 > 100 THEN array_fill(0::bigint, ARRAY[11])
        ELSE (array_fill(0::bigint, ARRAY[least(11, greatest(0, now / 100 - slot))::int]) || spent)[1:11]
    END
$$;

-- Give the jobs of `ids` to the requests of a line, of which `served` have been given one before. The first request
-- takes the first jobs, as many as it wants.
-- Jobs are looked up as `commit` does it, and for the same reason.
CREATE FUNCTION ojs.hand_out(requests ojs.claim_request[], line int, served int, name text, ids text[])
RETURNS TABLE (r int, job ojs.job)
LANGUAGE plpgsql VOLATILE
SET enable_indexscan = off SET enable_indexonlyscan = off SET enable_bitmapscan = on SET enable_sort = on
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH slot AS (
        SELECT q.*, row_number() OVER () AS place
        FROM (
            SELECT q.*, g FROM unnest(requests) q, generate_series(1, q.count) g
            WHERE q.line = hand_out.line ORDER BY q.r LIMIT cardinality(ids) OFFSET hand_out.served
        ) q
    ), after AS (
        UPDATE ojs.job j SET
            state = 'active',
            version = j.version + 1,
            fence = j.fence + 1,
            attempt = j.attempt + 1,
            started_at = s.now,
            worker_id = s.worker_id,
            lease_ms = coalesce(nullif(s.lease_ms, 0), nullif(j.visibility_timeout_ms, 0), s.default_lease_ms),
            lease_expires_at = s.now
                + coalesce(nullif(s.lease_ms, 0), nullif(j.visibility_timeout_ms, 0), s.default_lease_ms),
            timeout_at = s.now + coalesce(nullif(j.timeout_ms, 0), s.default_timeout_ms),
            next_retry_at = NULL,
            wake_at = s.now + least(
                coalesce(nullif(s.lease_ms, 0), nullif(j.visibility_timeout_ms, 0), s.default_lease_ms),
                coalesce(nullif(j.timeout_ms, 0), s.default_timeout_ms)
            )
        FROM slot s
        WHERE j.id = ANY (ids[s.place::int : s.place::int])
        RETURNING s.r, s.place, j AS job
    ), logged AS (
        INSERT INTO ojs.event (
            at, type, subject, queue, job_type, state, attempt, priority, worker_id, started_at, lease_expires_at,
            workflow_id, trace
        )
        SELECT
            (a.job).started_at, 'job.started', (a.job).id, (a.job).queue, (a.job).type, (a.job).state,
            (a.job).attempt, (a.job).priority, (a.job).worker_id, (a.job).started_at, (a.job).lease_expires_at,
            (a.job).workflow_id, (a.job).trace
        FROM after a ORDER BY a.place
    ), counted AS (
        INSERT INTO ojs.tally (queue, state, jobs)
        VALUES (hand_out.name, 'available', -cardinality(ids)), (hand_out.name, 'active', cardinality(ids))
    )
    SELECT a.r, a.job FROM after a ORDER BY a.place;
END
$$;

-- Without sorting, only the index in the right order is left to the planner. When few jobs are available it takes others
-- for as good, and those have millions of dead entries to pass over.
CREATE FUNCTION ojs.claim(requests ojs.claim_request[], lines int[], queues text[])
RETURNS TABLE (r int, expired bool, job ojs.job)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_sort = off SET enable_bitmapscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    barred text[];
    head record;
    line_now int := -1;
    first_request int;
    wanted int;
    served int;
    latest bigint;
    room int;
    ids text[];
    window_now bigint[];
BEGIN
    -- Note that the workers were seen; those that were told to stop get nothing.
    WITH seen AS (
        INSERT INTO ojs.worker AS w (id, first_seen_at, last_seen_at, beats)
        SELECT DISTINCT ON (q.worker_id) q.worker_id, q.now, q.now, 0
        FROM unnest(requests) q WHERE q.worker_id IS NOT NULL
        ORDER BY q.worker_id, q.r DESC
        ON CONFLICT (id) DO UPDATE SET last_seen_at = excluded.last_seen_at
        RETURNING w.id, w.directive
    )
    SELECT array_agg(s.id) INTO barred FROM seen s WHERE s.directive IN ('quiet', 'terminate');
    IF barred IS NOT NULL THEN
        requests := ARRAY(
            SELECT q FROM unnest(requests) q WHERE q.worker_id IS NULL OR q.worker_id <> ALL (barred)
        );
    END IF;

    -- In one order, whatever the order in which they are asked for: claims must not wait for each other in a circle.
    PERFORM FROM ojs.queue q WHERE q.name = ANY (queues) AND q.max_per_second IS NOT NULL AND q.paused_at IS NULL
    ORDER BY q.name FOR NO KEY UPDATE;
    FOR head IN
        SELECT l.line, q.name, q.max_per_second
        FROM unnest(lines, queues) WITH ORDINALITY l (line, name, place) JOIN ojs.queue q ON q.name = l.name
        WHERE q.paused_at IS NULL ORDER BY l.place
    LOOP
        IF head.line <> line_now THEN
            line_now := head.line;
            served := 0;
            SELECT coalesce(sum(q.count), 0), max(q.now), min(q.r) INTO wanted, latest, first_request
            FROM unnest(requests) q WHERE q.line = line_now;
        END IF;
        room := wanted - served;
        CONTINUE WHEN room <= 0;
        IF head.max_per_second IS NOT NULL THEN
            -- Under the lock of the queue, which may be new: a limit that came a moment ago.
            SELECT ojs.window_at(q.slot, q.spent, latest), least(room, q.max_per_second) INTO window_now, room
            FROM ojs.queue q WHERE q.name = head.name AND q.paused_at IS NULL FOR NO KEY UPDATE;
            room := least(room, head.max_per_second - (SELECT sum(s) FROM unnest(window_now) s));
            CONTINUE WHEN room IS NULL OR room <= 0;
        END IF;

        ids := ARRAY(
            SELECT j.id FROM ojs.job j
            WHERE j.state = 'available' AND j.queue = head.name AND j.expires_at > latest
            ORDER BY j.priority DESC, j.seq LIMIT room FOR NO KEY UPDATE SKIP LOCKED
        );
        RETURN QUERY
        SELECT first_request, true, j FROM ojs.job j
        WHERE j.state = 'available' AND j.queue = head.name AND j.expires_at <= latest
            AND j.expires_at < 9223372036854775807
        ORDER BY j.expires_at LIMIT 100;
        CONTINUE WHEN cardinality(ids) = 0;

        PERFORM ojs.begin_log();
        RETURN QUERY SELECT h.r, false, h.job FROM ojs.hand_out(requests, line_now, served, head.name, ids) h;

        IF head.max_per_second IS NOT NULL THEN
            UPDATE ojs.queue q
            SET slot = greatest(latest / 100, CASE WHEN q.slot - latest / 100 <= 100 THEN q.slot END),
                spent = (window_now[1] + cardinality(ids)) || window_now[2:]
            WHERE q.name = head.name;
        END IF;
        served := served + cardinality(ids);
    END LOOP;
END
$$;
