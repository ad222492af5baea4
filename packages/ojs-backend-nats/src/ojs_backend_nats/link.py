"""The connection to NATS: requests with answers, in bounded time, whatever becomes of the servers."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ojs_backend_nats.config import NATSConfig
from ojs_backend_nats.errors import closed
from ojs_core.errors import BackendUnavailableError, SettingsError

RECONNECT_WAIT_S = 0.25
PING_S = 10
"""Silence after which the client asks the server whether it is still there; the third unanswered time ends it."""
NO_RESPONDERS = "503"
UNHEARD_S = 1.0
"""How long a request that no server heard is sent again. The servers of a cluster tell each other who answers for a
stream; for a moment after it was made, or got another leader, they may not know it yet."""
UNHEARD_WAIT_S = 0.05
AGAIN_S = 1.0
"""After how long without an answer a request that may be done twice is sent again: while a stream is being made, or is
without a leader, the servers pass over what is asked of it."""
MINIMUM = (2, 10)
NO_TLS = "the server does not ask for TLS, and NATS_URL or OJS_NATS_TLS_* does"

_log = logging.getLogger("ojs.nats")

OnMessage = Callable[[Msg], Awaitable[None]]


class _Client(Client):
    """The client, but held to TLS where it was asked for, and to closing what a failed attempt to connect left open.

    By itself it does what the server asks for. Whoever sits between could have the password in the clear, so this looks
    just before that is sent.
    """

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        server = self._current_server
        asked = server is not None and (
            server.uri.scheme == "tls" or (server.uri.scheme == "nats" and "tls" in self.options)
        )
        if asked and not self._server_info.get("tls_required"):
            raise nats.errors.Error(NO_TLS)
        return super()._connect_command()


class Link:
    """One connection, which comes back by itself. `lost` is called each time it went away."""

    def __init__(self, config: NATSConfig, lost: Callable[[], None]) -> None:
        self._config = config
        self._lost = lost
        self._client: Client | None = None
        self._inbox = ""
        self._numbers = count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._repeats: set[asyncio.Task[None]] = set()
        self._over = False
        """Closed for good. The client's loop that reconnects may miss that it was cancelled: its callbacks end it."""
        self._last_error: Exception | None = None
        self._said: set[str] = set()
        """What was a warning since the connection came back: the client tries again several times a second."""
        self._hopeless: asyncio.Future[SettingsError] | None = None
        """Why trying again to connect makes no sense."""
        self.requests = 0
        """Messages sent so far that ask for an answer."""

    @property
    def part_max(self) -> int:
        """Bytes of a message's payload, at most: what the server takes, less room for headers."""
        return self._connected().max_payload - 1024

    @property
    def version(self) -> str:
        """Version of the server this is connected to."""
        client = self._connected()
        return str(client.connected_server_version) if client.is_connected else ""

    async def open(self) -> None:
        """Connect. Raises `SettingsError` or `BackendUnavailableError`."""
        client = _Client()
        options = self._options()
        self._hopeless = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(client.connect(**options))
        try:
            # The client would go on trying for ever; a sign-in that was refused is refused again.
            await asyncio.wait(
                (connecting, self._hopeless), timeout=self._config.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._hopeless.done():
                raise self._hopeless.result()
            if not connecting.done():
                raise self._explained(self._last_error or TimeoutError()) from self._last_error
            connecting.result()
        except (OSError, ValueError, nats.errors.Error) as error:
            raise self._explained(self._last_error or error) from (self._last_error or error)
        finally:
            if not client.is_connected:
                self._over = True
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                self._over = False
                await self._end(client)
        self._client = client
        found = client.connected_server_version
        if (found.major, found.minor) < MINIMUM:
            await self.close()
            raise SettingsError(
                f"NATS_URL: the server is NATS {found}, and 2.10 is the oldest that will do. Upgrade it."
            )
        self._inbox = client.new_inbox()
        await self.subscribe(f"{self._inbox}.*", self._answered)

    def _options(self) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {
            "servers": list(config.servers),
            "name": "ojs-server",
            # A share for each, so that one that hangs does not keep the others from being asked.
            "connect_timeout": config.timeout_s / len(config.servers),
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_S,
            "max_outstanding_pings": 2,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "user": config.user,
            "password": config.password,
            "token": config.token,
            "user_credentials": config.credentials,
            "nkeys_seed": config.nkey_seed,
        }
        for variable, path in (
            ("OJS_NATS_CREDENTIALS", config.credentials),
            ("OJS_NATS_NKEY_SEED", config.nkey_seed),
            ("OJS_NATS_TLS_CA", config.tls_ca),
            ("OJS_NATS_TLS_CERT", config.tls_cert),
            ("OJS_NATS_TLS_KEY", config.tls_key),
        ):
            if path is not None and not Path(path).is_file():
                raise SettingsError(f"{variable}: there is no file {path}.")
        if config.tls_ca is not None or config.tls_cert is not None:
            options["tls"] = self._tls()
        return options

    def _tls(self) -> ssl.SSLContext:
        config = self._config
        try:
            context = ssl.create_default_context(cafile=config.tls_ca)
            if config.tls_cert is not None:
                context.load_cert_chain(config.tls_cert, config.tls_key)
        except ssl.SSLError as error:
            raise SettingsError(f"OJS_NATS_TLS_*: a file is no certificate or key: {error.reason}.") from error
        return context

    def _explained(self, error: Exception) -> Exception:
        text = str(error).lower()
        if "authorization violation" in text or "authentication" in text or "nonce" in text:
            return SettingsError(
                "NATS_URL: the server refused the sign-in. Check OJS_NATS_USER and OJS_NATS_PASSWORD, OJS_NATS_TOKEN, "
                "OJS_NATS_CREDENTIALS or OJS_NATS_NKEY_SEED, whichever it asks for."
            )
        if str(error) == NO_TLS:
            return SettingsError(f"NATS_URL: {NO_TLS}.")
        if isinstance(error, ssl.SSLError) or "tls" in text:
            return SettingsError(f"NATS_URL: TLS failed: {error}. Check OJS_NATS_TLS_CA, OJS_NATS_TLS_CERT.")
        return BackendUnavailableError("NATS cannot be reached at NATS_URL.")

    async def close(self) -> None:
        """Disconnect. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await self._end(client)
        self._fail_all(closed())

    async def _end(self, client: Client) -> None:
        try:
            await client.close()
        except asyncio.CancelledError:
            # Of a client that was just reconnecting: it cancels what it then waits for itself.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            self._over = True

    def _connected(self) -> Client:
        if self._client is None:
            raise closed()
        return self._client

    async def subscribe(self, subject: str, on_message: OnMessage) -> Subscription:
        """Have every message on a subject handed to `on_message`, one after the other."""
        try:
            return await self._connected().subscribe(subject, cb=on_message)
        except nats.errors.Error as error:
            raise BackendUnavailableError("NATS did not take a subscription.") from error

    async def publish(self, subject: str, payload: bytes = b"") -> None:
        """Send a message nobody answers."""
        client = self._connected()
        if not client.is_connected:
            raise BackendUnavailableError("The connection to NATS is down.")
        try:
            await client.publish(subject, payload)
        except (OSError, nats.errors.Error) as error:
            raise BackendUnavailableError("NATS did not take a message.") from error

    def new_inbox(self) -> str:
        """Return a subject of this connection's own."""
        return self._connected().new_inbox()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = False,
    ) -> Msg:
        """Send a message and return the answer to it. Raises `BackendUnavailableError`: sent or not, nobody knows.

        One that is `repeatable`, because twice is as good as once, is sent again each second until there is an answer.
        """
        deadline = asyncio.get_running_loop().time() + min(UNHEARD_S, self._config.timeout_s)
        while True:
            message = await self._request_once(subject, payload, headers, repeatable=repeatable)
            if message.headers is None or message.headers.get("Status") != NO_RESPONDERS:
                return message
            if asyncio.get_running_loop().time() >= deadline:
                raise BackendUnavailableError("JetStream is not available: nobody answers for the stream.")
            await asyncio.sleep(UNHEARD_WAIT_S)  # noqa: TID251 - nothing tells a client when they know

    async def _request_once(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, *, repeatable: bool
    ) -> Msg:
        client = self._connected()
        if not client.is_connected:
            # What was sent now would wait in a buffer, and happen some time later.
            raise BackendUnavailableError("The connection to NATS is down.")
        token = str(next(self._numbers))
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        self.requests += 1
        repeating = self._repeat_later(subject, payload, token) if repeatable else None
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await client.publish(
                    subject, payload, reply=f"{self._inbox}.{token}", headers=None if headers is None else dict(headers)
                )
                message = await answer
        except TimeoutError as error:
            raise BackendUnavailableError(f"NATS did not answer within {self._config.timeout_s:g} s.") from error
        except (OSError, nats.errors.Error) as error:
            raise BackendUnavailableError("NATS did not take a request.") from error
        finally:
            del self._waiting[token]
            if repeating is not None:
                repeating.cancel()
        return message

    def _repeat_later(self, subject: str, payload: bytes, token: str) -> asyncio.TimerHandle:
        # A timer costs next to nothing where the answer comes in time.
        def start() -> None:
            task = asyncio.ensure_future(self._repeat(subject, payload, token))
            self._repeats.add(task)
            task.add_done_callback(self._repeats.discard)

        return asyncio.get_running_loop().call_later(AGAIN_S, start)

    async def _repeat(self, subject: str, payload: bytes, token: str) -> None:
        """Send a request again until it is answered or given up; whichever answer comes first will do."""
        with suppress(OSError, nats.errors.Error):
            while (answer := self._waiting.get(token)) is not None and self._client is not None:
                self.requests += 1
                await self._client.publish(subject, payload, reply=f"{self._inbox}.{token}")
                await asyncio.wait((answer,), timeout=AGAIN_S)
                if answer.done():
                    return

    async def _answered(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _fail_all(self, error: BackendUnavailableError) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)

    async def _on_error(self, error: Exception) -> None:
        if self._over:
            raise asyncio.CancelledError
        self._last_error = error
        explained = self._explained(error)
        if isinstance(explained, SettingsError) and self._hopeless is not None and not self._hopeless.done():
            self._hopeless.set_result(explained)
        if self._client is not None:
            text = str(error) or type(error).__name__
            level = logging.DEBUG if text in self._said else logging.WARNING
            self._said.add(text)
            ours = not isinstance(error, OSError | nats.errors.Error)
            _log.log(level, "NATS: %s", text, exc_info=error if ours else None)

    async def _on_disconnected(self) -> None:
        if self._client is not None:
            _log.warning("The connection to NATS is down.")
        self._fail_all(BackendUnavailableError("The connection to NATS was lost."))
        self._lost()

    async def _on_reconnected(self) -> None:
        if self._over:
            raise asyncio.CancelledError
        self._said.clear()
        _log.warning("The connection to NATS is back.")
        self._lost()
