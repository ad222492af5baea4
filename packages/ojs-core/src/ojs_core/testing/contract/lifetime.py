"""A backend as such: what it is, and its beginning and end."""

from __future__ import annotations

import inspect

import pytest

from ojs_core.backend import Backend, Capabilities, CronWrite, WorkflowWrite
from ojs_core.events import EventDraft
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    claim,
    claim_ids,
    event_types,
    events,
    insert,
    insert_one,
    job_in,
    read,
    snapshot,
)
from ojs_core.testing.factories import make_beat, make_cron, make_new, make_transition, make_unique, make_workflow


class LifetimeContract(BackendFixtures):
    """`Backend`, the stores it is made of aside."""

    async def test_it_says_what_it_is(self, backend: Backend) -> None:
        """Capabilities are data, the same at every look."""
        found = backend.capabilities
        assert isinstance(found, Capabilities)
        assert found.name
        assert found.unique_mechanism
        assert found == backend.capabilities
        assert found.max_record_bytes is None or found.max_record_bytes >= 200_000

    async def test_no_method_is_missing(self, backend: Backend) -> None:
        """What awaits the store is a coroutine function, so that wrappers may hand it on."""
        abstract = {name for name in Backend.__abstractmethods__ if name not in ("capabilities", "listen")}
        for name in abstract:
            assert inspect.iscoroutinefunction(getattr(backend, name)), name

    async def test_a_new_store_is_empty(self, backend: Backend) -> None:
        """No jobs, queues, workers, entries or events."""
        found = await snapshot(backend)
        assert (found.jobs, found.due, found.next_wake_at) == ([], [], None)
        assert (found.queues, found.workers, found.crons, found.events) == ([], [], [], [])

    async def test_it_answers(self, backend: Backend) -> None:
        """`ping` returns, and `warnings` are sentences."""
        before = await snapshot(backend)
        await backend.ping()
        assert await snapshot(backend) == before
        warnings = await backend.warnings()
        assert all(isinstance(warning, str) and warning for warning in warnings)

    async def test_it_can_be_closed_twice(self, backend: Backend) -> None:
        """And once more by the fixture."""
        await insert_one(backend)
        await backend.close()
        await backend.close()

    async def test_it_is_open_when_open_returns(self, unopened: Backend) -> None:
        """Making one connects to nothing; `open` prepares the store, and then it answers."""
        await unopened.open()
        await unopened.ping()
        job = await insert_one(unopened)
        assert await read(unopened, job.id) == job
        await unopened.close()

    async def test_it_can_be_closed_without_being_opened(self, unopened: Backend) -> None:
        """Start-up may fail before `open`."""
        await unopened.close()
        await unopened.close()

    @pytest.mark.parametrize("now", [1_000, 7_258_118_400_000], ids=["1970", "2200"])
    async def test_it_has_no_clock_of_its_own(self, backend: Backend, now: int) -> None:
        """What time it is, is what the caller says; nothing ends by itself because some other clock says so."""
        job = await insert_one(backend, created_at=now, max_per_second=1)
        [claimed] = (await claim(backend, now=now + 10, worker_id="w", lease_ms=5)).jobs
        assert (claimed.started_at, claimed.lease_expires_at) == (now + 10, now + 15)
        assert [due.id for due in await backend.due_jobs(now + 15, 9)] == [job.id]
        [renewed] = (await backend.beat(make_beat("w", job.id, now=now + 12))).extended
        assert renewed.lease_expires_at == now + 17
        ack = make_transition(
            LifecycleEvent.ACK, job.id, at=now + 20, wake_at=now + 30, events=(EventDraft("job.completed"),)
        )
        ended = (await apply(backend, ack)).job
        assert await read(backend, job.id) == ended
        assert await backend.next_wake_at() == now + 30
        stats = await backend.queue_stats("default", now + 40)
        assert stats is not None
        assert (stats.completed_last_hour, stats.duration_ms_sum) == (1, 10)
        second = await insert_one(backend, created_at=now + 500)
        assert await claim_ids(backend, now=now + 500) == []
        assert await claim_ids(backend, now=now + 1500) == [second.id]
        found = await events(backend, types=("job.completed",))
        assert [event.at for event in found] == [now + 20]

    async def test_reset_removes_everything(self, backend: Backend) -> None:
        """Jobs and all that is kept beside them, windows, pauses, directives and holds included (C-EP-28)."""
        empty = await snapshot(backend)
        flow = make_workflow(wake_at=NOW)
        for position, state in enumerate(JobState):
            await job_in(backend, state, queue=f"q{position}", worker_id="w", expires_at=NOW + 1)
        await insert(backend, make_unique("a" * 64, max_per_second=1), make_new())
        await claim_ids(backend)
        await backend.set_paused("paused", NOW, paused=True)
        await backend.beat(make_beat("w"))
        await backend.set_directive("w", "terminate")
        await accept(backend, cron=CronWrite("c", make_cron("c"), 0), workflows=(WorkflowWrite(flow.id, flow, 0),))
        await backend.reset()
        assert await snapshot(backend, [flow.id]) == await snapshot(backend, ["x"])
        assert await snapshot(backend) == empty
        assert await backend.due_workflows(NOW * 2, 9) == []
        assert await backend.due_crons(NOW * 2, 9) == []

    async def test_it_works_after_a_reset(self, backend: Backend) -> None:
        """As if it were new: names and fingerprints are free, nothing is paused, and listeners are still told."""
        bell = Bell(backend)
        [old] = await insert(backend, make_unique("a" * 64, max_per_second=1))
        await claim_ids(backend, worker_id="w")
        await backend.set_directive("w", "quiet")
        await backend.set_paused("q", NOW, paused=True)
        await accept(backend, cron=CronWrite("c", make_cron("c"), 0))
        await backend.reset()
        bell.rings.clear()
        await insert(backend, make_unique("a" * 64, id=old.id), make_new(), make_new(queue="q"))
        await bell.expect("default", "q")
        assert len(await claim_ids(backend, "default", "q", worker_id="w")) == 3
        await accept(backend, cron=CronWrite("c", make_cron("c"), 0))
        assert await event_types(backend) == ["job.enqueued"] * 3 + ["job.started"] * 3

    async def test_reset_of_an_empty_store(self, backend: Backend) -> None:
        """Nothing to remove."""
        await backend.reset()
        await backend.reset()
        assert (await snapshot(backend)).jobs == []
