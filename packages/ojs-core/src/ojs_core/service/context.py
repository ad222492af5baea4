"""What every use case needs: the store, the clock, the settings, and the coalesced way to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from ojs_core.backend import Backend, Claimed, ClaimRequest, Commit, Committed, Refused
from ojs_core.clock import Clock
from ojs_core.coalesce import Lanes
from ojs_core.doorbell import Doorbell
from ojs_core.job import Job, replace_fields
from ojs_core.settings import Settings

REMEMBERED_MAX = 10_000
"""Claimed jobs this process remembers, at most."""
_NOTHING = Raw(b"")
_NOT_REMEMBERED: Final = {
    "args": _NOTHING, "meta": _NOTHING, "parent_results": None, "as_sent": None, "extra": None, "tags": None,
    "error": None, "errors": (),
}  # fmt: skip
"""What no end of a run is decided from. Each text would keep the whole answer of the store that it is a part of."""


class Context:
    """Shared by the services of one server process.

    `remembered` holds the jobs this process handed out, as they were then, without the data of clients: a job may be a
    megabyte, and one that ends through another server stays here. It is only a hint: what is decided from it
    is guarded by the version, and a stale one costs a read. It spares a failure the trip to read its retry policy.
    """

    def __init__(self, backend: Backend, clock: Clock, settings: Settings) -> None:
        self.backend = backend
        self.clock = clock
        self.settings = settings
        self.retention = settings.retention
        self.commits: Lanes[Commit, Committed | Refused] = Lanes(
            backend.commit, backend.lane_of, backend.groups_at_once
        )
        self.claims: Lanes[ClaimRequest, Claimed] = Lanes(self._claim, backend.lane_of, backend.groups_at_once)
        self.doorbell = Doorbell()
        self.remembered: dict[str, Job] = {}
        self._seen_to: set[asyncio.Task[None]] = set()

    def remember(self, job: Job) -> None:
        """Keep a job handed out by this process, dropping the oldest beyond the limit."""
        self.remembered[job.id] = replace_fields(job, **_NOT_REMEMBERED)
        if len(self.remembered) > REMEMBERED_MAX:
            del self.remembered[next(iter(self.remembered))]

    async def _claim(self, requests: Sequence[ClaimRequest]) -> Sequence[Claimed]:
        """Claim as of now: behind a slow store a request may have waited for so long that its lease would be over."""
        now = self.clock.now()
        return await self.backend.claim([msgspec.structs.replace(request, now=now) for request in requests])

    def see_to(self, work: Coroutine[Any, Any, None]) -> None:
        """Have some work done that nobody waits for, but for the end of the server. It must not raise."""
        task = asyncio.create_task(work)
        self._seen_to.add(task)
        task.add_done_callback(self._seen_to.discard)

    async def drain(self) -> None:
        """Wait until nothing is on its way to the store."""
        while self._seen_to:
            await asyncio.wait(self._seen_to)
        await self.commits.drain()
        await self.claims.drain()
