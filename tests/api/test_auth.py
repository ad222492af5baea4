"""Who may ask (C-HTTP-16)."""

from __future__ import annotations

import pytest

from ojs_api.handlers import ENDPOINTS

KEYS = ("first-key", "second-key")
ABSENT = "019c5166-8840-7000-8000-000000000000"
PUBLIC = [
    "/ojs/manifest",
    "/ojs/v1/health",
    "/livez",
    "/readyz",
    "/healthz",
    "/ojs/v1/openapi.json",
    "/ojs/v1/docs",
]


@pytest.fixture
async def guarded(serving):
    async with serving(api_keys=KEYS) as api:
        yield api


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer first-key",
        b"Bearer second-key",
        b"bearer first-key",
        b"BEARER first-key",
        b"Bearer   first-key",
        b"Bearer first-key ",
    ],
)
async def test_any_of_the_keys_opens(guarded, authorization) -> None:
    """Two keys allow a rotation; the name of the scheme has no case (RFC 9110 §11.1)."""
    response = await guarded.send("GET", "/ojs/v1/queues", headers={"authorization": authorization})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer third-key",
        b"Bearer FIRST-KEY",
        b"Bearer first-key,second-key",
        b"Bearer first-key second-key",
        b"Bearer first-ke",
        b"Bearer first-keyy",
        b"first-key",
        b"Basic first-key",
        b"Bearer\tfirst-key",
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 10_000,
    ],
)
async def test_nothing_else_does(guarded, refused, authorization) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = await guarded.send("GET", "/ojs/v1/queues", headers=headers)
    error = refused(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == 'Bearer realm="ojs"'
    assert error["retryable"] is False
    assert "first-key" not in response.text


async def test_every_endpoint_but_the_public_ones_asks_for_a_key(guarded, refused) -> None:
    """Before it looks at anything else: not even that a job does not exist can be found out."""
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("{", "").replace(":str}", "")
        headers = {"ojs-version": "99", "content-type": "text/plain"}
        response = await guarded.send(endpoint.method, path, b"nonsense", headers=headers)
        if path in PUBLIC:
            assert response.status_code == 422
        else:
            refused(response, 401, "unauthenticated")
    assert {endpoint.path for endpoint in ENDPOINTS if endpoint.public} == set(PUBLIC)


@pytest.mark.parametrize("path", PUBLIC)
async def test_what_is_public_needs_none(guarded, path) -> None:
    """C-HTTP-16: supervisors and readers of the manifest have no key; a wrong one does no harm."""
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert (await guarded.send("GET", path, headers=headers)).status_code == 200


async def test_a_body_is_not_read_from_a_stranger(guarded) -> None:
    async def receive() -> None:
        raise AssertionError("The body was read.")

    answer = await guarded.raw("POST", "/ojs/v1/jobs", receive)
    assert answer.status == 401


async def test_without_keys_none_is_asked_for(api) -> None:
    for headers in ({}, {"authorization": "Bearer anything"}):
        assert (await api.send("GET", "/ojs/v1/queues", headers=headers)).status_code == 200


async def test_what_is_not_there_is_not_there_for_strangers_too(guarded, refused) -> None:
    """Paths are no secret, they are in the document; jobs are."""
    refused(await guarded.send("GET", "/ojs/v1/nothing"), 404, "not_found")
    refused(await guarded.send("GET", f"/ojs/v1/jobs/{ABSENT}"), 401, "unauthenticated")
