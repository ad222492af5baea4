"""Do the indexes of a store say what its records say? They are made anew from the records, and compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.layout import encode_text
from ojs_backend_redis.spread import SpreadBackend
from ojs_core.job import Job, JobState

INDEXES = ("ready:", "in:", "held:", "mark:", "wake", "dead")


def shards_of(backend: RedisBackend | SpreadBackend) -> Sequence[RedisBackend]:
    """Return the shards of a store; one of a single slot is its own."""
    return backend._shards if isinstance(backend, SpreadBackend) else [backend]  # noqa: SLF001 - to look behind it


async def check_integrity(backend: RedisBackend) -> list[Job]:
    """Fail if an index is not the one that belongs to the records, or something is locked; return the records."""
    names = await _names(backend)
    assert not {"locks", "staged"} & {*names}
    ids = [name.removeprefix("j:") for name in names if name.startswith("j:")]
    jobs = [job for job in await backend.get_jobs(ids) if job is not None]
    assert len(jobs) == len(ids)
    indexes = [name for name in names if name.startswith(INDEXES)]
    assert {name: await read_index(backend, name) for name in indexes} == indexes_of(jobs)
    return jobs


def indexes_of(jobs: list[Job]) -> dict[str, dict[str, int]]:
    """Return the indexes that belong to some jobs: name -> member -> score."""
    made: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for job in jobs:
        queue = encode_text(job.queue)
        made[f"in:{job.state}:{queue}"][job.id] = job.created_at
        if job.state is JobState.AVAILABLE:
            made[f"ready:{queue}"][job.id] = (100 - job.priority) * 2**44 + job.seq
        if job.wake_at is not None:
            made["wake"][f"{job.seq:012x}{job.id}"] = job.wake_at
        if job.worker_id is not None:
            made[f"held:{encode_text(job.worker_id)}"][job.id] = job.created_at
        if job.fingerprint is not None:
            made[f"mark:{job.fingerprint}:{job.state}"][job.id] = job.created_at
        if job.dead:
            made["dead"][job.id] = job.discarded_at or 0
    return dict(made)


async def read_index(backend: RedisBackend, name: str) -> dict[str, int]:
    """Return an index as it is: member -> score."""
    [pairs] = await backend._client.ask(("ZRANGE", backend._root + name, 0, -1, "WITHSCORES"))  # noqa: SLF001 - to look behind it
    return {member.decode(): int(score) for member, score in zip(pairs[::2], pairs[1::2], strict=True)}


async def _names(backend: RedisBackend) -> list[str]:
    """Return the keys of the store, without its prefix."""
    [keys] = await backend._client.ask(("KEYS", f"{backend._root}*"))  # noqa: SLF001 - to look behind it
    return [key.decode().removeprefix(backend._root) for key in keys]  # noqa: SLF001 - to look behind it
