-- `commit`: check everything, then apply what stands. The commits of one call touch different jobs, fingerprints and
-- records (the server sees to it), so they need no order among themselves, but for two things: `places` go to jobs in
-- the order of the call, and a hold meets the swaps and removals of earlier commits and of its own.
--
-- new_jobs, swaps, removals, workflows, crons, notes: the parts of all commits.
-- locks: keys of the fingerprints inserted here, ascending; for as long as this takes nobody else inserts one of them.
-- doomed: commits that cannot happen, whatever the store holds; only their conflicts are looked for.
-- entering: how many jobs may enter `available`.
--
-- Answers rows of a few parts: `places` (once), `conflict`, and `changed` with the job after it and the state before.
-- A race over a new id, workflow or cron entry ends in unique_violation: ask again, and it is a conflict.
--
-- Records are looked up by key, each by itself, whatever the planner believes: when hardly one was there as it last
-- counted, it takes reading them all first for as good. So there are no index scans, which leaves bitmap scans, and those
-- need a key. It does not think of them where the order of the key could be of use: hence `= ANY` of an array of one in
-- place of an equality, and in ORDER BY the other name of the collation.
CREATE FUNCTION ojs.commit(
    new_jobs ojs.new_job[], swaps ojs.swap[], removals ojs.removal[], workflows ojs.put[], crons ojs.put[],
    notes ojs.note[], locks bigint[], doomed int[], entering int
) RETURNS TABLE (part text, c int, i int, kind text, was text, places bigint[], job ojs.job)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_indexscan = off
SET enable_indexonlyscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    conflicts ojs.conflict[];
    taken bigint[];
    failed int[] := doomed;
BEGIN
    IF cardinality(locks) > 0 THEN
        PERFORM pg_advisory_xact_lock(l.key) FROM unnest(locks) l (key);
    END IF;

    -- Check. Rows are locked in the order of their keys, so that no two calls wait for each other in a circle.
    IF cardinality(swaps) + cardinality(removals) > 0 THEN
        PERFORM FROM ojs.job j
        WHERE j.id = ANY (ARRAY(SELECT u.id FROM unnest(swaps) u UNION ALL SELECT r.id FROM unnest(removals) r))
        ORDER BY j.id COLLATE "POSIX" FOR NO KEY UPDATE;
        conflicts := ARRAY(
            SELECT ROW('transition', u.c, u.i, u.id, false)::ojs.conflict
            FROM unnest(swaps) u LEFT JOIN ojs.job j ON j.id = ANY (ARRAY[u.id])
            WHERE NOT coalesce(
                strpos(u.expected, j.state) > 0
                AND (u.if_version IS NULL OR u.if_version = j.version)
                AND (u.if_fence IS NULL OR u.if_fence = j.fence)
                AND (u.if_worker IS NULL OR j.worker_id IS NULL OR u.if_worker = j.worker_id),
                false
            )
            UNION ALL
            SELECT ROW('removal', r.c, r.i, r.id, false)::ojs.conflict
            FROM unnest(removals) r LEFT JOIN ojs.job j ON j.id = ANY (ARRAY[r.id])
            WHERE r.if_version IS DISTINCT FROM j.version
        );
    END IF;
    IF cardinality(workflows) > 0 THEN
        PERFORM FROM ojs.workflow w WHERE w.key = ANY (ARRAY(SELECT p.key FROM unnest(workflows) p))
        ORDER BY w.key COLLATE "POSIX" FOR NO KEY UPDATE;
        conflicts := conflicts || ARRAY(
            SELECT ROW('workflow', p.c, p.i, NULL, false)::ojs.conflict
            FROM unnest(workflows) p LEFT JOIN ojs.workflow w ON w.key = ANY (ARRAY[p.key])
            WHERE coalesce(w.version, 0) <> p.if_version
        );
    END IF;
    IF cardinality(crons) > 0 THEN
        PERFORM FROM ojs.cron e WHERE e.key = ANY (ARRAY(SELECT p.key FROM unnest(crons) p))
        ORDER BY e.key COLLATE "POSIX" FOR NO KEY UPDATE;
        conflicts := conflicts || ARRAY(
            SELECT ROW('cron', p.c, p.i, NULL, false)::ojs.conflict
            FROM unnest(crons) p LEFT JOIN ojs.cron e ON e.key = ANY (ARRAY[p.key])
            WHERE coalesce(e.version, 0) <> p.if_version
        );
    END IF;
    IF cardinality(new_jobs) > 0 THEN
        conflicts := conflicts || ARRAY(
            SELECT ROW('id', n.c, n.i, n.id, false)::ojs.conflict
            FROM unnest(new_jobs) n JOIN ojs.job j ON j.id = ANY (ARRAY[n.id])
            WHERE NOT EXISTS (SELECT FROM unnest(removals) r WHERE r.id = n.id AND r.c = n.c)
        );
    END IF;
    IF cardinality(conflicts) > 0 THEN
        failed := failed || ARRAY(SELECT x.c FROM unnest(conflicts) x);
    END IF;
    IF cardinality(locks) > 0 THEN
        -- Of the swaps only those count that will happen: what else can stand in their way is known by now, and a
        -- commit that both holds and swaps is the last of its call.
        conflicts := conflicts || ARRAY(
            SELECT ROW('hold', n.c, n.i, h.id, h.late)::ojs.conflict
            FROM unnest(new_jobs) n
            CROSS JOIN LATERAL (
                SELECT j.id, u.c IS NOT NULL AND u.c < n.c AS late
                FROM ojs.job j
                LEFT JOIN unnest(swaps) u ON u.id = j.id AND u.c <= n.c AND (u.c = n.c OR u.c <> ALL (failed))
                WHERE j.fingerprint = n.fingerprint
                    AND strpos(n.hold_states, coalesce(u.state, j.state)) > 0
                    AND j.created_at > n.hold_since
                    AND NOT EXISTS (
                        SELECT FROM unnest(removals) r
                        WHERE r.id = j.id AND r.c <= n.c AND (r.c = n.c OR r.c <> ALL (failed))
                    )
                LIMIT 1
            ) h
            WHERE n.hold_states IS NOT NULL
                AND NOT EXISTS (SELECT FROM unnest(conflicts) x WHERE x.c = n.c AND x.i = n.i AND x.kind = 'id')
        );
    END IF;
    IF cardinality(conflicts) > 0 THEN
        failed := failed || ARRAY(SELECT x.c FROM unnest(conflicts) x);
        RETURN QUERY
        SELECT 'conflict', x.c, x.i, x.kind, NULL::text, NULL::bigint[], j
        FROM unnest(conflicts) x LEFT JOIN ojs.job j ON j.id = ANY (ARRAY[x.id])
        WHERE NOT x.late;
    END IF;

    -- Apply.
    PERFORM ojs.begin_log();
    IF entering > 0 THEN
        taken := ARRAY(SELECT nextval('ojs.place') FROM generate_series(1, entering));
        RETURN QUERY SELECT 'places', NULL::int, NULL::int, NULL::text, NULL::text, taken, NULL::ojs.job;
    END IF;
    IF cardinality(swaps) > 0 THEN
        RETURN QUERY SELECT 'changed', s.c, s.i, NULL::text, s.was, NULL::bigint[], s.job
        FROM ojs.apply_swaps(ARRAY(SELECT u FROM unnest(swaps) u WHERE u.c <> ALL (failed)), taken) s;
    END IF;
    IF cardinality(removals) > 0 THEN
        WITH gone AS (
            DELETE FROM ojs.job j
            WHERE j.id = ANY (ARRAY(SELECT r.id FROM unnest(removals) r WHERE r.c <> ALL (failed)))
            RETURNING j.queue, j.state
        )
        INSERT INTO ojs.tally (queue, state, jobs) SELECT g.queue, g.state, -count(*) FROM gone g GROUP BY 1, 2;
    END IF;
    IF cardinality(new_jobs) > 0 THEN
        PERFORM ojs.apply_inserts(
            CASE WHEN cardinality(failed) = 0 THEN new_jobs
            ELSE ARRAY(SELECT n FROM unnest(new_jobs) n WHERE n.c <> ALL (failed)) END,
            taken
        );
    END IF;
    -- A plain INSERT: had another server made the record meanwhile, this must not write over it.
    IF cardinality(workflows) > 0 THEN
        DELETE FROM ojs.workflow w USING unnest(workflows) p
        WHERE w.key = ANY (ARRAY[p.key]) AND p.record IS NULL AND p.c <> ALL (failed);
        UPDATE ojs.workflow w SET version = p.if_version + 1, wake_at = p.wake_at, record = p.record
        FROM unnest(workflows) p
        WHERE w.key = ANY (ARRAY[p.key]) AND p.record IS NOT NULL AND p.if_version > 0 AND p.c <> ALL (failed);
        INSERT INTO ojs.workflow (key, version, wake_at, record)
        SELECT p.key, 1, p.wake_at, p.record FROM unnest(workflows) p
        WHERE p.record IS NOT NULL AND p.if_version = 0 AND p.c <> ALL (failed) ORDER BY p.key;
    END IF;
    IF cardinality(crons) > 0 THEN
        DELETE FROM ojs.cron e USING unnest(crons) p
        WHERE e.key = ANY (ARRAY[p.key]) AND p.record IS NULL AND p.c <> ALL (failed);
        UPDATE ojs.cron e SET version = p.if_version + 1, wake_at = p.wake_at, record = p.record
        FROM unnest(crons) p
        WHERE e.key = ANY (ARRAY[p.key]) AND p.record IS NOT NULL AND p.if_version > 0 AND p.c <> ALL (failed);
        INSERT INTO ojs.cron (key, version, wake_at, record)
        SELECT p.key, 1, p.wake_at, p.record FROM unnest(crons) p
        WHERE p.record IS NOT NULL AND p.if_version = 0 AND p.c <> ALL (failed) ORDER BY p.key;
    END IF;
    IF cardinality(notes) > 0 THEN
        INSERT INTO ojs.event (at, type, subject, queue, job_type, data)
        SELECT e.at, e.type, e.subject, e.queue, e.job_type, e.data
        FROM unnest(notes) WITH ORDINALITY e (c, type, at, subject, queue, job_type, data, place)
        WHERE e.c <> ALL (failed) ORDER BY e.place;
    END IF;
    IF cardinality(conflicts) > 0 THEN
        RETURN QUERY
        SELECT 'conflict', x.c, x.i, x.kind, NULL::text, NULL::bigint[], j
        FROM unnest(conflicts) x LEFT JOIN ojs.job j ON j.id = ANY (ARRAY[x.id])
        WHERE x.late;
    END IF;
END
$$;
