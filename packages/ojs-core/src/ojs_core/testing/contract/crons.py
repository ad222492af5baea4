"""Cron entries as records: each write a swap on the version (C-CRN-01, C-CRN-02, C-CRN-17)."""

from __future__ import annotations

import msgspec
import pytest

from ojs_core.backend import Backend, Commit, Committed, CronWrite
from ojs_core.testing.clock import HOUR, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import accept, counts, insert_one, read, refuse, snapshot
from ojs_core.testing.factories import make_cron, make_event, make_id, make_new


class CronContract(BackendFixtures):
    """`CronStore`, and `Commit.cron`."""

    async def test_an_entry_comes_back_whole(self, backend: Backend) -> None:
        """Every field, with the version the store gave it."""
        entry = make_cron(
            "full",
            expression="*/5 * * * MON-FRI",
            timezone="Asia/Tokyo",
            overlap_policy="enqueue",
            enabled=False,
            description="é\n\u0000",
            wake_at=None,
            next_run_at=None,
            last_run_at=NOW - HOUR,
            run_count=12,
            last_job_id=make_id(),
            waiting_job_ids=(make_id(), make_id()),
        )
        await accept(backend, cron=CronWrite("full", entry, 0))
        stored = await backend.get_cron("full")
        assert stored == msgspec.structs.replace(entry, version=1)
        assert await backend.list_crons() == [stored]

    async def test_an_unknown_entry(self, backend: Backend) -> None:
        """None."""
        assert await backend.get_cron("unknown") is None
        assert await backend.list_crons() == []

    async def test_entries_are_listed_by_name(self, backend: Backend) -> None:
        """In the order of the code points of their names."""
        for name in ("b", "a.b", "a-b", "ab", "a", "10", "9"):
            await accept(backend, cron=CronWrite(name, make_cron(name), 0))
        assert [entry.name for entry in await backend.list_crons()] == ["10", "9", "a", "a-b", "a.b", "ab", "b"]

    async def test_each_write_of_an_entry_is_a_new_version(self, backend: Backend) -> None:
        """One more than expected, whatever the entry itself says."""
        for expected in range(4):
            await accept(backend, cron=CronWrite("c", make_cron("c", run_count=expected, version=77), expected))
            stored = await backend.get_cron("c")
            assert stored is not None
            assert (stored.version, stored.run_count) == (expected + 1, expected)

    async def test_a_new_entry_must_not_exist(self, backend: Backend) -> None:
        """Creating twice is refused, and the first stays (C-CRN-02: core then writes over the version it finds)."""
        await accept(backend, cron=CronWrite("c", make_cron("c", description="first"), 0))
        before = await snapshot(backend)
        [conflict] = await refuse(backend, cron=CronWrite("c", make_cron("c", description="second"), 0))
        assert (conflict.kind, conflict.index) == ("cron", 0)
        assert await snapshot(backend) == before

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_a_stale_write_of_an_entry_is_refused(self, backend: Backend, expected: int) -> None:
        """For a change as for a deletion."""
        for version in (0, 1):
            await accept(backend, cron=CronWrite("c", make_cron("c"), version))
        before = await snapshot(backend)
        for entry in (make_cron("c", run_count=9), None):
            await refuse(backend, cron=CronWrite("c", entry, expected))
        assert await snapshot(backend) == before

    async def test_a_deleted_entry_is_gone(self, backend: Backend) -> None:
        """From every list and from the clock; its name begins anew at version 1 (C-CRN-19)."""
        job = await insert_one(backend)
        await accept(backend, cron=CronWrite("c", make_cron("c", last_job_id=job.id), 0))
        await accept(backend, cron=CronWrite("c", None, 1))
        assert await backend.get_cron("c") is None
        assert await backend.list_crons() == []
        assert await backend.due_crons(NOW + HOUR, 10) == []
        assert await backend.next_wake_at() is None
        assert await read(backend, job.id) == job
        await refuse(backend, cron=CronWrite("c", make_cron("c"), 1))
        await accept(backend, cron=CronWrite("c", make_cron("c"), 0))
        again = await backend.get_cron("c")
        assert again is not None
        assert again.version == 1

    async def test_an_occurrence_fires_once(self, backend: Backend) -> None:
        """Of servers that fire from the same version one inserts its job and logs its event; the rest nothing."""
        await accept(backend, cron=CronWrite("c", make_cron("c"), 0))
        firings = [
            Commit(
                inserts=(make_new(),),
                cron=CronWrite("c", make_cron("c", run_count=1, wake_at=NOW + HOUR), 1),
                events=(make_event("cron.triggered", subject="c"),),
            )
            for _ in range(5)
        ]
        answers = await backend.commit(firings)
        assert [isinstance(answer, Committed) for answer in answers] == [True] + [False] * 4
        assert await counts(backend) == {"available": 1}
        assert await backend.next_wake_at() == NOW + HOUR
