"""`claim`: jobs are read ahead once per queue for all requests of a call, then handed out in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from ojs_backend_sqlite import layouts, queries
from ojs_backend_sqlite.table import READ_MAX
from ojs_backend_sqlite.transaction import Transaction
from ojs_core import rate
from ojs_core.backend import Claimed, ClaimRequest
from ojs_core.events import EventDraft
from ojs_core.job import Job
from ojs_core.records import Queue, Worker

EXPIRED_MAX = 100
"""Expired jobs that a claim reports, at most."""
_STARTED = (EventDraft("job.started"),)


def serve_claims(transaction: Transaction, requests: Sequence[ClaimRequest]) -> list[Claimed]:
    """Serve the requests one after the other. Same length and order."""
    transaction.workers.load(request.worker_id for request in requests if request.worker_id is not None)
    transaction.queues.load(name for request in requests for name in request.queues)
    wanted: Counter[str] = Counter()
    for request in requests:
        wanted.update(dict.fromkeys(request.queues, request.count))
    heads = {name: _Head(transaction, name, count) for name, count in wanted.items()}
    return [_serve(transaction, request, heads) for request in requests]


class _Head:
    """The next jobs of one queue, read ahead for all requests of a call."""

    def __init__(self, transaction: Transaction, queue: str, wanted: int) -> None:
        self._transaction = transaction
        self._queue = queue
        self._wanted = wanted
        self._jobs: deque[Job] = deque()
        self._more = True
        self.expired: dict[str, Job] = {}
        """Met so far, at most `EXPIRED_MAX`."""
        self._passed_until = 0

    def take(self, now: int) -> Job | None:
        """Return the next job, or None if the queue has none."""
        while self._jobs or self._read(now):
            job = self._jobs.popleft()
            if job.expires_at is None or job.expires_at > now:
                return job
            if len(self.expired) < EXPIRED_MAX:
                self.expired[job.id] = job
        return None

    def _read(self, now: int) -> bool:
        if not self._more:
            return False
        self._transaction.write()  # so that jobs handed out already are not found again
        limit = min(READ_MAX, self._wanted + EXPIRED_MAX * bool(self.expired))
        bindings = (self._queue, self._passed_until, limit)
        self._jobs.extend(layouts.JOBS.read(self._transaction.connection, queries.NEXT_READY, bindings))
        self._more = len(self._jobs) == limit
        if self.expired:
            # That was the second look at expired jobs. The index passes over them from now on, however many there are.
            self._passed_until = now
        return bool(self._jobs)


class _Serving:
    """One request, and what it got so far."""

    def __init__(self, transaction: Transaction, request: ClaimRequest) -> None:
        self.jobs: list[Job] = []
        self.expired: list[Job] = []
        self._transaction = transaction
        self._request = request

    def touch_worker(self) -> bool:
        """Note that the worker was seen; return whether it may be given jobs (C-OPS-18)."""
        worker_id, now = self._request.worker_id, self._request.now
        if worker_id is None:
            return True
        worker = self._transaction.workers.get(worker_id) or Worker(id=worker_id, first_seen_at=now, last_seen_at=now)
        self._transaction.workers.put(worker_id, msgspec.structs.replace(worker, last_seen_at=now))
        return worker.directive in (None, "running")

    def take_from(self, queue: Queue, head: _Head) -> None:
        """Claim what the request still wants, as far as the queue has it and may give it."""
        now = self._request.now
        room = 0 if queue.paused else self._request.count - len(self.jobs)
        if queue.max_per_second is not None:
            room = min(room, rate.available(queue.window, queue.max_per_second, now))
        taken = 0
        while taken < room and (job := head.take(now)) is not None:
            self.jobs.append(self._claim(job))
            taken += 1
        if room > 0:
            self.expired += [job for job in head.expired.values() if (job.expires_at or 0) <= now]
        if queue.max_per_second is not None and taken:
            window = rate.spend(queue.window, taken, now)
            self._transaction.queues.put(queue.name, msgspec.structs.replace(queue, window=window))

    def _claim(self, job: Job) -> Job:
        request = self._request
        return self._transaction.swap_job(job, request.claimed(job), _STARTED, request.now)


def _serve(transaction: Transaction, request: ClaimRequest, heads: dict[str, _Head]) -> Claimed:
    serving = _Serving(transaction, request)
    if serving.touch_worker():
        for name in dict.fromkeys(request.queues):
            queue = transaction.queues.get(name)
            if queue is not None:
                serving.take_from(queue, heads[name])
    return Claimed(tuple(serving.jobs), tuple(serving.expired[:EXPIRED_MAX]))
