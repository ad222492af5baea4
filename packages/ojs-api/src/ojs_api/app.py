"""The composition root: settings, backend, service, endpoints, Litestar."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from litestar import HttpMethod, Litestar, Request, Response
from litestar.exceptions import ClientException, MethodNotAllowedException, NotFoundException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import ASGIApp

from ojs_api.handlers import ENDPOINTS
from ojs_api.http import Call, Endpoint, Gate, all_headers, allow_header, error_reply, method_not_allowed
from ojs_api.process import on_shutdown
from ojs_core.clock import SystemClock
from ojs_core.errors import InvalidRequestError, OJSError, RouteNotFoundError
from ojs_core.registry import load_backend
from ojs_core.service import Service
from ojs_core.settings import read_settings

log = logging.getLogger("ojs")


class Application(Litestar):
    """Litestar, and in front of its router a dictionary for the paths that need none.

    What is asked at a path without parameters goes straight to its application. Litestar gets all the rest: paths with
    parameters or a slash behind, paths that do not exist, the lifespan. Its way to a route takes longer than all that
    the gate does.
    """

    def __init__(self, applications: Mapping[str, ASGIApp], **settings: Any) -> None:
        super().__init__(
            route_handlers=[_route(path, application) for path, application in applications.items()], **settings
        )
        self._direct = {path: application for path, application in applications.items() if "{" not in path}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - also a lifespan's
        """Answer a request, or run the lifespan."""
        application = self._direct.get(scope.get("path"))
        if application is None:
            await super().__call__(scope, receive, send)
        else:
            await application(scope, receive, send)


def create_app(service: Service | None = None) -> Application:
    """Return the application; without a service, one after the environment's settings.

    The service starts and stops with the application's lifespan.
    """
    served = service or make_service(os.environ)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await served.start()
        for line in await served.backend.warnings():
            log.warning("%s", line)
        forget = on_shutdown(served.stop_waiting)
        try:
            yield
        finally:
            forget()
            await served.stop()

    return Application(
        applications_by_path(served),
        exception_handlers={Exception: answer_framework_error(served)},
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )


def make_service(environ: Mapping[str, str]) -> Service:
    """Return the service an environment asks for, not yet started. Raises `SettingsError`."""
    settings = read_settings(environ)
    return Service(load_backend(settings.backend, environ), SystemClock(), settings)


def applications_by_path(service: Service) -> dict[str, ASGIApp]:
    """Return the application of each path; those with parameters are named as in `Endpoint`."""
    gate = Gate(service)
    by_path: dict[str, dict[str, Endpoint]] = defaultdict(dict)
    for endpoint in ENDPOINTS:
        by_path[endpoint.path][endpoint.method] = endpoint
    return {path: gate.route(methods) for path, methods in by_path.items()}


def _route(path: str, application: ASGIApp) -> ASGIRouteHandler | HTTPRouteHandler:
    """Return the cheapest route that works: Litestar finds no ASGI route whose path has parameters.

    The application itself refuses methods that the path does not have.
    """
    if "{" not in path:
        return ASGIRouteHandler(path, copy_scope=False)(application)

    async def hand_over() -> ASGIApp:
        return application

    return HTTPRouteHandler(path, http_method=list(HttpMethod), status_code=200)(hand_over)


def methods_at(path: str) -> set[str]:
    """Return the methods of a path with its parameters filled in."""
    found = ((re.sub(r"\{\w+:str\}", "[^/]+", endpoint.path), endpoint.method) for endpoint in ENDPOINTS)
    return {method for pattern, method in found if re.fullmatch(pattern, path.rstrip("/"))}


def answer_framework_error(service: Service) -> Callable[[Request[Any, Any, Any], Exception], Response[bytes]]:
    """Return the handler of what Litestar itself refuses: above all paths that do not exist."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        call = Call(request.scope, request.receive, service)
        if isinstance(error, NotFoundException):
            reply = error_reply(RouteNotFoundError("There is no such path."), call)
        elif isinstance(error, MethodNotAllowedException):
            reply = method_not_allowed(request.method, allow_header(methods_at(request.scope["path"])), call)
        elif isinstance(error, ClientException):
            reply = error_reply(InvalidRequestError(error.detail), call)
        else:
            log.error("The framework failed on %s.", request.scope["path"], exc_info=error)
            reply = error_reply(OJSError("The server failed to answer."), call)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in all_headers(reply, call)}
        return Response(content=reply.body, status_code=reply.status, headers=headers)

    return handle
