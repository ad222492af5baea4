"""The server's description of itself: the OpenAPI document, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ojs_api.docs_page import POLICY, render_page
from ojs_api.http import JSON_MEDIA_TYPE, Call, Endpoint, Endpoints, Reply
from ojs_api.openapi import encode_document, make_document
from ojs_api.shapes import Content

HTML_MEDIA_TYPE = "text/html; charset=utf-8"
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def describe(others: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that describe the others, and themselves."""
    endpoints = Endpoints("System")
    document_of, page_of = _makers(lambda: [*others, *endpoints.all])

    @endpoints.add(
        "GET",
        "/ojs/v1/openapi.json",
        "This description, for programs",
        public=True,
        response=Content(JSON_MEDIA_TYPE.decode(), dict[str, Any]),
    )
    async def openapi(call: Call) -> Reply:
        """The document depends on the settings only in whether keys are asked for."""
        return Reply(document_of(bool(call.service.settings.api_keys)), media_type=JSON_MEDIA_TYPE)

    @endpoints.add(
        "GET",
        "/ojs/v1/docs",
        "This description, for people",
        public=True,
        response=Content(HTML_MEDIA_TYPE, str),
    )
    async def docs(call: Call) -> Reply:
        """The place the `docs_url` of every error leads to."""
        page = page_of(bool(call.service.settings.api_keys))
        return Reply(page, headers=HEADERS, media_type=HTML_MEDIA_TYPE.encode())

    return endpoints.all


def _makers(all_endpoints: Callable[[], list[Endpoint]]) -> tuple[Callable[[bool], bytes], Callable[[bool], bytes]]:
    """Return what makes document and page, each once: only two of either can be asked for."""

    @cache
    def document_of(keys: bool) -> bytes:  # noqa: FBT001 - the one thing they depend on
        return encode_document(make_document(all_endpoints(), keys=keys))

    @cache
    def page_of(keys: bool) -> bytes:  # noqa: FBT001
        return render_page(make_document(all_endpoints(), keys=keys))

    return document_of, page_of
