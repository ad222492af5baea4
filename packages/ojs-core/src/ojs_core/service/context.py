"""What every use case needs: the store, the clock, the settings, and the coalesced way to the store."""

from __future__ import annotations

from ojs_core.backend import Backend, Claimed, ClaimRequest, Commit, Committed, Refused
from ojs_core.clock import Clock
from ojs_core.coalesce import Coalescer
from ojs_core.doorbell import Doorbell
from ojs_core.job import Job
from ojs_core.settings import Settings

REMEMBERED_MAX = 10_000
"""Claimed jobs this process remembers, at most."""


class Context:
    """Shared by the services of one server process.

    `remembered` holds the jobs this process handed out, as they were then. It is only a hint: what is decided from it
    is guarded by the version, and a stale one costs a read. It spares a failure the trip to read its retry policy.
    """

    def __init__(self, backend: Backend, clock: Clock, settings: Settings) -> None:
        self.backend = backend
        self.clock = clock
        self.settings = settings
        self.retention = settings.retention
        self.commits: Coalescer[Commit, Committed | Refused] = Coalescer(backend.commit)
        self.claims: Coalescer[ClaimRequest, Claimed] = Coalescer(backend.claim)
        self.doorbell = Doorbell()
        self.remembered: dict[str, Job] = {}

    def remember(self, job: Job) -> None:
        """Keep a job handed out by this process, dropping the oldest beyond the limit."""
        self.remembered[job.id] = job
        if len(self.remembered) > REMEMBERED_MAX:
            del self.remembered[next(iter(self.remembered))]
