"""ISO 8601 durations on the wire, whole milliseconds inside (C-JSON-03; ojs-retry §4).

Only text and numbers: it knows no clock, and which lengths make sense (more than zero, at least another one) is for
the caller to say.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
# A calendar month or year has no fixed length; C-JSON-03 fixes one, because a duration here stands on its own.
MONTH_MS: Final = 30 * DAY_MS
YEAR_MS: Final = 365 * DAY_MS

DURATION_MS_MAX: Final = 100 * YEAR_MS
DURATION_CHARACTERS_MAX: Final = 64

# `[0-9]`, because `\d` also matches the digits of other scripts.
_DURATION: Final = re.compile(
    r"P(?=[0-9T])(?:([0-9]+)Y)?(?:([0-9]+)M)?(?:([0-9]+)W)?(?:([0-9]+)D)?"
    r"(?:T(?=[0-9])(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)(?:\.([0-9]+))?S)?)?"
)
_UNITS_MS: Final = (YEAR_MS, MONTH_MS, WEEK_MS, DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS)


# The few spellings a client uses come again with every job. A refusal raises, so only short, valid text is kept.
@lru_cache(maxsize=1024)
def parse_duration(text: str) -> int:
    """Read `P[nY][nM][nW][nD][T[nH][nM][n[.n]S]]` as milliseconds, from 0 to 100 years of 365 days.

    A fraction is allowed on seconds only and is rounded half up to the millisecond. A month counts 30 days, a year 365.

    Raises `ValueError` saying what is expected, for every other text: `1s`, lower case, blanks, a sign, a comma, `P`,
    `P1DT`, more than 64 characters, more than 100 years. Source: C-JSON-03.

    >>> parse_duration("PT1.5S"), parse_duration("P1DT12H")
    (1500, 129600000)
    """
    match = _DURATION.fullmatch(text) if len(text) <= DURATION_CHARACTERS_MAX else None
    if match is None:
        raise ValueError("expected an ISO 8601 duration such as PT30S, PT1.5S, PT5M or P1DT12H")
    *counts, fraction = match.groups()
    total_ms = sum(int(count) * unit_ms for count, unit_ms in zip(counts, _UNITS_MS, strict=True) if count)
    if fraction:
        total_ms += int(fraction[:3].ljust(3, "0")) + (fraction[3:4] >= "5")
    if total_ms > DURATION_MS_MAX:
        raise ValueError("expected an ISO 8601 duration of at most 100 years (P100Y)")
    return total_ms


def format_duration(ms: int) -> str:
    """Write milliseconds, 0 or more, as the shortest ISO 8601 duration made of hours, minutes and seconds.

    Days and longer units are never used: readers are only obliged to know H, M and S (C-JSON-03). `parse_duration`
    gives the same number back. Raises `ValueError` for a negative number.

    >>> format_duration(300_000), format_duration(90_061_500), format_duration(0)
    ('PT5M', 'PT25H1M1.5S', 'PT0S')
    """
    if ms < 0:
        raise ValueError(f"expected a duration of 0 ms or more, not {ms}")
    hours, rest_ms = divmod(ms, HOUR_MS)
    minutes, rest_ms = divmod(rest_ms, MINUTE_MS)
    seconds, fraction_ms = divmod(rest_ms, SECOND_MS)
    text = f"PT{hours}H" if hours else "PT"
    if minutes:
        text += f"{minutes}M"
    if fraction_ms:
        return f"{text}{seconds}.{fraction_ms:03d}".rstrip("0") + "S"
    if seconds or text == "PT":
        text += f"{seconds}S"
    return text
