"""Reading beside the writer, and what does not fit into one value of SQLite."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from ojs_backend_sqlite import backend as backend_module
from ojs_backend_sqlite import table
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_core.backend import EventQuery, JobQuery, Removal, WorkflowWrite
from ojs_core.errors import BackendUnavailableError, InvalidRequestError
from ojs_core.job import JobState
from ojs_core.testing.clock import MINUTE, NOW
from ojs_core.testing.contract.steps import accept, events, insert_one, job_in
from ojs_core.testing.factories import make_workflow, raw

JOBS = 30
VALUE_MAX_BYTES = 10_000


async def test_a_list_too_long_for_one_value_is_read_row_by_row(open_backend, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [lambda connection: connection.limit(apsw.SQLITE_LIMIT_LENGTH, VALUE_MAX_BYTES)]
    monkeypatch.setattr(apsw, "connection_hooks", limit)
    backend = await open_backend()
    jobs = [await insert_one(backend, args=raw(["x" * 1000]), expires_at=NOW) for _ in range(JOBS)]
    assert await backend.due_jobs(NOW, JOBS) == jobs
    assert list((await backend.list_jobs(JobQuery())).jobs) == jobs[::-1]
    assert len(await events(backend)) == JOBS


@pytest.mark.parametrize("most_bytes", [1, 50_000])
async def test_large_records_due_at_once(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    """They are read in portions, so that memory does not depend on how many there are."""
    monkeypatch.setattr(table, "DUE_MAX_BYTES", most_bytes)
    large = raw(["x" * 10_000])
    jobs = [await insert_one(backend, JobState.COMPLETED, args=large, wake_at=NOW) for _ in range(JOBS)]
    flows = [make_workflow(input=large, wake_at=NOW) for _ in range(JOBS)]
    await accept(backend, workflows=tuple(WorkflowWrite(flow.id, flow, 0) for flow in flows))
    due_jobs, due_flows = [], []
    while found := await backend.due_jobs(NOW, JOBS):
        assert len(found) < JOBS
        await accept(backend, removals=tuple(Removal(job.id, job.version) for job in found))
        due_jobs += found
    while woken := await backend.due_workflows(NOW, JOBS):
        assert len(woken) < JOBS
        await accept(backend, workflows=tuple(WorkflowWrite(flow.id, None, flow.version) for flow in woken))
        due_flows += woken
    assert due_jobs == jobs
    assert {flow.id for flow in due_flows} == {flow.id for flow in flows}


async def test_a_broken_reading_connection_is_replaced(open_backend, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[apsw.Connection] = []
    monkeypatch.setattr(apsw, "connection_hooks", [connections.append])
    backend = await open_backend()
    await backend.list_jobs(JobQuery())
    opened = len(connections)

    def break_down(*_: object) -> None:
        raise apsw.CorruptError("a cosmic ray")

    with monkeypatch.context() as patch:
        patch.setattr(backend_module, "list_jobs", break_down)
        with pytest.raises(BackendUnavailableError, match="damaged"):
            await backend.list_jobs(JobQuery())
    assert (await backend.list_jobs(JobQuery())).total == 0
    assert len(connections) == opened + 1


async def test_a_cursor_of_somebody_else_is_refused(backend: SQLiteBackend) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await backend.list_jobs(JobQuery(cursor="bm90IG91cnM"))
    assert caught.value.details["field"] == "cursor"
    with pytest.raises(InvalidRequestError) as caught:
        await backend.list_events(EventQuery(after="evt_1"))
    assert caught.value.details["field"] == "after"


async def test_statistics_keep_an_hour_only(backend: SQLiteBackend, path: Path) -> None:
    for minute in range(0, 180, 20):
        await job_in(backend, JobState.COMPLETED, created_at=NOW + minute * MINUTE)
    reader = apsw.Connection(str(path))
    assert reader.execute("SELECT count(*) FROM minutes").get == 3
    reader.close()
    stats = await backend.queue_stats("default", NOW + 160 * MINUTE)
    assert stats is not None
    assert stats.completed_last_hour == 3
