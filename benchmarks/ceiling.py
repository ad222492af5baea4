"""The most a handler could answer: the server's own process model, HTTP and gate, around a handler that does no work.

It reads the body of an enqueue and answers 201 with a constant as long as the real answer. What single enqueues reach
of its rate is what validation, the lifecycle and the store leave of the HTTP layer.
"""

from __future__ import annotations

import os
import sys

from client import job_text

from ojs_api.app import Application, make_service
from ojs_api.handlers import ENDPOINTS
from ojs_api.http import Call, Endpoint, Gate, Handler, Reply, encode
from ojs_api.process import ServeConfig
from ojs_api.serving import serve
from ojs_api.wire import job_view
from ojs_core.envelope import new_job, parse_job_request
from ojs_core.settings import read_settings

_NOW_MS = 1_770_892_200_000
_JOB = new_job(parse_job_request(job_text("bench-0"), _NOW_MS), _NOW_MS).job
_ANSWER = encode({"job": job_view(_JOB)})
_HEADERS = ((b"location", b"/ojs/v1/jobs/" + _JOB.id.encode()),)


async def answer_enqueue(_: Call) -> Reply:
    """Answer as if a job had been enqueued."""
    return Reply(_ANSWER, 201, _HEADERS)


async def answer_health(_: Call) -> Reply:
    """Say that the server is up."""
    return Reply(b"{}")


HANDLERS: dict[tuple[str, str], Handler] = {
    ("POST", "/ojs/v1/jobs"): answer_enqueue,
    ("GET", "/ojs/v1/health"): answer_health,
}


def create_app() -> Application:
    """Return the application. Its service is never started: the gate only wants the settings and the clock."""
    gate = Gate(make_service(os.environ))
    applications = {
        endpoint.path: gate.route({endpoint.method: _idle(endpoint)})
        for endpoint in ENDPOINTS
        if (endpoint.method, endpoint.path) in HANDLERS
    }
    return Application(applications, openapi_config=None, logging_config=None)


def _idle(endpoint: Endpoint) -> Endpoint:
    return Endpoint(
        method=endpoint.method,
        path=endpoint.path,
        handler=HANDLERS[endpoint.method, endpoint.path],
        summary=endpoint.summary,
        tag=endpoint.tag,
        body=endpoint.body,
        public=endpoint.public,
    )


def main() -> int:
    """Serve until told to stop, after the same variables as the server."""
    settings = read_settings(os.environ)
    return serve(
        ServeConfig(
            app="ceiling:create_app",
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_level=settings.log_level,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
