"""Who waits for work, and how they are woken."""

from __future__ import annotations

from contextlib import ExitStack

from ojs_core.doorbell import AT_ONCE, Doorbell


async def test_a_ring_wakes_those_who_wait_for_that_queue() -> None:
    doorbell = Doorbell()
    with doorbell.waiting(["a", "b"]) as first, doorbell.waiting(["b"]) as second, doorbell.waiting(["c"]) as third:
        doorbell.ring({"b", "nobody"})
        assert [waiter.is_set() for waiter in (first, second, third)] == [True, True, False]


async def test_a_ring_for_all_wakes_all() -> None:
    doorbell = Doorbell()
    with doorbell.waiting(["a"]) as first, doorbell.waiting(["b"]) as second:
        doorbell.ring(None)
        assert first.is_set()
        assert second.is_set()


async def test_nobody_is_woken_for_what_was_before() -> None:
    doorbell = Doorbell()
    doorbell.ring({"a"})
    with doorbell.waiting(["a"]) as waiter:
        assert not waiter.is_set()


async def test_those_who_left_are_forgotten() -> None:
    doorbell = Doorbell()
    with doorbell.waiting(["a", "a", "b"]) as first:
        with doorbell.waiting(["a"]) as second:
            pass
        doorbell.ring({"a"})
        assert first.is_set()
        assert not second.is_set()
    first.clear()
    doorbell.ring(None)
    assert not first.is_set()


async def test_closing_wakes_everyone() -> None:
    doorbell = Doorbell()
    assert not doorbell.closed
    with doorbell.waiting(["a"]) as waiter:
        doorbell.close()
        assert waiter.is_set()
    assert doorbell.closed


async def test_a_ring_wakes_a_few_and_the_longest_waiting_first() -> None:
    doorbell = Doorbell()
    with ExitStack() as stack:
        waiters = [stack.enter_context(doorbell.waiting(["a"])) for _ in range(5)]
        doorbell.ring({"a"})
        assert [waiter.is_set() for waiter in waiters] == [True, True, False, False, False]
        doorbell.ring({"a"})
        assert [waiter.is_set() for waiter in waiters] == [True, True, True, True, False]


async def test_who_leaves_without_asking_passes_it_on() -> None:
    doorbell = Doorbell()
    with ExitStack() as stack:
        leaving = ExitStack()
        for _ in range(AT_ONCE):
            leaving.enter_context(doorbell.waiting(["a", "b"]))
        others = [stack.enter_context(doorbell.waiting([queue])) for queue in "abc"]
        doorbell.ring({"a"})
        assert not any(waiter.is_set() for waiter in others)
        leaving.close()
        assert [waiter.is_set() for waiter in others] == [True, True, False]
