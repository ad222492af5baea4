"""From the requests of the seam to the arguments of the scripts, and from their results to answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import msgspec

from ojs_backend_redis.layout import (
    CLEARED,
    POSITIONS,
    TEXTS,
    encode_error,
    encode_text,
    pack_arrival,
    pack_hold,
    pack_insert,
)
from ojs_core.backend import (
    Change,
    Claimed,
    ClaimRequest,
    Commit,
    Committed,
    Conflict,
    CronWrite,
    NewJob,
    Refused,
    WorkflowWrite,
)
from ojs_core.events import Event, EventDraft
from ojs_core.job import Job, JobState, decode_record, replace_fields
from ojs_core.lifecycle import Transition
from ojs_core.records import CronEntry, Workflow, encode

encode_packed = msgspec.msgpack.Encoder().encode
decode_packed = msgspec.msgpack.decode
_decode_jobs = msgspec.json.Decoder(list[Job]).decode
_decode_found = msgspec.json.Decoder(list[Job | None]).decode
_EMPTY: tuple[()] = ()
_NO_JOBS: tuple[Job, ...] = ()


def decode_jobs(array: bytes) -> tuple[Job, ...]:
    """Return the records of a JSON array, which is empty where there are none."""
    return tuple(_decode_jobs(array)) if array else _NO_JOBS


def decode_found(array: bytes) -> list[Job | None]:
    """Return the records of a JSON array with nulls."""
    return _decode_found(array)


# Commits.


def divide_commits(commits: Sequence[Commit], jobs_max: int) -> Iterator[Sequence[Commit]]:
    """Yield the commits in groups that change at most so many jobs, or are one commit."""
    first, jobs = 0, 0
    for position, commit in enumerate(commits):
        size = len(commit.inserts) + len(commit.transitions) + len(commit.removals)
        if jobs + size > jobs_max and position > first:
            yield commits[first:position]
            first, jobs = position, 0
        jobs += size
    if first < len(commits):
        yield commits[first:]


def pack_commits(commits: Sequence[Commit]) -> tuple[int, bytes]:
    """Return how many places in queues the commits may need, and the commits as `commit.lua` takes them."""
    return sum(map(_places, commits)), encode_packed([_pack_commit(commit) for commit in commits])


def pack_part(commit: Commit, absent: Sequence[NewJob], arrivals: Sequence[Arrival]) -> tuple[int, bytes]:
    """Return the same for the part of a commit for one shard.

    `absent` are inserts of other shards: nothing here may have their id, or what their holds forbid.
    """
    news = [
        (
            len(commit.inserts) + position,
            new.job.id,
            new.job.fingerprint or False,
            new.hold is not None and pack_hold(new.hold),
        )
        for position, new in enumerate(absent)
    ]
    places = _places(commit) + sum(arrival.job.state is JobState.AVAILABLE for arrival in arrivals)
    packed = (*_pack_commit(commit), news, [pack_arrival(*arrival) for arrival in arrivals])
    return places, encode_packed([packed])


class Arrival(NamedTuple):
    """A job that a swap takes to another shard: the record after it, and the events and the time of the swap."""

    job: Job
    events: tuple[EventDraft, ...]
    at: int


def _places(commit: Commit) -> int:
    """Return how many jobs of a commit may enter a queue."""
    available = JobState.AVAILABLE
    return sum(new.job.state is available for new in commit.inserts) + sum(
        transition.to is available for transition in commit.transitions
    )


def _pack_commit(commit: Commit) -> tuple[Any, ...]:
    return (
        [pack_insert(new) for new in commit.inserts],
        [_pack_transition(transition) for transition in commit.transitions],
        [(removal.job_id, removal.version) for removal in commit.removals],
        [_pack_workflow(write) for write in commit.workflows],
        commit.cron is not None and _pack_cron(commit.cron),
        [pack_event(event) for event in commit.events],
    )


_EXPECTED: dict[frozenset[JobState], str] = {}


def _pack_expected(states: frozenset[JobState]) -> str:
    """Return the states in one text; no name of a state is part of another's."""
    packed = _EXPECTED.get(states)
    if packed is None:
        packed = _EXPECTED[states] = " ".join(sorted(states))
    return packed


def _absent(value: Any) -> Any:  # noqa: ANN401 - whatever a record may hold
    return False if value is None else value


def _pack_transition(transition: Transition) -> tuple[Any, ...]:
    hot, named = _pack_changes(transition.changes)
    worker_id = transition.worker_id
    return (
        transition.job_id,
        _pack_expected(transition.expected),
        transition.to.value,
        transition.at,
        _absent(transition.version),
        False if worker_id is None else encode_text(worker_id),
        _absent(transition.fence),
        hot,
        named,
        False if transition.error is None else encode_error(transition.error),
        [(draft.type, _pack_facts(draft)) for draft in transition.events],
        _absent(transition.wake_at),
        _absent(transition.member_wake_at),
    )


def _pack_changes(changes: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return (position, value) of hot fields, and (name, JSON or false) of others, each pair after pair."""
    hot: list[Any] = []
    named: list[Any] = []
    for name, value in changes.items():
        position = POSITIONS.get(name)
        if position is not None:
            hot += (position, encode_text(value) if value is not None and name in TEXTS else _absent(value))
        elif name == "errors":
            named += (name, [encode_error(error) for error in value])
        elif value is None and name in CLEARED:
            named += (name, False)
        else:
            named += (name, msgspec.json.encode(value).decode())
    return hot, named


def _pack_facts(draft: EventDraft) -> str:
    return msgspec.json.encode(draft.data).decode() if draft.data else "{}"


def _pack_workflow(write: WorkflowWrite) -> tuple[Any, ...]:
    return _pack_versioned(write.workflow_id, write.workflow, write.expected_version)


def _pack_cron(write: CronWrite) -> tuple[Any, ...]:
    return _pack_versioned(write.name, write.entry, write.expected_version)


def _pack_versioned(key: str, record: Workflow | CronEntry | None, expected_version: int) -> tuple[Any, ...]:
    if record is None:
        return key, False, expected_version, False
    stored = msgspec.structs.replace(record, version=expected_version + 1)
    return key, encode(stored).decode(), expected_version, _absent(record.wake_at)


def pack_event(event: Event) -> str:
    """Return an event that is not about a job as the log keeps it."""
    row = (event.at, event.type, event.subject, event.queue, event.job_type, event.data)
    return msgspec.json.encode(row).decode()


def unpack_commits(commits: Sequence[Commit], results: Sequence[Any]) -> list[Committed | Refused]:
    """Return the answers that belong to the results of `commit.lua`."""
    return [unpack_commit(commit, result) for commit, result in zip(commits, results, strict=True)]


def busy_with(result: Any) -> str | None:  # noqa: ANN401 - whatever a script returned
    """Return the commit over several shards that a script found to be in its way, if that is what it says."""
    return result[1].decode() if isinstance(result, list) and result[0] == b"busy" else None


def unpack_arrivals(commit: Commit, arrivals: Sequence[Arrival], result: Any) -> list[Job]:  # noqa: ANN401 - see commit.lua
    """Return the jobs that came from other shards, as stored; their places are behind those of the inserts."""
    place = result if isinstance(result, int) else result[0]
    place += sum(new.job.state is JobState.AVAILABLE for new in commit.inserts)
    stored = []
    for arrival in arrivals:
        job = arrival.job
        if job.state is JobState.AVAILABLE:
            place += 1
            job = replace_fields(job, seq=place)
        stored.append(job)
    return stored


def unpack_commit(commit: Commit, result: Any) -> Committed | Refused:  # noqa: ANN401 - see commit.lua
    """Return the answer that belongs to the result for one commit."""
    if isinstance(result, int):
        return Committed(inserted=_unpack_inserted(commit, result))
    first, *rest = result
    if first == b"refused":
        return Refused(tuple([_unpack_conflict(commit, *conflict) for conflict in rest]))
    changed = tuple([Change(decode_record(record), JobState(before.decode())) for record, before in rest])
    return Committed(inserted=_unpack_inserted(commit, first), changed=changed)


def _unpack_inserted(commit: Commit, place: int) -> tuple[Job, ...]:
    """Return the inserted jobs as stored; those that are available took the places after `place`."""
    if not commit.inserts:
        return _EMPTY
    inserted = []
    for new in commit.inserts:
        job = new.job
        if job.state is JobState.AVAILABLE:
            place += 1
            inserted.append(replace_fields(job, version=1, seq=place))
        else:
            inserted.append(replace_fields(job, version=1))
    return tuple(inserted)


def _unpack_conflict(commit: Commit, kind: bytes, index: int, found: bytes | int) -> Conflict:
    if isinstance(found, int):
        job: Job | None = commit.inserts[found].job
    else:
        job = decode_record(found) if found else None
    return Conflict(kind=kind.decode(), index=index, job=job)  # type: ignore[arg-type]  # one of the literals


# Claims.


def pack_claims(requests: Sequence[ClaimRequest], noted_elsewhere: AbstractSet[int]) -> bytes:
    """Return the requests as `claim.lua` takes them; the workers of some are noted by another shard."""
    return encode_packed(
        [
            (
                [encode_text(name) for name in dict.fromkeys(request.queues)],
                request.count,
                request.now,
                request.default_lease_ms,
                request.default_timeout_ms,
                False if request.worker_id is None else encode_text(request.worker_id),
                request.lease_ms or False,
                position in noted_elsewhere,
            )
            for position, request in enumerate(requests)
        ]
    )


_NOTHING = Claimed()


def unpack_claims(results: Sequence[bytes]) -> list[Claimed]:
    """Return the answers that belong to the results of `claim.lua`: two texts for each request."""
    return [
        Claimed(decode_jobs(jobs), decode_jobs(expired)) if jobs or expired else _NOTHING
        for jobs, expired in zip(results[::2], results[1::2], strict=True)
    ]
