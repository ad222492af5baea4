"""Job ids and event ids (C-ENV-03, C-EVT-01; RFC 9562 §5.7)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core import ids
from ojs_core.ids import event_id, event_seq, is_uuid7, uuid7, uuid7_named

NOW = 1_770_892_200_000
TIME_MAX = 2**48 - 1
times = st.integers(0, TIME_MAX)


@pytest.fixture(autouse=True)
def _fresh_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep one test's far-away times from pushing the ids of the next one forward."""
    monkeypatch.setattr(ids, "_ascending", ids._Ascending())  # noqa: SLF001 - there is no public way to forget


def time_of(text: str) -> int:
    return UUID(text).int >> 80


def test_an_id_is_a_uuid_of_version_7_and_carries_its_time() -> None:
    """And it is written as the standard library writes one: in lower case, with hyphens (C-JSON-04)."""
    text = uuid7(NOW)
    parsed = UUID(text)
    assert (parsed.version, parsed.variant) == (7, RFC_4122)
    assert str(parsed) == text
    assert time_of(text) == NOW
    assert is_uuid7(text)


def test_ids_of_one_millisecond_ascend() -> None:
    made = [uuid7(NOW) for _ in range(10_000)]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert time_of(made[-1]) - NOW <= 1


@given(st.lists(times, min_size=2, max_size=50))
def test_ids_ascend_whatever_the_clock_does(clock: list[int]) -> None:
    made = [uuid7(now) for now in clock if now < TIME_MAX]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert all(is_uuid7(text) for text in made)


def test_a_clock_that_goes_back_stays_at_the_last_time() -> None:
    ahead = uuid7(NOW)
    behind = uuid7(NOW - 3_600_000)
    assert ahead < behind
    assert time_of(behind) == NOW


def test_a_full_tail_carries_into_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    assert uuid7(NOW) == "019c5166-8840-7fff-bfff-ffffffffffff"
    assert uuid7(NOW) == "019c5166-8841-7000-8000-0000ffffffff"


def test_ids_of_several_threads_never_meet() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(uuid7, [NOW] * 4_000))
    assert len(set(made)) == len(made)


def test_ids_of_two_processes_do_not_meet() -> None:
    # Another process is another sequence; what keeps them apart are the random bits.
    others = ids._Ascending()  # noqa: SLF001 - a stand-in for the second process
    ours = {uuid7(NOW) for _ in range(1_000)}
    theirs = {ids._format(others.take(NOW)) for _ in range(1_000)}  # noqa: SLF001 - as above
    assert ours.isdisjoint(theirs)


@pytest.mark.parametrize("at", [-1, TIME_MAX + 1])
def test_refuses_a_time_that_does_not_fit(at: int) -> None:
    for make in (uuid7, uuid7_named, lambda at: event_id(at, 1)):
        with pytest.raises(ValueError, match=f"48 bits, not {at}"):
            make(at)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not-a-uuid",
        "15c9dd10-66fe-4cd2-983d-8c532e2bd193",
        "019c5166-8840-7000-8000-00000000002A",
        "019C5166-8840-7000-8000-00000000002a",
        "019c5166884070008000000000000020",
        "{019c5166-8840-7000-8000-00000000002a}",
        "urn:uuid:019c5166-8840-7000-8000-00000000002a",
        "019c5166-8840-7000-c000-00000000002a",
        "019c5166-8840-7000-7000-00000000002a",
        "019c5166-8840-7000-8000-00000000002a\n",
        " 019c5166-8840-7000-8000-00000000002a",
        "019c5166-8840-7000-8000-00000000002",
        "\u066019c5186-9a40-7000-8000-00000000002a",
    ],
)
def test_only_a_lower_case_hyphenated_uuid7_is_a_job_id(text: str) -> None:
    # L0-ENV-009 to L0-ENV-011
    assert not is_uuid7(text)


def test_a_named_id_is_the_same_every_time() -> None:
    # Written out: after an upgrade a repeated step must still find the job it made before.
    assert uuid7_named(NOW, "cron", "daily-report") == "019c5166-8840-710b-adc8-922792dc1fb5"


@given(times, st.lists(st.text(alphabet=st.characters(codec="utf-8")), max_size=4))
def test_a_named_id_is_a_uuid7_of_its_time(at: int, names: list[str]) -> None:
    text = uuid7_named(at, *names)
    assert is_uuid7(text)
    assert time_of(text) == at


def test_a_named_id_keeps_its_arguments_apart() -> None:
    made = [
        uuid7_named(NOW),
        uuid7_named(NOW, ""),
        uuid7_named(NOW, "", ""),
        uuid7_named(NOW, "abc"),
        uuid7_named(NOW, "ab", "c"),
        uuid7_named(NOW, "a", "bc"),
        uuid7_named(NOW, "a", "b", "c"),
        uuid7_named(NOW, "1:a"),
        uuid7_named(NOW + 1, "abc"),
    ]
    assert len(set(made)) == len(made)


@given(times, st.integers(0, 2**62 - 1))
def test_an_event_id_gives_its_number_back(at: int, seq: int) -> None:
    text = event_id(at, seq)
    assert text.startswith("evt_")
    assert is_uuid7(text.removeprefix("evt_"))
    assert time_of(text.removeprefix("evt_")) == at
    assert event_seq(text) == seq


@given(times, st.integers(0, 2**62 - 2))
def test_event_ids_of_one_time_are_in_order(at: int, seq: int) -> None:
    assert event_id(at, seq) < event_id(at, seq + 1)


@pytest.mark.parametrize("seq", [-1, 2**62])
def test_refuses_a_sequence_number_that_does_not_fit(seq: int) -> None:
    with pytest.raises(ValueError, match=f"62 bits, not {seq}"):
        event_id(NOW, seq)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt_",
        "evt_1",
        "019c5166-8840-7000-8000-00000000002a",
        "EVT_019c5166-8840-7000-8000-00000000002a",
        "evt_019c5166-8840-7001-8000-00000000002a",
        "evt_019c5166-8840-7000-c000-00000000002a",
        "evt_019c5166-8840-4000-8000-00000000002a",
        "evt_019c5166-8840-7000-8000-00000000002A",
        "evt_019c5166-8840-7000-8000-00000000002a\n",
        "evt_019c5166-8840-7000-8000-00000000002a0",
    ],
)
def test_refuses_an_event_id_it_did_not_make(text: str) -> None:
    with pytest.raises(ValueError, match="expected an event id of this server"):
        event_seq(text)
