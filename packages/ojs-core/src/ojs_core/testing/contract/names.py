"""Names: every legal one works, and no two of them meet."""

from __future__ import annotations

import pytest

from ojs_core.backend import Backend, CronWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import accept, claim_ids, counts, events, insert_one, job_in, listed, read, refuse
from ojs_core.testing.factories import make_beat, make_cron, make_event, make_transition, make_unique

LONG = "q" * 128
QUEUES = (
    "a.b",
    "a-b",
    "ab",
    "a..b",
    "a.-b",
    "a--b",
    "a",
    "a.",
    "a-",
    "0",
    "00",
    "1e5",
    "1.0",
    "null",
    "default",
    "default.",
    "jobs",
    "queue",
    "events",
    "a.b.c",
    "a.b-c",
    "a-b.c",
    LONG,
    "q" * 127,
    "q" * 127 + ".",
    "q" * 127 + "-",
    "9" * 128,
    "a" + "." * 127,
)
"""Legal queue names that a careless key, subject or table name takes for one another (C-ENV-08)."""

CRONS = tuple("x" * (255 - len(name)) + name if len(name) > 100 else name for name in QUEUES)
WORKERS = (
    "worker-1",
    "worker_1",
    "worker 1",
    " worker-1",
    "worker-1 ",
    "WORKER-1",
    "w:1",
    "w/1",
    "w.1",
    "w*1",
    "w>1",
    "w{1}",
    "w%1",
    "w'1",
    'w"1',
    "w\\1",
    "wé1",
    "we\u03011",
    "w\u00a01",
    "工人",
    "👷‍♀️",
    "x" * 255,
    "x" * 254 + "y",
    "%(id)s",
    "$1",
    "?",
    "null",
    "0",
)
"""Worker ids are any text a client likes."""


class NameContract(BackendFixtures):
    """Queue, cron and worker names, job types and error types."""

    async def test_queues_do_not_meet(self, backend: Backend) -> None:
        """Each has its own jobs, numbers, pause, limit and window."""
        jobs = {name: await insert_one(backend, queue=name) for name in QUEUES}
        assert [queue.name for queue in await backend.list_queues()] == sorted(QUEUES)
        for name in QUEUES[::2]:
            await backend.set_paused(name, NOW, paused=True)
        for position, name in enumerate(QUEUES):
            stats = await backend.queue_stats(name, NOW)
            assert stats is not None
            assert (stats.queue.name, stats.queue.paused) == (name, position % 2 == 0)
            assert await counts(backend, name) == {"available": 1}
            assert await listed(backend, queue=name) == [jobs[name].id]
            assert len(await events(backend, queues=(name,), types=("job.*",))) == 1
            assert await claim_ids(backend, name) == ([] if position % 2 == 0 else [jobs[name].id])
        for name in QUEUES[::2]:
            await backend.set_paused(name, NOW, paused=False)
        assert await claim_ids(backend, *QUEUES) == [jobs[name].id for name in QUEUES[::2]]

    async def test_limits_do_not_meet(self, backend: Backend) -> None:
        """Spending one queue's rate leaves all others theirs."""
        for name in QUEUES:
            for _ in range(2):
                await insert_one(backend, queue=name, max_per_second=1)
        for name in QUEUES:
            assert len(await claim_ids(backend, name)) == 1
            assert len(await claim_ids(backend, name)) == 0

    async def test_cron_entries_do_not_meet(self, backend: Backend) -> None:
        """Names of up to 255 characters (C-CRN-01)."""
        for position, name in enumerate(CRONS):
            await accept(backend, cron=CronWrite(name, make_cron(name, run_count=position), 0))
        assert [entry.name for entry in await backend.list_crons()] == sorted(CRONS)
        for position, name in enumerate(CRONS):
            entry = await backend.get_cron(name)
            assert entry is not None
            assert (entry.name, entry.run_count) == (name, position)
        for name in CRONS[::2]:
            await accept(backend, cron=CronWrite(name, None, 1))
        assert [entry.name for entry in await backend.list_crons()] == sorted(CRONS[1::2])

    async def test_workers_do_not_meet(self, backend: Backend) -> None:
        """Each is its own worker, told its own directive and forgotten alone."""
        for position, name in enumerate(WORKERS):
            await backend.beat(make_beat(name, now=NOW + position, pid=position))
        assert [(worker.id, worker.pid) for worker in await backend.list_workers()] == [
            (name, position) for position, name in enumerate(WORKERS)
        ]
        for name in WORKERS[::2]:
            assert await backend.set_directive(name, "quiet") is not None
        found = {worker.id: worker.directive for worker in await backend.list_workers()}
        assert found == {name: "quiet" if position % 2 == 0 else None for position, name in enumerate(WORKERS)}
        for name in WORKERS[1::2]:
            assert await backend.remove_worker(name, NOW * 2, make_event(subject=name))
        assert [worker.id for worker in await backend.list_workers()] == [*WORKERS[::2]]
        assert [event.subject for event in await events(backend, types=("worker.stopped",))] == [*WORKERS[1::2]]

    @pytest.mark.parametrize("name", WORKERS)
    async def test_a_worker_of_any_name_owns_its_jobs(self, backend: Backend, name: str) -> None:
        """It may end and renew them, and is found by the listing; a worker of a similar name may not."""
        job = await job_in(backend, JobState.ACTIVE, worker_id=name)
        assert (await read(backend, job.id)).worker_id == name
        assert await listed(backend, worker_id=name) == [job.id]
        for stranger in (name + "x", name.swapcase() + "-", name[:-1]):
            assert await listed(backend, worker_id=stranger) == []
            await refuse(backend, transitions=(make_transition(LifecycleEvent.ACK, job.id, worker_id=stranger),))
            assert (await backend.beat(make_beat(stranger, job.id))).extended == ()
        [renewed] = (await backend.beat(make_beat(name, job.id))).extended
        ack = make_transition(LifecycleEvent.ACK, job.id, worker_id=name, version=renewed.version)
        await accept(backend, transitions=(ack,))

    async def test_job_types_do_not_meet(self, backend: Backend) -> None:
        """A type is found by itself alone, in the listing and in the log."""
        types = ("a.b", "a-b", "a_b", "ab", "a.b.c", "a.bc", "a", "t" * 255, "t" * 254)
        jobs = {name: await insert_one(backend, type=name) for name in types}
        for name in types:
            assert await listed(backend, job_type=name) == [jobs[name].id]
            assert [event.subject for event in await events(backend, job_types=(name,))] == [jobs[name].id]

    async def test_fingerprints_do_not_meet(self, backend: Backend) -> None:
        """The last digit counts."""
        for digit in "0123456789abcdef":
            await accept(backend, inserts=(make_unique("f" * 63 + digit),))
        assert await counts(backend) == {"available": 16}
