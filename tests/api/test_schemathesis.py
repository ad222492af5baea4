"""The document and the server held against each other by a fuzzer, over a real connection, with all its checks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis import CheckFunction  # noqa: F401

from ojs_api.app import create_app
from ojs_api.handlers import ENDPOINTS
from ojs_api.openapi import make_document
from ojs_api.protocol import Limits, guarded
from ojs_core.clock import SystemClock
from ojs_core.memory import MemoryBackend
from ojs_core.service import Service
from ojs_core.settings import Settings

KEY = "the-key"
HOLD_JOBS = ["jobs_enqueue", "jobs_enqueue_batch", "crons_register", "workflows_create"]
"""Operations whose bodies hold jobs. For them the fuzzer has thousands of cases ready, so it only gets to make some up."""

BETWEEN_FIELDS = re.compile(
    r"cursor|after"  # opaque: made up ones are refused
    r"|.*\.?(expression|cron|timezone)"  # texts in languages of their own
    r"|.*\.?(retry\.(initial|max)_interval(_ms)?)"  # one must not be shorter than the other, nor longer than a century
    r"|.*\.?(unique\.(args_keys|meta_keys|keys|period))"  # need something elsewhere in the job; no longer than a century
    r"|.*\.?(pending|visibility_timeout|scheduled_at|delay_until|expires_at)"  # not with a schedule; at most ten years
    r"|.*steps(\[\d+\])?(\.(id|depends_on))?"  # names must differ, exist and make no circle
)
"""Fields that can be refused although the schema has nothing against them, because of what is beside them."""


def keep(_: object, failure: object, case: schemathesis.Case, response: schemathesis.Response) -> bool:
    """Drop what a schema cannot know. All of it is covered by tests of its own."""
    name = case.operation.definition.raw["operationId"]
    match type(failure).__name__:
        case "RejectedPositiveData":
            error = response.json()["error"]
            return not BETWEEN_FIELDS.fullmatch(str(error.get("details", {}).get("field")))
        case "AcceptedNegativeData":
            # What `options` override, or one spelling another, is not read: it may be anything.
            return name not in HOLD_JOBS
    return True


def load(*, coverage: bool) -> schemathesis.BaseSchema:
    schema = schemathesis.openapi.from_dict(make_document(ENDPOINTS, keys=True))
    schema.config.phases.coverage.enabled = coverage
    schema.hook("filter_failure")(keep)
    return schema


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server on a free port, in a thread."""
    service = Service(MemoryBackend(), SystemClock(), Settings(api_keys=(KEY,), test_mode=True))
    config = uvicorn.Config(
        create_app(service), port=0, http=guarded(Limits()), ws="none", lifespan="on", log_config=None, access_log=False
    )
    running = uvicorn.Server(config)
    started = threading.Event()
    startup = running.startup

    async def announce(sockets=None) -> None:
        await startup(sockets)
        started.set()

    running.startup = announce
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert started.wait(30)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


def hold(case: schemathesis.Case, server: str) -> None:
    """Send a request and hold the answer against the document."""
    if isinstance(case.body, dict) and isinstance(case.body.get("wait_ms"), int):
        # A long poll is the one thing that takes time here.
        case.body["wait_ms"] = min(case.body["wait_ms"], 1)
    case.call_and_validate(base_url=server, headers={"Authorization": f"Bearer {KEY}"})


FUZZ = settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@load(coverage=True).exclude(operation_id=HOLD_JOBS).parametrize()
@FUZZ
def test_the_server_does_what_the_document_says(case, server) -> None:
    hold(case, server)


@load(coverage=False).include(operation_id=HOLD_JOBS).parametrize()
@FUZZ
def test_with_jobs_too(case, server) -> None:
    hold(case, server)
