"""The machine's clock: milliseconds, never backwards; and a number in [0, 1)."""

from __future__ import annotations

import pytest

from ojs_core import clock
from ojs_core.clock import SystemClock


def test_time_is_whole_milliseconds_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([5_999_999, 7_000_000, 3_000_000, 7_999_999, 8_000_000])
    monkeypatch.setattr(clock.time, "time_ns", lambda: next(readings))
    machine = SystemClock()
    assert [machine.now() for _ in range(5)] == [5, 7, 7, 7, 8]


def test_time_is_of_this_age() -> None:
    assert 1_700_000_000_000 < SystemClock().now() < 4_000_000_000_000


def test_chance_is_a_fraction_and_varies() -> None:
    machine = SystemClock()
    drawn = [machine.random() for _ in range(100)]
    assert all(0 <= number < 1 for number in drawn)
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, None),
        (9_000.0, None),
        (13_000.0, None),
        (7_900.0, "2.1 s ahead of"),
        (13_100.0, "1.1 s behind"),
        (0.0, "10.0 s ahead of"),
    ],
)
def test_clocks_that_disagree(monkeypatch: pytest.MonkeyPatch, there: float | None, said: str | None) -> None:
    """The store was asked at 10 s and answered at 12 s: whatever lies between cannot be told from right."""
    readings = iter([10.0, 12.0])
    monkeypatch.setattr(clock.time, "time", lambda: next(readings))
    warnings = clock.skew_warnings(there, clock.wall_ms())
    assert [f"is {said} the store's" in warning for warning in warnings] == ([] if said is None else [True])
