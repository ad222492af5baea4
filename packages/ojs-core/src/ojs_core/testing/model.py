"""The model test: the same random commands into the reference backend and into another, with the same answers.

    TestModel = model_test_case(lambda: MyBackend(...))  # on a store of its own; it is reset for each sequence

After each command everything that the two stores show is compared, but for what the contract leaves open: the numbers
in `seq` (not the order they make), event ids, the order of events of different subjects within one step, and how many
expired jobs a claim reports beyond those in front of what it handed out.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from unittest import TestCase

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import Struct
from msgspec.structs import replace

from ojs_core.backend import Backend, Change, Claimed, ClaimRequest, Commit, Committed, EventQuery, JobQuery, Refused
from ojs_core.events import Event
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.memory import MemoryBackend
from ojs_core.records import CronEntry, Worker, Workflow
from ojs_core.testing.clock import HOUR, MINUTE
from ojs_core.testing.factories import make_event
from ojs_core.testing.moves import (
    FLOWS,
    QUEUES,
    WORKERS,
    Beat,
    Claim,
    Insert,
    Situation,
    Swap,
    Write,
    beats,
    claims,
    inserts,
    picks,
    population,
    queries,
    soon,
    swaps,
    sweep,
    writes,
)

Answer = TypeVar("Answer")
ALL = 10_000
"""More of anything than a sequence of commands makes."""


def model_test_case(
    make: Callable[[], Backend], *, examples: int = 60, steps: int = 30, claims_in_order: bool = True
) -> type[TestCase]:
    """Return a test case that compares the backends `make` makes with the reference.

    Args:
        make: returns a backend that was not opened. Its store is reset at the start of each sequence.
        examples: sequences, at most.
        steps: commands of a sequence, at most.
        claims_in_order: the backend serves the claims of one call one after the other, which it need not; else a call
            has one.
    """

    class Machine(ModelMachine):
        def make(self) -> Backend:
            return make()

    Machine.claims_in_order = claims_in_order
    case: type[TestCase] = Machine.TestCase
    case.settings = settings(  # type: ignore[attr-defined]  # hypothesis reads it there
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return case


class ModelMachine(RuleBasedStateMachine):
    """Both stores, and what was done to them."""

    claims_in_order = True

    @abstractmethod
    def make(self) -> Backend:
        """Make the backend to compare."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._model: Backend = MemoryBackend()
        self._store: Backend = self.make()
        self._situation = Situation()
        self._cursors: dict[int, str] = {}
        self._instants: set[int] = set()

    @initialize(populated=st.sampled_from([True, True, True, False]))
    def open(self, populated: bool) -> None:  # noqa: FBT001 - drawn by name
        """Begin with two empty stores, or with a few jobs in each state."""

        async def opened(backend: Backend) -> None:
            await backend.open()
            await backend.reset()

        self._both(opened)
        if populated:
            for commits, requests in population(self._situation):
                self._commit(commits)
                self._claim(requests)

    def teardown(self) -> None:
        """Close them."""
        self._both(lambda backend: backend.close())
        self._runner.close()

    def _both(self, call: Callable[[Backend], Awaitable[Answer]]) -> tuple[Answer, Answer]:
        async def ask() -> tuple[Answer, Answer]:
            return await call(self._model), await call(self._store)

        return self._runner.get_loop().run_until_complete(ask())

    def _agree(self, call: Callable[[Backend], Awaitable[Any]]) -> None:
        expected, answer = self._both(call)
        assert answer == expected

    # Commands.

    @rule(ms=st.sampled_from([1, 50, 900, 1500, MINUTE, 3 * HOUR]))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self._situation.now += ms

    @rule(drawn=st.lists(inserts, min_size=1, max_size=4))
    def insert(self, drawn: Sequence[Insert]) -> None:
        """A batch."""
        self._commit([Commit(inserts=tuple(insert.build(self._situation) for insert in drawn))])

    @rule(drawn=swaps)
    def swap(self, drawn: Swap) -> None:
        """One swap of one job."""
        transition = drawn.build(self._situation)
        if transition is not None:
            self._commit([Commit(transitions=(transition,))])

    @rule(drawn=st.lists(writes, max_size=3))
    def write(self, drawn: Sequence[Write]) -> None:
        """Commits of any parts, in one call; later ones were decided before the earlier ones happened."""
        self._commit([write.build(self._situation) for write in drawn])

    def _commit(self, commits: Sequence[Commit]) -> None:
        self._instants.add(self._situation.now)
        expected, answers = self._both(lambda backend: backend.commit(commits))
        assert len(answers) == len(commits)
        for commit, wanted, answer in zip(commits, expected, answers, strict=True):
            if isinstance(wanted, Committed):
                assert _plain(answer) == _plain(wanted)
            else:
                assert isinstance(answer, Refused)
                _compare_refusals(commit, wanted, answer)

    @rule(drawn=st.lists(claims, min_size=1, max_size=2))
    def claim(self, drawn: Sequence[Claim]) -> None:
        """Claims, in one call."""
        self._claim([claim.build(self._situation) for claim in drawn[: None if self.claims_in_order else 1]])

    @rule(drawn=claims, swaps=st.lists(swaps, min_size=1, max_size=3))
    def work(self, drawn: Claim, swaps: Sequence[Swap]) -> None:
        """Claim, and end what was claimed."""
        claimed = self._claim([drawn.build(self._situation)])
        built = [swap.of(job, self._situation) for swap, job in zip(swaps, claimed, strict=False)]
        self._commit([Commit(transitions=(transition,)) for transition in built])

    @rule(limit=picks, wake_in=soon)
    def sweep(self, limit: int, wake_in: int | None) -> None:
        """Do what the clock asks for, with a few of the jobs that are due."""
        due, _ = self._both(lambda backend: backend.due_jobs(self._situation.now, limit + 1))
        self._commit([Commit(transitions=(sweep(job, self._situation.now, wake_in),)) for job in due])

    def _claim(self, requests: Sequence[ClaimRequest]) -> list[Job]:
        self._instants.add(self._situation.now)
        expected, answers = self._both(lambda backend: backend.claim(requests))
        assert len(answers) == len(requests)
        for wanted, answer in zip(expected, answers, strict=True):
            self._compare_claims(wanted, answer)
        return [job for wanted in expected for job in wanted.jobs]

    def _compare_claims(self, wanted: Claimed, answer: Claimed) -> None:
        assert _unplaced(answer.jobs) == _unplaced(wanted.jobs)
        reported = {job.id for job in answer.expired}
        assert {job.id for job in wanted.expired} <= reported
        for job in answer.expired:
            assert job.state is JobState.AVAILABLE
            assert job.expires_at is not None
            assert job.expires_at <= self._situation.now

    @rule(drawn=beats)
    def beat(self, drawn: Beat) -> None:
        """A heartbeat."""
        request = drawn.build(self._situation)
        wanted, answer = self._both(lambda backend: backend.beat(request))
        assert answer.worker == wanted.worker
        assert _by_id(answer.extended) == _by_id(wanted.extended)
        assert _by_id(answer.others) == _by_id(wanted.others)

    @rule(name=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:  # noqa: FBT001 - drawn by name
        """Pause or resume a queue."""
        wanted, answer = self._both(lambda backend: backend.set_paused(name, self._situation.now, paused=paused))
        assert replace(answer, window=None) == replace(wanted, window=None)

    @rule(worker_id=st.sampled_from(WORKERS), directive=st.sampled_from([None, "running", "quiet", "terminate"]))
    def direct(self, worker_id: str, directive: Any) -> None:  # noqa: ANN401 - one of the literals
        """Tell a worker what to do."""
        self._agree(lambda backend: backend.set_directive(worker_id, directive))

    @rule(worker_id=st.sampled_from(WORKERS), ago=st.sampled_from([-1, 0, 1000]))
    def remove_worker(self, worker_id: str, ago: int) -> None:
        """Forget a worker, if it was silent."""
        event = make_event(at=self._situation.now, subject=worker_id)
        self._agree(lambda backend: backend.remove_worker(worker_id, self._situation.now - ago, event))

    @rule(ago=st.sampled_from([0, 1000, HOUR]), keep=st.sampled_from([0, 3, ALL]), limit=st.sampled_from([1, 5, ALL]))
    def prune(self, ago: int, keep: int, limit: int) -> None:
        """Remove old events."""
        self._agree(lambda backend: backend.prune_events(self._situation.now - ago, keep, limit))

    @rule(query=queries, cursors=st.booleans())
    def list_jobs(self, query: JobQuery, cursors: bool) -> None:  # noqa: FBT001 - drawn by name
        """Look through a filtered list, page by page."""

        async def pages(backend: Backend) -> list[tuple[list[str], int, bool]]:
            found = []
            current = query
            while True:
                page = await backend.list_jobs(current)
                found.append(([job.id for job in page.jobs], page.total, page.next_cursor is not None))
                if page.next_cursor is None:
                    return found
                step = {"cursor": page.next_cursor} if cursors else {"offset": current.offset + current.limit}
                current = replace(current, **step)

        self._agree(pages)

    @rule(limit=picks)
    def look_at_the_clock(self, limit: int) -> None:
        """What is due now, as far as `limit` goes."""
        wanted, answer = self._both(lambda backend: backend.due_jobs(self._situation.now, limit + 1))
        assert [job.wake_at for job in answer] == [job.wake_at for job in wanted]
        self._agree(lambda backend: backend.due_crons(self._situation.now, limit + 1))
        self._agree(lambda backend: backend.due_workflows(self._situation.now, limit + 1))

    # What holds after each command.

    @invariant()
    def the_stores_show_the_same(self) -> None:
        """Everything, as far as the contract says what it is."""
        wanted, answer = self._both(self._look)
        assert _unplaced(answer.jobs) == _unplaced(wanted.jobs)
        assert _line(answer.jobs) == _line(wanted.jobs)
        assert [job.wake_at for job in answer.due] == [job.wake_at for job in wanted.due]
        assert _by_id(answer.due) == _by_id(wanted.due)
        for queue in QUEUES:
            # Of one instant, jobs of one queue go by place; places of several queues need not be comparable.
            assert [job.id for job in answer.due if job.queue == queue] == [
                job.id for job in wanted.due if job.queue == queue
            ]
        assert [worker.last_seen_at for worker in answer.workers] == [worker.last_seen_at for worker in wanted.workers]
        assert {worker.id: worker for worker in answer.workers} == {worker.id: worker for worker in wanted.workers}
        assert _by_subject(answer.events) == _by_subject(wanted.events)
        assert answer.rest == wanted.rest
        self._situation.jobs = sorted(wanted.jobs, key=lambda job: job.id)
        self._situation.crons = {entry.name: entry for entry in wanted.crons}
        self._situation.flows = {flow.id: flow for flow in wanted.flows if flow is not None}

    async def _look(self, backend: Backend) -> _View:
        now = self._situation.now
        # How fine the last hour is counted is the store's business.
        close = any(now - HOUR - 10 * MINUTE < at < now - HOUR + 10 * MINUTE for at in self._instants)
        page, log, due, workers = await asyncio.gather(
            backend.list_jobs(JobQuery(limit=ALL)),
            backend.list_events(EventQuery(after=self._cursors.get(id(backend)), limit=ALL)),
            backend.due_jobs(1 << 60, ALL),
            backend.list_workers(),
        )
        crons, queues, flows, stats, wake_at = await asyncio.gather(
            backend.list_crons(),
            backend.list_queues(),
            asyncio.gather(*(backend.get_workflow(flow_id) for flow_id in FLOWS)),
            asyncio.gather(*(backend.queue_stats(name, now) for name in QUEUES)),
            backend.next_wake_at(),
        )
        ids = [event.id for event in log.events]
        assert len(set(ids)) == len(ids)
        if ids:
            self._cursors[id(backend)] = ids[-1]
        read, entries = await asyncio.gather(
            backend.get_jobs([job.id for job in page.jobs]),
            asyncio.gather(*(backend.get_cron(entry.name) for entry in crons)),
        )
        assert read == list(page.jobs)
        assert entries == crons
        return _View(
            jobs=page.jobs,
            due=due,
            workers=workers,
            crons=crons,
            flows=flows,
            events=[replace(event, id="") for event in log.events],
            rest=(
                page.total,
                log.has_more,
                wake_at,
                crons,
                flows,
                [replace(queue, window=None) for queue in queues],
                [one and (one.states if close else replace(one, queue=None)) for one in stats],
            ),
        )


class _View(Struct):
    """What a store shows. `rest` has to be equal as it is."""

    jobs: tuple[Job, ...]
    due: list[Job]
    workers: list[Worker]
    crons: list[CronEntry]
    flows: list[Workflow | None]
    events: list[Event]
    rest: object


def _unplaced(jobs: Sequence[Job]) -> list[Job]:
    return [replace_fields(job, seq=0) for job in jobs]


def _by_id(jobs: Sequence[Job]) -> dict[str, Job]:
    found = {job.id: replace_fields(job, seq=0) for job in jobs}
    assert len(found) == len(jobs)
    return found


def _line(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Return the available jobs of each queue in the order they would be handed out."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: (-job.priority, job.seq)):
        if job.state is JobState.AVAILABLE:
            found[job.queue].append(job.id)
    return found


def _plain(answer: Committed | Refused) -> object:
    assert isinstance(answer, Committed), answer
    changed = [Change(replace_fields(change.job, seq=0), change.previous) for change in answer.changed]
    return _unplaced(answer.inserted), changed


def _by_subject(events: Sequence[Event]) -> dict[str, list[Event]]:
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.subject].append(event)
    return found


def _compare_refusals(commit: Commit, wanted: Refused, answer: Refused) -> None:
    """Compare what has to be named: all conflicts of the inserts, unless other parts conflict too, and one of those."""
    expected = {(conflict.kind, conflict.index): conflict.job for conflict in wanted.conflicts}
    found = {(conflict.kind, conflict.index): conflict.job for conflict in answer.conflicts}
    assert len(found) == len(answer.conflicts)
    others = {key for key in expected if key[0] not in ("id", "hold")}
    assert bool(others) == any(key[0] not in ("id", "hold") for key in found)
    if not others:
        assert {index for _, index in expected} <= {index for _, index in found}
        own = {new.job.id for new in commit.inserts}
        extra = [found[key] for key in found.keys() - expected.keys()]
        assert all(job is not None and job.id in own for job in extra)
    assert {key for key in found if key[0] not in ("id", "hold")} <= others
    for (kind, index), job in found.items():
        if kind == "hold":
            new = commit.inserts[index]
            # Any of several holders may be named.
            assert job is not None
            assert new.hold is not None
            assert job.fingerprint == new.job.fingerprint
            assert job.state in new.hold.states
        elif kind in ("transition", "removal") and job is not None:
            same = expected[kind, index]
            assert same is not None
            assert replace_fields(job, seq=0) == replace_fields(same, seq=0)
