"""Do the indexes of a store say what its records say? They are made anew from the records, and compared."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_backend_redis.layout import encode_text
from ojs_core.backend import JobQuery
from ojs_core.job import Job, JobState

INDEXES = ("ready:", "in:", "held:", "mark:", "wake", "dead")
ALL = 1_000_000


def read_jobs(server: RedisServer, prefix: str) -> list[Job]:
    """Read every record of a store."""

    async def read() -> list[Job]:
        backend = RedisBackend(RedisConfig(target=parse_url(server.url), prefix=prefix))
        await backend.open()
        try:
            with server.client() as client:
                ids = [key.decode().rpartition(":")[2] for key in client.scan_iter(f"{{{prefix}}}:j:*", count=1000)]
            listed = await backend.list_jobs(JobQuery(limit=ALL))
            found = [job for job in await backend.get_jobs(ids) if job is not None]
        finally:
            await backend.close()
        assert sorted(job.id for job in listed.jobs) == sorted(ids)
        return found

    return asyncio.run(read())


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


def read_indexes(server: RedisServer, prefix: str) -> dict[str, dict[str, int]]:
    """Read the indexes that a store has."""
    root = f"{{{prefix}}}:"
    found: dict[str, dict[str, int]] = {}
    with server.client() as client:
        for key in client.scan_iter(f"{root}*", count=1000):
            name = key.decode().removeprefix(root)
            if name.startswith(INDEXES):
                pairs: Any = client.zrange(key, 0, -1, withscores=True)
                found[name] = {member.decode(): int(score) for member, score in pairs}
    return found
