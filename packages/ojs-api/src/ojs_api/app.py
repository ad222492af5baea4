"""The composition root: settings, backend, service, endpoints, Litestar."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Send

from ojs_api.handlers import ENDPOINTS
from ojs_api.http import Call, Endpoint, Gate, HTTPApplication, error_reply, send_reply
from ojs_api.serving import on_shutdown
from ojs_core.clock import SystemClock
from ojs_core.errors import RouteNotFoundError
from ojs_core.registry import load_backend
from ojs_core.service import Service
from ojs_core.settings import read_settings

log = logging.getLogger("ojs")


def create_app(service: Service | None = None) -> Litestar:
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

    return Litestar(
        route_handlers=routes(served),
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )


def make_service(environ: Mapping[str, str]) -> Service:
    """Return the service an environment asks for, not yet started. Raises `SettingsError`."""
    settings = read_settings(environ)
    return Service(load_backend(settings.backend, environ), SystemClock(), settings)


def routes(service: Service) -> list[ASGIRouteHandler]:
    """Return a route per path, and one for everything else."""
    gate = Gate(service)
    by_path: dict[str, dict[str, Endpoint]] = defaultdict(dict)
    for endpoint in ENDPOINTS:
        by_path[endpoint.path][endpoint.method] = endpoint

    async def not_found(scope: HTTPScope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, service)
        await send_reply(error_reply(RouteNotFoundError("There is no such path."), call), call, send)

    handlers = [_mount(path, gate.route(methods)) for path, methods in by_path.items()]
    return [*handlers, _mount("/", not_found, everything=True)]


def _mount(path: str, application: HTTPApplication, *, everything: bool = False) -> ASGIRouteHandler:
    return ASGIRouteHandler(path, is_mount=everything, copy_scope=False)(application)
