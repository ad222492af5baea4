"""The NATS store keeps the contract on a cluster of three, with a copy of the stream on each."""

from __future__ import annotations

import uuid

import pytest
from tests.contract.test_nats import TestNATS as ContractOnNATS
from tests.servers.nats import NatsServer

from ojs_backend_nats.config import NATSConfig


class TestCluster(ContractOnNATS):
    @pytest.fixture
    def nats_config(self, nats_cluster: list[NatsServer]) -> NATSConfig:
        return NATSConfig(servers=tuple(s.url for s in nats_cluster), stream=f"T{uuid.uuid4().hex}", replicas=3)
