"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis

from ojs_api.app import create_app
from ojs_api.docs_page import render_page
from ojs_api.handlers import ENDPOINTS
from ojs_api.openapi import encode_document, error_classes, errors_of, make_document, operation_id, types_of
from ojs_core.errors import OJSError

DOCUMENT = make_document(ENDPOINTS)
WITH_KEYS = make_document(ENDPOINTS, keys=True)
SHOWN = [endpoint for endpoint in ENDPOINTS if not endpoint.hidden]
OPERATIONS = [
    (path, method, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
BOTH = {"application/openjobspec+json", "application/json"}


def walk(value: Any) -> Any:
    """Yield every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from walk(member)
    elif isinstance(value, list):
        for member in value:
            yield from walk(member)


# The document.


def test_every_route_of_the_application_is_in_it(current) -> None:
    routed = {re.sub(r":str\}", "}", route.path_format).rstrip("/") for route in current.app.routes}
    assert routed - set(DOCUMENT["paths"]) == {"/ojs/v1/schemas", "/ojs/v1/schemas/{uri}"}
    assert set(DOCUMENT["paths"]) < routed
    listed = {(endpoint.method.lower(), re.sub(r":str\}", "}", endpoint.path)) for endpoint in SHOWN}
    assert listed == {(method, path) for path, method, _ in OPERATIONS}


@pytest.mark.parametrize("endpoint", SHOWN, ids=operation_id)
def test_no_type_is_missing(endpoint) -> None:
    assert types_of(endpoint.response)
    assert bool(types_of(endpoint.request)) == endpoint.body


def test_a_schema_is_given_for_every_body() -> None:
    for _, _, operation in OPERATIONS:
        answers = [
            DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
            for answer in operation["responses"].values()
        ]
        for one in (*answers, *([operation["requestBody"]] if "requestBody" in operation else [])):
            assert all(content["schema"] for content in one["content"].values())
            assert one["content"].keys() in ({"text/html; charset=utf-8"}, {"application/json"}, BOTH)


def test_operations_have_names_of_their_own() -> None:
    names = Counter(operation["operationId"] for _, _, operation in OPERATIONS)
    assert max(names.values()) == 1
    assert {operation["tags"][0] for _, _, operation in OPERATIONS} == {tag["name"] for tag in DOCUMENT["tags"]}


def test_parameters_are_those_of_path_and_endpoint() -> None:
    for endpoint in SHOWN:
        path = endpoint.path.replace(":str", "")
        operation = DOCUMENT["paths"][path][endpoint.method.lower()]
        named = [(one["in"], one["name"]) for one in operation["parameters"] if "$ref" not in one]
        in_path = [("path", name) for name in re.findall(r"\{(\w+)\}", path)]
        assert named == [*in_path, *(("query", name) for name in endpoint.query)]


def test_every_reference_leads_somewhere_and_no_definition_is_forgotten() -> None:
    found = {one["$ref"] for one in walk(WITH_KEYS) if "$ref" in one}
    defined = {
        f"#/components/{kind}/{name}"
        for kind, members in WITH_KEYS["components"].items()
        if kind != "securitySchemes"
        for name in members
    }
    assert found == defined


def test_every_schema_is_a_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


@pytest.mark.parametrize("document", [DOCUMENT, WITH_KEYS], ids=["open", "with keys"])
def test_a_reader_of_openapi_takes_it(document) -> None:
    schema = schemathesis.openapi.from_dict(document)
    found = [operation.ok() for operation in schema.get_all_operations()]
    assert len(found) == len(SHOWN)


def test_it_is_ascii() -> None:
    text = encode_document(DOCUMENT)
    assert text.isascii()
    assert json.loads(text) == DOCUMENT


def test_errors_are_listed_with_their_codes() -> None:
    enqueue = DOCUMENT["paths"]["/ojs/v1/jobs"]["post"]["responses"]
    assert list(enqueue) == ["200", "201", "400", "409", "413", "422", "500", "503"]
    conflict = DOCUMENT["components"]["responses"][enqueue["409"]["$ref"].rpartition("/")[2]]
    schema = conflict["content"]["application/json"]["schema"]
    assert schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"] == ["conflict", "duplicate"]


def test_headers_are_where_they_belong() -> None:
    enqueue = DOCUMENT["paths"]["/ojs/v1/jobs"]["post"]["responses"]
    assert set(enqueue["201"]["headers"]) == {"OJS-Version", "X-Request-Id", "Location"}
    assert set(DOCUMENT["components"]["responses"]["503.backend_error"]["headers"]) >= {"Retry-After"}
    assert set(WITH_KEYS["components"]["responses"]["401.unauthenticated"]["headers"]) >= {"WWW-Authenticate"}


def test_bodies_that_may_be_missing_are_marked() -> None:
    optional = {
        operation["operationId"]
        for _, _, operation in OPERATIONS
        if not operation.get("requestBody", {"required": 1})["required"]
    }
    assert optional == {
        "jobs_activate",
        "workers_ack_one",
        "queues_pause",
        "queues_resume",
        "dead_letter_retry",
        "admin_reset",
    }


def test_keys_are_asked_for_everywhere_but_at_public_endpoints() -> None:
    assert "security" not in DOCUMENT
    assert "securitySchemes" not in DOCUMENT["components"]
    assert WITH_KEYS["security"] == [{"key": []}]
    assert WITH_KEYS["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for endpoint in SHOWN:
        operation = WITH_KEYS["paths"][endpoint.path.replace(":str", "")][endpoint.method.lower()]
        assert (operation.get("security") == []) == endpoint.public
        assert ("401" in operation["responses"]) != endpoint.public


def test_a_hidden_endpoint_is_left_out() -> None:
    hidden = msgspec.structs.replace(ENDPOINTS[0], hidden=True)
    assert hidden.path not in make_document([hidden, ENDPOINTS[1]])["paths"]


# What the table of endpoints and errors holds.


def test_beside_the_prefix_are_the_manifest_and_what_supervisors_ask() -> None:
    """C-HTTP-01."""
    beside = {endpoint.path for endpoint in ENDPOINTS if not endpoint.path.startswith("/ojs/v1/")}
    assert beside == {"/ojs/manifest", "/livez", "/readyz", "/healthz"}


def test_what_creates_is_201_and_all_else_200() -> None:
    """C-HTTP-07. That the answers are as the table says is shown where they are given."""
    other = {(endpoint.method, endpoint.path, endpoint.status) for endpoint in SHOWN if endpoint.status != 200}
    created = ("/ojs/v1/jobs", "/ojs/v1/jobs/batch", "/ojs/v1/cron", "/ojs/v1/workflows")
    assert other == {("POST", path, 201) for path in created}


def test_a_code_that_is_not_in_the_catalogue_says_so() -> None:
    """C-ERR-09."""
    catalogue = (
        "invalid_payload invalid_request validation_error schema_validation envelope_too_large metadata_too_large "
        "not_found conflict duplicate queue_paused unsupported QUEUE_FULL rate_limited unauthenticated token_expired "
        "permission_denied tenant_access_denied backend_error"
    ).split()
    own = {error.code for error in error_classes()}.difference(catalogue)
    assert own
    assert all(code.startswith("x_") for code in own)


# How it is served.


@pytest.mark.parametrize(("keys", "document"), [((), DOCUMENT), (("k",), WITH_KEYS)], ids=["open", "with keys"])
async def test_both_are_served(serving, keys, document) -> None:
    async with serving(api_keys=keys) if keys else serving() as api:
        response = await api.send("GET", "/ojs/v1/openapi.json")
        assert response.headers["content-type"] == "application/json"
        assert response.json() == document
        page = await api.send("GET", "/ojs/v1/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.content == render_page(document)
        assert ("asks for a key" in page.text) == bool(keys)


def test_it_can_be_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ojs_api.openapi"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == WITH_KEYS
    assert done.stderr == ""


# The page.


class Page(HTMLParser):
    """What is in a page; raises for tags that are not closed in order."""

    VOID = ("meta", "br", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] or "" for _, found in self.tags if attribute in found]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_page(WITH_KEYS).decode())


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.__name__)
def test_every_error_is_explained_where_its_docs_url_leads(page, error) -> None:
    text = render_page(DOCUMENT).decode()
    assert f"error-{error.code}" in page.values("id")
    (section,) = re.findall(rf'<h3 id="error-{error.code}">.*?</table>', text)
    assert f"<td>{error.status:d}</td><td>{'yes' if error.retryable else 'no'}</td>" in section


def test_no_error_class_is_missing() -> None:
    """Whatever can reach a client has its place on the page."""
    create_app.__module__  # noqa: B018 - importing it imports all that can fail

    def below(kind: type[OJSError]) -> set[type[OJSError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    ours = {kind for kind in below(OJSError) if kind.__module__.startswith("ojs_")}
    assert ours == set(error_classes())


def test_every_operation_and_type_is_on_it(page) -> None:
    anchors = set(page.values("id"))
    assert {operation["operationId"] for _, _, operation in OPERATIONS} <= anchors
    assert {f"type-{name}" for name in DOCUMENT["components"]["schemas"]} <= anchors


def test_links_lead_somewhere_within_it(page) -> None:
    anchors = Counter(page.values("id"))
    assert max(anchors.values()) == 1
    links = set(page.values("href"))
    assert {link for link in links if not link.startswith("#")} == {"/ojs/v1/openapi.json"}
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= anchors.keys()


def test_every_code_of_an_operation_is_linked(page) -> None:
    links = set(page.values("href"))
    for endpoint in ENDPOINTS:
        for error in errors_of(endpoint, keys=True):
            assert f"#error-{error.code}" in links


async def test_it_needs_nothing_and_is_allowed_nothing(api, page) -> None:
    """No script, no image, nothing from elsewhere; and the policy would not let it."""
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "form", "object", "base"})
    assert not {"src", "style", "onclick", "onload", "action"} & {name for _, found in page.tags for name in found}
    response = await api.send("GET", "/ojs/v1/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    assert not re.findall(r"url\(|@import", style)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert response.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert response.headers["x-content-type-options"] == "nosniff"


def test_it_is_for_light_and_dark() -> None:
    text = render_page(DOCUMENT).decode()
    assert "color-scheme: light dark" in text
    assert "prefers-color-scheme: dark" in text


def test_requirements_and_other_inner_matters_are_not_on_it() -> None:
    text = render_page(DOCUMENT).decode() + encode_document(DOCUMENT).decode()
    assert not re.findall(r"\bC-[A-Z]+-\d+|\bQ-\d\d|ADR", text)
