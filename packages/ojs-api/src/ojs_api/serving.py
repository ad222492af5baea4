"""Runs an ASGI application in one process, or in several under a parent that keeps them alive.

Exit codes: 0 after a stop that was asked for and went well; 3 after one that left something unfinished; 1 for all else.
Unless it is 0, a line on standard error says why. A stop is asked for by SIGTERM or SIGINT: accept no more, end what
waits (`on_shutdown`), finish the requests in flight, shut the application down. A second signal ends it at once.

uvicorn has a supervisor of its own. It is not used because its workers outlive a parent that is killed, a worker that
cannot start is started again for ever in older releases, and a second signal does not force.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from math import inf
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from ojs_api.process import CUT_OFF, ServeConfig, complain, configure_logging, run
from ojs_api.protocol import REFUSALS_MAX

# File descriptors kept for everything that is not a client: listeners, the store, logs.
RESERVED_FILES: Final = 192
# A worker that lasts this long is healthy: when it dies after all, its successor starts at once.
HEALTHY_S: Final = 10.0
RESTART_FIRST_S: Final = 0.5
RESTART_MAX_S: Final = 30.0
# A worker that is not done when its time is up ends by itself; one that cannot even do that is killed a moment later.
GRACE_S: Final = 1.0
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_now = time.monotonic  # noqa: TID251 - processes and those who wait for them live in real time

log = logging.getLogger("ojs.serving")


def serve(config: ServeConfig) -> int:
    """Serve until told to stop, and return the exit code of the process.

    Call it in the main thread: it handles SIGTERM and SIGINT. With several workers the main module must be importable
    (`if __name__ == "__main__":`), because each worker is a new interpreter.
    """
    configure_logging(config)
    try:
        sockets = _bind(config.host, config.port)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        complain(f"cannot listen on {config.host or '*'}:{config.port}: {reason}")
        return 1
    with ExitStack() as stack:
        for sock in sockets:
            stack.enter_context(sock)
        config = _fit_open_files(config)
        if config.workers > 1:
            return _Supervisor(config, sockets).run()
        return run(config, sockets, on_started=lambda: _log_listening(sockets))


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


def _work(config: ServeConfig, sockets: list[socket.socket], ready: Connection) -> None:
    """Run in a worker process."""
    configure_logging(config)
    parent = multiprocessing.parent_process()

    def tell_parent() -> None:
        with suppress(OSError):
            ready.send_bytes(b"ready")

    sys.exit(
        run(
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
        deadline = _now() + self._config.drain_s + self._config.shutdown_s + GRACE_S
        while (alive := self._alive()) and self._stops == 1 and _now() < deadline:
            self._wait(deadline)
        if alive:
            complain(f"killed {len(alive)} worker(s) that had not finished")
            return CUT_OFF
        # One that was not ready ends as it can: by the signal, if it was too young to handle it.
        codes = {worker.process.exitcode for worker in self._workers if worker.is_ready} - {0}
        return CUT_OFF if codes == {CUT_OFF} else int(bool(codes))

    def _alive(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.process.exitcode is None]
