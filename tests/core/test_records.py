"""Records as bytes: what goes in comes out, client data byte for byte."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from ojs_core import records
from ojs_core.job import Job, JobError, JobState, decode_record, encode_record, replace_fields
from ojs_core.rate import RateWindow
from ojs_core.records import CronEntry, Member, Queue, Worker, Workflow
from ojs_core.retry import RetryPolicy
from ojs_core.testing.clock import NOW
from ojs_core.testing.factories import make_cron, make_error, make_job, make_worker, make_workflow

TEXTS = ["null", "1.0", "-0", "1e2", str(2**200), '"\\u0000é"', "[]", "{}", '{"z":1.0,"a":[ ]}', "[" * 60 + "]" * 60]
numbers = st.integers(-(2**62), 2**62)
texts = st.text(max_size=8)
errors = st.builds(
    JobError,
    type=texts,
    code=texts,
    message=texts,
    attempt=st.integers(0, 99),
    occurred_at=numbers,
    retryable=st.none() | st.booleans(),
    backtrace=st.none() | st.lists(texts, max_size=2).map(tuple),
)
jobs = st.builds(
    make_job,
    st.sampled_from(list(JobState)),
    id=texts,
    priority=st.integers(-100, 100),
    created_at=st.integers(0, 2**48 - 1),
    expires_at=st.none() | numbers,
    wake_at=st.none() | numbers,
    worker_id=st.none() | texts,
    retry=st.builds(
        RetryPolicy,
        max_attempts=st.integers(0, 2**53 - 1),
        coefficient=st.floats(1, allow_infinity=False, allow_nan=False),
        non_retryable=st.lists(texts, max_size=2).map(tuple),
    ),
    error=st.none() | errors,
    errors=st.lists(errors, max_size=2).map(tuple),
    tags=st.none() | st.lists(texts, max_size=2).map(tuple),
    dead=st.booleans(),
)


@given(jobs)
def test_a_job_comes_back(job: Job) -> None:
    assert decode_record(encode_record(job)) == job


@pytest.mark.parametrize("field", ["args", "meta", "result", "parent_results", "as_sent", "extra"])
@pytest.mark.parametrize("text", TEXTS)
def test_client_data_of_a_job_comes_back_as_text(field: str, text: str) -> None:
    job = make_job(**{field: Raw(text.encode())})
    back = decode_record(encode_record(job))
    assert bytes(getattr(back, field)) == text.encode()
    assert back == job


@pytest.mark.parametrize("text", TEXTS)
def test_client_data_of_an_error_comes_back_as_text(text: str) -> None:
    job = make_job(errors=(make_error(details=Raw(text.encode())),))
    assert decode_record(encode_record(job)) == job


def test_what_a_job_has_not_is_not_written() -> None:
    written = msgspec.json.decode(encode_record(make_job()))
    assert set(written) == {"id", "type", "queue", "args", "meta", "state", "created_at", "enqueued_at"}
    back = decode_record(encode_record(make_job()))
    assert (back.result, back.extra, back.error, back.errors) == (None, None, None, ())


def test_what_a_job_derives() -> None:
    job = make_job(fence=12, attempt=5, requeues=2)
    assert (job.lease_id, job.failures) == ("12", 3)
    assert replace_fields(job, attempt=6).attempt == 6


@pytest.mark.parametrize("state", list(JobState))
def test_a_job_has_ended_in_a_terminal_state(state: JobState) -> None:
    assert make_job(state).ended is (state in ("completed", "cancelled", "discarded"))


def raw(text: str) -> Raw:
    return Raw(text.encode())


QUEUE = Queue(name="q", created_at=1, paused_at=2, max_per_second=3, window=RateWindow(4, (5, 6)))
STEP = Member(id="m", type="t", definition=raw('{"a":1.0}'), result=raw("-0"), error=make_error(details=raw("1e2")))


@pytest.mark.parametrize(
    ("record", "decode"),
    [
        (Queue(name="q", created_at=1), records.decode_queue),
        (QUEUE, records.decode_queue),
        (make_worker(), records.decode_worker),
        (make_worker("é\x00", labels=raw('{"n":1.0}'), queues=("a",), pid=1, beats=9), records.decode_worker),
        (make_cron(), records.decode_cron),
        (make_cron(job=raw('{"args":[-0, 1e2]}'), waiting_job_ids=("a", "b")), records.decode_cron),
        (make_workflow(), records.decode_workflow),
        (make_workflow(members=(STEP,), callbacks={"on_success": STEP}, input=raw("[1.0]")), records.decode_workflow),
    ],
)
def test_the_other_records_come_back(record: Queue | Worker | CronEntry | Workflow, decode: Any) -> None:
    assert decode(records.encode(record)) == record


@pytest.mark.parametrize("text", TEXTS)
def test_client_data_of_the_other_records_comes_back_as_text(text: str) -> None:
    worker = make_worker(labels=raw(text))
    assert records.decode_worker(records.encode(worker)) == worker
    entry = make_cron(job=raw(text))
    assert records.decode_cron(records.encode(entry)) == entry
    step = Member(id="m", type="t", definition=raw(text), result=raw(text))
    flow = make_workflow(members=(step,), input=raw(text))
    assert records.decode_workflow(records.encode(flow)) == flow


def test_a_queue_is_paused_while_it_has_a_time_of_pausing() -> None:
    assert QUEUE.paused
    assert not Queue(name="q", created_at=NOW).paused
    assert Queue(name="q", created_at=NOW, paused_at=0).paused
