"""The document and the server, held against each other by a fuzzer: a real server, and every check that makes sense."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings

from ojs_api.app import create_app
from ojs_api.handlers import ENDPOINTS
from ojs_api.openapi import make_document
from ojs_api.protocol import Limits, guarded
from ojs_core.clock import SystemClock
from ojs_core.memory import MemoryBackend
from ojs_core.service import Service
from ojs_core.settings import Settings

KEY = "the-key"

schema = schemathesis.openapi.from_dict(make_document(ENDPOINTS, keys=True))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server on a free port, in a thread."""
    service = Service(MemoryBackend(), SystemClock(), Settings(api_keys=(KEY,), test_mode=True))
    config = uvicorn.Config(
        create_app(service), port=0, http=guarded(Limits()), ws="none", lifespan="on", log_config=None, access_log=False
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


@schema.parametrize()
@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_the_document_says(case, server) -> None:
    case.call_and_validate(base_url=server, headers={"Authorization": f"Bearer {KEY}"})
