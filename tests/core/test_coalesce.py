"""Group commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from ojs_core import coalesce
from ojs_core.coalesce import Coalescer, Lanes
from ojs_core.errors import BackendUnavailableError, PartlyUnavailableError


class Store:
    """Answers each number with its double; holds every group back until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.groups: list[list[int]] = []
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        if not held:
            self.go_on.set()

    async def send(self, numbers: Sequence[int]) -> list[int]:
        self.groups.append(list(numbers))
        self.arrived.set()
        await self.go_on.wait()
        if 13 in numbers:
            raise RuntimeError("13 is unlucky")
        return [2 * number for number in numbers]


def ask(coalescer: Coalescer[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    return [asyncio.ensure_future(coalescer.ask(number)) for number in numbers]


async def test_an_idle_one_answers_at_once() -> None:
    store = Store()
    coalescer = Coalescer(store.send)
    assert coalescer.idle
    assert [await coalescer.ask(1), await coalescer.ask(2)] == [2, 4]
    assert store.groups == [[1], [2]]


async def test_requests_that_come_together_go_together() -> None:
    store = Store()
    assert await asyncio.gather(*ask(Coalescer(store.send), *range(10))) == list(range(0, 20, 2))
    assert store.groups == [list(range(10))]


async def test_those_who_come_during_a_flush_share_the_next() -> None:
    store = Store(held=True)
    coalescer = Coalescer(store.send)
    first = ask(coalescer, 1)
    await store.arrived.wait()
    later = ask(coalescer, 2, 3)
    await asyncio.wait(later, timeout=0)
    assert not coalescer.idle
    assert store.groups == [[1]]
    store.go_on.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6]
    assert store.groups == [[1], [2, 3]]
    assert coalescer.idle


async def test_groups_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "GROUP_MAX", 2)
    store = Store()
    assert await asyncio.gather(*ask(Coalescer(store.send), 1, 2, 3, 4, 5)) == [2, 4, 6, 8, 10]
    assert store.groups == [[1, 2], [3, 4], [5]]


async def test_a_failure_reaches_everyone_of_the_group_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "GROUP_MAX", 2)
    answers = await asyncio.gather(*ask(Coalescer(Store().send), 1, 13, 3), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["13 is unlucky", "13 is unlucky", "6"]


async def test_a_failure_of_a_part_reaches_those_it_concerns() -> None:
    async def send(group: Sequence[int]) -> list[int]:
        raise PartlyUnavailableError("down", [None if number == 13 else 2 * number for number in group])

    answers = await asyncio.gather(*ask(Coalescer(send), 1, 13, 3), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["2", "down", "6"]
    assert type(answers[1]) is BackendUnavailableError, "who is told must not take the group's answers for their own"


async def test_answers_of_another_number_are_a_failure() -> None:
    async def send(_: Sequence[int]) -> list[int]:
        return [1]

    answers = await asyncio.gather(*ask(Coalescer(send), 1, 2), return_exceptions=True)
    assert answers[0] == 1
    assert isinstance(answers[1], ValueError)


@pytest.mark.parametrize("unlucky", [2, 13])
async def test_a_caller_that_leaves_loses_only_its_own_answer(unlucky: int) -> None:
    store = Store(held=True)
    leaving, staying = ask(Coalescer(store.send), unlucky, 3)
    await store.arrived.wait()
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving
    store.go_on.set()
    (answer,) = await asyncio.gather(staying, return_exceptions=True)
    assert store.groups == [[unlucky, 3]]
    assert str(answer) == ("13 is unlucky" if unlucky == 13 else "6")


async def test_draining_waits_for_everything_asked() -> None:
    store = Store(held=True)
    coalescer = Coalescer(store.send)
    await coalescer.drain()
    first = ask(coalescer, 1)
    await store.arrived.wait()
    later = ask(coalescer, 2)
    await asyncio.wait(later, timeout=0)
    draining = asyncio.ensure_future(coalescer.drain())
    await asyncio.wait({draining}, timeout=0)
    assert not draining.done()
    store.go_on.set()
    await draining
    assert store.groups == [[1], [2]]
    assert [await one for one in (*first, *later)] == [2, 4]


async def test_a_flush_waits_for_as_many_as_were_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "COMPANY_S", 60.0)
    store = Store()
    coalescer = Coalescer(store.send)
    await asyncio.gather(*ask(coalescer, *range(8)))
    early = ask(coalescer, 1, 2)
    await asyncio.wait(early, timeout=0)
    assert len(store.groups) == 1
    assert await asyncio.gather(*early, *ask(coalescer, 3, 4, 5, 6)) == [2, 4, 6, 8, 10, 12]
    assert store.groups[1] == [1, 2, 3, 4, 5, 6]


async def test_a_flush_waits_for_company_no_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "COMPANY_S", 0.0)
    store = Store()
    coalescer = Coalescer(store.send)
    await asyncio.gather(*ask(coalescer, *range(8)))
    assert await coalescer.ask(1) == 2
    assert store.groups[1:] == [[1]]


async def test_several_groups_may_be_under_way_at_once() -> None:
    store = Store(held=True)
    coalescer = Coalescer(store.send, at_once=2)
    tasks: list[asyncio.Task[int]] = []
    for number in (1, 2, 3, 4):
        tasks += ask(coalescer, number)
        await asyncio.wait(tasks, timeout=0)
    assert store.groups == [[1], [2]]
    draining = asyncio.ensure_future(coalescer.drain())
    store.go_on.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert store.groups == [[1], [2], [3, 4]]
    await draining


async def test_each_of_several_groups_waits_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "COMPANY_S", 60.0)
    store = Store()
    coalescer = Coalescer(store.send, at_once=2)
    await asyncio.gather(*ask(coalescer, *range(100, 116)))
    store.go_on.clear()
    tasks = ask(coalescer, 1, 2, 3, 4, 5)
    await asyncio.wait(tasks, timeout=0)
    assert len(store.groups) == 1
    tasks += ask(coalescer, 6)
    await asyncio.wait(tasks, timeout=0)
    tasks += ask(coalescer, 7, 8, 9, 10, 11, 12)
    await asyncio.wait(tasks, timeout=0)
    assert store.groups[1:] == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    store.go_on.set()
    await asyncio.gather(*tasks)


async def test_a_group_that_is_complete_belongs_to_the_flush_that_waited_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "COMPANY_S", 60.0)
    store = Store()
    coalescer = Coalescer(store.send, at_once=2)
    await asyncio.gather(*ask(coalescer, *range(100, 116)))
    store.go_on.clear()
    tasks = ask(coalescer, *range(200, 220))
    await asyncio.wait(tasks, timeout=0)
    tasks += ask(coalescer, 1)
    await asyncio.wait(tasks, timeout=0)
    assert store.groups[1:] == [list(range(200, 220))]
    # The other flush is done in the very turn that completes the group, before the one that waits can go on.
    tasks += ask(coalescer, 2, 3, 4, 5, 6, 7)
    store.go_on.set()
    await asyncio.gather(*tasks)
    await coalescer.drain()
    assert store.groups[2:] == [[1, 2, 3, 4, 5, 6, 7]]


async def test_lanes_do_not_wait_for_each_other() -> None:
    go_on = asyncio.Event()
    groups: list[list[int]] = []

    async def send(group: Sequence[int]) -> list[int]:
        groups.append(list(group))
        if group[0] < 0:
            await go_on.wait()
        return [2 * number for number in group]

    lanes = Lanes(send, lambda number: number < 0)
    assert lanes.idle
    held_up = [asyncio.ensure_future(lanes.ask(number)) for number in (-1, -2)]
    assert await asyncio.gather(lanes.ask(3), lanes.ask(4)) == [6, 8]
    assert groups == [[-1, -2], [3, 4]]
    assert not any(future.done() for future in held_up)
    go_on.set()
    await lanes.drain()
    assert await asyncio.gather(*held_up) == [-2, -4]
