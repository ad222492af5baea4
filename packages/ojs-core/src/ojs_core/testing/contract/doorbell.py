"""The doorbell: who is told that work arrived (`EventStore.listen`)."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import pytest

from ojs_core.backend import Backend, Commit
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import apply, claim, commit, insert, insert_one, job_in, refuse
from ojs_core.testing.factories import make_new, make_transition

Ring: TypeAlias = frozenset[str] | None
PATIENCE_S = 30
"""How long a test waits for a ring that has to come; a passing one waits as long as the ring takes."""


class Bell:
    """Listens to a store and remembers what it was told."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.rings: list[Ring] = []
        backend.listen(self._ring)

    def _ring(self, queues: Ring) -> None:
        assert asyncio.get_running_loop() is self._loop
        assert queues is None or isinstance(queues, frozenset)
        self.rings.append(queues)
        self._changed.set()

    async def expect(self, *queues: str) -> None:
        """Wait until all of the queues were named, or everyone was called."""
        async with asyncio.timeout(PATIENCE_S):
            while None not in self.rings and not set(queues) <= self._named():
                self._changed.clear()
                await self._changed.wait()

    async def settle(self) -> set[str]:
        """Make a last job available, wait until it was told, and return the queues named besides its own."""
        await insert_one(self._backend, queue="the-last")
        await self.expect("the-last")
        return self._named() - {"the-last"}

    def _named(self) -> set[str]:
        return {name for ring in self.rings if ring is not None for name in ring}


class DoorbellContract(BackendFixtures):
    """Within one server; across servers see `SharedContract`."""

    async def test_an_insert_rings(self, backend: Backend) -> None:
        """For each queue that got an available job."""
        bell = Bell(backend)
        await insert(backend, make_new(queue="a"), make_new(queue="b"), make_new(JobState.PENDING, queue="c"))
        await bell.expect("a", "b")
        assert await bell.settle() <= {"a", "b"}

    @pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.AVAILABLE])
    async def test_what_is_not_available_does_not_ring(self, backend: Backend, state: JobState) -> None:
        """Nobody has to get up for a job that waits for something else, or has ended."""
        if state in (JobState.ACTIVE, JobState.RETRYABLE):
            await job_in(backend, JobState.ACTIVE, queue="q")
            bell = Bell(backend)
            await claim(backend, "q")
        else:
            bell = Bell(backend)
            await insert(backend, make_new(state, queue="q", wake_at=NOW))
        assert await bell.settle() == set()

    @pytest.mark.parametrize(
        ("state", "event"),
        [
            (JobState.SCHEDULED, LifecycleEvent.PROMOTE),
            (JobState.RETRYABLE, LifecycleEvent.PROMOTE),
            (JobState.PENDING, LifecycleEvent.ACTIVATE),
            (JobState.ACTIVE, LifecycleEvent.REQUEUE),
            (JobState.ACTIVE, LifecycleEvent.LAPSE),
            (JobState.DISCARDED, LifecycleEvent.REVIVE),
        ],
    )
    async def test_a_swap_to_available_rings(self, backend: Backend, state: JobState, event: LifecycleEvent) -> None:
        """Whichever way it became available."""
        job = await job_in(backend, state, queue="q")
        bell = Bell(backend)
        await apply(backend, make_transition(event, job.id))
        await bell.expect("q")
        assert await bell.settle() == {"q"}

    async def test_a_revival_into_another_queue_rings_there(self, backend: Backend) -> None:
        """Where the job is now."""
        job = await job_in(backend, JobState.DISCARDED, queue="old")
        bell = Bell(backend)
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes={"queue": "new"}))
        await bell.expect("new")

    @pytest.mark.parametrize("event", [LifecycleEvent.ACK, LifecycleEvent.RETRY, LifecycleEvent.CANCEL])
    async def test_other_swaps_do_not_ring(self, backend: Backend, event: LifecycleEvent) -> None:
        """They make no work available."""
        job = await job_in(backend, JobState.ACTIVE, queue="q")
        bell = Bell(backend)
        await apply(backend, make_transition(event, job.id))
        assert await bell.settle() == set()

    async def test_a_resume_rings_and_a_pause_does_not(self, backend: Backend) -> None:
        """What was there all along can be had now."""
        await insert(backend, make_new(queue="q"), make_new(queue="r"))
        bell = Bell(backend)
        await backend.set_paused("q", NOW, paused=True)
        assert await bell.settle() == set()
        await backend.set_paused("q", NOW, paused=False)
        await bell.expect("q")

    async def test_a_refused_commit_does_not_ring(self, backend: Backend) -> None:
        """Nothing happened."""
        job = await insert_one(backend, queue="first")
        bell = Bell(backend)
        await refuse(backend, inserts=(make_new(queue="q"), make_new(id=job.id)))
        assert await bell.settle() == set()

    async def test_one_call_rings_for_all_its_commits(self, backend: Backend) -> None:
        """No queue is forgotten because another was told."""
        bell = Bell(backend)
        await backend.commit([Commit(inserts=(make_new(queue=f"q{n}"),)) for n in range(30)])
        await bell.expect(*(f"q{n}" for n in range(30)))

    async def test_everyone_who_listens_is_told(self, backend: Backend) -> None:
        """As often as they listen."""
        bells = [Bell(backend) for _ in range(3)]
        await commit(backend, inserts=(make_new(queue="q"),))
        for bell in bells:
            await bell.expect("q")

    async def test_the_job_is_there_when_the_bell_rings(self, backend: Backend) -> None:
        """Whoever comes running finds it."""
        for n in range(20):
            bell = Bell(backend)
            inserted = asyncio.ensure_future(insert_one(backend, queue=f"q{n}"))
            await bell.expect(f"q{n}")
            assert len((await claim(backend, f"q{n}")).jobs) == 1
            await inserted
