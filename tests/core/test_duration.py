"""ISO 8601 durations (C-JSON-03; ojs-retry §4)."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.duration import DAY_MS, DURATION_MS_MAX, YEAR_MS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        # The table of ojs-retry §4.1.
        ("PT0.5S", 500),
        ("PT1S", 1_000),
        ("PT5S", 5_000),
        ("PT30S", 30_000),
        ("PT1M", 60_000),
        ("PT5M", 300_000),
        ("PT15M", 900_000),
        ("PT1H", 3_600_000),
        ("PT24H", DAY_MS),
        # Every unit, alone and together; M before T is months, after it minutes.
        ("P1Y", YEAR_MS),
        ("P1M", 30 * DAY_MS),
        ("P1W", 7 * DAY_MS),
        ("P1D", DAY_MS),
        ("P1Y1M1W1DT1H1M1.5S", (365 + 30 + 7 + 1) * DAY_MS + 3_600_000 + 60_000 + 1_500),
        ("P1MT1M", 30 * DAY_MS + 60_000),
        ("PT1H1S", 3_601_000),
        ("PT0S", 0),
        ("P0D", 0),
        ("PT090S", 90_000),
        ("P100Y", DURATION_MS_MAX),
    ],
)
def test_reads_every_component(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("PT0.0004S", 0),
        ("PT0.0005S", 1),
        ("PT1.0014999999S", 1_001),
        ("PT1.0015S", 1_002),
        ("PT0.9996S", 1_000),
        ("PT1.5S", 1_500),
        ("PT1.05S", 1_050),
    ],
)
def test_rounds_a_fraction_half_up_to_the_millisecond(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1s",
        "300s",
        "P",
        "PT",
        "P1DT",
        "T1S",
        "1S",
        "P1S",
        "P1H",
        "PTS",
        "PT1",
        "pt1s",
        "PT1s",
        " PT1S",
        "PT1S ",
        "PT1S\n",
        "PT 1S",
        "-PT1S",
        "PT-1S",
        "+PT1S",
        "PT1,5S",
        "PT.5S",
        "PT1.S",
        "PT1.5M",
        "P1.5D",
        "PT1e3S",
        "PT1S1M",
        "P1D1W",
        "PT1S1S",
        "PT\u0661S",
        "PT\uff11S",
        "PT" + "0" * 62 + "1S",
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match="expected an ISO 8601 duration such as PT30S"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["P101Y", "PT3153600000.001S", "PT" + "9" * 60 + "S"])
def test_refuses_more_than_a_hundred_years(text: str) -> None:
    with pytest.raises(ValueError, match="at most 100 years"):
        parse_duration(text)


@given(seconds=st.integers(0, 10**9), fraction=st.text("0123456789", min_size=1, max_size=30))
def test_a_fraction_is_exact_decimal_arithmetic(seconds: int, fraction: str) -> None:
    exact = Decimal(f"{seconds}.{fraction}") * 1_000
    assert parse_duration(f"PT{seconds}.{fraction}S") == int(exact.to_integral_value(ROUND_HALF_UP))


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "PT0S"),
        (1, "PT0.001S"),
        (10, "PT0.01S"),
        (100, "PT0.1S"),
        (1_000, "PT1S"),
        (10_000, "PT10S"),
        (61_500, "PT1M1.5S"),
        (300_000, "PT5M"),
        (3_600_000, "PT1H"),
        (3_600_500, "PT1H0.5S"),
        (DAY_MS, "PT24H"),
    ],
)
def test_writes_hours_minutes_and_seconds_only(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@given(st.integers(0, DURATION_MS_MAX))
def test_what_is_written_reads_back(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


def test_does_not_write_a_negative_duration() -> None:
    with pytest.raises(ValueError, match="0 ms or more, not -1"):
        format_duration(-1)
