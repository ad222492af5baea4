"""kill -9 at any instant loses nothing that was answered, and leaves a sound file."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import apsw
import pytest

from ojs_core.backend import JobQuery
from ojs_core.job import JobState

LOAD = """
import asyncio, sys
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_core.backend import Commit
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.factories import make_claim, make_new, make_transition

async def client(backend, number):
    for turn in range(1_000_000):
        job_id = f"job-{number}-{turn}"
        await backend.commit([Commit(inserts=(make_new(id=job_id),))])
        print("inserted", job_id, flush=True)
        [claimed] = await backend.claim([make_claim()])
        for job in claimed.jobs:
            await backend.commit([Commit(transitions=(make_transition(LifecycleEvent.ACK, job.id, fence=job.fence),))])
            print("acked", job.id, flush=True)

async def main():
    backend = SQLiteBackend(SQLiteConfig(path=sys.argv[1]))
    await backend.open()
    await asyncio.gather(*(client(backend, number) for number in range(20)))

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [1, 100, 1000])
async def test_what_was_answered_is_there_after_a_kill(path: Path, open_backend, answers: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOAD, str(path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(answers)]
    process.send_signal(signal.SIGKILL)
    lines += (await process.stdout.read()).splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    answered = [line.decode().split() for line in lines if line.endswith(b"\n")]
    inserted = [job_id for what, job_id in answered if what == "inserted"]
    acked = [job_id for what, job_id in answered if what == "acked"]

    backend = await open_backend()
    assert None not in await backend.get_jobs(inserted)
    assert {job.state for job in await backend.get_jobs(acked) if job is not None} <= {JobState.COMPLETED}
    assert len(set(acked)) == len(acked)
    checker = apsw.Connection(str(path))
    assert checker.pragma("integrity_check") == "ok"
    counted = dict(checker.execute("SELECT state, jobs FROM counts WHERE jobs > 0"))
    assert counted == dict(checker.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
    total = (await backend.list_jobs(JobQuery(limit=1))).total
    assert total == sum(counted.values()) >= len(inserted)
    first, last, logged = checker.execute("SELECT min(seq), max(seq), count(*) FROM events").get
    assert logged == last - first + 1
    checker.close()
