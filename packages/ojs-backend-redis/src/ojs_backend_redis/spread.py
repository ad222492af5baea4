"""A store over several slots: its queues are spread over shards, each of which is a store in a slot of its own.

Nearly everything is about one queue, and so about one shard, and works there as in a store of one slot. What joins
queues is put together here: listings are merged, claims from several queues go from shard to shard, and commits over
several shards are run by `Spanning`. A worker is kept by the shard of its name; the others know what it was told to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from ojs_backend_redis import merged_log
from ojs_backend_redis.config import RedisConfig
from ojs_backend_redis.dividing import Map, waves
from ojs_backend_redis.shard import Busy, Shard
from ojs_backend_redis.spanning import Spanning, gather_all
from ojs_core.backend import (
    Backend,
    Beaten,
    BeatRequest,
    Capabilities,
    Claimed,
    ClaimRequest,
    Commit,
    Committed,
    EventPage,
    EventQuery,
    JobPage,
    JobQuery,
    Refused,
    WakeCallback,
)
from ojs_core.errors import BackendUnavailableError, PartlyUnavailableError
from ojs_core.events import Event
from ojs_core.job import Job
from ojs_core.paging import encode_cursor
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, WorkerState, Workflow

Found = TypeVar("Found")

SEVERAL = -1
"""The lane of requests for several shards, and of those for a job of which it is not known where it is."""
REACH_S = 1.0
"""How long the clock waits for a shard when another has answered, before it goes on with those that did."""


class SpreadBackend(Backend):
    """A store of several shards."""

    def __init__(self, config: RedisConfig) -> None:
        self._shards = [Shard(config.of_shard(n)) for n in range(config.shards)]
        self._spanning = Spanning(self._shards, config.timeout_ms)
        self._map = Map(self._shards)

    @property
    def capabilities(self) -> Capabilities:
        return self._shards[0].capabilities

    @property
    def groups_at_once(self) -> int:
        return self._shards[0].groups_at_once

    def lane_of(self, request: Commit | ClaimRequest) -> int:
        if isinstance(request, Commit):
            shard = self._map.only_shard(request) if self._map.knows(_named([request])) else None
            return SEVERAL if shard is None else shard
        shards = {self._map.shard_of(name) for name in request.queues}
        if len(shards) != 1:
            return SEVERAL
        # The worker is noted by a shard of its own, which is waited for too.
        home = 0 if request.worker_id is None else 1 + self._map.shard_of(request.worker_id)
        return shards.pop() + home * len(self._shards)

    async def open(self) -> None:
        if self._spanning.is_open:
            return
        try:
            # The first shard knows how many there are. If that is refused, the others stay as they are.
            for shard in self._shards:
                await shard.open()
        except BaseException:
            await self.close()
            raise
        self._spanning.open()

    async def close(self) -> None:
        await self._spanning.close()
        await self._each(lambda shard: shard.close())

    async def ping(self) -> None:
        # While one shard is down, the queues of the others are served.
        await self._reached(lambda shard: shard.ping())

    async def reset(self) -> None:
        await self._each(lambda shard: shard.reset())

    async def warnings(self) -> list[str]:
        return list(dict.fromkeys(_flat(await self._each(lambda shard: shard.warnings()))))

    async def _each(self, call: Callable[[Shard], Awaitable[Found]]) -> list[Found]:
        return await asyncio.gather(*map(call, self._shards))

    async def _reached(self, call: Callable[[Shard], Awaitable[Found]]) -> list[Found]:
        """Ask all shards, and return what those say that answer soon after the first; raise if none answers."""
        asked = [asyncio.ensure_future(call(shard)) for shard in self._shards]
        left, reached = set(asked), False
        try:
            while left and not reached:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                reached = any(task.exception() is None for task in done)
            if left:
                await asyncio.wait(left, timeout=REACH_S)
            answered = [task for task in asked if task.done()]
        finally:
            for task in asked:
                task.cancel()
        failures = _failures([task.exception() for task in answered])
        if not reached:
            raise failures[0]
        return [task.result() for task in answered if task.exception() is None]

    def _shard_of(self, name: str) -> Shard:
        return self._shards[self._map.shard_of(name)]

    # Commits.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        await self._map.find(_named(commits))
        answers: dict[int, Committed | Refused] = {}
        failures: list[Exception] = []
        shards = []
        for commit in commits:
            shards.append(self._map.only_shard(commit))
            # Those behind it may be about these jobs.
            self._map.note(new.job for new in commit.inserts)
        for wave in waves(commits, shards):
            grouped: dict[int, list[int]] = {}
            for position in wave:
                shard = shards[position]
                if shard is not None:
                    grouped.setdefault(shard, []).append(position)
            done = await asyncio.gather(
                *(self._commit_on(n, commits, positions, answers) for n, positions in grouped.items()),
                *(self._span(commits[position], position, answers) for position in wave if shards[position] is None),
                return_exceptions=True,
            )
            failures.extend(_failures(done))
        return _answered(answers, len(commits), failures)

    async def _commit_on(
        self, n: int, commits: Sequence[Commit], positions: Sequence[int], answers: dict[int, Committed | Refused]
    ) -> None:
        """Run commits on the one shard that they are for."""
        patience = self._spanning.patience()
        missed: list[int] = []
        left = list(positions)
        while left:
            locked: list[int] = []
            busy: Busy | None = None
            while left:
                done, met = await self._shards[n].commit_some([commits[position] for position in left])
                for position, answer in zip(left, done, strict=False):
                    if isinstance(answer, Refused) and _is_missed(answer):
                        missed.append(position)
                    else:
                        answers[position] = answer
                left = left[len(done) :]
                if met is not None:
                    # Those behind it do not wait for its lock.
                    busy = met
                    locked.append(left.pop(0))
            left = locked
            if busy is not None:
                await patience.wait(busy)
        # A job that is not there may have moved to another shard.
        await asyncio.gather(*(self._span(commits[position], position, answers) for position in missed))

    async def _span(self, commit: Commit, position: int, answers: dict[int, Committed | Refused]) -> None:
        answers[position] = answer = await self._spanning.commit(lambda: self._map.divide(commit))
        if isinstance(answer, Committed):
            self._map.note((*answer.inserted, *(change.job for change in answer.changed)))

    # Claims.

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        claims = [_Claim(request, self._map) for request in requests]
        failures: list[Exception] = []
        while steps := {claim: step for claim in claims if (step := claim.next_step())}:
            asked: dict[int, list[tuple[_Claim, ClaimRequest, bool]]] = {}
            for claim, step in steps.items():
                for shard, request, elsewhere in step:
                    asked.setdefault(shard, []).append((claim, request, elsewhere))
            done = await asyncio.gather(*(self._claim_on(n, asks) for n, asks in asked.items()), return_exceptions=True)
            failures.extend(_failures(done))
        for claim in claims:
            self._map.note(claim.jobs)
        answers = {position: claim.answer() for position, claim in enumerate(claims) if not claim.failed or claim.jobs}
        return _answered(answers, len(requests), failures)

    async def _claim_on(self, n: int, asks: Sequence[tuple[_Claim, ClaimRequest, bool]]) -> None:
        elsewhere = {position for position, ask in enumerate(asks) if ask[2]}
        try:
            found = await self._shards[n].claim_some([request for _, request, _ in asks], elsewhere)
        except BaseException:
            for claim, request, _ in asks:
                claim.failed = claim.failed or bool(request.queues)
            raise
        for (claim, _, _), claimed in zip(asks, found, strict=True):
            claim.take(claimed)

    # Reading jobs.

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        found = await self._map.read(job_ids)
        patience = self._spanning.patience()
        # One that a commit starts, or moves, may be on its way while another shard shows already that there is one.
        while missed := [job_id for job_id in job_ids if job_id not in found]:
            locks = await self._each(partial(Shard.locked, job_ids=missed))
            # One that came before the locks were read.
            found |= await self._map.read(missed)
            busy = next((lock for lock in locks if lock is not None), None)
            if busy is None:
                break
            await patience.wait(busy)
        return [found.get(job_id) for job_id in job_ids]

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        due = _flat(await self._reached(lambda shard: shard.due_jobs(now, limit)))
        self._map.note(due)
        return sorted(due, key=lambda job: (job.wake_at or 0, job.seq, job.id))[:limit]

    async def next_wake_at(self) -> int | None:
        found = await self._reached(lambda shard: shard.next_wake_at())
        return min((instant for instant in found if instant is not None), default=None)

    async def list_jobs(self, query: JobQuery) -> JobPage:
        offset = query.offset if query.cursor is None else 0
        if offset:
            first = msgspec.structs.replace(query, offset=0, limit=1)
            total = sum(page.total for page in await self._each(lambda shard: shard.list_jobs(first)))
            if total <= offset:
                return JobPage(jobs=(), total=total)
        # Any shard may have all of the page, and of the pages before it.
        asked = msgspec.structs.replace(query, offset=0, limit=offset + query.limit)
        pages = await self._each(lambda shard: shard.list_jobs(asked))

        def key(job: Job) -> tuple[int, str]:
            return ((job.discarded_at or 0) if query.dead else job.created_at, job.id)

        found = sorted(_flat(page.jobs for page in pages), key=key, reverse=True)[offset:]
        jobs = tuple(found[: query.limit])
        more = len(found) > query.limit or any(page.next_cursor for page in pages)
        cursor = encode_cursor(key(jobs[-1])) if more and jobs else None
        return JobPage(jobs=jobs, total=sum(page.total for page in pages), next_cursor=cursor)

    # Queues.

    async def list_queues(self) -> list[Queue]:
        found = _flat(await self._each(lambda shard: shard.list_queues()))
        return sorted(found, key=lambda queue: queue.name)

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        return await self._shard_of(name).queue_stats(name, now)

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        return await self._shard_of(name).set_paused(name, now, paused=paused)

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        failed: BackendUnavailableError | None = None
        try:
            await self._map.verify(request.job_ids)
        except BackendUnavailableError as error:
            # What can be renewed is.
            failed = error
        grouped: dict[int, list[str]] = {self._map.shard_of(request.worker.id): []}
        for job_id in request.job_ids:
            shard = self._map.known(job_id)
            if shard is not None:
                grouped.setdefault(shard, []).append(job_id)
        # A shard that is down keeps no lease of another from being renewed.
        beaten = await gather_all(
            self._beat_on(n, msgspec.structs.replace(request, job_ids=tuple(ids)), noted_elsewhere=position > 0)
            for position, (n, ids) in enumerate(grouped.items())
        )
        if failed is not None:
            raise failed
        # The worker's own shard is the first.
        return Beaten(
            beaten[0].worker,
            tuple(_flat(answer.extended for answer in beaten)),
            tuple(_flat(answer.others for answer in beaten)),
        )

    async def _beat_on(self, n: int, request: BeatRequest, *, noted_elsewhere: bool) -> Beaten:
        patience = self._spanning.patience()
        while True:
            answer = await self._shards[n].beat_some(request, noted_elsewhere=noted_elsewhere)
            if not isinstance(answer, Busy):
                return answer
            await patience.wait(answer)

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        found = _flat(await self._each(lambda shard: shard.list_workers(seen_before=seen_before, limit=limit)))
        return sorted(found, key=lambda worker: (worker.last_seen_at, worker.id))[:limit]

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        worker = await self._shard_of(worker_id).set_directive(worker_id, directive)
        if worker is not None:
            await self._heed(worker_id, directive)
        return worker

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        # First: what is left there of a worker that is gone would hold for the next of its name.
        await self._heed(worker_id, None)
        return await self._shard_of(worker_id).remove_worker(worker_id, seen_before, event)

    async def _heed(self, worker_id: str, directive: WorkerState | None) -> None:
        home = self._shard_of(worker_id)
        await asyncio.gather(*(shard.heed(worker_id, directive) for shard in self._shards if shard is not home))

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        return await self._shard_of(name).get_cron(name)

    async def list_crons(self) -> list[CronEntry]:
        found = _flat(await self._each(lambda shard: shard.list_crons()))
        return sorted(found, key=lambda entry: entry.name)

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        due = _flat(await self._reached(lambda shard: shard.due_crons(now, limit)))
        return sorted(due, key=lambda entry: (entry.wake_at or 0, entry.name))[:limit]

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        # A job that a commit starts may be there, and end, before that commit has changed the workflow. Whoever then
        # read the workflow as it was before would take the job for none of its members, and its end would be lost.
        patience = self._spanning.patience()
        while True:
            found = await self._shard_of(workflow_id).get_unlocked_workflow(workflow_id)
            if not isinstance(found, Busy):
                return found
            await patience.wait(found)

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        due = _flat(await self._reached(lambda shard: shard.due_workflows(now, limit)))
        return sorted(due, key=lambda flow: (flow.wake_at or 0, flow.id))[:limit]

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        return await merged_log.list_events(self._shards, query)

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        return await merged_log.prune_events(self._shards, before, keep, limit)

    def listen(self, callback: WakeCallback) -> None:
        for shard in self._shards:
            shard.listen(callback)


class _Claim:
    """A claim from several queues, on its way from shard to shard."""

    def __init__(self, request: ClaimRequest, where: Map) -> None:
        self._request = request
        self._home = None if request.worker_id is None else where.shard_of(request.worker_id)
        self._noted = self._home is None
        self._stops: list[tuple[int, list[str]]] = []
        """Queues of one shard that follow each other."""
        for name in dict.fromkeys(request.queues):
            shard = where.shard_of(name)
            if not self._stops or self._stops[-1][0] != shard:
                self._stops.append((shard, []))
            self._stops[-1][1].append(name)
        self._stops.reverse()
        self.jobs: list[Job] = []
        self._expired: list[Job] = []
        self.failed = False

    def next_step(self) -> list[tuple[int, ClaimRequest, bool]]:
        """Return what to ask next: shard, request, whether the worker is noted elsewhere; nothing when done."""
        room = self._request.count - len(self.jobs)
        if self._noted and (room <= 0 or not self._stops):
            return []
        step: list[tuple[int, ClaimRequest, bool]] = []
        if self._stops:
            shard, queues = self._stops.pop()
            here = not self._noted and shard == self._home
            request = msgspec.structs.replace(self._request, queues=tuple(queues), count=room)
            step.append((shard, request, not here))
            self._noted = self._noted or here
        if not self._noted:
            # Where the worker is kept, nothing else is asked for: it is seen there.
            assert self._home is not None  # noqa: S101 - else there is nothing to note
            step.append((self._home, msgspec.structs.replace(self._request, queues=()), False))
            self._noted = True
        return step

    def take(self, claimed: Claimed) -> None:
        """Take in what a shard has handed out."""
        self.jobs += claimed.jobs
        self._expired += claimed.expired

    def answer(self) -> Claimed:
        """Return what all shards together have handed out."""
        return Claimed(tuple(self.jobs), tuple(self._expired))


def _flat(groups: Iterable[Iterable[Found]]) -> list[Found]:
    return [found for group in groups for found in group]


def _named(commits: Iterable[Commit]) -> list[str]:
    """Return the ids of the jobs that commits change."""
    return [named.job_id for commit in commits for group in (commit.transitions, commit.removals) for named in group]


def _is_missed(answer: Refused) -> bool:
    return any(found.job is None and found.kind in ("transition", "removal") for found in answer.conflicts)


def _failures(results: Iterable[object]) -> list[Exception]:
    """Return the errors among some results; what is none that a store may raise is raised."""
    failures = []
    for result in results:
        if isinstance(result, Exception):
            failures.append(result)
        elif isinstance(result, BaseException):
            raise result
    return failures


def _answered(answers: dict[int, Found], length: int, failures: Sequence[Exception]) -> list[Found]:
    """Return the answers in order; if there are not all, raise why not, with those that there are."""
    if len(answers) == length:
        return [answers[position] for position in range(length)]
    unexpected = next((error for error in failures if not isinstance(error, BackendUnavailableError)), None)
    if unexpected is not None or not answers:
        raise unexpected or failures[0]
    raise PartlyUnavailableError(str(failures[0]), [answers.get(position) for position in range(length)])
