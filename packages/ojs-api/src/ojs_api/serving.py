"""Runs an ASGI application in one process, or in several under a parent that keeps them alive.

Exit codes: 0 after a stop that was asked for and went well; 1 for everything else, with one line on standard error that
says why. A stop is asked for by SIGTERM or SIGINT: accept no more, end what waits (`on_shutdown`), finish the requests
in flight, shut the application down. A second signal forces.

uvicorn has a supervisor of its own. It is not used because its workers outlive a parent that is killed, a worker that
cannot start is started again for ever in older releases, and a second signal does not force.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import logging.config
import multiprocessing
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Final

import uvicorn

from ojs_api.protocol import REFUSALS_MAX, Limits, guarded

# File descriptors kept for everything that is not a client: listeners, the store, logs.
RESERVED_FILES: Final = 192
# A worker that lasts this long is healthy: when it dies after all, its successor starts at once.
HEALTHY_S: Final = 10.0
RESTART_FIRST_S: Final = 0.5
RESTART_MAX_S: Final = 30.0
# What a draining worker may take beyond `drain_s`, to shut the application down, before it is killed.
SHUTDOWN_S: Final = 10.0
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_now = time.monotonic  # noqa: TID251 - processes and those who wait for them live in real time

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
        drain_s: what requests in flight may take when the server stops; then they are cancelled.
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


def serve(config: ServeConfig) -> int:
    """Serve until told to stop, and return the exit code of the process.

    Call it in the main thread: it handles SIGTERM and SIGINT. With several workers the main module must be importable
    (`if __name__ == "__main__":`), because each worker is a new interpreter.
    """
    _configure_logging(config)
    try:
        sockets = _bind(config.host, config.port)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        _complain(f"cannot listen on {config.host or '*'}:{config.port}: {reason}")
        return 1
    with ExitStack() as stack:
        for sock in sockets:
            stack.enter_context(sock)
        config = _fit_open_files(config)
        if config.workers > 1:
            return _Supervisor(config, sockets).run()
        return _run(config, sockets, on_started=lambda: _log_listening(sockets))


def _complain(message: str) -> None:
    sys.stderr.write(f"ojs-server: {message}\n")


def _configure_logging(config: ServeConfig) -> None:
    default = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": config.log_level.upper(), "handlers": ["stderr"]},
    }
    logging.config.dictConfig(dict(config.log_config or default))


def _bind(host: str, port: int) -> list[socket.socket]:
    """Bind one socket for every address of `host`; an address this machine lacks is skipped if there is another."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
                undo.callback(sock.close)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # All addresses share the port that the system chose for the first.
                sock.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                missing = error
            else:
                sockets.append(sock)
                port = sock.getsockname()[1]
        if not sockets and missing is not None:
            raise missing
        undo.pop_all()
    return sockets


def _log_listening(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        host, port = sock.getsockname()[:2]
        log.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def _fit_open_files(config: ServeConfig) -> ServeConfig:
    """Raise the limit on open files to what `connections_max` needs, or lower `connections_max` to what it allows."""
    needed = config.limits.connections_max + REFUSALS_MAX + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in {resource.RLIM_INFINITY, needed} or soft > needed:
        return config
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    # macOS says "no limit" and then refuses; what there is has to do.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft >= needed:
        return config
    connections_max = max(1, soft - REFUSALS_MAX - RESERVED_FILES)
    log.warning("%d open files leave room for %d connections.", soft, connections_max)
    return replace(config, limits=replace(config.limits, connections_max=connections_max))


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
        self.lines += [line for raw in text.splitlines() if (line := raw.strip(" |+-"))][-1:]
        return False


class _Server(uvicorn.Server):
    """uvicorn's server with our signals: none is raised again at the end, a second one forces, waiters are told."""

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], *, forceable: bool, parent: int | None
    ) -> None:
        super().__init__(config)
        self._started = started
        self._forceable = forceable
        self._parent = parent
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as in uvicorn
        # In the loop, not in the middle of whatever the signal interrupts.
        self._loop.call_soon_threadsafe(self._stop)

    def _lose_parent(self, parent: int) -> None:
        self._loop.remove_reader(parent)
        self._stop()

    def _stop(self) -> None:
        if not self._told:
            self._told = True
            if self.started:
                self.should_exit = True
                # uvicorn does this a moment later; the answers that the callbacks bring about shall say it already.
                for connection in tuple(self.server_state.connections):
                    connection.shutdown()
                _announce_shutdown()
            else:
                self._cancel()
        elif self._forceable:
            self.force_exit = True
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _announce_shutdown() -> None:
    global _stopping  # noqa: PLW0603 - it is about the process
    _stopping = True
    for callback in tuple(_callbacks):
        try:
            callback()
        except Exception:
            log.exception("A shutdown callback failed.")


def _run(
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
                timeout_graceful_shutdown=config.drain_s,
            ),
            started,
            forceable=forceable,
            parent=parent,
        )
        failed = False
        try:
            server.run(sockets)
        except asyncio.CancelledError:
            return 1 if server.force_exit else 0
        except SystemExit:
            pass  # It could not start, and uvicorn has logged the reason.
        except Exception as error:
            if server.started or debug:
                log.exception("The server failed.")
            reasons.lines.insert(0, f"{type(error).__name__}: {error}")
            failed = True
    if not server.started:
        _complain(f"cannot start: {reasons.lines[0] if reasons.lines else 'the application gave no reason'}")
    return 1 if failed or not server.started or server.lifespan.should_exit else 0


def _work(config: ServeConfig, sockets: list[socket.socket], ready: Connection) -> None:
    """Run in a worker process."""
    _configure_logging(config)
    parent = multiprocessing.parent_process()

    def tell_parent() -> None:
        with suppress(OSError):
            ready.send_bytes(b"ready")

    sys.exit(
        _run(
            config,
            sockets,
            on_started=tell_parent,
            # Ctrl-C and service managers signal every process, and then the parent signals again.
            forceable=False,
            parent=None if parent is None else int(parent.sentinel),
        )
    )


def restart_pause_s(failures: int) -> float:
    """Return how long to wait before a worker is started again that has died young this many times in a row."""
    return min(RESTART_FIRST_S * 2 ** (failures - 1), RESTART_MAX_S) if failures else 0.0


class _Worker:
    """A place for a worker process: whoever has it is replaced when it dies, after a pause if it died young."""

    def __init__(self, config: ServeConfig, sockets: list[socket.socket]) -> None:
        self._config = config
        self._sockets = sockets
        self._failures = 0
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ready, tell = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(self._config, self._sockets, tell))
        process.start()
        tell.close()
        self.process: SpawnProcess = process
        self.is_ready = False
        self.restart_at = inf
        self._started_at = _now()

    def events(self) -> list[Any]:
        """What to wait for, in the sense of `multiprocessing.connection.wait`."""
        if self.restart_at < inf:
            return []
        return [self.process.sentinel] if self.is_ready else [self.process.sentinel, self._ready]

    def look(self, now: float) -> bool:
        """Notice whether the process is ready, or start its successor when it is time; return whether it just died."""
        if self.restart_at < inf:
            if now >= self.restart_at:
                self._start_again(now)
            return False
        if not self.is_ready and self._ready.poll():
            with suppress(EOFError):
                self._ready.recv_bytes()
                self.is_ready = True
        if self.process.exitcode is None:
            return False
        self._ready.close()
        healthy = self.is_ready and now - self._started_at >= HEALTHY_S
        self._failures = 0 if healthy else self._failures + 1
        self.restart_at = now + restart_pause_s(self._failures)
        self.is_ready = False
        return True

    def _start_again(self, now: float) -> None:
        try:
            self.start()
        except OSError:
            # No memory or no process to be had; the other workers are no worse for it.
            self.restart_at = now + RESTART_MAX_S
            log.exception("No worker could be started; next try in %.0f s.", RESTART_MAX_S)


class _Supervisor:
    """Starts workers and keeps them alive until told to stop.

    The first worker starts alone: when it cannot, none can, and the reason is said once.
    """

    def __init__(self, config: ServeConfig, sockets: list[socket.socket]) -> None:
        self._config = config
        self._sockets = sockets
        self._workers: list[_Worker] = []
        self._ever_ready = False
        self._stops = 0
        self._wakened, self._waker = socket.socketpair()

    def run(self) -> int:
        with self._signals():
            try:
                self._add_workers(1)
                while not self._stops:
                    self._wait(min(worker.restart_at for worker in self._workers))
                    if not self._look():
                        return 1
                return self._stop()
            finally:
                for worker in self._workers:
                    worker.process.kill()
                    worker.process.join()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def count(*_: object) -> None:
            self._stops += 1

        self._wakened.settimeout(0)
        self._waker.settimeout(0)
        before = {number: signal.signal(number, count) for number in STOP_SIGNALS}
        fd_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wakened.close()
            self._waker.close()

    def _add_workers(self, count: int) -> None:
        for _ in range(count):
            self._workers.append(_Worker(self._config, self._sockets))

    def _wait(self, until: float) -> None:
        """Wait for a signal, for a worker that is ready or dead, or for the time `until`."""
        events = [event for worker in self._workers for event in worker.events()]
        wait([self._wakened, *events], None if until == inf else max(0.0, until - _now()))
        with suppress(BlockingIOError):
            self._wakened.recv(4096)

    def _look(self) -> bool:
        """Look at every worker; return whether to go on."""
        now = _now()
        for worker in self._workers:
            if worker.look(now):
                if not self._ever_ready:
                    return False
                pid, code, pause = worker.process.pid, worker.process.exitcode, worker.restart_at - now
                log.error("Worker %d died with exit code %d; the next one starts in %.1f s.", pid, code, pause)
        if not self._ever_ready and self._workers[0].is_ready:
            self._ever_ready = True
            _log_listening(self._sockets)
            self._add_workers(self._config.workers - 1)
        return True

    def _stop(self) -> int:
        """Have the workers drain; kill what is left after that, or at a second signal."""
        for sock in self._sockets:
            # Else the system would go on accepting for nobody.
            sock.close()
        for worker in self._workers:
            worker.process.terminate()
        deadline = _now() + self._config.drain_s + SHUTDOWN_S
        while (alive := self._alive()) and self._stops == 1 and _now() < deadline:
            self._wait(deadline)
        if alive:
            _complain(f"killed {len(alive)} worker(s) that had not finished")
            return 1
        # One that was not ready ends as it can: by the signal, if it was too young to handle it.
        return 0 if all(worker.process.exitcode == 0 for worker in self._workers if worker.is_ready) else 1

    def _alive(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.process.exitcode is None]
