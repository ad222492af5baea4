"""Bodies that are wrong: the answer is always an error a client can read, and the store is never asked to write.

What is right is read from the document: for each field of each request, values of every kind are put in its place, and
the server has to accept exactly those bodies that the document's schema accepts. So the two cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ojs_api import shapes
from ojs_api.handlers import ENDPOINTS
from ojs_api.openapi import make_document, operation_id
from ojs_core.memory import MemoryBackend
from ojs_core.testing import CountingBackend

ABSENT = "019c5166-8840-7000-8000-000000000000"
JOB = {"type": "a", "args": [{"k": 1}]}
WRITES = {"commit", "claim", "beat", "set_paused", "set_directive", "remove_worker", "reset"}

# A valid request for each operation that reads a body. What is not there is added by the test, field by field.
VALID: dict[str, tuple[str, dict[str, Any]]] = {
    "jobs_enqueue": ("/ojs/v1/jobs", JOB),
    "jobs_enqueue_batch": ("/ojs/v1/jobs/batch", {"jobs": [JOB]}),
    "jobs_activate": (f"/ojs/v1/jobs/{ABSENT}/activate", {}),
    "workers_fetch": ("/ojs/v1/workers/fetch", {"queues": ["q"]}),
    "workers_ack": ("/ojs/v1/workers/ack", {"job_id": ABSENT}),
    "workers_ack_one": (f"/ojs/v1/jobs/{ABSENT}/ack", {}),
    "workers_nack": ("/ojs/v1/workers/nack", {"job_id": ABSENT, "error": {"message": "m"}}),
    "workers_nack_one": (f"/ojs/v1/jobs/{ABSENT}/nack", {"error": {"message": "m"}}),
    "workers_heartbeat": ("/ojs/v1/workers/heartbeat", {"worker_id": "w"}),
    "queues_pause": ("/ojs/v1/queues/q/pause", {}),
    "queues_resume": ("/ojs/v1/queues/q/resume", {}),
    "dead_letter_retry": (f"/ojs/v1/dead-letter/{ABSENT}/retry", {}),
    "crons_register": ("/ojs/v1/cron", {"name": "n", "expression": "@daily", "job_template": {"type": "a"}}),
    "crons_switch": ("/ojs/v1/cron/n", {"enabled": True}),
    "workflows_create": ("/ojs/v1/workflows", {"type": "chain", "steps": [JOB]}),
    "admin_direct": ("/ojs/v1/admin/workers/w/directive", {"directive": "quiet"}),
    "admin_reset": ("/ojs/v1/admin/reset", {}),
}
READING = [endpoint for endpoint in ENDPOINTS if endpoint.body and not endpoint.hidden]
DOCUMENT = make_document(ENDPOINTS)
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}

# As text, because some are no JSON.
VALUES = [
    *("null", "true", "false", "0", "-1", "1.5", str(2**70), str(-(2**63) - 1), "9" * 4000),
    *('""', '"x"', '"X y"', '"\\u0000"', '"\\n"', '"default"', '"1.0"', '"PT1S"', '"+PT1S"', '"2030-01-01T00:00:00Z"'),
    *('"true"', '"%s"' % ("x" * 300), f'"{ABSENT}"', '"quiet"', '"HIGH"', '"\\ud83d\\ude00"'),
    *("[]", "[null]", '["x"]', "[1]", "[[]]", "[{}]", '["type"]', "{}", '{"x":1}', '{"type":"a","args":[]}'),
]
NO_JSON = ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", '"\\ud800"', '"\\udc00x"', '"\t"', "[" * 100 + "]" * 100]
NO_JSON += [
    "01",
    "+1",
    ".5",
    "1.",
    "'x'",
    "True",
    "undefined",
    "9" * 5000,
    '{"a":1,}',
    "[1,]",
    '"\\x41"',
    "// x\n1",
    "",
]

# What the document cannot say of a field on its own, and so only says in words.
BETWEEN_FIELDS = {
    ("crons_register", "expression"): "a text that is no cron expression",
    ("crons_register", "cron"): "a text that is no cron expression",
    ("crons_register", "timezone"): "a text that is no time zone",
    ("*", "args_keys"): "a key that no object in args has",
    ("*", "key"): "a key that no object in args has",
    ("*", "keys"): "meta without meta_keys",
    ("*", "initial_interval"): "longer than max_interval",
    ("*", "initial_interval_ms"): "longer than max_interval",
    ("*", "max_interval"): "shorter than initial_interval",
    ("*", "max_interval_ms"): "shorter than initial_interval",
}


@pytest.fixture
async def counted(serving):
    async with serving(CountingBackend(MemoryBackend()), test_mode=True) as api:
        yield api


def schema_of(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an operation's body, with the definitions it refers to."""
    (schema, *_) = [content["schema"] for content in operation["requestBody"]["content"].values()]
    return {**schema, "components": DOCUMENT["components"]}


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the object schema behind references and nullable unions, or `{}`."""
    for kind in (schema, *schema.get("anyOf", ())):
        if "$ref" in kind:
            return DOCUMENT["components"]["schemas"][kind["$ref"].rpartition("/")[2]]
        if "properties" in kind and "type" in kind:
            return kind
    return {}


def fields(schema: dict[str, Any], depth: int) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields of an object, those of objects within it included."""
    schema = {**schema, **{key: value for kind in schema.get("allOf", ()) for key, value in kind.items()}}
    for name, kind in resolve(schema).get("properties", {}).items():
        yield (name,)
        # Elements of arrays are requests of their own elsewhere.
        if depth > 1:
            for path in fields(kind, depth - 1):
                yield (name, *path)


def put(body: dict[str, Any], path: tuple[str, ...], value: str) -> str:
    """Return the body as text with a JSON text in a field's place."""
    whole = json.loads(json.dumps(body))
    place = whole
    for name in path[:-1]:
        if not isinstance(place.get(name), dict):
            place[name] = {"message": "m"} if name == "error" else {"type": "a"} if name == "job_template" else {}
        place = place[name]
    place[path[-1]] = "\0"
    return json.dumps(whole, ensure_ascii=False).replace(json.dumps("\0"), value, 1)


async def send(api, operation: str, body: bytes, **rest: Any):
    path, _ = VALID[operation]
    api.backend.calls.clear()
    response = await api.send("PATCH" if operation == "crons_switch" else "POST", path, body, **rest)
    if response.status_code >= 400:
        error = msgspec.convert(msgspec.json.decode(response.content), shapes.Error).error
        assert error.request_id == response.headers["x-request-id"]
        assert len(response.content) < 20_000
    if response.status_code in (400, 413, 422):
        assert not WRITES & api.backend.calls.keys()
    return response


def test_every_endpoint_that_reads_a_body_is_covered() -> None:
    assert {operation_id(endpoint) for endpoint in READING} == VALID.keys()


def cases() -> Iterator[Any]:
    """Yield operations with a valid body, and which fields are tried: (name, body, depth, ignored).

    Jobs within other requests are read by the same code as a job on its own, so they are not tried as deep. `ignored`
    are fields that mean nothing beside those of the body.
    """
    for name, (_, body) in VALID.items():
        if name not in ("crons_register", "workflows_create"):
            yield pytest.param(name, body, 3, (), id=name)
    _, template = VALID["crons_register"]
    yield pytest.param("crons_register", template, 2, ("cron", "type", "args", "meta", "schema", "options"), id="cron")
    flat = {"name": "n", "cron": "@daily", "type": "a"}
    yield pytest.param("crons_register", flat, 2, ("expression", "job_template"), id="flat cron")
    for kind, key in (("chain", "steps"), ("group", "jobs"), ("batch", "jobs")):
        body = {"type": kind, key: [JOB], **({"callbacks": {"on_complete": JOB}} if kind == "batch" else {})}
        yield pytest.param("workflows_create", body, 2, ("jobs" if key == "steps" else "steps",), id=kind)
    yield pytest.param("workflows_create", {"steps": [{**JOB, "id": "s"}]}, 2, (), id="steps")


@pytest.mark.parametrize(("name", "body", "depth", "ignored"), list(cases()))
async def test_a_value_of_another_kind_is_accepted_or_refused_as_the_document_says(
    counted, name, body, depth, ignored
) -> None:
    schema = schema_of(OPERATIONS[name])
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    kinds = [kind for kind in schema.get("anyOf", [schema]) if set(body) <= {name for name, *_ in fields(kind, 1)}]
    found = {("unknown",), *(path for kind in kinds for path in fields(kind, depth)), *((name,) for name in body)}
    wrong = []
    for field in sorted(path for path in found if path[0] not in ignored):
        between = any((operation, field[-1]) in BETWEEN_FIELDS for operation in (name, "*"))
        for value in VALUES:
            text = put(body, field, value)
            valid = validator.is_valid(json.loads(text))
            response = await send(counted, name, text.encode())
            allowed = {200, 201, 404, 409} if valid else {400, 422}
            if response.status_code not in allowed | ({400, 422} if between else set()):
                wrong.append((field, value[:50], valid, response.status_code, response.text[:300]))
    assert wrong == []


@pytest.mark.parametrize("endpoint", READING, ids=operation_id)
async def test_what_is_no_json_in_any_field_is_malformed(counted, endpoint) -> None:
    """C-JSON-06, C-JSON-08: wherever it stands, also in a field the server does not know."""
    name = operation_id(endpoint)
    _, body = VALID[name]
    for field in (*body, "unknown", "result", "meta"):
        for value in NO_JSON:
            response = await send(counted, name, put(body, (field,), value).encode())
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_payload"), (field, value)


BROKEN = {
    "array": b"[]",
    "array of objects": b'[{"type":"a","args":[]}]',
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "boolean": b"true",
    "nothing but a brace": b"{",
    "cut off": b'{"type":"a","args":[',
    "two objects": b"{}{}",
    "trailing garbage": b"{} x",
    "trailing comma": b'{"a":1,}',
    "nul after": b"{}\x00",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"type":"a"}'.encode("utf-16"),
    "utf-32": '{"type":"a"}'.encode("utf-32-le"),
    "invalid utf-8": b'{"a":"\xff\xfe"}',
    "overlong utf-8": b'{"a":"\xc0\xaf"}',
    "surrogate in utf-8": b'{"a":"\xed\xa0\x80"}',
    "cut utf-8": b'{"a":"\xe2\x82"}',
    "invalid utf-8 in a key": b'{"\xff":1}',
    "lone surrogate in a key": b'{"\\ud800":1}',
    "control character": b'{"a":"\x01"}',
    "no quotes": b"{a:1}",
    "single quotes": b"{'a':1}",
    "comment": b"{} // x",
    "form": b"type=a&args=1",
    "xml": b"<job/>",
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "balanced brackets": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "hundred deep": b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    "hundred deep objects": b'{"a":' * 100 + b"1" + b"}" * 100,
    "deep and wide": b'{"a":[' + b"[[]]," * 100 + b"[" * 64 + b"]" * 64 + b"]}",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV*\xa9,HU\xb2RJT\xaa\x05\x00",
    "ten megabytes of nothing": b"x" * 10_000_000,
    "ten megabytes of brackets": b"[" * 10_000_000,
    "ten megabytes of digits": b'{"a":' + b"9" * 10_000_000 + b"}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_json_object_is_malformed(counted, body) -> None:
    """C-JSON-12, C-ERR-05: for every endpoint that reads a body, also for those that need none."""
    for name in VALID:
        response = await send(counted, name, body)
        error = response.json()["error"]
        expected = (
            (413, "envelope_too_large") if name == "jobs_enqueue" and len(body) > 2**20 else (400, "invalid_payload")
        )
        assert (response.status_code, error["code"], error["retryable"]) == (*expected, False), name


async def test_ten_megabytes_in_a_field_that_nobody_knows_do_no_harm(counted) -> None:
    """A job may have a mebibyte; elsewhere the field is read over."""
    for name, (_, body) in VALID.items():
        response = await send(counted, name, put(body, ("unknown",), '"%s"' % ("x" * 10_000_000)).encode())
        assert response.status_code == 413 if name == "jobs_enqueue" else response.status_code in (200, 201, 404)


async def test_of_a_key_that_occurs_twice_the_last_counts(counted) -> None:
    """C-JSON-07; and it is not echoed twice."""
    body = b'{"type":"BAD","type":"a","args":1,"args":[],"mine":1,"mine":2,"priority":999,"priority":1}'
    response = await send(counted, "jobs_enqueue", body)
    assert response.status_code == 201
    job = response.json()["job"]
    assert (job["type"], job["args"], job["mine"], job["priority"]) == ("a", [], 2, 1)
    assert response.text.count('"mine"') == 1
    assert (await send(counted, "jobs_enqueue", b'{"type":"a","args":[],"args":1}')).status_code == 400


def json_values(names: list[str]) -> st.SearchStrategy[Any]:
    """Any JSON, with keys that mean something more often than by chance."""
    keys = st.sampled_from(names) | st.text(max_size=5)
    texts = st.text(max_size=10) | st.sampled_from([ABSENT, "default", "a.b", "PT1S", "+PT1S", "@daily", "UTC", *names])
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
        max_leaves=20,
    )


NAMES = sorted({name for kind in DOCUMENT["components"]["schemas"].values() for name in kind["properties"]})


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(VALID)), extra=st.dictionaries(st.sampled_from(NAMES), json_values(NAMES), max_size=4)
)
async def test_nonsense_is_answered_in_good_form(counted, name, extra) -> None:
    """The server is the same for all examples: what one leaves behind must not upset the next either."""
    body = json.dumps({**VALID[name][1], **extra}, ensure_ascii=True).encode()
    response = await send(counted, name, body)
    assert response.status_code < 500


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(VALID)),
    body=st.binary(max_size=60) | json_values(NAMES).map(json.dumps).map(str.encode),
)
async def test_noise_is_answered_in_good_form(counted, name, body) -> None:
    response = await send(counted, name, body)
    assert response.status_code < 500
