"""The job request, whatever anybody sends: it is taken, or refused with an error that is the client's (C-ENV-26)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.envelope import SYSTEM_MANAGED, new_job, parse_job_request
from ojs_core.errors import OJSError
from ojs_core.job import decode_record, encode_record
from ojs_core.testing.clock import NOW

OPTIONAL = [
    "queue",
    "priority",
    "timeout",
    "timeout_ms",
    "scheduled_at",
    "delay_until",
    "expires_at",
    "retry",
    "retry_policy",
    "unique",
    "tags",
    "schema",
    "visibility_timeout",
    "visibility_timeout_ms",
    "pending",
    "rate_limit",
]
V7 = "019c5186-9a40-7000-8abc-00000000002a"

texts = st.text(max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["+PT1S", "2026-02-12T10:30:00Z", "HIGH", V7, "1.0", "PT1S", "t", "q\n"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
options = st.dictionaries(st.sampled_from([*OPTIONAL, "metadata", "x"]), values, max_size=4)
bodies = st.fixed_dictionaries(
    {"type": st.just("t"), "args": st.lists(values, max_size=2)},
    optional={
        "options": options | values,
        **dict.fromkeys(("id", "specversion", "meta", *OPTIONAL, *sorted(SYSTEM_MANAGED), "x"), values),
    },
)


def taken(text: bytes) -> bytes | None:
    """Return the arguments a body gives, or None if it was refused as the client's mistake."""
    try:
        request = parse_job_request(text, NOW)
        new = new_job(request, NOW)
    except OJSError as error:
        assert 400 <= error.status < 500  # noqa: PT017 - either outcome is fine
        assert not error.retryable  # noqa: PT017
        assert len(msgspec.json.encode([error.message, error.details])) < 10_000  # noqa: PT017
        return None
    assert decode_record(encode_record(new.job)) == new.job
    return bytes(request.args)


@given(bodies)
def test_any_optional_attributes(body: dict[str, Any]) -> None:
    args = taken(json.dumps(body).encode())
    assert args is None or json.loads(args) == body["args"]


@given(st.dictionaries(st.sampled_from(["type", "args"]), values))
def test_any_required_attributes(body: dict[str, Any]) -> None:
    taken(json.dumps(body).encode())


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(text: bytes) -> None:
    taken(text)


@given(st.binary(max_size=20))
def test_any_bytes_within_a_text(inner: bytes) -> None:
    taken(b'{"type":"t","args":["' + inner + b'"]}')


@given(values)
def test_any_arguments_come_back(value: object) -> None:
    text = json.dumps([value]).encode()
    assert taken(b'{"type":"t","args":' + text + b"}") == text
