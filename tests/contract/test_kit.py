"""The kit itself: nothing of it is hidden, and its wrappers do what they say."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

import ojs_core.testing as kit
from ojs_core.backend import Backend, Commit, Committed
from ojs_core.clock import Clock
from ojs_core.errors import BackendUnavailableError
from ojs_core.memory import MemoryBackend
from ojs_core.testing import BackendContract, BackendWrapper, CountingBackend, FakeClock, FaultyBackend
from ojs_core.testing import contract as contract_package
from ojs_core.testing.contract import (
    CommitContract,
    DoorbellContract,
    EventContract,
    LifetimeContract,
    QueueContract,
    WorkerContract,
)
from ojs_core.testing.factories import make_id, make_new


def test_no_test_hides_another() -> None:
    names = Counter(
        name
        for theme in BackendContract.__bases__
        for name, value in vars(theme).items()
        if inspect.isfunction(value) and not name.startswith("__")
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_every_theme_is_part_of_the_whole() -> None:
    themes = {getattr(contract_package, name) for name in contract_package.__all__} - {BackendContract}
    assert themes == set(BackendContract.__bases__)


def test_every_test_says_what_it_shows() -> None:
    for theme in BackendContract.__bases__:
        assert theme.__doc__
        for name, value in vars(theme).items():
            if name.startswith("test_"):
                assert inspect.iscoroutinefunction(value), name
                assert value.__doc__, name


def test_every_public_name_can_be_had() -> None:
    for name in kit.__all__:
        assert getattr(kit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kit.nonsense  # noqa: B018


def test_the_clock_stands_still_until_moved(clock: FakeClock) -> None:
    assert isinstance(clock, FakeClock)
    assert callable(Clock.now)
    first = clock.now()
    clock.advance(1500)
    clock.chance = 0.25
    assert (clock.now(), clock.random()) == (first + 1500, 0.25)


def test_ids_ascend() -> None:
    ids = [make_id() for _ in range(100)]
    assert ids == sorted(ids)
    assert make_id(1) < ids[0]


def test_a_wrapper_overrides_every_method() -> None:
    own = {name for name in vars(BackendWrapper) if not name.startswith("_")} - {"around"}
    public = {name for name in dir(Backend) if not name.startswith("_")}
    assert own == public


class TestWrapped(LifetimeContract, CommitContract, QueueContract, WorkerContract, EventContract, DoorbellContract):
    """A wrapper around a backend is a backend."""

    @pytest.fixture
    def backend(self) -> Backend:
        return CountingBackend(FaultyBackend(BackendWrapper(MemoryBackend())))

    @pytest.fixture
    def unopened(self) -> Backend:
        return CountingBackend(FaultyBackend(BackendWrapper(MemoryBackend())))


class Outdated(MemoryBackend):
    """Has a schema, and a step to take."""

    async def migrate(self) -> list[str]:
        return ["taken"]

    async def pending_migrations(self) -> list[str]:
        return ["to take"]

    def migration_script(self) -> str:
        return "step;"


async def test_a_wrapper_hands_on_the_steps_of_a_schema() -> None:
    backend = FaultyBackend(Outdated())
    assert await backend.pending_migrations() == ["to take"]
    assert await backend.migrate() == ["taken"]
    assert backend.migration_script() == "step;"
    backend.down = True
    for call in (backend.pending_migrations, backend.migrate):
        with pytest.raises(BackendUnavailableError):
            await call()


async def test_calls_are_counted() -> None:
    backend = CountingBackend(MemoryBackend())
    await backend.commit([Commit(), Commit()])
    await backend.commit([])
    await backend.next_wake_at()
    assert backend.calls == {"commit": 2, "next_wake_at": 1}


async def test_a_fault_before_leaves_the_store_as_it_was() -> None:
    backend = FaultyBackend(MemoryBackend())
    new = make_new()
    backend.fail("commit", "before")
    with pytest.raises(BackendUnavailableError):
        await backend.commit([Commit(inserts=(new,))])
    assert await backend.get_jobs([new.job.id]) == [None]
    [answer] = await backend.commit([Commit(inserts=(new,))])
    assert isinstance(answer, Committed)


async def test_a_fault_after_loses_only_the_answer() -> None:
    backend = FaultyBackend(MemoryBackend())
    new = make_new()
    backend.fail("commit", "after")
    with pytest.raises(BackendUnavailableError):
        await backend.commit([Commit(inserts=(new,))])
    [stored] = await backend.get_jobs([new.job.id])
    assert stored is not None


async def test_faults_come_when_planned() -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.fail("ping", "before", after_calls=1, times=2)
    outcomes = []
    for _ in range(5):
        try:
            await backend.ping()
            outcomes.append(True)
        except BackendUnavailableError:
            outcomes.append(False)
    assert outcomes == [True, False, False, True, True]
    with pytest.raises(ValueError, match="nonsense"):
        backend.fail("nonsense", "before")


async def test_a_store_that_is_down_fails_every_call_and_can_be_closed() -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.down = True
    for call in (backend.ping, backend.list_queues, backend.next_wake_at):
        with pytest.raises(BackendUnavailableError):
            await call()
    await backend.close()
    backend.down = False
    await backend.ping()
