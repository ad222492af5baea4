-- Everything there is. The record (JSON) of each row is the truth; the columns beside it repeat what has to be searched.

-- The counters of the whole store: the last place in a queue, and the last event. Neither is ever reset.
CREATE TABLE store (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL,
    event_seq INTEGER NOT NULL
) STRICT;
INSERT INTO store (one, seq, event_seq) VALUES (1, 0, 0);

CREATE TABLE jobs (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    wake_at INTEGER,
    expires_at INTEGER,
    worker_id TEXT,
    fingerprint TEXT,
    created_at INTEGER NOT NULL,
    discarded_at INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    record BLOB NOT NULL
) STRICT;
-- The claim: finished jobs are not in it, so they cost it nothing. With expires_at, an expired job is passed over
-- without a look at its row.
CREATE INDEX ready ON jobs (queue, priority DESC, seq, expires_at) WHERE state = 'available';
-- With id, so that a million jobs due at one instant need no sorting.
CREATE INDEX wake ON jobs (wake_at, seq, id) WHERE wake_at IS NOT NULL;
CREATE INDEX hold ON jobs (fingerprint, state, created_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX held ON jobs (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX dead ON jobs (discarded_at, id) WHERE dead = 1;
-- The newest jobs of any set of states, by a merge of the states.
CREATE INDEX newest ON jobs (state, created_at, id, queue);

CREATE TABLE queues (name TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- Jobs by queue and state, kept in step with `jobs` by every write.
CREATE TABLE counts (
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (queue, state)
) STRICT, WITHOUT ROWID;

-- Executions that ended, by the minute (ms since the epoch / 60000).
CREATE TABLE minutes (
    queue TEXT NOT NULL,
    minute INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    wait_ms INTEGER NOT NULL,
    PRIMARY KEY (queue, minute)
) STRICT, WITHOUT ROWID;
-- A new minute pushes the old ones out: an hour is kept.
CREATE TRIGGER forget_minutes AFTER INSERT ON minutes BEGIN
    DELETE FROM minutes WHERE queue = new.queue AND minute <= new.minute - 60;
END;

CREATE TABLE workers (id TEXT PRIMARY KEY, last_seen_at INTEGER NOT NULL, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX silent ON workers (last_seen_at, id);

CREATE TABLE crons (name TEXT PRIMARY KEY, wake_at INTEGER, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX cron_wake ON crons (wake_at, name) WHERE wake_at IS NOT NULL;

CREATE TABLE workflows (id TEXT PRIMARY KEY, wake_at INTEGER, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX workflow_wake ON workflows (wake_at, id) WHERE wake_at IS NOT NULL;

-- No number is missing between the first and the last: events go in at the end and out at the beginning.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    queue TEXT,
    job_type TEXT,
    data BLOB NOT NULL
) STRICT;
