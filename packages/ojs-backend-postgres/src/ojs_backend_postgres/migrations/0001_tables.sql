-- Tables and indexes. Instants and lengths are milliseconds; names are compared byte by byte, as every other store does.
-- `ojs` stands for the schema wherever it stands by itself.

-- The order of jobs (a place is taken at each entry into `available`) and of the log. Neither is ever reset.
CREATE SEQUENCE ojs.place;
CREATE SEQUENCE ojs.entry;

-- One row per job. `doc` is the record (JSON) as it was inserted and holds what nothing here looks at; the columns hold
-- the rest, and override it. JSON of clients is bytea throughout, so that it comes back as it was sent.
CREATE TABLE ojs.job (
    id text COLLATE "C" PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    priority int NOT NULL,
    seq bigint NOT NULL,
    version bigint NOT NULL,
    fence bigint NOT NULL,
    attempt bigint NOT NULL,
    requeues bigint NOT NULL,
    wake_at bigint,
    -- The greatest bigint: never. A number, so that the index of the claim can pass over expired jobs.
    expires_at bigint NOT NULL,
    created_at bigint NOT NULL,
    enqueued_at bigint,
    started_at bigint,
    completed_at bigint,
    cancelled_at bigint,
    discarded_at bigint,
    timeout_ms bigint,
    visibility_timeout_ms bigint,
    worker_id text COLLATE "C",
    lease_ms bigint,
    lease_expires_at bigint,
    timeout_at bigint,
    retry_delay_ms bigint,
    next_retry_at bigint,
    dead bool NOT NULL,
    advanced bool NOT NULL,
    workflow_id text COLLATE "C",
    workflow_step bigint,
    fingerprint text COLLATE "C",
    -- The trace that `meta` names, for the events of the job.
    trace bytea,
    error bytea,
    errors bytea[],
    result bytea,
    doc bytea NOT NULL
);
-- Compressing costs more than it saves; what is too long for a page is stored beside it and not rewritten by a swap.
ALTER TABLE ojs.job ALTER doc SET STORAGE EXTERNAL, ALTER result SET STORAGE EXTERNAL;
-- Dead rows at the head of the line are what slows a claim down: remove them soon, in small portions.
ALTER TABLE ojs.job SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.1
);

-- The claim: finished jobs are not in it, so they cost it nothing.
CREATE INDEX ready ON ojs.job (queue, priority DESC, seq, expires_at) WHERE state = 'available';
-- Available jobs that expire, which few do.
CREATE INDEX perishable ON ojs.job (queue, expires_at) WHERE state = 'available' AND expires_at < 9223372036854775807;
-- Where `id` comes last it has the other name of its collation: only for order. By the same name the planner could take
-- such an index, read from end to end, for a way to find one job; it did when hardly a job was there as it last counted.
-- With seq and id, so that a million jobs due at one instant need no sorting.
CREATE INDEX wake ON ojs.job (wake_at, seq, id COLLATE "POSIX") WHERE wake_at IS NOT NULL;
CREATE INDEX hold ON ojs.job (fingerprint) WHERE fingerprint IS NOT NULL;
CREATE INDEX held ON ojs.job (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX dead ON ojs.job ((coalesce(discarded_at, 0)), id COLLATE "POSIX") WHERE dead;
-- The newest jobs of any set of states, by a merge of the states.
CREATE INDEX newest ON ojs.job (state, created_at, id COLLATE "POSIX");

-- `slot` and `spent` are the window of the rate limit (ojs_core.rate), there while a limit is set and was used.
CREATE TABLE ojs.queue (
    name text COLLATE "C" PRIMARY KEY,
    created_at bigint NOT NULL,
    paused_at bigint,
    max_per_second bigint,
    slot bigint,
    spent bigint[]
);

-- Jobs by queue and state: what was counted up, and the changes since, which are only ever added (two servers that
-- changed one counter would wait for each other).
CREATE TABLE ojs.counted (
    queue text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (queue, state)
) WITH (fillfactor = 50);
CREATE TABLE ojs.tally (
    queue text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Executions that ended, by the minute (ms since the epoch / 60000): counted up, and since.
CREATE TABLE ojs.minute (
    queue text COLLATE "C" NOT NULL,
    minute bigint NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    run_ms bigint NOT NULL,
    wait_ms bigint NOT NULL,
    PRIMARY KEY (queue, minute)
) WITH (fillfactor = 50);
CREATE TABLE ojs.run (
    queue text COLLATE "C" NOT NULL,
    minute bigint NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    run_ms bigint NOT NULL,
    wait_ms bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- `report` is what the worker last said of itself. No index but the key: a claim notes the time in place.
CREATE TABLE ojs.worker (
    id text COLLATE "C" PRIMARY KEY,
    first_seen_at bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    beats bigint NOT NULL,
    directive text,
    report bytea
) WITH (fillfactor = 50);

CREATE TABLE ojs.cron (
    key text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    wake_at bigint,
    record bytea NOT NULL
);
CREATE INDEX cron_wake ON ojs.cron (wake_at, key) WHERE wake_at IS NOT NULL;

CREATE TABLE ojs.workflow (
    key text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    wake_at bigint,
    record bytea NOT NULL
);
CREATE INDEX workflow_wake ON ojs.workflow (wake_at, key) WHERE wake_at IS NOT NULL;

-- The log. An event about a job (`state` is set) has the job's facts in columns and becomes text when it is read;
-- `data` then holds only what the decision added.
CREATE TABLE ojs.event (
    n bigint PRIMARY KEY DEFAULT nextval('ojs.entry'),
    at bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    queue text COLLATE "C",
    job_type text COLLATE "C",
    data bytea,
    state text,
    attempt bigint,
    priority int,
    worker_id text,
    started_at bigint,
    lease_expires_at bigint,
    workflow_id text,
    trace bytea
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
