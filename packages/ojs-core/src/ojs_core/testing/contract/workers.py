"""Workers: as last seen, told what to do, and forgotten (C-WRK-02, C-WRK-05, C-WRK-08, C-WRK-09)."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Backend
from ojs_core.testing.clock import MINUTE, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import claim, data_of, event_types, events, snapshot
from ojs_core.testing.factories import make_beat, make_event, raw


class WorkerContract(BackendFixtures):
    """`WorkerStore`, jobs aside."""

    async def test_a_beat_keeps_the_report(self, backend: Backend) -> None:
        """All that the worker says of itself is stored and answered."""
        request = make_beat(
            "w",
            now=NOW + 5,
            state="quiet",
            hostname="host-é",
            pid=4711,
            queues=("a", "b"),
            concurrency=8,
            active_jobs=3,
            labels=raw({"zone": "x", "n": 1.0}),
        )
        worker = (await backend.beat(request)).worker
        assert (worker.state, worker.hostname, worker.pid, worker.queues) == ("quiet", "host-é", 4711, ("a", "b"))
        assert (worker.concurrency, worker.active_jobs, worker.labels) == (8, 3, request.worker.labels)
        assert await backend.list_workers() == [worker]

    async def test_a_new_report_replaces_the_old_one(self, backend: Backend) -> None:
        """What a beat leaves out is not known any more."""
        await backend.beat(make_beat("w", hostname="h", pid=1, queues=("a",)))
        worker = (await backend.beat(make_beat("w", hostname="g"))).worker
        assert (worker.hostname, worker.pid, worker.queues) == ("g", None, None)

    async def test_the_store_keeps_first_seen_beats_and_directive(self, backend: Backend) -> None:
        """Whatever the report carries for them."""
        lies: dict[str, Any] = {"first_seen_at": 1, "last_seen_at": 2, "beats": 99, "directive": "terminate"}
        first = (await backend.beat(make_beat("w", now=NOW + 1, **lies))).worker
        assert (first.first_seen_at, first.last_seen_at, first.beats) == (NOW + 1, NOW + 1, 1)
        assert first.directive is None
        await backend.set_directive("w", "quiet")
        second = (await backend.beat(make_beat("w", now=NOW + 9, **lies))).worker
        assert (second.first_seen_at, second.last_seen_at, second.beats) == (NOW + 1, NOW + 9, 2)
        assert second.directive == "quiet"

    async def test_the_first_beat_is_an_event(self, backend: Backend) -> None:
        """`worker.started`, once, also for a worker that claimed before (C-EVT-03)."""
        await claim(backend, worker_id="w", now=NOW)
        for n in (1, 2, 3):
            await backend.beat(make_beat("w", now=NOW + n, queues=("a",), concurrency=4))
        [event] = await events(backend)
        assert (event.type, event.subject, event.at) == ("worker.started", "w", NOW + 1)
        data = data_of(event)
        assert (data["worker_id"], data["queues"], data["concurrency"]) == ("w", ["a"], 4)
        [worker] = await backend.list_workers()
        assert (worker.first_seen_at, worker.beats) == (NOW, 3)

    async def test_the_longest_silent_come_first(self, backend: Backend) -> None:
        """By the time last seen, by beat or claim; `seen_before` and `limit` cut the list."""
        await backend.beat(make_beat("c", now=NOW + 3))
        await backend.beat(make_beat("a", now=NOW + 5))
        await claim(backend, worker_id="b", now=NOW + 1)
        await claim(backend, worker_id="d", now=NOW + 2)
        await backend.beat(make_beat("b", now=NOW + 4))

        async def names(**query: Any) -> list[str]:
            return [worker.id for worker in await backend.list_workers(**query)]

        assert await names() == ["d", "c", "b", "a"]
        assert await names(limit=2) == ["d", "c"]
        assert await names(seen_before=NOW + 4) == ["d", "c"]
        assert await names(seen_before=NOW + 4, limit=1) == ["d"]
        assert await names(seen_before=NOW + 2) == []

    @pytest.mark.parametrize("directive", ["quiet", "terminate", "running", None])
    async def test_a_directive_is_kept_until_changed(self, backend: Backend, directive: Any) -> None:
        """It is answered with the worker from then on, and tells of no other worker (C-WRK-02)."""
        for name in ("w", "other"):
            await backend.beat(make_beat(name))
        await backend.set_directive("w", "quiet")
        told = await backend.set_directive("w", directive)
        assert told is not None
        assert (told.id, told.directive) == ("w", directive)
        assert (await backend.beat(make_beat("w", now=NOW + 1))).worker.directive == directive
        assert (await backend.beat(make_beat("other", now=NOW + 1))).worker.directive is None
        assert {worker.id: worker.directive for worker in await backend.list_workers()} == {
            "w": directive,
            "other": None,
        }

    async def test_a_directive_changes_nothing_else(self, backend: Backend) -> None:
        """The worker was not seen by being told."""
        before = (await backend.beat(make_beat("w", hostname="h"))).worker
        after = await backend.set_directive("w", "quiet")
        assert after is not None
        assert (after.last_seen_at, after.beats, after.hostname) == (before.last_seen_at, 1, "h")

    async def test_no_directive_without_a_worker(self, backend: Backend) -> None:
        """None, and no worker comes into existence."""
        assert await backend.set_directive("nobody", "quiet") is None
        assert await backend.list_workers() == []

    # Forgetting.

    async def test_a_silent_worker_is_forgotten(self, backend: Backend) -> None:
        """It is gone, and the event is in the log."""
        await backend.beat(make_beat("w", now=NOW))
        await backend.beat(make_beat("stays", now=NOW))
        stopped = make_event("worker.stopped", subject="w", at=NOW + MINUTE, data=raw({"reason": "silent"}))
        assert await backend.remove_worker("w", NOW + 1, stopped) is True
        assert [worker.id for worker in await backend.list_workers()] == ["stays"]
        [event] = await events(backend, types=("worker.stopped",))
        assert (event.subject, event.at, event.data) == ("w", NOW + MINUTE, stopped.data)
        assert event.id

    async def test_a_worker_seen_since_stays(self, backend: Backend) -> None:
        """By a beat or by a claim, in the very instant or later: nothing happens (C-WRK-08)."""
        await backend.beat(make_beat("w", now=NOW))
        await claim(backend, worker_id="w", now=NOW + 5)
        before = await snapshot(backend)
        for seen_before in (NOW + 5, NOW + 1, NOW - 9):
            assert await backend.remove_worker("w", seen_before, make_event()) is False
        assert await snapshot(backend) == before

    async def test_a_worker_is_forgotten_once(self, backend: Backend) -> None:
        """The second server that notices finds it gone and logs nothing."""
        await backend.beat(make_beat("w"))
        assert await backend.remove_worker("w", NOW + 1, make_event()) is True
        assert await backend.remove_worker("w", NOW + 1, make_event()) is False
        assert await event_types(backend) == ["worker.started", "worker.stopped"]

    async def test_a_worker_that_comes_back_starts_anew(self, backend: Backend) -> None:
        """No directive, first seen now, and a first beat again."""
        await backend.beat(make_beat("w"))
        await backend.set_directive("w", "terminate")
        await backend.remove_worker("w", NOW + 1, make_event())
        worker = (await backend.beat(make_beat("w", now=NOW + 9))).worker
        assert (worker.first_seen_at, worker.beats, worker.directive) == (NOW + 9, 1, None)
        assert await event_types(backend) == ["worker.started", "worker.stopped", "worker.started"]
