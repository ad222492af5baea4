"""What an event says (C-EVT)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from ojs_core.events import EVENT_TYPES, Event, EventDraft, job_event, other_event, worker_started
from ojs_core.job import JobState
from ojs_core.testing.clock import NOW
from ojs_core.testing.factories import make_job, make_worker


def data_of(event: Event) -> Any:
    return msgspec.json.decode(event.data)


def test_the_types_are_those_of_the_spec() -> None:
    # C-EVT-03; worker.heartbeat and job.progress are should-haves this server does not emit.
    listed = (
        "job.enqueued job.started job.completed job.failed job.discarded job.retrying job.cancelled job.heartbeat "
        "job.scheduled job.expired queue.paused queue.resumed worker.started worker.stopped worker.quiet "
        "workflow.created workflow.started workflow.step_completed workflow.step_failed workflow.job_completed "
        "workflow.job_failed workflow.callback_fired workflow.completed workflow.failed workflow.cancelled "
        "cron.triggered cron.skipped"
    )
    assert set(listed.split()) == set(EVENT_TYPES)
    assert len(EVENT_TYPES) == len(set(EVENT_TYPES))


def test_an_event_about_a_job() -> None:
    # C-EVT-02
    job = make_job(queue="q", type="a.b", priority=3)
    event = job_event(EventDraft("job.enqueued"), job, NOW)
    assert (event.id, event.type, event.at) == ("", "job.enqueued", NOW)
    assert (event.subject, event.queue, event.job_type) == (job.id, "q", "a.b")
    assert data_of(event) == {
        "job_id": job.id,
        "job_type": "a.b",
        "type": "a.b",
        "queue": "q",
        "state": "available",
        "attempt": 0,
        "priority": 3,
        "timestamp": "2026-02-12T10:30:00.000Z",
    }


def test_the_facts_of_the_draft_come_on_top() -> None:
    event = job_event(EventDraft("job.failed", {"error": {"code": "x"}, "attempt": 9}), make_job(), NOW)
    assert data_of(event)["error"] == {"code": "x"}
    assert data_of(event)["attempt"] == 9


@pytest.mark.parametrize("event_type", ["job.completed", "job.failed"])
def test_the_end_of_an_execution_has_a_duration(event_type: str) -> None:
    # C-EVT-05
    draft = EventDraft(event_type)
    running = make_job(JobState.ACTIVE, started_at=NOW - 40)
    assert data_of(job_event(draft, running, NOW))["duration_ms"] == 40
    assert data_of(job_event(draft, running, NOW, NOW - 7))["duration_ms"] == 7
    assert data_of(job_event(draft, make_job(), NOW, NOW - 7))["duration_ms"] == 7
    assert data_of(job_event(draft, running, NOW, 0))["duration_ms"] == NOW
    assert data_of(job_event(draft, running, NOW - 50))["duration_ms"] == 0
    assert "duration_ms" not in data_of(job_event(draft, make_job(), NOW))


@pytest.mark.parametrize("event_type", ["job.enqueued", "job.started", "job.cancelled", "job.discarded"])
def test_no_other_event_has_one(event_type: str) -> None:
    job = make_job(JobState.ACTIVE, started_at=NOW - 40)
    assert "duration_ms" not in data_of(job_event(EventDraft(event_type), job, NOW, NOW - 40))


def test_a_held_job_names_its_worker() -> None:
    job = make_job(JobState.ACTIVE, worker_id="w")
    assert data_of(job_event(EventDraft("job.started"), job, NOW))["worker_id"] == "w"
    assert "worker_id" not in data_of(job_event(EventDraft("job.started"), make_job(), NOW))


def test_a_heartbeat_says_how_long_the_lease_holds() -> None:
    # C-EVT-03
    job = make_job(JobState.ACTIVE, lease_expires_at=NOW + 1500)
    assert data_of(job_event(EventDraft("job.heartbeat"), job, NOW))["visible_until"] == "2026-02-12T10:30:01.500Z"
    assert "visible_until" not in data_of(job_event(EventDraft("job.started"), job, NOW))
    assert "visible_until" not in data_of(job_event(EventDraft("job.heartbeat"), make_job(), NOW))


def test_a_member_names_its_workflow() -> None:
    assert data_of(job_event(EventDraft("job.started"), make_job(workflow_id="f"), NOW))["workflow_id"] == "f"


@pytest.mark.parametrize(
    ("meta", "trace_id"),
    [
        ('{"trace_id":"T"}', "T"),
        ('{"traceparent":"P"}', "P"),
        ('{"trace_id":"T","traceparent":"P"}', "T"),
        ('{"trace_id":null,"traceparent":"P"}', "P"),
        ('{"trace_id":""}', None),
        ('{"trace_id":7}', None),
        ('{"trace_id":{}}', None),
        ('{"traces":1}', None),
        ('{"x":"trace_id"}', None),
        ('{"x":{"trace_id":"inner"}}', None),
        ("{}", None),
    ],
)
def test_the_trace_id_of_the_meta(meta: str, trace_id: str | None) -> None:
    # C-EVT-09; meta is client data, so a wrong type means none.
    data = data_of(job_event(EventDraft("job.started"), make_job(meta=Raw(meta.encode())), NOW))
    assert data.get("trace_id") == trace_id


def test_another_event() -> None:
    event = other_event("queue.paused", NOW, "q", queue="q")
    assert (event.type, event.at, event.subject, event.queue, event.job_type) == ("queue.paused", NOW, "q", "q", None)
    assert data_of(event) == {"queue": "q", "timestamp": "2026-02-12T10:30:00.000Z"}


@pytest.mark.parametrize(("value", "job_type"), [("a.b", "a.b"), (None, None), (7, None)])
def test_another_event_may_name_a_job_type(value: object, job_type: str | None) -> None:
    event = other_event("cron.triggered", NOW, "c", job_type=value, job_id="j")
    assert event.job_type == job_type
    assert data_of(event) == {"job_type": value, "job_id": "j", "timestamp": "2026-02-12T10:30:00.000Z"}
    assert event.queue is None


@pytest.mark.parametrize(("queues", "listed"), [(("a", "b"), ["a", "b"]), (None, [])])
def test_the_first_beat_of_a_worker(queues: tuple[str, ...] | None, listed: list[str]) -> None:
    event = worker_started(make_worker("w", queues=queues, concurrency=3, hostname="h"), NOW)
    assert (event.type, event.subject) == ("worker.started", "w")
    assert data_of(event) == {
        "worker_id": "w",
        "queues": listed,
        "concurrency": 3,
        "hostname": "h",
        "timestamp": "2026-02-12T10:30:00.000Z",
    }
