-- What a server hands to the functions: arrays of these, so that one call serves a group of requests.
-- `c` numbers the commits of a call, `i` the parts of a kind within a commit, both from 0.

-- An event about a job: its type, and what the decision adds to the facts (JSON object).
CREATE TYPE ojs.draft AS (type text, data bytea);

-- A job to insert. `o`: which of the places taken by this call is its own (from 1), if it becomes available.
-- `hold_states`: the states, separated by blanks, in which a job of this fingerprint refuses it, if created after
-- `hold_since` (ms). `expires_at`: the greatest bigint means never.
CREATE TYPE ojs.new_job AS (
    c int, i int, o int, id text, queue text, type text, state text, priority int, seq bigint, fence bigint,
    attempt bigint, requeues bigint, wake_at bigint, expires_at bigint, created_at bigint, enqueued_at bigint,
    started_at bigint, completed_at bigint, cancelled_at bigint, discarded_at bigint, timeout_ms bigint,
    visibility_timeout_ms bigint, worker_id text, lease_ms bigint, lease_expires_at bigint, timeout_at bigint,
    retry_delay_ms bigint, next_retry_at bigint, dead bool, advanced bool, workflow_id text, workflow_step bigint,
    fingerprint text, trace bytea, error bytea, errors bytea[], result bytea, doc bytea,
    hold_states text, hold_since bigint, max_per_second bigint, drafts ojs.draft[]
);

-- A swap (`Transition`). The guard: `expected` states separated by blanks, `if_version`, `if_worker` and `if_fence`
-- where given. `sets`: which of the fields after `failure` are set, bit 0 being `queue`; `patch` is a JSON object of
-- fields that have no column, put over the record. `failure`: the error (JSON) to set and append.
CREATE TYPE ojs.swap AS (
    c int, i int, o int, id text, expected text, if_version bigint, if_worker text, if_fence bigint, state text,
    at bigint, wake_at bigint, member_wake_at bigint, drafts ojs.draft[], patch bytea, failure bytea, sets bigint,
    queue text, priority int, attempt bigint, requeues bigint, expires_at bigint, enqueued_at bigint,
    started_at bigint, completed_at bigint, cancelled_at bigint, discarded_at bigint, timeout_ms bigint,
    visibility_timeout_ms bigint, worker_id text, lease_ms bigint, lease_expires_at bigint, timeout_at bigint,
    retry_delay_ms bigint, next_retry_at bigint, dead bool, advanced bool, workflow_id text, workflow_step bigint,
    error bytea, result bytea
);

CREATE TYPE ojs.removal AS (c int, i int, id text, if_version bigint);

-- A workflow or cron record to put (`record` NULL: to delete) under its version (0: there is none yet).
CREATE TYPE ojs.put AS (c int, i int, key text, if_version bigint, wake_at bigint, record bytea);

-- An event that is not about a job.
CREATE TYPE ojs.note AS (c int, type text, at bigint, subject text, queue text, job_type text, data bytea);

-- Why a commit does not happen. `late`: the job in the way is one that an earlier commit of the call changes.
CREATE TYPE ojs.conflict AS (kind text, c int, i int, id text, late bool);

-- A claim. Claims of the same queues have the same `line`.
CREATE TYPE ojs.claim_request AS (
    r int, line int, count int, now bigint, worker_id text, lease_ms bigint, default_lease_ms bigint,
    default_timeout_ms bigint
);
