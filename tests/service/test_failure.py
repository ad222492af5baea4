"""What a worker reports when it fails, read from the wire."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ojs_core.errors import InvalidRequestError
from ojs_core.service.failure import (
    BACKTRACE_CHARS_MAX,
    BACKTRACE_FRAMES_MAX,
    MESSAGE_CHARS_MAX,
    Failure,
    parse_failure,
)


def parse(**error: Any) -> Failure:
    text = msgspec.json.encode({"message": "It broke.", **error})
    return parse_failure(msgspec.json.decode(text), msgspec.json.decode(text, type=dict[str, msgspec.Raw]))


def test_a_message_is_enough() -> None:
    assert parse() == Failure(type="handler_error", code="handler_error", message="It broke.")
    assert parse(type=None, code="", details=None, retryable=None, backtrace=None) == parse()


def test_everything_that_is_said_is_kept() -> None:  # C-OPS-31
    failure = parse(type="Timeout", code="timeout", retryable=False, details={"n": 1.50}, backtrace=["a", "b"])
    entry = failure.at(3, 1000)
    assert (entry.type, entry.code, entry.message) == ("Timeout", "timeout", "It broke.")
    assert (entry.attempt, entry.occurred_at, entry.retryable) == (3, 1000, False)
    assert (bytes(entry.details), entry.backtrace) == (b'{"n":1.5}', ("a", "b"))


@pytest.mark.parametrize(
    ("error", "error_type", "code", "error_class"),
    [
        ({"type": "T", "code": "c", "details": {"error_class": "E"}}, "T", "c", "E"),
        ({"code": "c", "details": {"error_class": "E"}}, "E", "c", "E"),
        ({"code": "c"}, "c", "c", None),
        ({"type": "T"}, "T", "handler_error", None),
        ({"details": {"error_class": ""}}, "handler_error", "handler_error", None),
        ({"details": {"error_class": 1}}, "handler_error", "handler_error", None),
    ],
)
def test_what_names_a_failure(error: dict[str, Any], error_type: str, code: str, error_class: str | None) -> None:
    failure = parse(**error)
    assert (failure.type, failure.code, failure.error_class) == (error_type, code, error_class)


@pytest.mark.parametrize(
    ("field", "error"),
    [
        ("error.message", {"message": None}),
        ("error.message", {"message": ""}),
        ("error.message", {"message": 5}),
        ("error.code", {"code": 5}),
        ("error.code", {"code": "c" * 256}),
        ("error.type", {"type": []}),
        ("error.type", {"type": "t" * 256}),
        ("error.retryable", {"retryable": "no"}),
        ("error.details", {"details": []}),
        ("error.backtrace", {"backtrace": 5}),
        ("error.backtrace", {"backtrace": {}}),
    ],
)
def test_a_bad_field_is_named(field: str, error: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**error)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize("error", [None, "It broke.", []])
def test_it_must_be_an_object(error: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_failure(error, {})
    assert caught.value.details["field"] == "error"


def test_a_backtrace_may_be_a_text_or_hold_objects() -> None:  # C-OPS-32
    assert parse(backtrace="a\nb").backtrace == ("a", "b")
    assert parse(backtrace=["a", {"line": 1}]).backtrace == ("a", '{"line":1}')
    assert parse(backtrace=[]).backtrace == ()


def test_what_is_too_long_is_cut() -> None:
    assert len(parse(message="m" * (MESSAGE_CHARS_MAX + 1)).message) == MESSAGE_CHARS_MAX
    assert len(parse(backtrace=["f"] * (BACKTRACE_FRAMES_MAX + 1)).backtrace or ()) == BACKTRACE_FRAMES_MAX
    frames = parse(backtrace=["f" * 6000, "g" * 6000, "h"]).backtrace or ()
    assert [len(frame) for frame in frames] == [6000, BACKTRACE_CHARS_MAX - 6000]
