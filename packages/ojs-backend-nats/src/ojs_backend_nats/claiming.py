"""`claim`: jobs are taken from the front of the queues, one request after the other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ojs_backend_nats.draft import Draft, NeedsTexts
from ojs_backend_nats.index import Row
from ojs_core import rate
from ojs_core.backend import Claimed, ClaimRequest
from ojs_core.events import EventDraft
from ojs_core.job import Job
from ojs_core.records import Queue, Worker

EXPIRED_MAX = 100
"""Expired jobs that a claim reports, at most."""
_STARTED = (EventDraft("job.started"),)


def serve_claims(draft: Draft, requests: Sequence[ClaimRequest]) -> list[Claimed]:
    """Serve the requests one after the other. Same length and order. Raises `NeedsTexts`."""
    serving = _Serving(draft)
    answers = [serving.serve(request) for request in requests]
    if serving.missing:
        raise NeedsTexts(serving.missing)
    return answers


class _Serving:
    """The requests of one call. What one of them passed over as expired, all of them are told of."""

    def __init__(self, draft: Draft) -> None:
        self.missing: list[Row] = []
        """Jobs whose turn it is, but whose records are not in memory."""
        self._draft = draft
        self._expired: dict[str, dict[str, Row]] = {}
        """Expired jobs met so far, by queue and id."""

    def serve(self, request: ClaimRequest) -> Claimed:
        jobs: list[Job] = []
        expired: list[Row] = []
        if self._touch_worker(request):
            for name in dict.fromkeys(request.queues):
                queue = self._draft.queue(name)
                if queue is not None and not queue.paused:
                    self._take_from(queue, request, jobs, expired)
        rows = [row for row in expired if row.id not in self._draft.jobs][:EXPIRED_MAX]
        return Claimed(tuple(jobs), tuple([job for job in map(self._read, rows) if job is not None]))

    def _touch_worker(self, request: ClaimRequest) -> bool:
        """Note that the worker was seen; return whether it may be given jobs (C-OPS-18)."""
        worker_id, now = request.worker_id, request.now
        if worker_id is None:
            return True
        worker = self._draft.worker(worker_id) or Worker(id=worker_id, first_seen_at=now, last_seen_at=now)
        self._draft.put(self._draft.workers, worker_id, msgspec.structs.replace(worker, last_seen_at=now))
        return worker.directive in (None, "running")

    def _take_from(self, queue: Queue, request: ClaimRequest, jobs: list[Job], expired: list[Row]) -> None:
        """Claim what the request still wants, as far as the queue has it and may give it."""
        now = request.now
        room = request.count - len(jobs)
        if queue.max_per_second is not None:
            room = min(room, rate.available(queue.window, queue.max_per_second, now))
        if room <= 0:
            return
        met = self._expired.setdefault(queue.name, {})
        taken = 0
        for row in self._draft.ready(queue.name):
            if row.expires_at is not None and row.expires_at <= now:
                met[row.id] = row
                continue
            job = self._read(row)
            if job is not None:
                jobs.append(self._claim(job, request))
            taken += 1
            if taken == room:
                break
        expired += [row for row in met.values() if (row.expires_at or 0) <= now]
        if queue.max_per_second is not None and taken:
            window = rate.spend(queue.window, taken, now)
            self._draft.put(self._draft.queues, queue.name, msgspec.structs.replace(queue, window=window))

    def _read(self, row: Row) -> Job | None:
        try:
            return self._draft.read(row)
        except NeedsTexts:
            self.missing.append(row)
            return None

    def _claim(self, job: Job, request: ClaimRequest) -> Job:
        return self._draft.change_job(request.claimed(job), _STARTED, request.now)
