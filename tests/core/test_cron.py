"""Cron expressions (C-CRN-04 to C-CRN-13): partly against oracles that share no code with the engine."""

from __future__ import annotations

import calendar
import doctest
import importlib
import re
import zoneinfo
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ojs_core.cron import (
    EXPRESSION_CHARS_MAX,
    SKIPPED_MAX,
    CronError,
    Tick,
    next_at,
    next_tick,
    parse_cron,
    ticks_between,
)

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
ENOUGH = 10_000

NEW_YORK = "America/New_York"
BERLIN = "Europe/Berlin"
# Zones and years: half-hour shifts, DST in winter, a skipped day, midnight gaps, a week of DST, no DST at all.
DST_ZONES = [
    (BERLIN, 2000, 2040),
    (NEW_YORK, 2000, 2040),
    ("Australia/Lord_Howe", 2000, 2040),
    ("America/St_Johns", 2000, 2040),
    ("Africa/Casablanca", 2005, 2040),
    ("Pacific/Apia", 2009, 2022),
    ("America/Sao_Paulo", 1999, 2020),
    ("America/Recife", 1999, 2003),
    ("Asia/Tokyo", 2000, 2040),
]


def ms(text: str, timezone: str = "UTC") -> int:
    """Return the instant at which a clock in `timezone` shows `text`."""
    return to_ms(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone)))


def to_ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def local(at: int, timezone: str) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(ZoneInfo(timezone))


def walls(ticks: list[int], timezone: str = "UTC") -> list[str]:
    """Return what the clock in `timezone` shows at each instant, to the minute."""
    return [format(local(tick, timezone), "%Y-%m-%d %H:%M") for tick in ticks]


def days_of(expression: str, year: int, month: int) -> list[int]:
    """Return the days of one month on which `expression` fires in UTC."""
    first = ms(f"{year}-{month:02}-01") - 1
    last = first + calendar.monthrange(year, month)[1] * DAY_MS
    return sorted({local(tick, "UTC").day for tick in ticks_between(parse_cron(expression), first, last, ENOUGH)})


class Change(NamedTuple):
    """A clock change: the instant, and the wall times before (exclusive) and at it."""

    timezone: str
    at: int
    before: datetime
    after: datetime


def changes(timezone: str, first_year: int, last_year: int) -> list[Change]:
    """Return every clock change of a zone, found by asking for the offset on every day, then in every minute of it."""
    zone, found = ZoneInfo(timezone), []
    day, end = datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year, 1, 1, tzinfo=UTC)
    while day < end:
        offset, following = day.astimezone(zone).utcoffset(), (day + timedelta(days=1)).astimezone(zone).utcoffset()
        if following != offset:
            moments = (day + timedelta(minutes=minute) for minute in range(1, 24 * 60 + 1))
            change = next(moment for moment in moments if moment.astimezone(zone).utcoffset() == following)
            after = change.astimezone(zone).replace(tzinfo=None, fold=0)
            found.append(Change(timezone, to_ms(change), after - (following - offset), after))
        day += timedelta(days=1)
    return found


ALL_CHANGES = [change for zone_and_years in DST_ZONES for change in changes(*zone_and_years)]
GAPS = [change for change in ALL_CHANGES if change.after > change.before]
FOLDS = [change for change in ALL_CHANGES if change.after < change.before]


# Oracle: every part of an expression is drawn together with the test it stands for.


class Part(NamedTuple):
    text: str
    matches: Callable[[Any], bool]
    is_open: bool = False
    """Whether it holds a `*`: such a day field does not count as restricted (POSIX)."""


def one_of_items(items: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    """Draw lists of one to three items; one is by far the most common in practice."""

    def join(parts: list[Part]) -> Part:
        return Part(
            ",".join(part.text for part in parts),
            lambda value: any(part.matches(value) for part in parts),
            any(part.is_open for part in parts),
        )

    return st.one_of(items, st.lists(items, min_size=2, max_size=3).map(join))


@st.composite
def number_items(draw: st.DrawFn, low: int, high: int) -> Part:
    start = draw(st.integers(low, high))
    end = draw(st.integers(start, high))
    step = draw(st.integers(1, high + 2))
    text, numbers = draw(
        st.sampled_from(
            [
                ("*", range(low, high + 1)),
                (f"*/{step}", range(low, high + 1, step)),
                (str(start), range(start, start + 1)),
                (f"{start}/{step}", range(start, high + 1, step)),
                (f"{start}-{end}", range(start, end + 1)),
                (f"{start}-{end}/{step}", range(start, end + 1, step)),
            ]
        )
    )
    return Part(text, lambda value: value in numbers, is_open=text in {"*", "*/1"})


def numbers(low: int, high: int) -> st.SearchStrategy[Part]:
    return one_of_items(number_items(low, high))


def by(part: Part, key: Callable[[date], int]) -> Part:
    return part._replace(matches=lambda day: part.matches(key(day)))


def month_length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


@cache
def nearest_weekday(year: int, month: int, number: int) -> int | None:
    """Return the Monday to Friday closest to the `number`-th in the same month, or nothing if there is no such day."""
    days = calendar.monthrange(year, month)[1]
    workdays = [n for n in range(1, days + 1) if calendar.weekday(year, month, n) < 5]
    return min(workdays, key=lambda n: abs(n - number)) if number <= days else None


def last_workday(day: date) -> bool:
    return day.weekday() < 5 and all(
        day.replace(day=n).weekday() >= 5 for n in range(day.day + 1, month_length(day) + 1)
    )


MONTH_DAYS = one_of_items(
    st.one_of(
        number_items(1, 31).map(lambda part: by(part, lambda day: day.day)),
        st.integers(1, 31).map(lambda n: Part(f"{n}W", lambda day: day.day == nearest_weekday(day.year, day.month, n))),
        st.sampled_from([Part("L", lambda day: day.day == month_length(day)), Part("lw", last_workday)]),
    )
)
WEEKDAY_NAMES = ["Sun", "MON", "tue", "wed", "THU", "fri", "sat", "7"]
ONE_WEEKDAY = st.integers(0, 7).flatmap(
    lambda n: st.tuples(st.just(n % 7), st.sampled_from([str(n), WEEKDAY_NAMES[n]]))
)


def weekday(day: date) -> int:
    return day.isoweekday() % 7


WEEKDAYS = one_of_items(
    st.one_of(
        number_items(0, 6).map(lambda part: by(part, weekday)),
        ONE_WEEKDAY.map(lambda one: Part(one[1], lambda day: weekday(day) == one[0])),
        ONE_WEEKDAY.map(
            lambda one: Part(f"{one[1]}L", lambda day: weekday(day) == one[0] and day.day > month_length(day) - 7)
        ),
        st.tuples(ONE_WEEKDAY, st.integers(1, 5)).map(
            lambda drawn: Part(
                f"{drawn[0][1]}#{drawn[1]}",
                lambda day: weekday(day) == drawn[0][0] and (day.day + 6) // 7 == drawn[1],
            )
        ),
    )
)


def day_matches(day: date, month_day: Part, month: Part, week_day: Part) -> bool:
    if not month.matches(day.month):
        return False
    if month_day.is_open or week_day.is_open:
        return (month_day.is_open or month_day.matches(day)) and (week_day.is_open or week_day.matches(day))
    return month_day.matches(day) or week_day.matches(day)


def dates(first_year: int, end_year: int) -> Iterator[date]:
    for ordinal in range(date(first_year, 1, 1).toordinal(), date(end_year, 1, 1).toordinal()):
        yield date.fromordinal(ordinal)


# Days.


@settings(max_examples=80, deadline=None)
@given(MONTH_DAYS, numbers(1, 12), WEEKDAYS, st.integers(1970, 2390))
def test_days_match_the_oracle(month_day: Part, month: Part, week_day: Part, year: int) -> None:
    """C-CRN-04, C-CRN-06, C-CRN-10: day of month, month and day of week in all their forms, over a year."""
    expression = f"0 0 {month_day.text} {month.text} {week_day.text}"
    try:
        schedule = parse_cron(expression)
    except CronError:
        assert not any(day_matches(day, month_day, month, week_day) for day in dates(2000, 2028))
        return
    expected = [str(day) for day in dates(year, year + 1) if day_matches(day, month_day, month, week_day)]
    fired = ticks_between(schedule, ms(f"{year}-01-01") - 1, ms(f"{year + 1}-01-01") - 1, ENOUGH)
    assert walls(fired) == [f"{day} 00:00" for day in expected]


# April 2024 begins on a Monday and has 30 days.
APRIL_2024 = """
    0 0 1,15 * *         | 1 15
    0 0 5-5 * *          | 5
    0 0 */10 * *         | 1 11 21
    0 0 25/2 * *         | 25 27 29
    0 0 1-10/4 * *       | 1 5 9
    0 0 29-31 * *        | 29 30
    0 0 * APR 1          | 1 8 15 22 29
    0 0 * jan-apr SUN    | 7 14 21 28
    0 0 * * 0            | 7 14 21 28
    0 0 * * 7            | 7 14 21 28
    0 0 * * 6-7          | 6 7 13 14 20 21 27 28
    0 0 * * 5/1          | 5 6 12 13 19 20 26 27
    0 0 * * 7/2          | 7 14 21 28
    0 0 * * Mon-tUE      | 1 2 8 9 15 16 22 23 29 30
    0 0 L * *            | 30
    0 0 1,L * *          | 1 30
    0 0 LW * *           | 30
    0 0 14W * *          | 15
    0 0 6W,14W,20 * *    | 5 15 20
    0 0 31W * *          |
    0 0 * * 5L           | 26
    0 0 * * L5           | 26
    0 0 * * friL         | 26
    0 0 * * FRI#3,MON#1  | 1 19
    0 0 * * 1#5          | 29
    0 0 * * 2,5#3        | 2 9 16 19 23 30
    # Both restricted: either matches. A full list is a restriction, `*` and `*/1` are not.
    0 0 10 * 1           | 1 8 10 15 22 29
    0 0 13W * 5#3        | 12 19
    0 0 31 * 5L          | 26
    0 0 */10 * 7         | 1 7 11 14 21 28
    0 0 */1 * 5#1        | 5
    0 0 *,3 * 5#1        | 5
    0 0 1-29 * 5#1       | 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29
"""


def rows(table: str) -> list[tuple[str, ...]]:
    """Return the cells of a table of lines, without its comments."""
    lines = [line.strip() for line in table.strip().splitlines()]
    return [tuple(cell.strip() for cell in line.split(" |")) for line in lines if not line.startswith("# ")]


@pytest.mark.parametrize(("expression", "days"), rows(APRIL_2024))
def test_days_of_april_2024(expression: str, days: str) -> None:
    """C-CRN-04, C-CRN-06, C-CRN-10."""
    assert days_of(expression, 2024, 4) == [int(day) for day in days.split()]


def test_nearest_weekday_stays_in_its_month() -> None:
    """C-CRN-06: 1 June 2024 is a Saturday, 30 June a Sunday; the 31st does not exist and is not replaced."""
    assert days_of("0 0 1W * *", 2024, 6) == [3]
    assert days_of("0 0 30W * *", 2024, 6) == [28]
    assert days_of("0 0 31W * *", 2024, 6) == []
    assert days_of("0 0 LW * *", 2024, 6) == [28]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 29 2 *", "2024-02-29", "2028-02-29"),
        ("0 0 29 2 *", "2096-03-01", "2104-02-29"),
        ("0 0 29 2 *", "2097-01-01", "2104-02-29"),
        ("0 0 29W 2 *", "2096-03-01", "2104-02-29"),
        ("0 0 * 2 MON#5", "2072-03-01", "2112-02-29"),
        ("0 0 30,31 2,6 *", "2024-01-01", "2024-06-30"),
        ("0 0 30 2 MON", "2024-01-30", "2024-02-05"),
        ("0 0 31W 2,3 *", "2024-01-30", "2024-03-29"),
    ],
)
def test_rare_dates_are_found(expression: str, after: str, expected: str) -> None:
    """C-CRN-07: days that only some months or years have, across 2100, which is not a leap year."""
    assert next_tick(parse_cron(expression), ms(after)) == Tick(ms(expected), ())


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 30,31W 2 *", "0 0 0 31 SEP *"])
def test_dates_that_do_not_exist_are_refused(expression: str) -> None:
    """C-CRN-07: an expression that can never match does not hang the search."""
    with pytest.raises(CronError, match="never fires"):
        parse_cron(expression)


# Times of day.

WINDOW_MS = 2 * HOUR_MS


@cache
def clock_around(timezone: str, at: int) -> list[tuple[int, datetime]]:
    """Return every minute, and what the clock shows then, from `WINDOW_MS` before an instant to as long after it."""
    return [(minute, local(minute, timezone)) for minute in range(at - WINDOW_MS, at + WINDOW_MS, MINUTE_MS)]


def missing_minutes(change: Change) -> Iterator[datetime]:
    minute = change.before
    while minute < change.after:
        yield minute
        minute += timedelta(minutes=1)


def is_wildcard(hour: Part) -> bool:
    return hour.text.startswith("*") and "," not in hour.text


@settings(max_examples=100, deadline=None)
@given(numbers(0, 59), numbers(0, 23), st.sampled_from(ALL_CHANGES), st.integers(-WINDOW_MS, WINDOW_MS - 1))
def test_times_around_clock_changes_match_the_oracle(minute: Part, hour: Part, change: Change, start: int) -> None:
    """C-CRN-04, C-CRN-13, Q-26: minute by minute around every kind of clock change, from any instant."""
    after = change.at + start
    expected = [
        at
        for at, shown in clock_around(change.timezone, change.at)
        if minute.matches(shown.minute) and hour.matches(shown.hour) and (is_wildcard(hour) or not shown.fold)
    ]
    schedule = parse_cron(f"{minute.text} {hour.text} * * *", change.timezone)
    upcoming = [at for at in expected if at > after]
    assert ticks_between(schedule, after, change.at + WINDOW_MS - MINUTE_MS, ENOUGH) == upcoming

    missing = [m.isoformat() for m in missing_minutes(change) if minute.matches(m.minute) and hour.matches(m.hour)]
    for previous, at in pairwise([after, *upcoming]):
        if previous < change.at <= at:
            assert next_tick(schedule, previous) == Tick(at, tuple(missing[:SKIPPED_MAX]))
        elif abs(at - change.at) < 10 * MINUTE_MS:
            assert next_tick(schedule, previous) == Tick(at, ())


@settings(max_examples=60, deadline=None)
@given(numbers(0, 59), numbers(0, 59), st.integers(0, 4_000_000_000_000))
def test_seconds_match_the_oracle(second: Part, minute: Part, after: int) -> None:
    """C-CRN-05: with six fields the first is the second."""
    start = after // 1_000
    end = start + 3_600
    expected = [s * 1_000 for s in range(start + 1, end + 1) if second.matches(s % 60) and minute.matches(s // 60 % 60)]
    schedule = parse_cron(f"{second.text} {minute.text} * * * *")
    assert ticks_between(schedule, after, end * 1_000, limit=20) == expected[:20]


@settings(max_examples=60, deadline=None)
@example(15, Part("*/24", lambda hour: hour == 0), date(2024, 10, 27), "Atlantic/Azores", 0)
@example(30, Part("23", lambda hour: hour == 23), date(2018, 2, 17), "America/Sao_Paulo", 0)
@given(
    st.integers(0, 59),
    number_items(0, 23),
    st.dates(date(2000, 1, 1), date(2035, 12, 31)),
    st.sampled_from([timezone for timezone, *_ in DST_ZONES]),
    st.integers(0, 4),
)
def test_one_day_a_year_matches_the_oracle(minute: int, hour: Part, day: date, timezone: str, years: int) -> None:
    """C-CRN-13, Q-26: far-off firings jump over years of clock changes and still see the ones that matter."""
    expected = set()
    for year in range(day.year - years, day.year + 5):
        if day.month == 2 and day.day == 29 and not calendar.isleap(year):
            continue
        midnight = datetime.combine(day.replace(year=year), time(minute=minute))
        for shown in (midnight.replace(hour=h) for h in range(24) if hour.matches(h)):
            for fold in (0, 1) if is_wildcard(hour) else (0,):
                at = to_ms(shown.replace(tzinfo=ZoneInfo(timezone), fold=fold))
                if local(at, timezone).replace(tzinfo=None) == shown:
                    expected.add(at)
    first, last = ms(f"{day.year - years}-01-01", timezone) - 1, ms(f"{day.year + 5}-01-01", timezone) - 1
    schedule = parse_cron(f"{minute} {hour.text} {day.day} {day.month} *", timezone)
    assert ticks_between(schedule, first, last, ENOUGH) == sorted(expected)


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("@yearly", "2025-01-01 00:00"),
        ("@annually", "2025-01-01 00:00"),
        ("@monthly", "2024-03-01 00:00"),
        ("@weekly", "2024-02-18 00:00"),
        ("@daily", "2024-02-15 00:00"),
        ("@midnight", "2024-02-15 00:00"),
        ("@hourly", "2024-02-14 11:00"),
        (" @Daily ", "2024-02-15 00:00"),
    ],
)
def test_aliases(alias: str, expected: str) -> None:
    """C-CRN-08: the alias means its expression, and stays as typed."""
    schedule = parse_cron(alias)
    assert walls([next_at(schedule, ms("2024-02-14T10:20:30"))]) == [expected]
    assert schedule.expression == alias


def test_fields_are_counted_by_white_space() -> None:
    """C-CRN-05: any run of spaces or tabs separates; five fields fire at second 0."""
    assert next_at(parse_cron("\t5  4 * *\t* "), 0) == ms("1970-01-01T04:05:00")
    assert next_at(parse_cron("30 5 4 * * *"), 0) == ms("1970-01-01T04:05:30")


def test_next_is_strictly_after() -> None:
    """C-CRN-12: a firing is not its own successor, to the millisecond."""
    schedule = parse_cron("* * * * *")
    assert next_at(schedule, 60_000) == 120_000
    assert next_at(schedule, 59_999) == 60_000
    assert next_at(schedule, 60_001) == 120_000


def test_time_zone_shifts_the_instant() -> None:
    """C-CRN-12, L2-TZ-001: nine in the morning comes earlier in Tokyo than in New York, and later there in winter."""
    noon = ms("2024-07-01T12:00")
    assert next_at(parse_cron("0 9 * * *", "Asia/Tokyo"), noon) == ms("2024-07-02T00:00")
    assert next_at(parse_cron("0 9 * * *", NEW_YORK), noon) == ms("2024-07-01T13:00")
    assert next_at(parse_cron("0 9 * 1 *", NEW_YORK), noon) == ms("2025-01-01T14:00")


def test_ticks_between_includes_the_end_and_stops_at_the_limit() -> None:
    schedule = parse_cron("*/10 * * * *")
    assert ticks_between(schedule, 0, 1_800_000, 9) == [600_000, 1_200_000, 1_800_000]
    assert ticks_between(schedule, 0, 1_799_999, 9) == [600_000, 1_200_000]
    assert ticks_between(schedule, 0, 1_800_000, 2) == [600_000, 1_200_000]
    assert ticks_between(schedule, 0, 1_800_000, 0) == []
    assert ticks_between(schedule, 1_800_000, 0, 9) == []


# Clock changes.


def is_shown(wall: datetime, timezone: str) -> bool:
    """Whether a clock in `timezone` ever shows this wall time."""
    there = wall.replace(tzinfo=ZoneInfo(timezone))
    return there.astimezone(UTC).astimezone(there.tzinfo).replace(tzinfo=None) == wall


def test_missing_wall_times_do_not_fire() -> None:
    """C-CRN-13: a fixed wall time inside each gap is passed over and reported once; the next day it fires again."""
    for change in GAPS:
        missing = change.before + (change.after - change.before) // 2
        schedule = parse_cron(f"{missing.minute} {missing.hour} * * *", change.timezone)
        next_day = missing + timedelta(days=1)
        while not is_shown(next_day, change.timezone):
            next_day += timedelta(days=1)
        following = ms(next_day.isoformat(), change.timezone)
        assert next_tick(schedule, change.at - 1) == Tick(following, (missing.isoformat(),)), change
        assert next_tick(schedule, change.at) == Tick(following, ()), change


def test_repeated_wall_times_fire_once_for_fixed_hours() -> None:
    """C-CRN-13: a fixed wall time inside each fold fires at its first occurrence only."""
    for change in FOLDS:
        repeated = change.after + (change.before - change.after) // 2
        schedule = parse_cron(f"{repeated.minute} {repeated.hour} * * *", change.timezone)
        first = change.at - (change.before - repeated) // timedelta(milliseconds=1)
        second = change.at + (repeated - change.after) // timedelta(milliseconds=1)
        assert ticks_between(schedule, change.at - DAY_MS // 2, change.at + DAY_MS // 2, 9) == [first], change
        assert next_at(schedule, second - 1) == next_at(schedule, first) > second, change


@pytest.mark.parametrize("hour", ["*", "*/1"])
def test_repeated_wall_times_fire_twice_for_wildcard_hours(hour: str) -> None:
    """Q-26: every ten minutes stays every ten minutes in each fold."""
    for change in FOLDS:
        schedule = parse_cron(f"*/10 {hour} * * *", change.timezone)
        start, end = change.at - WINDOW_MS - 1, change.at + WINDOW_MS - 1
        ticks = ticks_between(schedule, start, end, ENOUGH)
        assert ticks == [at for at, shown in clock_around(change.timezone, change.at) if shown.minute % 10 == 0], change


@pytest.mark.parametrize(
    ("expression", "fired", "skipped"),
    [
        ("30 2 * * *", ["2024-04-01 02:30"], ["2024-03-31T02:30:00"]),
        ("0 2 * * *", ["2024-04-01 02:00"], ["2024-03-31T02:00:00"]),
        ("0 3 * * *", ["2024-03-31 03:00"], []),
        ("0 */2 * * *", ["2024-03-31 04:00"], ["2024-03-31T02:00:00"]),
        ("30 1-4 * * *", ["2024-03-31 03:30"], ["2024-03-31T02:30:00"]),
        ("*/20 * * * *", ["2024-03-31 03:00"], ["2024-03-31T02:00:00", "2024-03-31T02:20:00", "2024-03-31T02:40:00"]),
        ("59 59 2 * * *", ["2024-04-01 02:59"], ["2024-03-31T02:59:59"]),
    ],
)
def test_spring_in_berlin(expression: str, fired: list[str], skipped: list[str]) -> None:
    """C-CRN-13: 2:00 to 3:00 does not exist on 31 March 2024; 3:00 does."""
    tick = next_tick(parse_cron(expression, BERLIN), ms("2024-03-31T01:59", BERLIN))
    assert (walls([tick.at], BERLIN), list(tick.skipped)) == (fired, skipped)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 1 * * *", ["05:30"]),
        ("0 1 * * *", ["05:00"]),
        ("0 2 * * *", ["07:00"]),
        ("0 0-3 * * *", ["04:00", "05:00", "07:00", "08:00"]),
        ("0 0,1 * * *", ["04:00", "05:00"]),
        ("30 * 3 11 *", ["04:30", "05:30", "06:30", "07:30", "08:30"]),
        ("@hourly", ["04:00", "05:00", "06:00", "07:00", "08:00"]),
        ("0 */2 * * *", ["04:00", "07:00"]),
        ("0 */1 * * *", ["04:00", "05:00", "06:00", "07:00", "08:00"]),
        ("@daily", ["04:00"]),
    ],
)
def test_autumn_in_new_york(expression: str, expected: list[str]) -> None:
    """C-CRN-13, Q-26: 1:00 to 2:00 comes twice on 3 November 2024, at 05:00 and 06:00 UTC."""
    ticks = ticks_between(parse_cron(expression, NEW_YORK), ms("2024-11-03T03:59"), ms("2024-11-03T08:59"), ENOUGH)
    assert walls(ticks) == [f"2024-11-03 {shown}" for shown in expected]


def test_a_whole_skipped_day() -> None:
    """C-CRN-13: Samoa had no 30 December 2011; reports are capped, the cap counts per firing."""
    after = ms("2011-12-29T23:59", "Pacific/Apia")
    assert next_tick(parse_cron("0 12 * * *", "Pacific/Apia"), after) == Tick(
        ms("2011-12-31T12:00", "Pacific/Apia"), ("2011-12-30T12:00:00",)
    )
    assert next_tick(parse_cron("0 9 30 12 *", "Pacific/Apia"), after) == Tick(
        ms("2012-12-30T09:00", "Pacific/Apia"), ("2011-12-30T09:00:00",)
    )
    each_second = next_tick(parse_cron("* * * * * *", "Pacific/Apia"), after + 59_000)
    assert each_second.at == ms("2011-12-31", "Pacific/Apia")
    assert len(each_second.skipped) == SKIPPED_MAX
    assert each_second.skipped[:2] == ("2011-12-30T00:00:00", "2011-12-30T00:00:01")


def test_skips_of_several_years() -> None:
    """C-CRN-13: clocks in Tehran jumped over this hour in 2018 and 2019; the reports of both years share one cap."""
    tick = next_tick(parse_cron("* 0 22 3 *", "Asia/Tehran"), ms("2017-04-01"))
    assert tick.at == ms("2020-03-22", "Asia/Tehran")
    assert len(tick.skipped) == SKIPPED_MAX
    assert tick.skipped[::60] == ("2018-03-22T00:00:00", "2019-03-22T00:00:00")


def test_midnight_that_does_not_exist() -> None:
    """C-CRN-13: clocks in Sao Paulo went from 23:59 to 1:00 on 4 November 2018, so `@daily` missed that day."""
    tick = next_tick(parse_cron("@daily", "America/Sao_Paulo"), ms("2018-11-03T12:00", "America/Sao_Paulo"))
    assert tick == Tick(ms("2018-11-05", "America/Sao_Paulo"), ("2018-11-04T00:00:00",))


def test_always_in_a_gap() -> None:
    """C-CRN-07, C-CRN-13: the second Sunday of March is when New York skips 2:30, every year; the search ends."""
    schedule = parse_cron("30 2 * 3 SUN#2", NEW_YORK)
    with pytest.raises(CronError, match="never fires within 41 years") as caught:
        next_tick(schedule, ms("2024-01-01"))
    assert caught.value.field == "expression"
    assert ticks_between(schedule, ms("2024-01-01"), ms("2064-01-01"), ENOUGH) == []


def test_the_end_of_the_calendar() -> None:
    """C-CRN-07: a clock turned to the end of the year 9999 gives an error, not an overflow."""
    with pytest.raises(CronError, match="never fires"):
        next_tick(parse_cron("@yearly"), ms("9999-12-31"))


def test_a_schedule_keeps_no_position() -> None:
    """C-CRN-12: schedules are cached and shared, so asking in any order gives the same answers."""
    schedule = parse_cron("*/7 3 * * MON#2,2L", BERLIN)
    instants = [ms(f"20{year}-06-01") for year in range(10, 40)]
    forward = [next_at(schedule, at) for at in instants]
    assert [next_at(schedule, at) for at in reversed(instants)] == forward[::-1]
    assert parse_cron("*/7 3 * * MON#2,2L", BERLIN) is schedule
    assert [rule.cron.get_current() for rule in schedule.rules] == [0.0]


def test_schedules_show_and_compare_their_texts() -> None:
    assert repr(parse_cron("@daily", BERLIN)) == "CronSchedule(expression='@daily', timezone='Europe/Berlin')"
    assert parse_cron("@daily") == parse_cron("@daily", "UTC")
    assert parse_cron("@daily") != parse_cron("0 0 * * *")


# Refusals.

INVALID = """
    4 fields             | not a valid cron ; * * * *
    7 fields             | 0 0 0 0 0 0 0 ; 0 0 0 1 1 * 2030
    not a known alias    | @reboot ; @ ; @daily @daily ; @daily * * * *
    second '60'          | 60 * * * * *
    minute '60' is not valid: expected 0-59 | 60 * * * * ; 5-60 * * * * ; 60/5 * * * *
    minute '99'          | 99 25 32 13 8
    hour '24'            | * 24 * * *
    day of month '0'     | * * 0 * * ; * * 0W * *
    day of month '32'    | * * 32 * * ; * * *,32 * * ; * * 32W * *
    month '0'            | * * * 0 *
    month '13'           | * * * 13 *
    day of week '8'      | * * * * 8 ; * * * * *,8 ; * * * * 8L ; * * * * 8#1
    step 0               | */0 * * * * ; 5-10/0 * * * *
    runs backwards       | 30-10 * * * * ; * 22-2 * * * ; * * * NOV-FEB * ; * * * * FRI-SUN
    minute '' is malformed | 1,,2 * * * * ; 1, * * * * ; ,1 * * * *
    malformed            | */-5 * * * * ; */ * * * * ; /5 * * * * ; */5/2 * * * * ; */1.5 * * * * ; 5- * * * *
    malformed            | -5 * * * * ; 1-2-3 * * * * ; *-5 * * * * ; 5-* * * * * ; ** * * * * ; +5 * * * *
    malformed            | 1_0 * * * *
    # Names in the wrong field, or not of three letters.
    minute 'mon'         | MON * * * *
    minute '0x5'         | 0x5 * * * *
    day of month 'mon'   | * * MON * *
    month 'mon'          | * * * MON *
    day of week 'jan'    | * * * * JAN
    month 'january'      | * * * JANUARY *
    # What croniter has and the spec has not.
    minute 'h'           | H * * * *
    minute 'r'           | R * * * *
    malformed            | H(0-5) * * * * ; * * ? * * ; * * * * ? ; * * * * MON-FRI#2 ; * * * * *#2
    day of month 'l'     | * * 1-L * * ; * * L/2 * * ; * * L-3 * *
    day of month 'w15'   | * * W15 * *
    # Special letters where they do not belong.
    minute 'l'           | L * * * *
    month 'l'            | * * * L *
    day of week 'l'      | * * * * L
    day of week '15w'    | * * * * 15W
    day of month 'w'     | * * W * *
    day of month '5w'    | * * 1-5W * *
    expected #1 to #5    | * * * * 1#0 ; * * * * 1#6
    malformed            | * * 5#2 * * ; * * * * 1#
"""


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        *((expression, message) for message, expressions in rows(INVALID) for expression in expressions.split(" ; ")),
        ("", "0 fields"),
        ("  \t ", "0 fields"),
        ("*\0 * * * *", "malformed"),
        # Digits and letters that only look like ASCII; the Kelvin sign is a `k` in lower case.
        ("\u0661 * * * *", "outside ASCII"),
        ("@wee\u212aly", "outside ASCII"),
        ("*\u00a0* * * *", "outside ASCII"),
        ("\ud800 * * * *", "outside ASCII"),
        ("0 0 1 1 *" + " " * EXPRESSION_CHARS_MAX, "expected at most 255"),
        ("1" * EXPRESSION_CHARS_MAX + " * * * *", "expected at most 255"),
    ],
)
def test_invalid_expressions(expression: str, message: str) -> None:
    """C-CRN-05, C-CRN-07: refused, saying what is wrong and what is expected."""
    with pytest.raises(CronError, match=re.escape(message)) as caught:
        parse_cron(expression)
    assert caught.value.field == "expression"
    assert "expected" in str(caught.value)


def test_the_longest_expression() -> None:
    """C-CRN-07: the length limit itself is accepted."""
    expression = ",".join(["0"] * 124) + " * * * *"
    assert len(expression) == EXPRESSION_CHARS_MAX
    assert next_at(parse_cron(expression), 0) == HOUR_MS


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_other_text_is_a_cron_error(expression: str, timezone: str) -> None:
    """C-CRN-07, C-CRN-11: whatever a client sends, the answer is a schedule or a `CronError`."""
    with suppress(CronError):
        parse_cron(expression)
    for name in (timezone, f"Europe/{timezone}"):
        with suppress(CronError):
            parse_cron("@daily", name)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("0123456789*,-/LW#?SUNFE ", min_size=1, max_size=5), min_size=5, max_size=6).map(" ".join))
def test_nearly_valid_text_is_a_schedule_that_fires_or_a_cron_error(expression: str) -> None:
    """C-CRN-07: no mixture of the cron characters escapes as another exception, at parsing or later."""
    with suppress(CronError):
        assert next_at(parse_cron(expression), 0) > 0


# Time zones.

NO_TIME_ZONES = """
    +05:00 | -08:00 | UTC+5 | GMT-3 | EST | PST | CST | EST5EDT | CET | GMT | Z | utc | Japan | localtime | Factory
    europe/berlin | Europe/Atlantis | Mars/Olympus | Europe/Berlin/ | Europe/__init__.py | Europe//Berlin
    America | America/ | America/Indiana | posix/Europe/Berlin | right/Europe/Berlin
    ../etc/passwd | Europe/../../etc/passwd | Europe/./Berlin | /etc/localtime | /usr/share/zoneinfo/Europe/Berlin
"""
ODD_TIME_ZONES = ["", " ", "UTC ", " Europe/Berlin", "Europe/Berlin\n", "Europe/Berlin\0", "Europe/Z\u00fcrich"]
ODD_TIME_ZONES += ["Europe/\ud800", "\u0395urope/Berlin", "Europe/" + "x" * 300, "A/" * 5_000 + "B"]


@pytest.mark.parametrize("timezone", [*(name for row in rows(NO_TIME_ZONES) for name in row), *ODD_TIME_ZONES])
def test_invalid_time_zones(timezone: str) -> None:
    """C-CRN-11: offsets, abbreviations, unknown names, directories and odd paths all give the same error."""
    with pytest.raises(CronError, match="is not a time zone: expected UTC or an IANA name") as caught:
        parse_cron("@daily", timezone)
    assert caught.value.field == "timezone"
    assert len(str(caught.value)) < 500


def test_every_iana_name_with_a_slash() -> None:
    """C-CRN-11: all of them load, `Etc/GMT+5` included, which is a name and not an offset."""
    names = {name for name in zoneinfo.available_timezones() if "/" in name}
    assert {"Etc/GMT+5", "America/Argentina/ComodRivadavia", "America/Port-au-Prince"} <= names
    for name in names | {"UTC"}:
        assert parse_cron("@daily", name).timezone == name


# Intervals.


@pytest.mark.parametrize(
    ("duration", "every_ms"),
    [
        ("1s", 1_000),
        ("45s", 45_000),
        ("30m", 30 * MINUTE_MS),
        ("2h", 2 * HOUR_MS),
        ("1h30m", 90 * MINUTE_MS),
        ("2h45m30s", 2 * HOUR_MS + 45 * MINUTE_MS + 30_000),
        ("1500ms", 1_500),
        ("1m500ms", 60_500),
        ("1.5h", 90 * MINUTE_MS),
        ("1.2345s", 1_234),
        ("30s30s", MINUTE_MS),
        ("0h90m", 90 * MINUTE_MS),
        ("1000h", 1_000 * HOUR_MS),
    ],
)
def test_every_counts_from_its_anchor(duration: str, every_ms: int) -> None:
    """C-CRN-09: the interval is counted from the instant given, whatever the time zone does."""
    schedule = parse_cron(f"@every {duration}", BERLIN)
    assert next_tick(schedule, 12_345) == Tick(12_345 + every_ms, ())
    expected = [12_345 + every_ms, 12_345 + 2 * every_ms, 12_345 + 3 * every_ms]
    assert ticks_between(schedule, 12_345, 12_345 + 4 * every_ms, 3) == expected
    assert ticks_between(schedule, 12_345, 12_345 + 3 * every_ms, 9) == expected
    assert schedule.expression == f"@every {duration}"


def test_every_allows_spaces_and_case_around_it() -> None:
    """C-CRN-09."""
    assert next_at(parse_cron(" @Every  1m "), 0) == MINUTE_MS


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        *((text, "malformed") for text in ["", " ", "1h", "day", " 5", " h", " 1d", " 1M", " 5us", " PT1H"]),
        *((text, "malformed") for text in [" 1h 30m", " -1h", " +1h", " 1.h", " .5h", " 1h * * * *"]),
        *((text, "out of range: expected 1s to") for text in [" 0s", " 500ms", " 999ms", " 0.9999s"]),
        *((text, "out of range: expected 1s to") for text in [" 999999h", " " + "9" * 200 + "h"]),
    ],
)
def test_invalid_intervals(duration: str, message: str) -> None:
    """C-CRN-09: malformed durations and anything under a second are refused; units keep their case, as in Go."""
    with pytest.raises(CronError, match=message) as caught:
        parse_cron(f"@every{duration}")
    assert caught.value.field == "expression"


def test_examples_in_the_documentation() -> None:
    results = doctest.testmod(importlib.import_module("ojs_core.cron"))
    assert results.attempted
    assert not results.failed
