"""The NATS store against the reference backend, command by command."""

from __future__ import annotations

import os

import pytest
from tests.servers.nats import NatsServer

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_core.testing.model import model_test_case

URL = "OJS_TEST_NATS_MODEL_URL"


@pytest.fixture(autouse=True)
def _served(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell where the server is: a state machine is made by hypothesis and takes no fixture."""
    monkeypatch.setenv(URL, nats_server.url)


TestNATS = model_test_case(lambda: NATSBackend(NATSConfig(servers=(os.environ[URL],), stream="MODEL")))
