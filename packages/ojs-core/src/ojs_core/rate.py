"""The rate limit of a queue: at most N jobs handed out in any one second (C-RL-01).

A sliding window in slots of a tenth of a second. A slot that only partly lies within the last second counts whole, so
the limit is never exceeded in any window of one second, wherever it begins; a queue that was idle may hand out N at
once. The state is eleven numbers, however high the limit.
"""

from __future__ import annotations

from msgspec import Struct

SLOT_MS = 100
SLOTS = 11
"""The current slot and the ten before it: together they cover every instant of the last second."""
AHEAD_MAX = 100
"""Slots that a window may be ahead of a clock. One that is further ahead was left by a clock that was wrong, and is
forgotten: else nothing more would be handed out until the time that it showed."""


class RateWindow(Struct, frozen=True, array_like=True):
    """Jobs handed out per slot. `counts[0]` belongs to slot number `slot` (ms since the epoch // SLOT_MS)."""

    slot: int
    counts: tuple[int, ...]


def available(window: RateWindow | None, limit: int, now: int) -> int:
    """How many jobs may be handed out now.

    >>> window = spend(None, 3, now=10_000)
    >>> available(window, 4, now=10_500), available(window, 4, now=11_100)
    (1, 4)
    """
    return max(0, limit - sum(_shifted(window, now)))


def spend(window: RateWindow | None, count: int, now: int) -> RateWindow:
    """Return the window after `count` jobs were handed out now."""
    first, *rest = _shifted(window, now)
    slot = now // SLOT_MS if window is None or _is_lost(window, now) else max(window.slot, now // SLOT_MS)
    return RateWindow(slot, (first + count, *rest))


def _shifted(window: RateWindow | None, now: int) -> tuple[int, ...]:
    if window is None or _is_lost(window, now):
        return (0,) * SLOTS
    # A clock behind the window's (another server's) counts as the window's own slot.
    passed = min(SLOTS, max(0, now // SLOT_MS - window.slot))
    return (*(0,) * passed, *window.counts)[:SLOTS]


def _is_lost(window: RateWindow, now: int) -> bool:
    return window.slot - now // SLOT_MS > AHEAD_MAX
