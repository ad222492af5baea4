"""Instants on the wire (C-JSON-02, C-ENV-14, C-ENV-15)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.timestamps import INSTANT_MS_MAX, INSTANT_MS_MIN, format_ms, parse_instant, parse_rfc3339

NOW = 1_770_892_200_000  # 2026-02-12T10:30:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The pattern every `string:datetime` assertion of the official cases uses (C-JSON-02).
OFFICIAL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-02-12T10:30:00Z", NOW),
        ("2026-02-12T10:30:00.000Z", NOW),
        ("2026-02-12t10:30:00z", NOW),
        ("2026-02-12T11:30:00+01:00", NOW),
        ("2026-02-12T05:00:00-05:30", NOW),
        ("2026-02-13T10:29:00+23:59", NOW),
        ("2026-02-12T10:30:00+00:00", NOW),
        ("2026-02-12T10:30:00-00:00", NOW),
        ("2026-02-12T10:30:00.1Z", NOW + 100),
        ("2026-02-12T10:30:00.12Z", NOW + 120),
        ("2026-02-12T10:30:00.123Z", NOW + 123),
        ("2026-02-12T10:30:00.1239Z", NOW + 123),
        ("2026-02-12T10:30:00." + "9" * 100 + "Z", NOW + 999),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2099-12-31T23:59:59Z", 4_102_444_799_000),
        ("0001-01-01T00:00:00Z", INSTANT_MS_MIN),
        ("9999-12-31T23:59:59.999Z", INSTANT_MS_MAX),
    ],
)
def test_reads_rfc3339(text: str, ms: int) -> None:
    assert parse_rfc3339(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2026-02-12",
        "2026-02-12T10:30Z",
        "2026-02-12T10:30:00",
        "2026-02-12 10:30:00Z",
        "2026-02-12T10:30:00 Z",
        "2026-02-12T10:30:00Z\n",
        " 2026-02-12T10:30:00Z",
        "20260212T103000Z",
        "2026-W07-4T10:30:00Z",
        "2026-043T10:30:00Z",
        "2026-2-12T10:30:00Z",
        "12026-02-12T10:30:00Z",
        "-2026-02-12T10:30:00Z",
        "2026-02-12T10:30:00.Z",
        "2026-02-12T10:30:00,5Z",
        "2026-02-12T24:00:00Z",
        "2026-02-12T10:60:00Z",
        "2026-02-12T10:30:61Z",
        "2026-02-12T10:30:00+1:00",
        "2026-02-12T10:30:00+0100",
        "2026-02-12T10:30:00+01",
        "2026-02-12T10:30:00+24:00",
        "2026-02-12T10:30:00+01:60",
        "2026-02-12T10:30:00UTC",
        "2026-02-12T10:30:00Z[Europe/Berlin]",
        "\u0662\u0660\u0662\u0666-02-12T10:30:00Z",
        "2026-02-12T10:30:00.\uff11Z",
        "1770892200",
    ],
)
def test_refuses_other_text(text: str) -> None:
    with pytest.raises(ValueError, match="expected an RFC 3339 time with a zone"):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    ["2026-00-12T10:30:00Z", "2026-13-12T10:30:00Z", "2026-02-00T10:30:00Z", "2025-02-29T10:30:00Z"],
)
def test_refuses_a_day_that_does_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected an RFC 3339 time with a zone.*: "):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "0000-12-31T23:59:59-23:59"],
)
def test_refuses_a_year_outside_0001_to_9999_in_utc(text: str) -> None:
    with pytest.raises(ValueError, match=r"year|outside the years 0001 to 9999"):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.999Z", "2017-01-01T05:29:60+05:30", "2016-12-31T18:59:60-05:00"],
)
def test_a_leap_second_is_the_last_millisecond_before_it(text: str) -> None:
    assert format_ms(parse_rfc3339(text)) == "2016-12-31T23:59:59.999Z"


@pytest.mark.parametrize("text", ["2016-12-31T23:58:60Z", "2016-12-31T10:30:60Z", "2016-12-31T23:59:60+01:00"])
def test_a_leap_second_exists_only_at_the_end_of_a_utc_day(text: str) -> None:
    with pytest.raises(ValueError, match="second 60 exists only at 23:59:60 UTC"):
        parse_rfc3339(text)


@given(
    moment=st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),  # noqa: DTZ001 - the zone is drawn below
    offset_minutes=st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_agrees_with_the_standard_library(moment: datetime, offset_minutes: int) -> None:
    """Whatever the offset, what is compared later is the instant (C-SCH-07)."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    assert parse_rfc3339(aware.isoformat()) == (aware - EPOCH) // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (NOW, "2026-02-12T10:30:00.000Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (7, "1970-01-01T00:00:00.007Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (INSTANT_MS_MIN, "0001-01-01T00:00:00.000Z"),
        (INSTANT_MS_MAX, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_writes_utc_with_milliseconds(ms: int, text: str) -> None:
    assert format_ms(ms) == text


@given(st.integers(INSTANT_MS_MIN, INSTANT_MS_MAX))
def test_what_is_written_matches_the_official_pattern_and_reads_back(ms: int) -> None:
    text = format_ms(ms)
    assert OFFICIAL.fullmatch(text)
    assert parse_rfc3339(text) == ms


@pytest.mark.parametrize("ms", [INSTANT_MS_MIN - 1, INSTANT_MS_MAX + 1, 10**30])
def test_does_not_write_an_instant_out_of_range(ms: int) -> None:
    with pytest.raises(ValueError, match="the years 0001 to 9999"):
        format_ms(ms)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("+PT2S", NOW + 2_000),  # L2-DEL-002, L2-DEL-003, L2-TTL-001
        ("+PT0.25S", NOW + 250),
        ("+P1D", NOW + 86_400_000),
        ("2020-01-01T00:00:00Z", 1_577_836_800_000),
    ],
)
def test_an_instant_is_absolute_or_relative_to_now(text: str, ms: int) -> None:
    assert parse_instant(text, NOW) == ms


def test_a_relative_instant_keeps_the_milliseconds_of_now() -> None:
    assert parse_instant("+PT2S", NOW + 345) == NOW + 2_345


@pytest.mark.parametrize("text", ["+", "+2s", "++PT2S", "+-PT2S", "+ PT2S"])
def test_refuses_a_relative_instant_that_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"after '\+': expected an ISO 8601 duration"):
        parse_instant(text, NOW)


@pytest.mark.parametrize("text", ["", "PT2S", "-PT2S", "2026-02-12", "soon"])
def test_says_both_forms_when_neither_was_sent(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339 time with a zone.*or '\+' and an ISO 8601 duration"):
        parse_instant(text, NOW)


def test_refuses_a_relative_instant_past_the_year_9999() -> None:
    with pytest.raises(ValueError, match="the years 0001 to 9999"):
        parse_instant("+P1D", INSTANT_MS_MAX)
