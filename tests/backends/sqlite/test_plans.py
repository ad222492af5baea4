"""How SQLite goes about each statement: by an index, however many rows there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import apsw
import pytest

from ojs_backend_sqlite import migrations, queries
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_core.backend import CronWrite, EventQuery, JobQuery, Removal, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import accept, apply, claim, insert_one, job_in
from ojs_core.testing.factories import (
    make_beat,
    make_cron,
    make_event,
    make_transition,
    make_unique,
    make_workflow,
)

LISTED_WHOLE = (queries.LIST_QUEUES, queries.LIST_CRONS, "sum(jobs), 0) FROM counts WHERE TRUE")
"""Asked for all rows; of counts there are eight for each queue."""
SORTED = (queries.FIND_HOLDERS, "INDEXED BY held")
"""Few match: each holder keeps the next from being inserted, and a worker has its hands full with some jobs."""
NOT_PLANNED = ("BEGIN", "COMMIT", "PRAGMA")
SCANS = re.compile(r"SCAN (jobs|queues|counts|minutes|workers|crons|workflows|events)\b")


@pytest.fixture
async def executed(open_backend, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every statement that the operations of the seam run, and what was bound to it."""
    statements: dict[str, Any] = {}

    def trace(_cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        statements[sql] = bindings
        return True

    monkeypatch.setattr(apsw, "connection_hooks", [lambda connection: setattr(connection, "exec_trace", trace)])
    backend = await open_backend()
    statements.clear()
    await use_everything(backend)
    return {sql: bindings for sql, bindings in statements.items() if not sql.startswith(NOT_PLANNED)}


async def use_everything(backend: SQLiteBackend) -> None:
    await write_jobs(backend)
    await write_the_rest(backend)
    await backend.next_wake_at()
    await backend.due_jobs(NOW, 10)
    await backend.due_crons(NOW, 10)
    await backend.due_workflows(NOW, 10)
    await backend.list_queues()
    await backend.queue_stats("default", NOW)
    await backend.list_workers(seen_before=NOW)
    for query in (
        JobQuery(),
        JobQuery(states=frozenset({JobState.ACTIVE}), queue="default", offset=10),
        JobQuery(job_type="test.job", limit=1),
        JobQuery(dead=True, since=NOW, until=NOW + 1, error_type="TestError"),
        JobQuery(worker_id="worker-1"),
    ):
        await backend.list_jobs(query)
    page = await backend.list_jobs(JobQuery(limit=1))
    await backend.list_jobs(JobQuery(cursor=page.next_cursor))
    await backend.list_events(EventQuery(types=("job.*",), queues=("default",), job_types=("test.job",)))


async def write_jobs(backend: SQLiteBackend) -> None:
    job = await job_in(backend, JobState.COMPLETED, worker_id="worker-1")
    await accept(backend, removals=(Removal(job.id, job.version),))
    for _ in range(2):
        await accept(backend, inserts=(make_unique("f" * 64, JobState.COMPLETED),))
    for _ in range(2):
        await insert_one(backend, expires_at=NOW)
    job = await insert_one(backend)
    [*_, job] = (await claim(backend, count=10)).jobs
    await backend.beat(make_beat("worker-1", job.id))
    await apply(backend, make_transition(LifecycleEvent.REQUEUE, job.id))


async def write_the_rest(backend: SQLiteBackend) -> None:
    workflow, cron = make_workflow(), make_cron()
    await accept(
        backend,
        workflows=(WorkflowWrite(workflow.id, workflow, 0),),
        cron=CronWrite(cron.name, cron, 0),
        events=(make_event(),),
    )
    await backend.get_workflow(workflow.id)
    await backend.get_cron(cron.name)
    await backend.list_crons()
    await backend.set_paused("default", NOW, paused=True)
    await backend.set_directive("worker-1", "quiet")
    await backend.remove_worker("worker-1", NOW + 1, make_event())
    await backend.prune_events(NOW + 1, 1, 2)


@pytest.fixture
def plans(executed: dict[str, Any]) -> dict[str, list[str]]:
    """What SQLite means to do for each of the statements."""
    connection = apsw.Connection(":memory:")
    migrations.apply_steps(connection)
    found = {
        sql: [detail for *_, detail in connection.execute(sql, bindings, explain=2)]
        for sql, bindings in executed.items()
    }
    connection.close()
    return found


def is_one_of(sql: str, texts: Iterable[str]) -> bool:
    """Return whether a statement as it was run has one of the texts as its core."""
    return any(text in sql for text in texts)


async def test_every_statement_of_the_package_is_used(plans: dict[str, list[str]]) -> None:
    named = [value for name, value in vars(queries).items() if name.isupper()]
    assert len(named) > 10
    assert [text for text in named if not any(text in sql for sql in plans)] == []


async def test_no_statement_looks_at_every_row(plans: dict[str, list[str]]) -> None:
    for sql, steps in plans.items():
        if not is_one_of(sql, LISTED_WHOLE):
            assert [step for step in steps if SCANS.search(step)] == [], sql


async def test_rows_come_sorted(plans: dict[str, list[str]]) -> None:
    for sql, steps in plans.items():
        if not is_one_of(sql, SORTED):
            assert [step for step in steps if "TEMP B-TREE" in step] == [], sql


async def test_a_claim_meets_available_jobs_only(plans: dict[str, list[str]]) -> None:
    """Its index holds no others, so that it costs the same however many jobs have finished."""
    [steps] = [steps for sql, steps in plans.items() if queries.NEXT_READY in sql]
    assert "SEARCH jobs USING INDEX ready (queue=?)" in steps
    [migration, *_] = migrations.STEPS
    assert re.search(r"CREATE INDEX ready ON jobs \(.*\) WHERE state = 'available';", migration)
