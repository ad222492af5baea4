"""The rate limit of a queue (C-RL-01)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.rate import AHEAD_MAX, SLOT_MS, SLOTS, RateWindow, available, spend

SECOND = 1000
# Moves of a clock that may stand, run, jump, and go back a little, as another server's may.
moves = st.lists(st.tuples(st.integers(-300, 1500), st.integers(1, 9)), max_size=40)


def test_an_idle_queue_may_hand_out_all_at_once() -> None:
    assert available(None, 5, now=0) == available(None, 5, now=1_770_892_200_123) == 5


@pytest.mark.parametrize("begin", [0, 1, 99, 50_000_049])
def test_what_was_handed_out_counts_for_a_second_and_at_most_a_slot_more(begin: int) -> None:
    window = spend(None, 3, now=begin)
    assert available(window, 5, now=begin) == 2
    assert available(window, 5, now=begin + SECOND) == 2
    assert available(window, 5, now=begin + SECOND + SLOT_MS) == 5


def test_a_lowered_limit_is_not_negative() -> None:
    window = spend(None, 9, now=0)
    assert available(window, 2, now=0) == 0


def test_a_long_silence_forgets_everything() -> None:
    window = spend(spend(None, 3, now=0), 4, now=10**9)
    assert window == RateWindow(10**9 // SLOT_MS, (4, *(0,) * (SLOTS - 1)))


def test_a_clock_behind_counts_into_the_newest_slot() -> None:
    window = spend(spend(None, 1, now=10_000), 2, now=9_000)
    assert window.slot == 100
    assert window.counts[0] == 3
    assert available(window, 5, now=8_000) == 2


def test_a_clock_far_behind_begins_anew() -> None:
    wrong = spend(None, 5, now=(100 + AHEAD_MAX + 1) * SLOT_MS)
    assert available(wrong, 5, now=101 * SLOT_MS) == 0
    assert available(wrong, 5, now=100 * SLOT_MS) == 5
    assert spend(wrong, 2, now=100 * SLOT_MS) == RateWindow(100, (2, *(0,) * (SLOTS - 1)))


@given(limit=st.integers(1, 20), moves=moves)
def test_no_second_ever_holds_more_than_the_limit(limit: int, moves: list[tuple[int, int]]) -> None:
    now = 100_000
    window = None
    handed: list[int] = []
    for passed, wanted in moves:
        now = max(now, now + passed)
        count = min(wanted, available(window, limit, now))
        if count:
            window = spend(window, count, now)
            handed += [now] * count
    for begin in handed:
        assert sum(begin <= at < begin + SECOND for at in handed) <= limit


@given(limit=st.integers(1, 20), moves=moves)
def test_the_window_stays_small_and_whole(limit: int, moves: list[tuple[int, int]]) -> None:
    now = 100_000
    window = None
    for passed, wanted in moves:
        now += passed
        before = window
        window = spend(window, wanted, now)
        assert len(window.counts) == SLOTS
        assert all(count >= 0 for count in window.counts)
        assert window.slot >= (now // SLOT_MS if before is None else before.slot)
        assert 0 <= available(window, limit, now) <= limit
        assert msgspec.json.decode(msgspec.json.encode(window), type=RateWindow) == window
