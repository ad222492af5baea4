"""Identifiers: UUIDv7 for jobs, and event ids that carry their place in the stream (C-ENV-03, C-EVT-01, RFC 9562).

The time of an id is an argument; the random bits come from the operating system, because ids of several processes must
not meet. Ids are not the order of jobs: two servers make them side by side, so order comes from the store's sequence
(C-OPS-11).

A UUIDv7 has 122 free bits: 48 of milliseconds, then 12 and 62 with the version and the variant in between. The
functions below count in that 122-bit number, so that "greater" means the same for numbers and for the text.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from struct import Struct
from threading import Lock
from typing import Final

TIME_BITS: Final = 48
TAIL_BITS: Final = 74
SEQUENCE_BITS: Final = 62

_TAIL_MASK: Final = (1 << TAIL_BITS) - 1
_SEQUENCE_MASK: Final = (1 << SEQUENCE_BITS) - 1
# Wide enough that the next id of the same millisecond cannot be guessed from the last one.
_STEP_MASK: Final = (1 << 32) - 1
# Random numbers are drawn by the hundred. They are ten bits short of a tail, which repeats ten of its bits.
_NOISE: Final = Struct("400Q")
_NOISE_BITS: Final = 64
_REST_MASK: Final = (1 << TAIL_BITS - _NOISE_BITS) - 1

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# `event_id` leaves the twelve bits after the version at zero; anything else was not made by it.
_EVENT_ID: Final = re.compile(r"evt_[0-9a-f]{8}-[0-9a-f]{4}-7000-([89ab][0-9a-f]{3})-([0-9a-f]{12})")


def _format(free_bits: int) -> str:
    """Lay 122 bits out around version 7 and the RFC 9562 variant, as 36 lower-case characters."""
    tail = free_bits & _SEQUENCE_MASK
    head = free_bits >> SEQUENCE_BITS
    # An f-string takes half as long again, and each request makes two ids.
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031
        head >> 28,
        head >> 12 & 0xFFFF,
        head & 0xFFF,
        0x8000 | tail >> 48,
        tail & 0xFFFFFFFFFFFF,
    )


def _check_time(at: int) -> None:
    if not 0 <= at < 1 << TIME_BITS:
        raise ValueError(f"expected milliseconds since 1970 in {TIME_BITS} bits, not {at}")


class _Ascending:
    """122-bit numbers, each greater than the one before, whatever the clock does. Safe to share between threads."""

    __slots__ = ("_last", "_lock", "_noise")

    def __init__(self) -> None:
        self._last = 0
        self._lock = Lock()
        self.forget_noise()

    def forget_noise(self) -> None:
        """Draw anew before the next number: a forked process must not go on with its parent's random bytes."""
        self._noise: list[int] = []

    def take(self, now: int) -> int:
        with self._lock:
            if not self._noise:
                # Asking the system for each id costs more than all the rest of it.
                self._noise.extend(_NOISE.unpack(os.urandom(_NOISE.size)))
            noise = self._noise.pop()
            number = now << TAIL_BITS | noise << TAIL_BITS - _NOISE_BITS | noise & _REST_MASK
            if number <= self._last:
                # Same millisecond, or the clock went back: a random step onwards. A full tail carries into the time.
                number = self._last + 1 + (noise & _STEP_MASK)
            self._last = number
        return number


_ascending = _Ascending()
os.register_at_fork(after_in_child=_ascending.forget_noise)


def uuid7(now: int) -> str:
    """Make a UUIDv7 for the time `now` (ms since the epoch).

    In one process every result is greater than the one before, as text too, however many are made in a millisecond and
    even when `now` goes back; then the time inside the id runs ahead of `now`. Raises `ValueError` for a time that does
    not fit in 48 bits.
    """
    _check_time(now)
    return _format(_ascending.take(now))


def is_uuid7(text: str) -> bool:
    """Tell whether `text` is a UUIDv7 in lower-case hyphenated form, the only form a job id may have (C-ENV-03)."""
    return _UUID7.fullmatch(text) is not None


def uuid7_named(at: int, *names: str) -> str:
    """Make the UUIDv7-shaped id that belongs to a time and a list of names; the same arguments give the same id.

    A step that may be repeated after a crash (a cron occurrence, a workflow's next job) so names its job the same way
    twice, and the second insert is refused as a duplicate. The tail is taken from a SHA-256, in which the names stay
    apart: `("ab", "c")` and `("a", "bc")` differ. Raises `ValueError` for a time that does not fit in 48 bits.
    """
    _check_time(at)
    digest = sha256()
    for name in names:
        encoded = name.encode()
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return _format(at << TAIL_BITS | int.from_bytes(digest.digest()[:10], "big") & _TAIL_MASK)


def event_id(at: int, seq: int) -> str:
    """Make the id of the event that happened at `at` (ms) and is number `seq` (0 to 2**62 - 1) of its stream.

    The shape is `evt_<uuidv7>` (C-EVT-01); `event_seq` gives the number back, so that an id can serve as a cursor
    without a look-up. Raises `ValueError` when either number does not fit.

    >>> event_seq(event_id(1_770_892_200_000, 42))
    42
    """
    _check_time(at)
    if not 0 <= seq <= _SEQUENCE_MASK:
        raise ValueError(f"expected a sequence number in {SEQUENCE_BITS} bits, not {seq}")
    return "evt_" + _format(at << TAIL_BITS | seq)


def event_seq(event_id: str) -> int:
    """Read the sequence number out of an id made by `event_id`. Raises `ValueError` for any other text."""
    match = _EVENT_ID.fullmatch(event_id)
    if match is None:
        raise ValueError("expected an event id of this server, such as evt_019c5166-8840-7000-8000-00000000002a")
    return int(match[1] + match[2], 16) & _SEQUENCE_MASK
