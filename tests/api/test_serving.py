"""Starting, stopping and surviving, with real processes."""

from __future__ import annotations

import functools
import http.client
import json
import logging
import os
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from ojs_api import process, serving

PATIENCE_S = 30
PROGRAM = Path(__file__).with_name("tiny_app.py")


class Server:
    """The small application in a process of its own, or in several."""

    def __init__(self, command, **rest):
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **rest)  # noqa: S603
        self.lines = []
        self._news = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._news.put(line.rstrip())
        self._news.put(None)

    def await_line(self, pattern, count=1):
        """Wait until `count` lines have matched, from the start on; return the last match."""
        while True:
            found = [match for line in self.lines if (match := re.search(pattern, line))]
            if len(found) >= count:
                return found[count - 1]
            self._await_news(f"no line matched {pattern!r}")

    def _await_news(self, failure):
        try:
            line = self._news.get(timeout=PATIENCE_S)
        except queue.Empty:
            line = None
        assert line is not None, "\n".join([failure, *self.lines])
        self.lines.append(line)

    def await_end(self):
        """Wait until every process that writes to our pipe has ended; return the exit code of the first."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), "a process outlives the one that was started"
        while (line := self._news.get()) is not None:
            self.lines.append(line)
        return code

    @functools.cached_property
    def port(self):
        return int(self.await_line(r"Listening on http://127\.0\.0\.1:(\d+)")[1])

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    @contextmanager
    def asking(self, path):
        """Send a request and give its connection, on which the answer may be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", path)
        with closing(connection):
            yield connection

    def ask(self, path):
        with self.asking(path) as connection:
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()

    def signal(self, number):
        self.process.send_signal(number)

    def kill_all(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()


@pytest.fixture
def start():
    servers = []

    def start(rest=None, **config):
        config = {"app": "tiny_app:app", "factory": False, "port": 0} | config
        servers.append(Server([sys.executable, str(PROGRAM), json.dumps(config)], **(rest or {})))
        return servers[-1]

    yield start
    for server in servers:
        server.kill_all()


# Stopping


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_stop_finishes_the_requests_in_flight(start, workers, number):
    server = start(workers=workers)
    with server.asking("/work") as working, server.asking("/poll") as polling, server.asking("/") as idle:
        assert idle.getresponse().read() == b"ok"
        server.await_line("^begun /(work|poll)", 2)
        server.signal(number)
        for connection, body in ((working, b"finished"), (polling, b"ended early")):
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, body)
            assert response.headers["connection"] == "close"
    assert server.await_end() == 0
    server.await_line("^told")
    server.await_line("^down")
    with pytest.raises(ConnectionRefusedError):
        server.connect()


@pytest.mark.parametrize(
    ("workers", "reason"),
    [(1, r"stopped by a second signal, with 1 request\(s\) unfinished"), (2, r"killed \d worker\(s\)")],
)
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_forces(start, workers, reason, second):
    server = start(workers=workers)
    with server.asking("/hang"):
        server.await_line("^begun /hang")
        server.signal(signal.SIGTERM)
        server.await_line("^told")
        server.signal(second)
        assert server.await_end() == process.CUT_OFF
    server.await_line(f"^ojs-server: {reason}")
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_does_not_finish_in_time_is_cut_off_and_said(start, workers):
    server = start(drain_s=1, workers=workers)
    with server.asking("/hang"):
        server.await_line("^begun /hang")
        server.signal(signal.SIGTERM)
        assert server.await_end() == process.CUT_OFF
    server.await_line(r"^ojs-server: stopped with 1 request\(s\) unfinished after OJS_DRAIN_S=1$")
    server.await_line("^down")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shutdown_that_does_not_end_is_ended(start, workers):
    server = start(app="tiny_app:stubborn", drain_s=0, shutdown_s=1, workers=workers)
    assert server.port
    server.signal(signal.SIGTERM)
    assert server.await_end() == process.CUT_OFF
    server.await_line("^ojs-server: the shutdown took longer than 1 s")


def test_a_process_group_may_be_signalled_as_a_whole(start):
    """Ctrl-C and service managers do that: each worker then has its signal twice."""
    server = start(workers=2)
    with server.asking("/work") as working:
        server.await_line("^up", 2)
        server.await_line("^begun /work")
        os.killpg(server.process.pid, signal.SIGINT)
        assert working.getresponse().read() == b"finished"
    assert server.await_end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_while_starting(start, workers):
    server = start(workers=workers, app="tiny_app:hanging")
    server.await_line("^starting")
    server.signal(signal.SIGTERM)
    assert server.await_end() == 0


def test_callbacks_can_be_taken_back_and_do_not_hinder_each_other(monkeypatch, caplog):
    monkeypatch.setattr(process, "_callbacks", [])
    monkeypatch.setattr(process, "_stopping", False)
    called = []
    process.on_shutdown(lambda: called.append(1 / 0))
    forget = process.on_shutdown(lambda: called.append("forgotten"))
    process.on_shutdown(lambda: called.append("kept"))
    forget()
    forget()
    assert not process.shutting_down()
    process.announce_shutdown()
    assert process.shutting_down()
    assert called == ["kept"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# Starting


@pytest.mark.parametrize(
    ("workers", "app", "factory", "reason"),
    [
        (1, "tiny_app:raising", False, "RuntimeError: the store is down"),
        (2, "tiny_app:raising", False, "RuntimeError: the store is down"),
        (1, "tiny_app:failing", False, "RuntimeError: the store is down"),
        (1, "tiny_app:misconfigured", False, "OJS_X=2: must be 1."),
        (1, "tiny_app:make_nothing", True, "ValueError: the settings make no sense"),
        (1, "tiny_app:missing", False, "Error loading ASGI app."),
    ],
)
def test_a_failure_to_start_is_one_line(start, workers, app, factory, reason):
    server = start(workers=workers, app=app, factory=factory, log_level="warning")
    assert server.await_end() == 1
    (line,) = server.lines
    assert line.startswith(f"ojs-server: cannot start: {reason}")


def test_a_failure_to_start_has_its_traceback_when_debugging(start):
    server = start(app="tiny_app:raising", log_level="debug")
    assert server.await_end() == 1
    server.await_line("^Traceback")
    server.await_line("^ojs-server: cannot start: ")


def test_an_address_in_use(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(port=port)
        assert server.await_end() == 1
    assert server.lines == [f"ojs-server: cannot listen on 127.0.0.1:{port}: Address already in use"]


@pytest.mark.parametrize("address", [{"host": "192.0.2.1"}, {"host": "no such host"}, {"port": 70_000}])
def test_an_address_that_cannot_be_had(start, address):
    server = start(workers=2, **address)
    assert server.await_end() == 1
    (line,) = server.lines
    assert line.startswith("ojs-server: cannot listen on ")


def test_all_addresses_of_a_name_share_a_port():
    sockets = serving._bind("localhost", 0)  # noqa: SLF001 - it has no other way to be seen on every machine
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


def test_connections_are_limited_by_open_files(start):
    files = 300
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))
    server = start({"preexec_fn": limit})
    room = files - serving.RESERVED_FILES - serving.REFUSALS_MAX
    server.await_line(f"{files} open files leave room for {room} connections")
    assert server.ask("/") == "ok"


# Surviving


def test_a_worker_that_dies_is_replaced(start):
    server = start(workers=2)
    pids = {server.await_line(r"^up (\d+)", count)[1] for count in (1, 2)}
    dead = int(server.ask("/pid"))
    os.kill(dead, signal.SIGKILL)
    server.await_line(f"Worker {dead} died with exit code -9")
    pids.add(server.await_line(r"^up (\d+)", 3)[1])
    assert len(pids) == 3
    assert server.ask("/pid") in pids - {str(dead)}
    server.signal(signal.SIGTERM)
    assert server.await_end() == 0


def test_workers_do_not_outlive_their_parent(start):
    server = start(workers=2)
    server.await_line("^up", 2)
    with server.asking("/work") as working:
        server.await_line("^begun /work")
        server.process.kill()
        assert working.getresponse().read() == b"finished"
    assert server.await_end() == -signal.SIGKILL
    server.await_line("^down")


def test_a_worker_that_keeps_dying_is_restarted_ever_more_slowly():
    pauses = [serving.restart_pause_s(failures) for failures in range(12)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == serving.RESTART_MAX_S


def test_hostile_clients_cost_neither_memory_nor_service(start):
    server = start()

    def attack(*pieces):
        with server.connect() as client:
            for piece in pieces:
                client.sendall(piece)
            with client.makefile("rb") as answer:
                return answer.readline().split()[1]

    # The first refusal loads what every refusal needs.
    assert attack(b"nonsense\r\n\r\n") == b"400"
    before = int(server.ask("/rss"))
    for _ in range(3):
        assert attack(b"GET / HTTP/1.1\r\nname: ", *[b"x" * 1_000_000] * 20) == b"431"
        assert attack(b"GET / HTTP/1.1\r\n", *[b"name: x\r\n" * 1000] * 20) == b"431"
        assert attack(b"GET /", *[b"x" * 1_000_000] * 20) == b"414"
        chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nname: "
        assert attack(chunked, *[b"x" * 1_000_000] * 20) in {b"200", b"431"}
    grown = int(server.ask("/rss")) / before
    assert grown < 1.1
