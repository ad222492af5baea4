"""Cron expressions: what they mean, and the instants at which they fire.

Pure functions of an expression, a time zone and an instant: nothing here reads a clock, stores anything or decides what
a firing does. Instants are milliseconds since the epoch, UTC. The rules are OJS cron §3 (syntax), §4 (aliases and
`@every`) and §5 (time zones and DST).

The calendar arithmetic is croniter's, within a fence. croniter reads much that the spec does not have (`H`, `R`, `?`,
years, ranges that wrap, `5-5` as the whole field) and lets `#` and `W` narrow the other day field instead of widening
it. So every field is read here, strictly, and croniter gets plain lists of numbers, one day rule at a time. It is also
asked about wall-clock time only: given a zone, it moves firings out of DST gaps and fires twice in folds. Wall-clock
time becomes UTC here, one stretch of constant offset after the other:

* A wall time the clock jumps over does not fire, and is reported (§5.2).
* A wall time the clock shows twice fires the first time only (§5.2), unless the hour field is `*` or `*/n`. The letter
  of §5.2 would silence `*/5 * * * *` for an hour; cron practice keeps such entries running, and so do we.
"""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]  # croniter ships no types

EXPRESSION_CHARS_MAX = 255
EVERY_MS_MIN = 1_000
SKIPPED_MAX = 100
"""The most wall times one `Tick` reports as skipped, so that a per-second entry cannot flood the event stream."""

_SECOND_MS = 1_000
_DAY_S = 86_400
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # wall-clock time is naive on purpose
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)

# 29 February falls on a given weekday every 28 years, but every 40 across a year such as 2100 that is not leap.
_SEARCH_YEARS = 41
_SEARCH_S = _SEARCH_YEARS * 366 * _DAY_S
# datetime ends with 9999; no search that starts before this reaches it.
_END_S = 250_000_000_000
# No zone changes its offset twice within a day (the shortest stay since 1970 is a week), nor by more than a day.
_PIECE_S = _DAY_S
_FOLD_MAX_S = _DAY_S
_MARGIN_S = 2 * _DAY_S


class CronError(ValueError):
    """A schedule that cannot be used; the message says what is wrong and what is expected.

    `field` names the offending part: `"expression"` or `"timezone"`. OJS cron §3.5, §5.1.
    """

    def __init__(self, message: str, field: Literal["expression", "timezone"] = "expression") -> None:
        super().__init__(message)
        self.field = field


class Tick(NamedTuple):
    """One firing, at `at` (ms since the epoch).

    `skipped` holds the wall times passed over before `at` that matched but fell into a DST gap: ISO 8601 without
    offset, in order, at most the first `SKIPPED_MAX`.
    """

    at: int
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class CronSchedule:
    """A parsed schedule, made by `parse_cron`. Immutable, safe to share between threads; equal when the texts are.

    `expression` and `timezone` are as typed. The rest is for this module: the day rules of which any may match, whether
    repeated wall times fire again, and the interval of an `@every` expression (0 for all others).
    """

    expression: str
    timezone: str
    zone: ZoneInfo = dataclasses.field(repr=False, compare=False)
    rules: tuple[_Rule, ...] = dataclasses.field(repr=False, compare=False)
    fires_in_both_passes: bool = dataclasses.field(repr=False, compare=False)
    every_ms: int = dataclasses.field(repr=False, compare=False)


def parse_cron(expression: str, timezone: str = "UTC") -> CronSchedule:
    """Read `expression`: five fields, six with seconds first, an alias such as `@daily`, or `@every 1h30m`.

    `timezone` is `UTC` or an IANA name with a `/`. Results are cached. Raises `CronError` for anything else, also for
    an expression that matches no date at all (one that matches only wall times its zone skips is left to `next_tick`).
    OJS cron §3, §4, §5.1.

    >>> next_at(parse_cron("30 8 * * MON-FRI", "Asia/Tokyo"), after=0)
    84600000
    """
    return _parse(expression, timezone)


def next_tick(schedule: CronSchedule, after: int) -> Tick:
    """Return the first firing strictly after `after` (ms since the epoch), with the wall times skipped on the way.

    `after` is between 1970 and the year 9850. An `@every` schedule counts from it, so it should be the time of
    registration or of the last firing (OJS cron §4.1). Asked again with each answer, reports each skipped wall time
    once. Raises `CronError` if nothing fires within 41 years: `30 2 * 3 SUN#2` in New York is always skipped.
    """
    for tick in _ticks(schedule, after, after + _SEARCH_S * _SECOND_MS):
        return tick
    raise CronError(f"{schedule.expression!r} in {schedule.timezone} never fires within {_SEARCH_YEARS} years")


def next_at(schedule: CronSchedule, after: int) -> int:
    """Return only the instant of `next_tick`."""
    return next_tick(schedule, after).at


def ticks_between(schedule: CronSchedule, after: int, until: int, limit: int) -> list[int]:
    """Return the firings in (`after`, `until`], in order, at most the first `limit` (0 or more).

    An `@every` schedule counts from `after`. Raises no `CronError`: a schedule that does not fire gives an empty list.
    """
    return [tick.at for tick in islice(_ticks(schedule, after, until), limit)]


def _ticks(schedule: CronSchedule, after: int, until: int) -> Iterator[Tick]:
    """Yield the firings in (`after`, `until`], stretch by stretch of constant UTC offset."""
    if schedule.every_ms:
        yield from (Tick(at, ()) for at in range(after + schedule.every_ms, until + 1, schedule.every_ms))
        return
    after_s = after // _SECOND_MS
    end_s = min(until // _SECOND_MS + 1, _END_S)
    matches = _Matches(schedule.rules)
    skipped: list[str] = []
    # A fold that holds `after` began before it.
    begin = after_s - _MARGIN_S
    shown_until = begin + _offset(schedule.zone, begin)
    while begin < end_s:
        offset = _offset(schedule.zone, begin)
        end = _change_or(min(begin + _PIECE_S, end_s), schedule.zone, begin, offset)
        first, stop = begin + offset, end + offset
        if begin > after_s:
            missing = islice(matches.between(shown_until, first), SKIPPED_MAX - len(skipped))
            skipped += [_wall(match).isoformat() for match in missing]
        fresh = first if schedule.fires_in_both_passes else max(first, shown_until)
        for match in matches.between(max(fresh, after_s + 1 + offset), stop):
            yield Tick((match - offset) * _SECOND_MS, tuple(skipped))
            skipped = []
        shown_until = stop
        # Where no wall time matches, not even one shown again, the changes of offset do not matter.
        begin = max(end, matches.none_until(stop - _FOLD_MAX_S) - offset - _MARGIN_S)


def _change_or(stop: int, zone: ZoneInfo, begin: int, offset: int) -> int:
    """Return when the offset of `zone` changes in (`begin`, `stop`), or `stop` if it does not."""
    if _offset(zone, stop) == offset:
        return stop
    return begin + bisect_left(range(begin, stop), x=True, key=lambda at: _offset(zone, at) != offset)


def _offset(zone: ZoneInfo, at: int) -> int:
    local = (_EPOCH_UTC + timedelta(seconds=at)).astimezone(zone).replace(tzinfo=None)
    return (local - _EPOCH) // timedelta(seconds=1) - at


def _wall(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


class _Rule(NamedTuple):
    """Times of day on one kind of day. Firing is when any rule of a schedule matches."""

    cron: croniter
    month_days_min: int

    def first_after(self, wall: datetime) -> datetime:
        """Return the first match after `wall`. Raise `CroniterBadDateError`, as croniter does, if none is near."""
        # croniter keeps its position in itself, and threads share schedules.
        cron = copy(self.cron)
        year_max = wall.year + _SEARCH_YEARS
        while wall.year <= year_max:
            wall = cron.get_next(datetime, wall)
            month_days = monthrange(wall.year, wall.month)[1]
            if month_days >= self.month_days_min:
                return wall
            # croniter moves `31W` to the end of a shorter month; a day that does not exist must not fire (§3.5).
            wall = wall.replace(day=month_days, hour=23, minute=59, second=59)
        raise CroniterBadDateError

    def is_possible(self) -> bool:
        try:
            self.first_after(_EPOCH)
        except CroniterBadDateError:
            return False
        return True


class _Matches:
    """The wall times, in seconds, at which any of some rules match. Remembers its last search, often years ahead."""

    def __init__(self, rules: tuple[_Rule, ...]) -> None:
        self._rules = rules
        self._searched_from = 0
        self._found = -1

    def between(self, first: int, stop: int) -> Iterator[int]:
        """Yield the matches in [`first`, `stop`), in order."""
        while first < stop:
            if not self._searched_from <= first <= self._found:
                before = _wall(first - 1)
                self._found = min((rule.first_after(before) - _EPOCH) // timedelta(seconds=1) for rule in self._rules)
                self._searched_from = first
            if self._found >= stop:
                return
            first = self._found + 1
            yield self._found

    def none_until(self, wall: int) -> int:
        """Return the end of the stretch without a match that holds `wall`, or `wall` if no search has covered it."""
        return self._found if self._searched_from <= wall else wall


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    expected: str
    names: dict[str, int]


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_SECOND = _Field("second", 0, 59, "0-59", {})
_MINUTE = _Field("minute", 0, 59, "0-59", {})
_HOUR = _Field("hour", 0, 23, "0-23", {})
_DAY = _Field("day of month", 1, 31, "1-31, L, LW or 1W-31W", {})
_MONTH = _Field("month", 1, 12, "1-12 or JAN-DEC", {name: number for number, name in enumerate(_MONTHS, 1)})
# 7 is one more name of Sunday, not the end of the field: `1/2` is Monday, Wednesday, Friday.
_WEEKDAY = _Field(
    "day of week", 0, 6, "0-7 or SUN-SAT, 5L or 5#3", {name: day for day, name in enumerate(_WEEKDAYS)} | {"7": 7}
)
_WEEKDAY_NTH_MAX = 5
_FIELD_COUNT = 6

_ITEM = re.compile(r"(?:\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]+))?")
_HOUR_WILDCARD = re.compile(r"\*(?:/[0-9]+)?")
_NEAREST_WEEKDAY = re.compile(r"([0-9]+)w")
_NTH_WEEKDAY = re.compile(r"([a-z0-9]+)#([0-9]+)")
_LAST_WEEKDAY = re.compile(r"l([a-z0-9]+)|([a-z0-9]+)l")
_EVERY = re.compile(r"(?i:@every)\s+((?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+)")
_EVERY_PART = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ms|s|m|h)")
_EVERY_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# Not like this: absolute and relative paths, the `posix/` and `right/` copies some systems keep, and paths so deep
# that loading them exhausts the stack.
_ZONE_NAME = re.compile(r"[A-Z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){1,2}")


@lru_cache(maxsize=1024)
def _parse(expression: str, timezone: str) -> CronSchedule:
    zone = _parse_zone(timezone)
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise CronError(f"the expression has {len(expression)} characters: expected at most {EXPRESSION_CHARS_MAX}")
    if not expression.isascii():
        # Some letters outside ASCII become ASCII ones in lower case.
        raise CronError(f"{expression!r} holds characters outside ASCII: expected digits, names and * , - / L W #")
    text = expression.strip().lower()
    if text.startswith("@every"):
        every_ms = _parse_every(expression.strip())
        return CronSchedule(expression, timezone, zone, (), fires_in_both_passes=False, every_ms=every_ms)
    second, minute, hour, day, month, weekday = _split(text)
    clock = f"{_numbers(_SECOND, second)} {_numbers(_MINUTE, minute)} {_numbers(_HOUR, hour)}"
    months = _numbers(_MONTH, month)
    candidates = (
        _make_rule(f"{clock} {days} {months} {weekdays}", month_days_min)
        for days, weekdays, month_days_min in _day_rules(day, weekday)
    )
    rules = tuple(rule for rule in candidates if rule.is_possible())
    if not rules:
        raise CronError(f"{expression!r} never fires: expected a day that occurs in one of its months")
    both = _HOUR_WILDCARD.fullmatch(hour) is not None
    return CronSchedule(expression, timezone, zone, rules, fires_in_both_passes=both, every_ms=0)


def _parse_zone(name: str) -> ZoneInfo:
    """Load a zone. Abbreviations such as `EST` are in the tz database too, hence the `/`."""
    if name == "UTC" or _ZONE_NAME.fullmatch(name):
        # A directory (`America/Indiana`) or an overlong name is an OSError, a file that is no zone a ValueError.
        with suppress(ZoneInfoNotFoundError, OSError, ValueError):
            return ZoneInfo(name)
    raise CronError(
        f"{name[:64]!r} is not a time zone: expected UTC or an IANA name with a /, such as Europe/Berlin", "timezone"
    )


def _parse_every(text: str) -> int:
    """Return the milliseconds of `@every <duration>`. OJS cron §4.1."""
    match = _EVERY.fullmatch(text)
    if match is None:
        raise CronError(
            f"{text!r} is malformed: expected @every and a duration such as 90s or 1h30m (units h, m, s, ms)"
        )
    every_ms = 0
    for whole, fraction, unit in _EVERY_PART.findall(match[1]):
        every_ms += int(whole + fraction) * _EVERY_UNITS_MS[unit] // 10 ** len(fraction)
    if not EVERY_MS_MIN <= every_ms <= _SEARCH_S * _SECOND_MS:
        raise CronError(f"{text!r} is out of range: expected 1s to {_SEARCH_S // 3_600}h")
    return every_ms


def _split(text: str) -> list[str]:
    """Return the six fields, seconds first, of an expression in lower case."""
    if text.startswith("@") and text not in _ALIASES:
        raise CronError(f"{text!r} is not a known alias: expected {', '.join(_ALIASES)} or @every <duration>")
    fields = _ALIASES.get(text, text).split()
    if len(fields) not in {_FIELD_COUNT - 1, _FIELD_COUNT}:
        raise CronError(
            f"the expression has {len(fields)} fields: expected 5 (minute, hour, day of month, month, day of week)"
            " or 6 with seconds first"
        )
    return ["0"] * (_FIELD_COUNT - len(fields)) + fields


def _make_rule(expression: str, month_days_min: int) -> _Rule:
    # Without a start croniter would read the clock.
    cron = croniter(expression, _EPOCH, second_at_beginning=True, max_years_between_matches=_SEARCH_YEARS)
    return _Rule(cron, month_days_min)


def _day_rules(day: str, weekday: str) -> list[tuple[str, str, int]]:
    """Return the kinds of day that match, as (day of month, day of week, least days in the month) for croniter.

    When both fields are restricted a day may match either (POSIX), so each rule leaves one of them open. A field that
    holds a `*`, even among others, is not restricted.
    """
    month_rules, week_rules = _month_day_rules(day.split(",")), _weekday_rules(weekday.split(","))
    rules = [*([] if _is_open(day) else month_rules), *([] if _is_open(weekday) else week_rules)]
    return rules or [("*", "*", 0)]


def _is_open(text: str) -> bool:
    return not {"*", "*/1"}.isdisjoint(text.split(","))


def _month_day_rules(items: list[str]) -> list[tuple[str, str, int]]:
    plain, days, rules = [], [], []
    for item in items:
        if item == "l":
            days.append(item)
        elif item == "lw":
            # croniter has no `LW`, but takes `31W` to the last weekday of any month.
            rules.append(("31w", "*", 0))
        elif nearest := _NEAREST_WEEKDAY.fullmatch(item):
            number = _number(_DAY, nearest[1])
            rules.append((f"{number}w", "*", number))
        else:
            plain.append(item)
    days += map(str, _expand(_DAY, plain))
    return [(",".join(days), "*", 0), *rules] if days else rules


def _weekday_rules(items: list[str]) -> list[tuple[str, str, int]]:
    plain, of_month = [], []
    for item in items:
        if nth := _NTH_WEEKDAY.fullmatch(item):
            if not 1 <= int(nth[2]) <= _WEEKDAY_NTH_MAX:
                raise CronError(f"{_WEEKDAY.name} {item!r} is not valid: expected #1 to #{_WEEKDAY_NTH_MAX}")
            of_month.append(f"{_number(_WEEKDAY, nth[1]) % 7}#{int(nth[2])}")
        elif last := _LAST_WEEKDAY.fullmatch(item):
            of_month.append(f"l{_number(_WEEKDAY, last[1] or last[2]) % 7}")
        else:
            plain.append(item)
    days = {str(number % 7) for number in _expand(_WEEKDAY, plain)}
    return [("*", ",".join(list_), 0) for list_ in (sorted(days), of_month) if list_]


def _numbers(part: _Field, text: str) -> str:
    numbers = _expand(part, text.split(","))
    # croniter reads a long list slowly.
    return "*" if len(numbers) > part.high - part.low else ",".join(map(str, sorted(numbers)))


def _expand(part: _Field, items: Iterable[str]) -> set[int]:
    """Return the numbers that `*`, `a`, `a-b`, and these with `/n`, stand for. `a/n` runs to the end of the field."""
    numbers: set[int] = set()
    for item in items:
        match = _ITEM.fullmatch(item)
        if match is None:
            raise CronError(f"{part.name} {item!r} is malformed: expected {part.expected}, *, a-b, */n, a/n or a-b/n")
        start, end, step = match.groups()
        low = part.low if start is None else _number(part, start)
        if end is not None:
            high = _number(part, end)
        else:
            high = low if start is not None and step is None else max(low, part.high)
        if low > high:
            raise CronError(f"{part.name} {item!r} runs backwards: expected the smaller value first, or a list")
        if step is not None and int(step) == 0:
            raise CronError(f"{part.name} {item!r} has step 0: expected 1 or more")
        numbers.update(range(low, high + 1, int(step or 1)))
    return numbers


def _number(part: _Field, text: str) -> int:
    if text in part.names:
        return part.names[text]
    if not text.isdigit() or not part.low <= int(text) <= part.high:
        raise CronError(f"{part.name} {text!r} is not valid: expected {part.expected}")
    return int(text)
