"""Instants: RFC 3339 text on the wire, milliseconds since the epoch (UTC) inside (C-JSON-02, C-ENV-14, C-ENV-15).

It reads no clock: where "now" matters it is an argument. It keeps no text either: a time that must come back exactly as
it was sent (C-ENV-14) is stored as sent by whoever parsed it here.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final

from ojs_core.duration import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, parse_duration

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()

INSTANT_MS_MIN: Final = (date.min.toordinal() - _EPOCH_ORDINAL) * DAY_MS
"""0001-01-01T00:00:00.000Z."""
INSTANT_MS_MAX: Final = (date.max.toordinal() + 1 - _EPOCH_ORDINAL) * DAY_MS - 1
"""9999-12-31T23:59:59.999Z."""

# `[0-9]`, because `\d` also matches the digits of other scripts. `date` checks months and days.
_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]"
    r"([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
_EXPECTED: Final = "expected an RFC 3339 time with a zone, such as 2026-02-12T10:30:00Z or 2026-02-12T11:30:00+01:00"

# Writing ".042Z" by table is several times quicker than by format; every answered job holds about four times.
_MILLISECOND_SUFFIXES: Final = tuple(f".{ms:03d}Z" for ms in range(SECOND_MS))


def parse_rfc3339(text: str) -> int:
    """Read an RFC 3339 time as milliseconds since the epoch, in the years 0001 to 9999 (UTC).

    The zone is required; any offset is accepted, as are the lower-case `t` and `z` that RFC 3339 §5.6 allows. A
    fraction may have any number of digits and is cut, not rounded, to the millisecond. A leap second is taken as the
    last millisecond before it, because epoch milliseconds have no room for it, and only where one can be: at 23:59:60
    UTC.

    Raises `ValueError` saying what is expected. Source: C-ENV-14.

    >>> parse_rfc3339("1970-01-01T01:00:00.5+01:00")
    500
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(_EXPECTED)
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_ORDINAL
    except ValueError as error:
        raise ValueError(f"{_EXPECTED}: {error}") from error
    ms = days * DAY_MS + int(hour) * HOUR_MS + int(minute) * MINUTE_MS + int(second) * SECOND_MS
    if fraction:
        ms += int(fraction[:3].ljust(3, "0"))
    leap = second == "60"
    if leap:
        ms = ms - ms % SECOND_MS - 1
    if sign:
        offset_ms = int(offset_hours) * HOUR_MS + int(offset_minutes) * MINUTE_MS
        ms = ms - offset_ms if sign == "+" else ms + offset_ms
    if leap and ms % DAY_MS != DAY_MS - 1:
        raise ValueError(f"{_EXPECTED}: second 60 exists only at 23:59:60 UTC")
    if not INSTANT_MS_MIN <= ms <= INSTANT_MS_MAX:
        raise ValueError(f"{_EXPECTED}: in UTC this is outside the years 0001 to 9999")
    return ms


@lru_cache(maxsize=4096)
def _format_second(second: int) -> str:
    """Write whole seconds since the epoch as `2026-02-12T10:30:00`."""
    try:
        return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
    except OverflowError as error:
        raise ValueError("expected an instant in the years 0001 to 9999") from error


def format_ms(ms: int) -> str:
    """Write milliseconds since the epoch as `2026-02-12T10:30:00.000Z`: always UTC, always three digits (C-JSON-02).

    Raises `ValueError` outside the years 0001 to 9999.
    """
    second, rest_ms = divmod(ms, SECOND_MS)
    return _format_second(second) + _MILLISECOND_SUFFIXES[rest_ms]


def parse_instant(text: str, now: int) -> int:
    """Read an absolute RFC 3339 time, or `+` and an ISO 8601 duration counted from `now`, as milliseconds.

    Raises `ValueError` saying what is expected. Source: C-ENV-15.

    >>> parse_instant("+PT2S", 1_000)
    3000
    """
    if text.startswith("+"):
        try:
            ms = now + parse_duration(text[1:])
        except ValueError as error:
            raise ValueError(f"after '+': {error}") from error
        if ms > INSTANT_MS_MAX:
            raise ValueError("expected an instant in the years 0001 to 9999")
        return ms
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise ValueError(f"{error}; or '+' and an ISO 8601 duration, such as +PT30S") from error
