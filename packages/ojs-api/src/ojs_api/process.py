"""Runs an ASGI application in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.config
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, NoReturn

import uvicorn

from ojs_api.protocol import Limits, guarded

# Collections look at everything alive, a full one for tens of milliseconds, and find next to nothing: what a request
# leaves behind is freed by itself.
COLLECT_AFTER: Final = (20_000, 50, 100)
# The exit code after a stop that left something unfinished.
CUT_OFF: Final = 3

log = logging.getLogger("ojs.serving")

_callbacks: list[Callable[[], None]] = []
_stopping = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What to run, and where.

    Attributes:
        app: `module:attribute` of the application, or of a function without arguments that makes it (`factory`).
        host: name or address to listen on; all addresses of a name are used, and an empty one means every interface.
        port: 0 lets the system choose; the log says what it chose.
        workers: processes that serve. With 1 there is no parent process.
        log_level: a level of `logging`, in lower case; `debug` adds tracebacks to failures to start.
        log_config: for `logging.config.dictConfig`, in every process; by default one line a record on standard error.
        drain_s: what requests in flight may take when the server stops; then they are cut off.
        shutdown_s: what the application may take after that to shut down; then the process ends as it is.
        keep_alive_s: how long an idle connection is kept.
        limits: see `Limits`; `connections_max` is lowered to what the limit on open files leaves room for.
    """

    app: str = "ojs_api.app:create_app"
    factory: bool = True
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    log_level: str = "info"
    log_config: Mapping[str, Any] | None = None
    drain_s: int = 25
    shutdown_s: int = 10
    keep_alive_s: int = 75
    limits: Limits = field(default_factory=Limits)


def on_shutdown(callback: Callable[[], None]) -> Callable[[], None]:
    """Have `callback` called once, in the event loop, as soon as this process is told to stop.

    It is for what would otherwise wait on: long polls, event streams. New requests may still come for a moment, so what
    starts later asks `shutting_down`. Returns a function that takes the callback back.
    """
    _callbacks.append(callback)

    def forget() -> None:
        with suppress(ValueError):
            _callbacks.remove(callback)

    return forget


def shutting_down() -> bool:
    """Tell whether this process has been told to stop."""
    return _stopping


def complain(message: str) -> None:
    """Say on standard error why the program ends."""
    sys.stderr.write(f"ojs-server: {message}\n")


def configure_logging(config: ServeConfig) -> None:
    """Set up the log of this process."""
    default = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": config.log_level.upper(), "handlers": ["stderr"]},
    }
    logging.config.dictConfig(dict(config.log_config or default))


_OUR_ERROR = re.compile(r"^ojs_core\.errors\.\w+: ")
"""What a traceback puts before a message that is meant for the operator as it is."""


class _Reasons(logging.Filter):
    """Keeps the last line of each error that uvicorn logs, and the error itself out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        error = record.exc_info[1] if record.exc_info else None
        text = f"{type(error).__name__}: {error}" if error else record.getMessage()
        # The last lines of the traceback of an exception group are frame only.
        self.lines += [_OUR_ERROR.sub("", line) for raw in text.splitlines() if (line := raw.strip(" |+-"))][-1:]
        return False


class _Server(uvicorn.Server):
    """uvicorn's server with our way to stop.

    No signal is raised again at the end, a second one ends the process, waiters are told, what is cut off is counted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        ours: ServeConfig,
        started: Callable[[], None],
        *,
        forceable: bool,
        parent: int | None,
    ) -> None:
        super().__init__(config)
        self.cut_off = 0
        self._ours = ours
        self._started = started
        self._forceable = forceable
        self._parent = parent
        self._signals = 0
        self._told = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self._parent is not None:
            self._loop.add_reader(self._parent, self._lose_parent, self._parent)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drain_s, shutdown_s = self._ours.drain_s, self._ours.shutdown_s
        self._loop.call_later(drain_s, self._cut_off)
        self._loop.call_later(drain_s + shutdown_s, end_at_once, f"the shutdown took longer than {shutdown_s} s")
        await super().shutdown(sockets)

    def _cut_off(self) -> None:
        """Cancel the requests that the drain left; they still have the chance to answer."""
        self.cut_off = len(self.server_state.tasks)
        for task in tuple(self.server_state.tasks):
            task.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as in uvicorn
        self._signals += 1
        if self._signals > 1 and self._forceable:
            end_at_once(f"stopped by a second signal, with {len(self.server_state.tasks)} request(s) unfinished")
        # In the loop, not in the middle of whatever the signal interrupts.
        self._loop.call_soon_threadsafe(self._stop)

    def _lose_parent(self, parent: int) -> None:
        self._loop.remove_reader(parent)
        self._stop()

    def _stop(self) -> None:
        if self._told:
            return
        self._told = True
        if self.started:
            self.should_exit = True
            # uvicorn does this a moment later; the answers that the callbacks bring about shall say it already.
            for connection in tuple(self.server_state.connections):
                connection.shutdown()
            announce_shutdown()
        elif self._task is not None:
            self._task.cancel()


def end_at_once(reason: str) -> NoReturn:
    """End this process, whatever it is about; to the store that is no worse than a kill.

    Anything gentler would run, and wait for, the very code that does not end, and log where it was interrupted.
    """
    os.write(2, f"ojs-server: {reason}\n".encode())
    os._exit(CUT_OFF)


def announce_shutdown() -> None:
    """Call what `on_shutdown` was given."""
    global _stopping  # noqa: PLW0603 - it is about the process
    _stopping = True
    for callback in tuple(_callbacks):
        try:
            callback()
        except Exception:
            log.exception("A shutdown callback failed.")


def run(
    config: ServeConfig,
    sockets: list[socket.socket],
    *,
    on_started: Callable[[], None],
    forceable: bool = True,
    parent: int | None = None,
) -> int:
    """Serve in this process. `parent` is a file descriptor that becomes readable when the parent process is gone."""
    debug = config.log_level in {"debug", "trace"}
    reasons = _Reasons()
    uvicorn_logger = logging.getLogger("uvicorn.error")
    with ExitStack() as starting:
        if not debug:
            uvicorn_logger.addFilter(reasons)
            starting.callback(uvicorn_logger.removeFilter, reasons)

        def started() -> None:
            starting.close()
            gc.freeze()
            gc.set_threshold(*COLLECT_AFTER)
            for line in reasons.lines:
                log.error("%s", line)
            on_started()

        server = _Server(
            uvicorn.Config(
                config.app,
                factory=config.factory,
                http=guarded(config.limits),
                ws="none",
                interface="asgi3",
                lifespan="on",
                workers=1,
                log_config=None,
                log_level=config.log_level,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=config.keep_alive_s,
                # By then we have cut off what was left; this is for what does not let itself be cut off.
                timeout_graceful_shutdown=config.drain_s + 1,
            ),
            config,
            started,
            forceable=forceable,
            parent=parent,
        )
        failed = False
        try:
            server.run(sockets)
        except asyncio.CancelledError:
            return 0  # Told to stop while it started.
        except SystemExit:
            pass  # It could not start, and uvicorn has logged the reason.
        except Exception as error:
            if server.started or debug:
                log.exception("The server failed.")
            reasons.lines.insert(0, f"{type(error).__name__}: {error}")
            failed = True
    if not server.started:
        complain(f"cannot start: {reasons.lines[0] if reasons.lines else 'the application gave no reason'}")
    if server.cut_off:
        complain(f"stopped with {server.cut_off} request(s) unfinished after OJS_DRAIN_S={config.drain_s}")
        return CUT_OFF
    return 1 if failed or not server.started or server.lifespan.should_exit else 0
