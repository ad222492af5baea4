"""Cursors and filters (C-PAG, C-EP-26, C-DLQ-03)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.backend import EventQuery, JobQuery
from ojs_core.errors import InvalidRequestError
from ojs_core.ids import event_id
from ojs_core.job import JobState
from ojs_core.paging import decode_cursor, decode_event_id, encode_cursor, event_matches, job_matches
from ojs_core.testing.clock import NOW
from ojs_core.testing.factories import make_error, make_event, make_job


@given(st.integers(-(2**53), 2**53), st.text())
def test_a_cursor_gives_its_key_back(at: int, job_id: str) -> None:
    # C-PAG-03
    cursor = encode_cursor((at, job_id))
    assert cursor.isascii()
    assert not set(cursor) & set("+/= ")
    assert decode_cursor(cursor) == (at, job_id)


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "nonsense!", "é", "\x00", "a" * 1001]
    + [
        packed(text)
        for text in ("[]", "[1]", '["x",1]', '[1.5,"x"]', '[true,"x"]', '[1,"x",2]', "{}", "null", "1", "[1,")
    ]
    + [packed(f'[{2**53 + 1},"x"]'), packed(f'[{-(2**70)},"x"]'), packed('[1,"x"] x')],
)
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    # C-PAG-01
    with pytest.raises(InvalidRequestError) as caught:
        decode_cursor(cursor)
    assert caught.value.details["field"] == "cursor"


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        decode_cursor(text)
    except InvalidRequestError:
        return


def test_an_event_id_gives_its_number_back() -> None:
    assert decode_event_id(event_id(NOW, 42)) == 42


UUID = "019c5166-8840-7de5-9c69-ab53fdf2b751"


@pytest.mark.parametrize("text", ["", "42", "evt_", UUID, "evt_" + UUID, event_id(NOW, 1) + "\n"])
def test_a_foreign_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_event_id(text)
    assert caught.value.details["field"] == "after"


JOB = make_job(
    JobState.DISCARDED,
    queue="q",
    type="t",
    dead=True,
    error=make_error("E"),
    discarded_at=NOW,
    worker_id="w",
)


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ({}, True),
        ({"states": frozenset({JobState.DISCARDED, JobState.ACTIVE})}, True),
        ({"states": frozenset({JobState.ACTIVE})}, False),
        ({"states": frozenset()}, False),
        ({"queue": "q"}, True),
        ({"queue": "r"}, False),
        ({"job_type": "t"}, True),
        ({"job_type": "u"}, False),
        ({"dead": True}, True),
        ({"dead": False}, False),
        ({"error_type": "E"}, True),
        ({"error_type": "F"}, False),
        ({"since": NOW}, True),
        ({"since": NOW + 1}, False),
        ({"until": NOW + 1}, True),
        ({"until": NOW}, False),
        ({"worker_id": "w"}, True),
        ({"worker_id": "v"}, False),
        ({"queue": "q", "job_type": "t", "dead": True, "since": NOW, "until": NOW + 1}, True),
        ({"queue": "q", "job_type": "t", "dead": True, "since": NOW, "until": NOW}, False),
    ],
)
def test_job_filters(query: dict[str, Any], passes: bool) -> None:  # noqa: FBT001
    assert job_matches(JOB, JobQuery(**query)) is passes


def test_a_job_without_error_or_end_passes_no_such_filter() -> None:
    job = make_job()
    assert not job_matches(job, JobQuery(error_type="E"))
    assert not job_matches(job, JobQuery(since=1))
    assert job_matches(job, JobQuery(dead=False))


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ({}, True),
        ({"types": ("job.failed",)}, True),
        ({"types": ("job.*",)}, True),
        ({"types": ("queue.*", "job.failed")}, True),
        ({"types": ("job",)}, False),
        ({"types": ("jo.*",)}, False),
        ({"types": ("job.fail*",)}, False),
        ({"types": ("job.failed.*",)}, False),
        ({"types": ("*",)}, False),
        ({"types": ("Job.failed",)}, False),
        ({"queues": ("q", "r")}, True),
        ({"queues": ("r",)}, False),
        ({"job_types": ("t",)}, True),
        ({"job_types": ("u",)}, False),
        ({"types": ("job.*",), "queues": ("q",), "job_types": ("t",)}, True),
        ({"types": ("job.*",), "queues": ("q",), "job_types": ("u",)}, False),
    ],
)
def test_event_filters(query: dict[str, Any], passes: bool) -> None:  # noqa: FBT001
    event = make_event("job.failed", queue="q", job_type="t")
    assert event_matches(event, EventQuery(**query)) is passes


def test_an_event_without_queue_passes_no_filter_of_queues() -> None:
    assert not event_matches(make_event(), EventQuery(queues=("q",)))
    assert not event_matches(make_event(), EventQuery(job_types=("t",)))
