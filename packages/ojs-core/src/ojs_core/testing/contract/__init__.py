"""The contract of a backend, as tests to inherit: every sentence of `ojs_core.backend`, nothing about any one store.

    class TestMine(BackendContract):
        @pytest.fixture
        async def backend(self):
            backend = MyBackend(...)  # on a fresh, empty store
            await backend.open()
            yield backend
            await backend.close()

This is with `asyncio_mode = "auto"` of pytest-asyncio; without it, take its own decorator for the fixture.

Where `capabilities.shared` is set, a fixture `second` gives another backend on the same store; `unopened` gives one
that was never opened. `capabilities` alone selects tests: none asks which backend it runs on, sleeps, or reads the
clock of the machine.
"""

from __future__ import annotations

from ojs_core.testing.contract.claims import ClaimContract
from ojs_core.testing.contract.commits import CommitContract
from ojs_core.testing.contract.concurrency import ConcurrencyContract
from ojs_core.testing.contract.crons import CronContract
from ojs_core.testing.contract.doorbell import DoorbellContract
from ojs_core.testing.contract.due import DueContract
from ojs_core.testing.contract.events import EventContract
from ojs_core.testing.contract.fidelity import FidelityContract
from ojs_core.testing.contract.inserts import InsertContract
from ojs_core.testing.contract.leases import LeaseContract
from ojs_core.testing.contract.lifetime import LifetimeContract
from ojs_core.testing.contract.listing import DeadLetterContract, ListContract, ReadContract
from ojs_core.testing.contract.names import NameContract
from ojs_core.testing.contract.order import OrderContract
from ojs_core.testing.contract.queues import QueueContract
from ojs_core.testing.contract.rates import RateContract
from ojs_core.testing.contract.shared import SharedContract
from ojs_core.testing.contract.transitions import TransitionContract
from ojs_core.testing.contract.unique import UniqueContract
from ojs_core.testing.contract.workers import WorkerContract
from ojs_core.testing.contract.workflows import WorkflowContract

__all__ = [
    "BackendContract",
    "ClaimContract",
    "CommitContract",
    "ConcurrencyContract",
    "CronContract",
    "DeadLetterContract",
    "DoorbellContract",
    "DueContract",
    "EventContract",
    "FidelityContract",
    "InsertContract",
    "LeaseContract",
    "LifetimeContract",
    "ListContract",
    "NameContract",
    "OrderContract",
    "QueueContract",
    "RateContract",
    "ReadContract",
    "SharedContract",
    "TransitionContract",
    "UniqueContract",
    "WorkerContract",
    "WorkflowContract",
]


class BackendContract(
    LifetimeContract,
    CommitContract,
    InsertContract,
    TransitionContract,
    ClaimContract,
    OrderContract,
    RateContract,
    UniqueContract,
    DueContract,
    LeaseContract,
    QueueContract,
    WorkerContract,
    ReadContract,
    ListContract,
    DeadLetterContract,
    CronContract,
    WorkflowContract,
    EventContract,
    DoorbellContract,
    FidelityContract,
    NameContract,
    ConcurrencyContract,
    SharedContract,
):
    """All of it. Two classes must not name a test alike, since one would hide the other."""
