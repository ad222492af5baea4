"""The job request: what is accepted, what is refused, and what is kept as it was (C-ENV, C-JSON, C-OPS-01)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from ojs_core.envelope import (
    DEPTH_MAX,
    ENVELOPE_MAX_BYTES,
    META_MAX_BYTES,
    SYSTEM_MANAGED,
    TIMEOUT_MAX_MS,
    JobRequest,
    at_index,
    check_queue,
    decode_object,
    hold_of,
    json_kind,
    merge_objects,
    new_job,
    parse_job_request,
)
from ojs_core.errors import (
    EnvelopeTooLargeError,
    InvalidPayloadError,
    InvalidRequestError,
    InvalidRetryPolicyError,
    MetadataTooLargeError,
    OJSError,
    UnsupportedError,
)
from ojs_core.job import JobState
from ojs_core.retry import DEFAULT_RETRY_POLICY, RetryPolicy
from ojs_core.testing.clock import NOW
from ojs_core.unique import UniquePolicy

V7 = "019c5186-9a40-7000-8abc-00000000002a"
HOUR = 3_600_000


def parse(**attributes: Any) -> JobRequest:
    """Parse a request with the two attributes every one needs."""
    return parse_job_request(json.dumps({"type": "t", "args": [], **attributes}).encode(), NOW)


def parse_text(text: str) -> JobRequest:
    return parse_job_request(text.encode(), NOW)


def refused(**attributes: Any) -> OJSError:
    with pytest.raises(OJSError) as caught:
        parse(**attributes)
    return caught.value


# --- the shape of the body --------------------------------------------------------------------------------------------


def test_type_and_args_are_enough() -> None:
    # C-ENV-01
    request = parse_text('{"type":"email.send","args":[1.0]}')
    assert request == JobRequest(type="email.send", args=Raw(b"[1.0]"))
    assert (request.queue, request.priority, bytes(request.meta)) == ("default", 0, b"{}")
    assert request.retry is DEFAULT_RETRY_POLICY


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"1",
        b"true",
        b"NaN",
        b"{'type':'t'}",
        b'{"type":"t","args":[]}x',
        b'{"type":"t","args":[],}',
        b'{"type":"t","args":[NaN]}',
        b'{"type":"t","args":[Infinity]}',
        b'{"type":"t","args":[-Infinity]}',
        b'{"type":"t","args":[1e400]}',
        b'{"type":"t","args":[01]}',
        b'{"type":"t","args":["\xff"]}',
        b'{"type":"t","args":["\xed\xa0\x80"]}',
        b'{"type":"t","args":["\\ud800"]}',
        b'{"type":"t","args":["\n"]}',
        b'\xef\xbb\xbf{"type":"t","args":[]}',
        b'{"type":"t","args":[' + b"9" * 5000 + b"]}",
        b'{"type":"t","args":' + b"[" * 100_000,
        b"{" * 100_000,
    ],
)
def test_what_is_not_a_json_object_is_malformed(text: bytes) -> None:
    # C-ERR-05, C-JSON-06, C-JSON-12
    with pytest.raises(InvalidPayloadError):
        parse_job_request(text, NOW)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_has_a_limit(opening: str) -> None:
    # C-JSON-08. The object itself and `args` are two levels.
    closing = "]" if opening == "[" else "}"

    def nested(levels: int) -> str:
        inner = opening * levels + ("1" if opening != "[" else "") + closing * levels
        return f'{{"type":"t","args":[{inner}]}}'

    parse_text(nested(DEPTH_MAX - 2))
    for levels in (DEPTH_MAX - 1, 100, 500):
        with pytest.raises(InvalidPayloadError, match="nested too deeply"):
            parse_text(nested(levels))


def test_many_flat_brackets_are_not_deep() -> None:
    assert len(msgspec.json.decode(parse(args=[[] for _ in range(1000)]).args)) == 1000


def test_the_size_has_a_limit() -> None:
    # C-JSON-13
    frame = '{"type":"t","args":["%s"]}'
    fits = frame % ("x" * (ENVELOPE_MAX_BYTES - len(frame) + 2))
    assert len(fits) == ENVELOPE_MAX_BYTES
    parse_text(fits)
    parse_job_request(Raw(fits.encode()), NOW)
    for text in ((fits + " ").encode(), Raw((fits + " ").encode())):
        with pytest.raises(EnvelopeTooLargeError) as caught:
            parse_job_request(text, NOW)
        assert caught.value.details == {"actual_bytes": ENVELOPE_MAX_BYTES + 1, "max_bytes": ENVELOPE_MAX_BYTES}


def test_the_size_of_meta_has_a_limit() -> None:
    frame = '{"k":"%s"}'
    fits = frame % ("x" * (META_MAX_BYTES - len(frame) + 2))
    parse_text(f'{{"type":"t","args":[],"meta":{fits}}}')
    with pytest.raises(MetadataTooLargeError) as caught:
        parse_text(f'{{"type":"t","args":[],"meta":{fits[:-2]}x"}}}}')
    assert caught.value.details == {"actual_bytes": META_MAX_BYTES + 1, "max_bytes": META_MAX_BYTES}


def test_a_raw_text_reads_like_bytes() -> None:
    text = b'{"type":"t","args":[{"b":1,"a":2}]}'
    assert parse_job_request(Raw(text), NOW) == parse_job_request(text, NOW)


def test_the_message_names_the_text() -> None:
    with pytest.raises(InvalidPayloadError, match="The template must be a JSON object, not an array"):
        decode_object(b"[]", "The template")


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "a boolean"), ("x", "a string"), (1, "a number"), (1.5, "a number"), ([], "an array")],
)
def test_json_kinds(value: object, kind: str) -> None:
    assert json_kind(value) == kind
    assert json_kind({}) == "an object"


# --- required attributes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "email.send", "a-b_c9.d-e", "x" * 255, "a.b.c.d", "a9", "a_", "a-"])
def test_job_types(value: str) -> None:
    # C-ENV-05
    assert parse(type=value).type == value


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " ",
            "A",
            "Email",
            "9a",
            "a b",
            "a.",
            ".a",
            "a..b",
            "a.9",
            "a@b",
            "a!",
            "ä",
            "x" * 256,
            "a\n",
            "a.b\n",
            "_a",
        ),
        *("٣", "a٣", "a\u0000", 1, 1.0, True, [], ["a"], {}, None),
    ],
)
def test_what_is_no_job_type(value: object) -> None:
    error = refused(type=value)
    assert (error.status, error.code, error.details["field"]) == (400, "invalid_request", "type")


def test_type_is_required() -> None:
    with pytest.raises(InvalidRequestError, match="'type' is required"):
        parse_text('{"args":[]}')


def test_args_are_required() -> None:
    # C-ENV-06
    with pytest.raises(InvalidRequestError, match="'args' is required"):
        parse_text('{"type":"t"}')


@pytest.mark.parametrize("value", [None, {}, "[]", 1, 1.5, True, False])
def test_args_are_an_array(value: object) -> None:
    error = refused(args=value)
    assert (error.status, error.code, error.details["field"]) == (400, "invalid_request", "args")


@pytest.mark.parametrize(
    "args",
    [
        "[]",
        "[1.0,1e2,-0,2]",
        '[{"z":1,"a":[]},[[]]]',
        f"[{2**200},{2**63},-{2**70}]",
        '["\\u0000","é","\\ud83d\\ude00"]',
    ],
)
def test_args_are_kept_as_text(args: str) -> None:
    # C-JSON-05
    assert bytes(parse_text(f'{{"type":"t","args":{args}}}').args) == args.encode()


# --- optional attributes ----------------------------------------------------------------------------------------------

OPTIONAL = [
    "id",
    "specversion",
    "meta",
    "options",
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
IN_OPTIONS = [name for name in OPTIONAL if name not in ("id", "specversion", "meta", "options")]


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_is_absent(name: str) -> None:
    # C-ENV-25
    assert parse(**{name: None}) == parse()


@pytest.mark.parametrize("name", IN_OPTIONS)
def test_null_in_options_is_absent(name: str) -> None:
    assert parse(options={name: None}) == parse()


VALID: dict[str, tuple[Any, str, Any]] = {
    "queue": ("q.1-x", "queue", "q.1-x"),
    "priority": (-100, "priority", -100),
    "timeout": (3, "timeout_ms", 3000),
    "timeout_ms": (3, "timeout_ms", 3),
    "scheduled_at": ("2026-02-12T11:30:00Z", "scheduled_at", NOW + HOUR),
    "delay_until": ("+PT1H", "scheduled_at", NOW + HOUR),
    "expires_at": ("2026-02-12T12:30:00+01:00", "expires_at", NOW + HOUR),
    "retry": ({"max_attempts": 7}, "retry", RetryPolicy(max_attempts=7)),
    "retry_policy": ({"max_attempts": 7}, "retry", RetryPolicy(max_attempts=7)),
    "unique": ({"keys": ["type"]}, "unique", UniquePolicy()),
    "tags": (["a", ""], "tags", ("a", "")),
    "schema": ("urn:x", "schema", "urn:x"),
    "visibility_timeout": (3, "visibility_timeout_ms", 3000),
    "visibility_timeout_ms": (3, "visibility_timeout_ms", 3),
    "pending": (True, "pending", True),
    "rate_limit": ({"max_per_second": 5}, "max_per_second", 5),
}
OTHER = {
    "queue": "other",
    "priority": 1,
    "timeout": 1,
    "timeout_ms": 1,
    "scheduled_at": "2030-01-01T00:00:00Z",
    "delay_until": "2030-01-01T00:00:00Z",
    "expires_at": "2030-01-01T00:00:00Z",
    "retry": {"max_attempts": 1},
    "retry_policy": {"max_attempts": 1},
    "unique": {"keys": ["queue"]},
    "tags": ["other"],
    "schema": "urn:other",
    "visibility_timeout": 1,
    "visibility_timeout_ms": 1,
    "pending": False,
    "rate_limit": {"max_per_second": 1},
}


def test_every_optional_attribute_has_an_example() -> None:
    assert set(VALID) == set(OTHER) == set(IN_OPTIONS)


@pytest.mark.parametrize("name", IN_OPTIONS)
def test_an_attribute_counts_in_both_places_and_options_win(name: str) -> None:
    # C-ENV-23
    value, field, expected = VALID[name]
    beside = parse(**{name: value})
    assert getattr(beside, field) == expected
    assert beside.extra is None
    assert getattr(parse(options={name: value}), field) == expected
    assert getattr(parse(options={name: value}, **{name: OTHER[name]}), field) == expected
    assert getattr(parse(options={name: None}, **{name: value}), field) == expected


@pytest.mark.parametrize(
    ("options", "envelope", "expected"),
    [
        ({"scheduled_at": "+PT1H", "delay_until": "+PT2H"}, {}, 1),
        ({"delay_until": "+PT1H"}, {"scheduled_at": "+PT2H"}, 1),
        ({}, {"scheduled_at": "+PT1H", "delay_until": "+PT2H"}, 1),
        ({"scheduled_at": None, "delay_until": "+PT3H"}, {"scheduled_at": "+PT2H"}, 3),
    ],
)
def test_the_precedence_of_schedules(options: dict[str, Any], envelope: dict[str, Any], expected: int) -> None:
    # C-ENV-12
    assert parse(options=options, **envelope).scheduled_at == NOW + expected * HOUR


def test_the_first_spelling_of_a_retry_policy_counts() -> None:
    request = parse(options={"retry": {"max_attempts": 2}, "retry_policy": {"max_attempts": 9}})
    assert request.retry.max_attempts == 2
    assert json.loads(bytes(request.as_sent or b"")) == {"retry": {"max_attempts": 2}}


JUNK: list[Any] = [True, False, 0, 1, -1, 1.5, 2**70, -(2**70), "", "x", [], [1], {}, {"a": 1}]
REFUSED: dict[str, list[Any]] = {
    "id": [
        "",
        V7.upper(),
        V7 + "\n",
        " " + V7,
        V7[:-1],
        "550e8400-e29b-41d4-a716-446655440000",
        "text",
        1,
        True,
        [],
        {},
    ],
    "specversion": ["2.0", "1.1", "0.9", "1.0\n", "1.", "", "1.0.x", "1.0.٣", 1, 1.0, True, [], {}],
    "meta": [True, False, 0, 1, 1.5, "", "{}", [], [{}]],
    "options": [True, False, 0, 1, 1.5, "", "{}", [], [{}]],
    "queue": [True, 1, 1.5, [], {}, "", "A", "a b", "a_b", "a/b", "-a", ".a", "ä", "a\n", "٣", "a" * 129],
    "priority": [True, False, 1.0, 1.5, 101, -101, 2**70, -(2**70), "", "1", "HIGHER", " HIGH", [], {}],
    "timeout": [True, False, -1, 1.0, 1.5, "1", "PT1S", 2**70, TIMEOUT_MAX_MS // 1000 + 1, [], {}],
    "timeout_ms": [True, False, -1, 1.0, 1.5, "1", "PT1S", 2**70, TIMEOUT_MAX_MS + 1, [], {}],
    "visibility_timeout": [True, False, -1, 1.0, "1s", "", "PT", "PT1S\n", "-PT1S", "P99Y", 2**70, [], {}],
    "visibility_timeout_ms": [True, False, -1, 1.0, "1", "PT1S", 2**70, [], {}],
    "scheduled_at": [
        True,
        1,
        1.5,
        NOW,
        "",
        "now",
        "2026-02-12",
        "2026-02-12T10:30:00",
        "2026-02-12 10:30:00Z",
        "+",
        "+1s",
    ],
    "expires_at": [
        True,
        1,
        [],
        {},
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-02-12T10:30:00Z\n",
        "PT1S",
        "-PT1S",
    ],
    "retry": [True, False, 0, 1, 1.5, "", "x", [], {"max_attempts": -1}, {"max_attempts": True}, {"jitter": 1}],
    "unique": [True, False, 0, 1, 1.5, "", "x", [], {"keys": "type"}, {"keys": ["x"]}, {"states": []}],
    "tags": [True, 1, "a", {}, [1], ["a", None], [["a"]], [True]],
    "schema": [True, 0, 1, 1.5, "", [], {}],
    "pending": [0, 1, 1.0, "true", "", [], {}],
    "rate_limit": [
        *(True, 0, 5, "5", []),
        *({"max_per_second": number} for number in (True, 0, 1.0, -1, "5", 2**70, 1_000_001)),
    ],
}
REFUSED["delay_until"] = REFUSED["scheduled_at"]
REFUSED["retry_policy"] = REFUSED["retry"]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_bad_values_are_refused_and_named(name: str, value: object) -> None:
    # C-ENV-26, C-ERR-06
    places = [{name: value}]
    if name in IN_OPTIONS:
        places.append({"options": {name: value}})
    for place in places:
        error = refused(**place)
        assert error.status in (400, 422)
        assert not error.retryable
        family = {"delay_until": "scheduled_at", "retry_policy": "retry"}.get(name, name)
        assert family in error.message or name in error.message
        assert len(error.message) < 500
        assert len(msgspec.json.encode(error.details)) < 1000


def test_every_attribute_has_bad_values() -> None:
    assert set(REFUSED) == set(OPTIONAL)


@pytest.mark.parametrize("value", ["1", "1.0", "1.0.0", "1.0.12", "1.0.0-rc.1", "1.0-beta"])
def test_specversion(value: str) -> None:
    # C-ENV-02
    parse(specversion=value)


def test_another_specversion_is_unsupported() -> None:
    assert isinstance(refused(specversion="2.0"), UnsupportedError)


def test_a_valid_id_is_kept() -> None:
    # C-ENV-03
    assert parse(id=V7).id == V7


@pytest.mark.parametrize("name", ["0", "a", "a.b-c", "a..", "a-", "9" * 128])
def test_queue_names(name: str) -> None:
    # C-ENV-08
    assert check_queue(name) == name


@pytest.mark.parametrize(
    ("value", "number"), [("HIGH", 10), ("high", 10), ("Normal", 0), ("LOW", -10), ("low", -10), (100, 100), (0, 0)]
)
def test_priorities(value: object, number: int) -> None:
    # C-ENV-09, C-ENV-10
    assert parse(priority=value).priority == number


@pytest.mark.parametrize(
    ("attributes", "timeout", "visibility"),
    [
        ({"timeout": 0, "visibility_timeout": 0}, None, None),
        ({"timeout_ms": 0, "visibility_timeout_ms": 0}, None, None),
        ({"timeout": 2, "visibility_timeout": "PT1.5S"}, 2000, 1500),
        ({"options": {"visibility_timeout": "PT0S"}}, None, None),
        ({"timeout": TIMEOUT_MAX_MS // 1000, "timeout_ms": None}, TIMEOUT_MAX_MS, None),
        ({"timeout": 2, "timeout_ms": 5, "visibility_timeout": 2, "visibility_timeout_ms": 5}, 5, 5),
    ],
)
def test_lengths_of_time(attributes: dict[str, Any], timeout: int | None, visibility: int | None) -> None:
    # C-ENV-11, C-ENV-18: zero means the default
    request = parse(**attributes)
    assert (request.timeout_ms, request.visibility_timeout_ms) == (timeout, visibility)


def test_pending_and_a_future_schedule_exclude_each_other() -> None:
    # C-OPS-03, Q-10
    assert refused(pending=True, scheduled_at="+PT1S").status == 400
    parse(pending=True, scheduled_at="2020-01-01T00:00:00Z")
    parse(pending=True, scheduled_at="+PT0S")
    parse(pending=False, scheduled_at="+PT1S")


def test_a_bad_retry_policy_is_its_own_error() -> None:
    # C-ERR-04
    error = refused(options={"retry": {"max_attempts": -1}})
    assert isinstance(error, InvalidRetryPolicyError)
    assert (error.status, error.code) == (422, "validation_error")


def test_unknown_keys_inside_are_no_reason_to_refuse() -> None:
    # C-ENV-24
    options = {"x": 1, "retry": {"x": 1}, "unique": {"x": 1}, "rate_limit": {"x": 1}}
    request = parse(options=options)
    assert request.max_per_second is None
    assert request.extra is None


# --- what is echoed ---------------------------------------------------------------------------------------------------


def test_unknown_attributes_are_kept_as_text() -> None:
    # C-ENV-21
    request = parse_text('{"x_b": 1.0 ,"type":"t","args":[],"é":{"z":-0,"a":[ ]},"x_a":null}')
    assert bytes(request.extra or b"") == '{"x_b":1.0,"é":{"z":-0,"a":[ ]},"x_a":null}'.encode()


@pytest.mark.parametrize("name", sorted(SYSTEM_MANAGED))
@pytest.mark.parametrize("value", [1, "completed", None, {"a": 1}])
def test_what_the_server_manages_is_ignored(name: str, value: object) -> None:
    # C-ENV-22
    assert parse(**{name: value}) == parse()


def test_the_server_manages_all_it_has_to() -> None:
    listed = (
        "state attempt max_attempts created_at enqueued_at started_at completed_at cancelled_at discarded_at "
        "activated_at error errors result worker_id retry_delay_ms next_attempt_at next_retry_at parent_results "
        "workflow_id workflow_step"
    )
    assert set(listed.split()) <= SYSTEM_MANAGED


def test_absolute_times_and_policies_are_echoed_as_sent() -> None:
    # C-ENV-14
    request = parse_text(
        '{"type":"t","args":[],"expires_at":"2099-12-31T23:59:59Z","options":{"scheduled_at":"2099-12-31T23:59:59.5+01:00",'
        '"retry":{ "max_attempts":2, "x":1.0},"unique":{"keys":["type"]}}}'
    )
    sent = msgspec.json.decode(request.as_sent or b"", type=dict[str, msgspec.Raw])
    assert {name: bytes(text) for name, text in sent.items()} == {
        "scheduled_at": b'"2099-12-31T23:59:59.5+01:00"',
        "expires_at": b'"2099-12-31T23:59:59Z"',
        "retry": b'{ "max_attempts":2, "x":1.0}',
        "unique": b'{"keys":["type"]}',
    }


@pytest.mark.parametrize("plus", ["+", "\\u002b", "\\u002B"])
@pytest.mark.parametrize("name", ["scheduled_at", "delay_until", "expires_at"])
def test_relative_times_are_echoed_as_instants(name: str, plus: str) -> None:
    # C-ENV-15, however the plus was spelt
    target = "expires_at" if name == "expires_at" else "scheduled_at"
    request = parse_text(f'{{"type":"t","args":[],"{name}":"{plus}PT2S"}}')
    assert getattr(request, target) == NOW + 2000
    assert json.loads(bytes(request.as_sent or b"")) == {target: "2026-02-12T10:30:02.000Z"}


def test_nothing_sent_nothing_echoed() -> None:
    assert parse().as_sent is None
    assert parse().extra is None


def test_of_repeated_keys_the_last_counts() -> None:
    # C-JSON-07
    request = parse_text('{"type":"a","args":[1],"type":"b","args":[2],"x":1,"x":2}')
    assert (request.type, bytes(request.args), bytes(request.extra or b"")) == ("b", b"[2]", b'{"x":2}')


# --- meta -------------------------------------------------------------------------------------------------------------


def test_meta_is_kept_as_text() -> None:
    # C-ENV-07
    assert bytes(parse_text('{"type":"t","args":[],"meta":{"z" : 1.0,"a":{}}}').meta) == b'{"z" : 1.0,"a":{}}'


@pytest.mark.parametrize(
    ("meta", "metadata", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 1}),
        (None, {"b": 2}, {"b": 2}),
        ({}, {}, {}),
        ({"a": 1}, None, {"a": 1}),
    ],
)
def test_options_metadata_goes_under_meta(meta: object, metadata: object, expected: object) -> None:
    # C-ENV-19
    assert json.loads(bytes(parse(meta=meta, options={"metadata": metadata}).meta)) == expected


@pytest.mark.parametrize("value", [True, 1, "x", []])
def test_options_metadata_is_an_object(value: object) -> None:
    assert refused(options={"metadata": value}).details["field"] == "options.metadata"


def test_metadata_beside_options_is_unknown() -> None:
    request = parse(metadata={"a": 1})
    assert bytes(request.meta) == b"{}"
    assert json.loads(bytes(request.extra or b"")) == {"metadata": {"a": 1}}


def test_merged_objects_keep_the_text_of_their_members() -> None:
    merged = merge_objects(Raw(b'{"a":1.0,"b":-0}'), Raw(b'{"b":1e2,"c":"\\u0041"}'))
    assert bytes(merged) == b'{"a":1.0,"b":1e2,"c":"\\u0041"}'
    assert bytes(merge_objects(Raw(b'{"a":1.0}'), {"b": "x"})) == b'{"a":1.0,"b":"x"}'


# --- the record -------------------------------------------------------------------------------------------------------


def test_an_available_job() -> None:
    # T02, C-OPS-02
    new = new_job(parse(tags=["a"], expires_at="+PT1H", priority=5, timeout=1), NOW)
    job = new.job
    assert (job.state, job.created_at, job.enqueued_at, job.attempt) == (JobState.AVAILABLE, NOW, NOW, 0)
    assert (job.wake_at, job.expires_at, job.timeout_ms, job.tags) == (NOW + HOUR, NOW + HOUR, 1000, ("a",))
    assert (job.started_at, job.completed_at, job.error, job.result, job.fingerprint) == (None,) * 5
    assert [draft.type for draft in new.events] == ["job.enqueued"]
    assert (new.hold, new.max_per_second) == (None, None)


@pytest.mark.parametrize("when", ["2020-01-01T00:00:00Z", "+PT0S"])
def test_a_past_schedule_is_available_at_once(when: str) -> None:
    # C-ENV-12, C-SCH-02
    job = new_job(parse(scheduled_at=when), NOW).job
    assert (job.state, job.enqueued_at, job.wake_at) == (JobState.AVAILABLE, NOW, None)
    assert job.scheduled_at is not None


@pytest.mark.parametrize(("expires", "wake"), [(None, 1), ("+PT2H", 1), ("+PT0.5H", None), ("+PT30M", 0.5)])
def test_a_scheduled_job(expires: str | None, wake: float | None) -> None:
    # T01, Q-09, C-SCH-04
    if wake is None:
        assert refused(expires_at=expires).status == 400
        return
    new = new_job(parse(scheduled_at="+PT1H", expires_at=expires), NOW)
    assert (new.job.state, new.job.enqueued_at) == (JobState.SCHEDULED, None)
    assert new.job.wake_at == NOW + wake * HOUR
    [draft] = new.events
    assert (draft.type, draft.data) == ("job.scheduled", {"scheduled_at": "2026-02-12T11:30:00.000Z"})


def test_a_pending_job() -> None:
    # T03
    new = new_job(parse(pending=True, expires_at="+PT1H"), NOW)
    assert (new.job.state, new.job.enqueued_at, new.job.wake_at) == (JobState.PENDING, None, NOW + HOUR)
    assert new.events == ()


def test_the_id_is_the_clients_or_the_callers_or_new() -> None:
    other = V7[:-1] + "b"
    assert new_job(parse(id=V7), NOW, job_id=other).job.id == V7
    assert new_job(parse(), NOW, job_id=other).job.id == other
    first, second = (new_job(parse(), NOW).job.id for _ in range(2))
    assert first < second


def test_further_fields_are_set() -> None:
    job = new_job(parse(), NOW, workflow_id="flow", workflow_step=3).job
    assert (job.workflow_id, job.workflow_step) == ("flow", 3)


def test_a_unique_job() -> None:
    # C-UNQ-06
    policy = {"keys": ["type", "args"], "period": "PT1M", "states": ["active", "completed"]}
    new = new_job(parse(args=[{"b": 1, "a": 2}], unique=policy, rate_limit={"max_per_second": 3}), NOW)
    same = new_job(parse(args=[{"a": 2, "b": 1.0}], unique=policy), NOW)
    assert new.hold is not None
    assert new.hold.states == {JobState.ACTIVE, JobState.COMPLETED}
    assert new.hold.since == NOW - 60_000
    assert new.max_per_second == 3
    assert new.job.fingerprint == same.job.fingerprint is not None
    assert hold_of(UniquePolicy(), NOW).since is None


@pytest.mark.parametrize(
    ("fields", "one_queue"),
    [
        ({}, True),
        ({"unique": {"keys": ["type", "queue", "args"]}}, True),
        ({"unique": {"keys": ["type", "args"]}}, False),
        ({"id": V7}, False),
    ],
)
def test_what_only_its_own_queue_can_hold(fields: dict[str, Any], *, one_queue: bool) -> None:
    """Nobody else has an id that was made here; a fingerprint is another queue's too unless the queue is in it."""
    assert new_job(parse(**fields), NOW).one_queue is one_queue


def test_a_unique_job_that_lacks_a_named_argument_is_refused() -> None:
    # C-UNQ-03
    with pytest.raises(InvalidRequestError):
        new_job(parse(unique={"args_keys": ["user"]}), NOW)


def test_an_error_names_the_element_of_a_batch() -> None:
    # C-BLK-03
    error = at_index(refused(queue="A"), 7)
    assert error.message.startswith("jobs[7]: 'queue'")
    assert str(error) == error.message
    assert error.details["index"] == 7
