-- The order of the log under concurrency. Numbers are taken before the transaction that took them is visible, so a
-- reader that went on after the greatest number it saw could pass over smaller ones. Whoever writes to the log holds a
-- shared lock that says which number was the last before its own; readers stop at the least of those.

-- Announce that this transaction is about to take numbers of the log. No writer waits for another.
CREATE FUNCTION ojs.begin_log() RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock_shared(
        'ojs'::regnamespace::oid::int,
        (coalesce(pg_sequence_last_value('ojs.entry'), 0) & 2147483647)::int
    )
$$;

-- The greatest number up to which the log is complete, for a statement that begins afterwards. The last number comes
-- first: what is taken after this look is beyond it, and what was taken before belongs to a transaction that either
-- still holds its lock, or is visible to the next statement.
CREATE FUNCTION ojs.log_complete() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    last bigint := coalesce(pg_sequence_last_value('ojs.entry'), 0);
    behind bigint;
BEGIN
    -- A lock says the low 31 bits of a number that is not far behind the last one.
    SELECT max((last - l.objid::bigint) & 2147483647) INTO behind
    FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.mode = 'ShareLock'
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.classid = 'ojs'::regnamespace::oid
        -- Announced after the look at the sequence.
        AND (last - l.objid::bigint) & 2147483647 < 1073741824;
    RETURN last - coalesce(behind, 0);
END
$$;
