"""The rules of the protocol that hold for every endpoint (requirements, section 4)."""

from __future__ import annotations

import re

import pytest

from ojs_api import shapes

OJS = "application/openjobspec+json"
ABSENT = "019c5166-8840-7000-8000-000000000000"
UUID7 = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
JOB = {"type": "test.job", "args": []}


# What every answer carries.


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ojs/manifest", 200),
        ("GET", "/ojs/v1/health", 200),
        ("GET", "/livez", 200),
        ("POST", "/ojs/v1/jobs", 400),
        ("GET", f"/ojs/v1/jobs/{ABSENT}", 404),
        ("GET", "/ojs/v1/nothing", 404),
        ("GET", "/", 404),
        ("PUT", "/ojs/v1/jobs", 405),
        ("PUT", f"/ojs/v1/jobs/{ABSENT}", 405),
    ],
)
async def test_every_answer_has_type_version_and_request_id(api, method, path, status) -> None:
    """C-HTTP-02: exactly this type, without a charset, on errors and unknown routes too."""
    response = await api.send(method, path)
    assert response.status_code == status
    assert response.headers.get_list("content-type") == [OJS]
    assert response.headers.get_list("ojs-version") == ["1.0"]
    assert re.fullmatch(f"req_{UUID7}", response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("*/*", OJS),
        ("text/html", OJS),
        ("application/*", OJS),
        (OJS, OJS),
        (f"application/json, {OJS}", OJS),
        ("application/json", "application/json"),
        ("application/json; charset=utf-8, text/plain", "application/json"),
    ],
)
async def test_the_type_is_ours_unless_only_json_is_asked_for(api, accept, answered) -> None:
    """Q-24: official clients exist that read nothing but `application/json`; everyone else gets ours (C-HTTP-03)."""
    for path in ("/ojs/manifest", f"/ojs/v1/jobs/{ABSENT}", "/nothing"):
        response = await api.send("GET", path, headers={"accept": accept})
        assert response.headers["content-type"] == answered


# Request ids.


@pytest.mark.parametrize("given", ["abc-123", "x" * 200, "!~{}"])
async def test_a_request_id_comes_back(api, given) -> None:
    """C-HTTP-06."""
    response = await api.send("GET", f"/ojs/v1/jobs/{ABSENT}", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == response.json()["error"]["request_id"] == given


@pytest.mark.parametrize("given", [b"", b"x" * 201, b"a b", b"a\tb", b"\xc3\xa9", b"\x7f", b"a\x00b"])
async def test_a_request_id_that_could_do_harm_is_replaced(api, given) -> None:
    """C-HTTP-06: it would end up in logs and headers."""
    response = await api.send("GET", f"/ojs/v1/jobs/{ABSENT}", headers={"x-request-id": given})
    assert re.fullmatch(f"req_{UUID7}", response.headers["x-request-id"])
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


# Versions.


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0", "1.0.27", "1.0.0-rc.1", " 1.0 "])
async def test_a_version_we_speak_is_accepted(api, version) -> None:
    """C-HTTP-05: the official Go client sends `1.0.0-rc.1`."""
    response = await api.send("GET", "/ojs/v1/queues", headers={"ojs-version": version})
    assert response.status_code == 200
    assert response.headers["ojs-version"] == "1.0"


@pytest.mark.parametrize("version", ["2", "2.0", "1.1", "0.9", "", "one", "1.0.", "1.0.0-", "1.0\xa0", "x" * 1000])
async def test_any_other_version_is_refused(api, refused, version) -> None:
    """C-HTTP-05. What was received is quoted, but never at length."""
    headers = {"ojs-version": version.encode("latin-1")}
    for method, path in (("GET", "/ojs/v1/queues"), ("GET", "/ojs/manifest"), ("DELETE", f"/ojs/v1/jobs/{ABSENT}")):
        error = refused(await api.send(method, path, headers=headers), 422, "unsupported", field="OJS-Version")
        assert len(error["details"]["received"]) <= 50


async def test_who_names_the_draft_gets_its_forms(api, check) -> None:
    """Q-05, Q-32: two members changed their type since; official clients still read the older one."""
    await api.push()
    now = await api.ask("GET", "/ojs/v1/queues/default/stats")
    draft = await api.send("GET", "/ojs/v1/queues/default/stats", headers={"ojs-version": "1.0.0-rc.1"})
    assert now["queue"]["name"] == "default"
    assert check(draft, 200, shapes.QueueStats)["queue"] == "default"
    manifest = await api.send("GET", "/ojs/manifest", headers={"ojs-version": "1.0.0-rc.1"})
    assert check(manifest, 200, shapes.Manifest)["extensions"] == []
    assert (await api.ask("GET", "/ojs/manifest"))["extensions"] == {"official": [], "experimental": []}


# Bodies.


@pytest.mark.parametrize(
    "content_type",
    [
        OJS,
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "APPLICATION/OPENJOBSPEC+JSON;v=1",
        " application/json ",
        None,
    ],
)
async def test_both_types_are_read_whatever_their_case_and_parameters(api, content_type) -> None:
    """C-HTTP-04, C-JSON-01; no header at all counts as JSON."""
    headers = {} if content_type is None else {"content-type": content_type}
    request = api.client.build_request("POST", "/ojs/v1/jobs", content=b'{"type":"a","args":[]}', headers=headers)
    assert ("content-type" in request.headers) == (content_type is not None)
    assert (await api.client.send(request)).status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonx",
        "application/problem+json",
        "json",
        "",
        ";",
        "\xff" * 300,
    ],
)
async def test_other_types_are_refused(api, refused, content_type) -> None:
    """C-HTTP-04: 400 and not 415. What was received is quoted, but never at length."""
    headers = {"content-type": content_type.encode("latin-1")}
    for path in ("/ojs/v1/jobs", "/ojs/v1/workers/fetch", "/ojs/v1/queues/a/pause"):
        response = await api.send("POST", path, JOB, headers=headers)
        error = refused(response, 400, "invalid_request", field="Content-Type", expected=OJS)
        assert len(error["details"].get("received", "")) <= 100
    assert await api.stored() == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/ojs/v1/jobs"),
        ("POST", "/ojs/v1/jobs/batch"),
        ("POST", f"/ojs/v1/jobs/{ABSENT}/nack"),
        ("POST", "/ojs/v1/workers/fetch"),
        ("POST", "/ojs/v1/workers/ack"),
        ("POST", "/ojs/v1/workers/nack"),
        ("POST", "/ojs/v1/workers/heartbeat"),
        ("POST", "/ojs/v1/cron"),
        ("PATCH", "/ojs/v1/cron/x"),
        ("POST", "/ojs/v1/workflows"),
        ("POST", "/ojs/v1/admin/workers/w/directive"),
    ],
)
@pytest.mark.parametrize("body", [b"", b" ", b"\n\t"])
async def test_an_empty_body_is_malformed_where_one_is_needed(api, refused, method, path, body) -> None:
    """C-HTTP-10."""
    refused(await api.send(method, path, body), 400, "invalid_payload")


@pytest.mark.parametrize("body", [None, b"", b" ", b"{}", b'{"unknown":1}'])
async def test_a_body_may_be_missing_where_nothing_need_be_said(api, body) -> None:
    """C-HTTP-09."""
    dead = await api.dead()
    staged = await api.push(options={"pending": True})
    (await api.push("test.held", queue="held"),)
    held = await api.fetch_one("held")
    for path in (
        "/ojs/v1/queues/a/pause",
        "/ojs/v1/queues/a/resume",
        f"/ojs/v1/dead-letter/{dead['id']}/retry",
        f"/ojs/v1/jobs/{staged['id']}/activate",
        f"/ojs/v1/jobs/{held['id']}/ack",
    ):
        assert (await api.send("POST", path, body)).status_code == 200


@pytest.mark.parametrize("path", ["queues/a/pause", "queues/a/resume", f"dead-letter/{ABSENT}/retry"])
@pytest.mark.parametrize("body", [b"nonsense", b"[]", b"null", b"{", b"\xff"])
async def test_a_body_that_may_be_missing_must_still_be_an_object(api, refused, path, body) -> None:
    refused(await api.send("POST", f"/ojs/v1/{path}", body), 400, "invalid_payload")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "queues", 200), ("DELETE", f"jobs/{ABSENT}", 404)])
async def test_get_and_delete_ignore_bodies(api, method, path, status) -> None:
    """C-HTTP-11."""
    for body in (b"nonsense", b"\xff" * 100_000):
        response = await api.send(method, f"/ojs/v1/{path}", body, headers={"content-type": "text/plain"})
        assert response.status_code == status


# Paths and methods.


@pytest.mark.parametrize(
    "path", ["/", "/ojs", "/ojs/v1", "/ojs/v2/jobs", "/ojs/v1/jobs/a/b/c", "/OJS/V1/JOBS", "/%2e%2e/x", "/\u2713"]
)
async def test_an_unknown_path_is_not_found(api, refused, path) -> None:
    for method in ("GET", "POST", "DELETE"):
        refused(await api.send(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ojs/v1/schemas"),
        ("POST", "/ojs/v1/schemas"),
        ("GET", "/ojs/v1/schemas/urn%3Aexample:report"),
        ("DELETE", "/ojs/v1/schemas/urn:example:report"),
    ],
)
async def test_a_registry_of_schemas_is_not_offered(api, refused, method, path) -> None:
    """C-EP-27, C-HTTP-12: which is another thing than a path that does not exist."""
    body = {"uri": "urn:example:report", "type": "a", "version": "1", "schema": {}} if method == "POST" else None
    refused(await api.send(method, path, body), 422, "unsupported")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/ojs/v1/jobs", "OPTIONS, POST"),
        ("/ojs/v1/jobs/batch", "OPTIONS, POST"),
        (f"/ojs/v1/jobs/{ABSENT}", "DELETE, GET, HEAD, OPTIONS"),
        (f"/ojs/v1/jobs/{ABSENT}/ack", "OPTIONS, POST"),
        ("/ojs/v1/cron", "GET, HEAD, OPTIONS, POST"),
        ("/ojs/v1/cron/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/ojs/manifest", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_method_the_path_lacks_is_refused_with_the_list_of_those_it_has(api, refused, path, allowed) -> None:
    methods = {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - set(allowed.split(", "))
    for method in sorted(methods):
        response = await api.send(method, path)
        refused(response, 405, "x_method_not_allowed")
        assert response.headers["allow"] == allowed
    options = await api.send("OPTIONS", path)
    assert (options.status_code, options.headers["allow"]) == (204, allowed)
    # RFC 9110 §8.6.
    assert "content-length" not in options.headers


@pytest.mark.parametrize("method", ["ASSERT", "PROPFIND", "QUERY", "X" * 1000])
async def test_any_method_gets_a_well_formed_answer(api, refused, method) -> None:
    """C-HTTP-17: the official runner really sends the first one."""
    refused(await api.send(method, "/"), 404, "not_found")
    for path in ("/ojs/v1/jobs", f"/ojs/v1/jobs/{ABSENT}", "/ojs/v1/jobs/a%20b", "/ojs/manifest"):
        response = await api.send(method, path)
        error = refused(response, 405, "x_method_not_allowed")
        assert response.headers["allow"] == (await api.send("OPTIONS", path)).headers["allow"]
        assert len(error["message"]) < 100


async def test_head_is_get_without_the_body(api) -> None:
    job = await api.push()
    for path in ("/ojs/manifest", f"/ojs/v1/jobs/{job['id']}", f"/ojs/v1/jobs/{ABSENT}", "/ojs/v1/docs", "/nothing"):
        got, head = await api.send("GET", path), await api.send("HEAD", path)
        assert head.status_code == got.status_code
        # The ids of the two requests differ, but not in length.
        assert head.headers.keys() == got.headers.keys()
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))


async def test_path_parameters_are_decoded(api, refused) -> None:
    """C-HTTP-19; and what is no UUID is simply not there."""
    job = await api.push()
    encoded = "".join(f"%{ord(letter):02x}" for letter in job["id"])
    assert (await api.ask("GET", f"/ojs/v1/jobs/{encoded}"))["job"] == job
    for unknown in ("x", "%00", "%ff", "%F0%9F%90%A6", "..", job["id"].upper(), "a" * 2000, "%", "{job_id:str}"):
        refused(await api.send("GET", f"/ojs/v1/jobs/{unknown}"), 404, "not_found")


async def test_the_last_of_repeated_query_parameters_counts(api) -> None:
    for index in range(3):
        await api.push(queue=f"q{index}")
    answer = await api.ask("GET", "/ojs/v1/queues?limit=1&limit=2")
    assert len(answer["queues"]) == 2


@pytest.mark.parametrize("query", [b"limit=%ff", b"queue=%80", b"%ff=1", b"\xff"])
async def test_a_query_that_is_not_utf8_is_refused(api, query) -> None:
    for path in ("/ojs/v1/dead-letter", "/ojs/v1/events", "/ojs/v1/queues", "/ojs/v1/cron"):
        answer = await api.raw("GET", path, query_string=query)
        assert answer.status == 400
        assert b'"field":"query"' in answer.body
