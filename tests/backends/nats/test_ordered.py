"""The sorted list under every index, and the index of events, against plain lists."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from ojs_backend_nats.entry import Chunk, encode_events
from ojs_backend_nats.eventlog import EventLog, plan_pruning
from ojs_backend_nats.ordered import Ordered
from ojs_core.testing.factories import make_event


def test_it_stays_sorted_at_any_size() -> None:
    chance = random.Random(1)  # noqa: S311 - the same numbers each time
    keys = [(number,) for number in range(10_000)]
    shuffled = chance.sample(keys, len(keys))
    ordered: Ordered[tuple[int]] = Ordered()
    for key in shuffled:
        ordered.add(key)
    assert list(ordered) == keys
    assert list(reversed(ordered)) == keys[::-1]
    assert list(ordered.below((5000,))) == keys[4999::-1]
    for key in shuffled[:9990]:
        ordered.remove(key)
    left = sorted(shuffled[9990:])
    assert (list(ordered), len(ordered), ordered.first()) == (left, 10, left[0])
    for key in left:
        ordered.remove(key)
    assert (list(ordered), len(ordered), ordered.first()) == ([], 0, None)
    assert list(ordered.below((5,))) == []


@given(st.lists(st.tuples(st.integers(0, 20), st.text(max_size=2)), unique=True), st.integers(0, 20))
def test_it_does_what_a_list_does(keys: list[tuple[int, str]], bound: int) -> None:
    ordered: Ordered[tuple[int, str]] = Ordered()
    for key in keys:
        ordered.add(key)
    assert list(ordered.below((bound, ""))) == sorted((key for key in keys if key < (bound, "")), reverse=True)
    for key in keys[::2]:
        ordered.remove(key)
    assert list(ordered) == sorted(keys[1::2])


Spans = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=6)


@given(Spans, st.integers(0, 30), st.integers(0, 10), st.integers(0, 12), st.integers(0, 12))
def test_pruning_takes_what_a_list_would_lose(
    spans: list[list[int]], earlier: int, before: int, keep: int, limit: int
) -> None:
    """The oldest, as long as they are old or too many; across entries, and after an earlier pruning."""
    log = EventLog()
    numbered: list[tuple[int, int]] = []
    for position, instants in enumerate(spans):
        first = position * 100
        events = Raw(encode_events([make_event(at=at) for at in instants]))
        log.add(Chunk(first, len(instants), max(instants), events), position)
        numbered += [(first + place, at) for place, at in enumerate(instants)]
    if numbered and earlier < len(numbered):
        log.prune(numbered[earlier][0])
        del numbered[:earlier]
    expected = list(numbered)
    while len(numbered) - len(expected) < limit and expected and (len(expected) > keep or expected[0][1] < before):
        del expected[0]
    pruning = plan_pruning(log, before, keep, limit, {})
    assert pruning.count == len(numbered) - len(expected)
    log.prune(pruning.begin)
    assert log.total == len(expected)
    kept = [number for span in log.spans(log.begin, 100) for number in range(max(span.first, log.begin), span.end)]
    assert kept == [number for number, _ in expected]
