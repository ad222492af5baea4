-- Enqueue inside an application's own transaction: the job is there when that commits, or never was.
--
-- A job that was handed in waits here until the commit, and only then takes its place in the queue and in the log: what
-- it would hold up by taking them earlier is held up for that moment alone, however long the transaction lasts.
CREATE TABLE ojs.outbox (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job ojs.new_job NOT NULL
);

CREATE FUNCTION ojs.take_in() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job ojs.new_job := NEW.job;
BEGIN
    DELETE FROM ojs.outbox o WHERE o.n = NEW.n;
    PERFORM ojs.begin_log();
    PERFORM ojs.apply_inserts(
        ARRAY[job], CASE WHEN job.state = 'available' THEN ARRAY[nextval('ojs.place')] END
    );
    IF job.state = 'available' THEN
        PERFORM pg_notify('ojs.wake', json_build_array(job.queue)::text);
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER take_in AFTER INSERT ON ojs.outbox
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ojs.take_in();

-- Hand in a job that was validated and made elsewhere (the Python helper, or `enqueue`).
-- lock: key of its fingerprint (NULL: it has none); nobody else inserts that until this transaction ends.
-- Answers what stands in its way, and then nothing happened: `id` or `hold`, with the job found; else no row.
CREATE FUNCTION ojs.hand_in(new ojs.new_job, lock bigint) RETURNS TABLE (kind text, id text, state text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    IF lock IS NOT NULL THEN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'a unique job needs a transaction at READ COMMITTED, not %',
                upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'feature_not_supported',
                HINT = 'An older snapshot does not show the jobs that others have enqueued since.';
        END IF;
        PERFORM pg_advisory_xact_lock(lock);
    END IF;
    RETURN QUERY
    SELECT 'id', f.id, f.state FROM (
        SELECT j.id, j.state FROM ojs.job j WHERE j.id = new.id
        UNION ALL
        SELECT (o.job).id, (o.job).state FROM ojs.outbox o WHERE (o.job).id = new.id
    ) f LIMIT 1;
    IF NOT FOUND AND new.hold_states IS NOT NULL THEN
        RETURN QUERY
        SELECT 'hold', f.id, f.state FROM (
            SELECT j.id, j.state, j.created_at FROM ojs.job j WHERE j.fingerprint = new.fingerprint
            UNION ALL
            SELECT (o.job).id, (o.job).state, (o.job).created_at FROM ojs.outbox o
            WHERE (o.job).fingerprint = new.fingerprint
        ) f
        WHERE strpos(new.hold_states, f.state) > 0 AND f.created_at > new.hold_since LIMIT 1;
    END IF;
    IF NOT FOUND THEN
        INSERT INTO ojs.outbox (job) VALUES (new);
    END IF;
END
$$;

-- Refuse JSON that the HTTP API would refuse: nested more than 64 deep, or with half of a surrogate pair.
CREATE FUNCTION ojs.check_json(value json, name text) RETURNS void LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    brackets text;
BEGIN
    IF strpos(lower(value::text), '\ud') > 0 THEN
        -- NUL is allowed, but not by jsonb.
        PERFORM replace(value::text, '\u0000', '\u0001')::jsonb;
    END IF;
    brackets := regexp_replace(regexp_replace(value::text, '"([^"\\]|\\.)*"', '', 'g'), '[^]{}[]', '', 'g');
    IF length(brackets) > 128 THEN
        FOR level IN 1..64 LOOP
            brackets := replace(replace(brackets, '[]', '  '), '{}', '  ');
            brackets := replace(brackets, ' ', '');
        END LOOP;
        IF brackets <> '' THEN
            RAISE EXCEPTION '% is nested too deeply: at most 64 levels', name USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
END
$$;

-- Enqueue a job. The names and limits are those of the HTTP API; what is wrong is named and ends the transaction
-- (invalid_parameter_value; a taken id, or a unique job that is there already: unique_violation).
--
-- type, args (JSON array), queue, meta (JSON object), priority (-100 to 100, high first), scheduled_at (not before),
-- expires_at (not started from then on), id (a UUIDv7), max_attempts, timeout_ms (longest execution), tags.
-- fingerprint: of a unique job, as ojs_core.unique computes it from a policy; policies are not read here, so that there
-- is one reading of them. on_conflict: what to do if a job of this fingerprint has not ended: reject, or ignore.
-- Answers the id; with ignore, of the job that is there.
CREATE FUNCTION ojs.enqueue(
    type text, args json DEFAULT '[]', queue text DEFAULT 'default', meta json DEFAULT '{}', priority int DEFAULT 0,
    scheduled_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL, id text DEFAULT NULL,
    max_attempts int DEFAULT NULL, timeout_ms bigint DEFAULT NULL, tags text[] DEFAULT NULL,
    fingerprint text DEFAULT NULL, on_conflict text DEFAULT 'reject'
) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    at_ms bigint := floor(extract(epoch FROM scheduled_at) * 1000);
    until_ms bigint := floor(extract(epoch FROM expires_at) * 1000);
    job ojs.new_job;
    wrong text := CASE
        WHEN type IS NULL OR length(type) > 255
            OR type COLLATE "C" !~ '^[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)*$'
        THEN 'type must be lower-case words of [a-z0-9_-] joined by dots, each beginning with a letter, 255 at most'
        WHEN queue IS NULL OR length(queue) > 128 OR queue COLLATE "C" !~ '^[a-z0-9][a-z0-9.-]*$'
        THEN 'queue must be 1 to 128 characters of [a-z0-9.-], the first a letter or digit'
        WHEN args IS NULL OR json_typeof(args) <> 'array' THEN 'args must be an array'
        WHEN meta IS NULL OR json_typeof(meta) <> 'object' THEN 'meta must be an object'
        WHEN octet_length(args::text) + octet_length(meta::text) > 1048576 THEN 'a job may have 1048576 bytes'
        WHEN octet_length(meta::text) > 65536 THEN 'meta may have 65536 bytes'
        WHEN priority IS NULL OR priority NOT BETWEEN -100 AND 100 THEN 'priority must be an integer from -100 to 100'
        WHEN id COLLATE "C" !~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
        THEN 'id must be a lower-case UUIDv7'
        WHEN max_attempts < 0 THEN 'max_attempts must not be negative'
        WHEN timeout_ms NOT BETWEEN 0 AND 315360000000 THEN 'timeout_ms must be from 0 to 315360000000'
        WHEN array_position(tags, NULL) IS NOT NULL THEN 'tags must be strings'
        WHEN fingerprint COLLATE "C" !~ '^[0-9a-f]{64}$' THEN 'fingerprint must be a SHA-256 in lower-case hex'
        WHEN on_conflict IS NULL OR on_conflict NOT IN ('reject', 'ignore')
        THEN 'on_conflict must be reject or ignore; what replaces other jobs cannot be enqueued inside a transaction'
    END;
    doc text;
    met record;
    -- As `lock_of` has it (committing.py).
    lock bigint := ('x' || left(encode(sha256(convert_to('ojs:' || fingerprint, 'UTF8')), 'hex'), 16))::bit(64)::bigint;
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', wrong USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM ojs.check_json(args, 'args');
    PERFORM ojs.check_json(meta, 'meta');
    job.c := 0;
    job.i := 0;
    job.id := coalesce(
        id,
        overlay(lpad(to_hex(now_ms), 12, '0') PLACING '-' FROM 9 FOR 0) || '-7' || substr(gen_random_uuid()::text, 16)
    );
    job.queue := queue;
    job.type := type;
    job.state := CASE WHEN at_ms > now_ms THEN 'scheduled' ELSE 'available' END;
    job.o := CASE WHEN job.state = 'available' THEN 1 END;
    job.priority := priority;
    job.seq := 0;
    job.fence := 0;
    job.attempt := 0;
    job.requeues := 0;
    job.wake_at := least(CASE WHEN job.state = 'scheduled' THEN at_ms END, until_ms);
    job.expires_at := coalesce(until_ms, 9223372036854775807);
    job.created_at := now_ms;
    job.enqueued_at := CASE WHEN job.state = 'available' THEN now_ms END;
    job.timeout_ms := nullif(timeout_ms, 0);
    job.dead := false;
    job.advanced := false;
    IF fingerprint IS NOT NULL THEN
        job.fingerprint := fingerprint;
        job.hold_states := 'available active scheduled retryable pending';
        job.hold_since := -9223372036854775807;
    END IF;
    job.trace := convert_to(CASE
        WHEN json_typeof(meta -> 'trace_id') = 'string' THEN (meta -> 'trace_id')::text
        WHEN json_typeof(meta -> 'traceparent') = 'string' THEN (meta -> 'traceparent')::text
    END, 'UTF8');
    doc := format(
        '{"id":"%s","type":"%s","queue":"%s","args":%s,"meta":%s,"state":"%s","created_at":%s',
        job.id, type, queue, args, meta, job.state, now_ms
    );
    IF max_attempts IS NOT NULL THEN
        doc := doc || format(',"retry":{"max_attempts":%s}', max_attempts);
        doc := doc || format(',"as_sent":{"retry":{"max_attempts":%s}}', max_attempts);
    END IF;
    IF at_ms IS NOT NULL THEN
        doc := doc || format(',"scheduled_at":%s', at_ms);
    END IF;
    IF fingerprint IS NOT NULL THEN
        doc := doc || format(',"fingerprint":"%s"', fingerprint);
    END IF;
    IF tags IS NOT NULL THEN
        doc := doc || ',"tags":' || to_json(tags);
    END IF;
    job.doc := convert_to(doc || '}', 'UTF8');
    job.drafts := ARRAY[CASE
        WHEN job.state = 'available' THEN ROW('job.enqueued', NULL)::ojs.draft
        ELSE ROW('job.scheduled', convert_to(format(
            '{"scheduled_at":"%s"}', to_char(scheduled_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
        ), 'UTF8'))::ojs.draft
    END];
    SELECT * INTO met FROM ojs.hand_in(job, lock);
    IF met.kind = 'hold' AND on_conflict = 'ignore' THEN
        RETURN met.id;
    ELSIF met.kind IS NOT NULL THEN
        RAISE EXCEPTION 'job % is already there and %', met.id, met.state USING ERRCODE = 'unique_violation';
    END IF;
    RETURN job.id;
END
$$;
