"""Plain HTTP/1.1 on the standard library: one connection per request, one answer read whole.

A new connection each time costs little on loopback and keeps a server's idle timeout from breaking a case that waits
between two steps.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ojs_core.testing.conformance.errors import CaseError
from ojs_core.testing.conformance.paths import Found, Lookup, Missing
from ojs_core.testing.conformance.values import parse_json

REQUEST_TIMEOUT_S = 30.0
MEDIA_TYPE = "application/openjobspec+json"
RESET_PATH = "/ojs/v1/admin/reset"
HEALTH_PATH = "/ojs/v1/health"


class TransportError(Exception):
    """The server gave no HTTP answer: refused, reset, timed out, or did not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer.

    `headers` keeps their order and repetitions; `elapsed_ms` runs from before the request is sent until all is read.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    raw: bytes
    elapsed_ms: float

    def header(self, name: str) -> Lookup:
        """Return the value of a header, its name in any case; repeated headers are joined with a comma and a space."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return Found(", ".join(values)) if values else Missing(f"no header {name!r}", place_exists=True)

    def json(self) -> Lookup:
        """Return the body as a JSON value, or `Missing` with the reason it is none."""
        if not self.raw:
            return Missing("the response body is empty", place_exists=True)
        try:
            return Found(parse_json(self.raw))
        except (ValueError, RecursionError) as error:
            return Missing(f"the response body is not JSON: {error}")


class Client:
    """Sends requests to one server. Safe to use from several threads: no state is shared between requests."""

    def __init__(self, base_url: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Point at `base_url`, such as `http://127.0.0.1:8080`; a path in it goes before every request's path."""
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"not the base URL of an HTTP server: {base_url!r}")
        self.base_url = base_url.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._timeout_s = timeout_s

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        before_send: Callable[[], None] | None = None,
    ) -> Response:
        """Send one request and read the answer.

        `before_send` is called once the connection is open, so that steps which belong together can leave together.
        Raises `TransportError`, or `CaseError` when the request cannot be written as HTTP.
        """
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        where = f"{method} {path}"
        try:
            connection.connect()
            if before_send is not None:
                before_send()
            started = time.perf_counter()
            connection.request(method, self._prefix + path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            raw = answer.read()
            elapsed_ms = (time.perf_counter() - started) * 1000
            return Response(answer.status, tuple(answer.getheaders()), raw, elapsed_ms)
        except (http.client.InvalidURL, ValueError, UnicodeError) as error:
            raise CaseError(f"{where} cannot be sent: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(f"{where}: no answer from {self.base_url}: {error!r}") from error
        finally:
            connection.close()

    def reset(self) -> None:
        """Wipe the server. It must run in its test mode. Raises `TransportError` if it does not agree."""
        response = self.send("POST", RESET_PATH)
        if not 200 <= response.status < 300:  # noqa: PLR2004 - the range of HTTP's success codes
            raise TransportError(
                f"POST {RESET_PATH} answered {response.status}; is the server in test mode (OJS_TEST_MODE=true)?"
            )
