"""Servers are started apart from each other, watched, and always stopped."""

from __future__ import annotations

import shlex
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from ojs_core.testing.conformance import Client, ServerStartError, parse_case, run_cases, running_servers, servers
from ojs_core.testing.conformance.paths import Found
from ojs_core.testing.conformance.runner import Outcome
from ojs_core.testing.conformance.servers import RemoteServer, Server, free_ports, server_environment

STUB = shlex.join([sys.executable, str(Path(__file__).with_name("served_stub.py"))])


IDLE = [sys.executable, "-c", "import signal; signal.pause()"]


def ask(server: Server, path: str) -> dict[str, object]:
    """Return a server's answer to a GET."""
    found = Client(server.base_url).send("GET", path).json()
    assert isinstance(found, Found)
    assert isinstance(found.value, dict)
    return found.value


def test_each_server_has_its_own_everything() -> None:
    """Address, store, number and process differ; test mode is on; all are gone afterwards."""
    with running_servers(STUB, 2, {"MY_STORE": "redis://h/{n}", "OJS_LOG_LEVEL": "debug"}) as started:
        values = {
            name: [ask(server, f"/env/{name}")["value"] for server in started]
            for name in (
                "OJS_PORT",
                "OJS_SQLITE_PATH",
                "MY_STORE",
                "OJS_TEST_MODE",
                "OJS_HOST",
                "OJS_LOG_LEVEL",
                "PATH",
            )
        }
        assert len(set(values["OJS_PORT"])) == 2
        assert len(set(values["OJS_SQLITE_PATH"])) == 2
        assert values["MY_STORE"] == ["redis://h/0", "redis://h/1"]
        assert values["OJS_TEST_MODE"] == ["true", "true"]
        assert values["OJS_HOST"] == ["127.0.0.1", "127.0.0.1"]
        assert values["OJS_LOG_LEVEL"] == ["debug", "debug"]
        assert all(values["PATH"])
        folder = Path(str(values["OJS_SQLITE_PATH"][0])).parent
        assert folder.is_dir()
        assert [server.death() for server in started] == [None, None]
        assert "the stub starts" in started[0].log_since(0)
    assert all("ended with code -15" in str(server.death()) for server in started)
    assert not folder.exists()


def test_default_environment(tmp_path: Path) -> None:
    """The variables a server gets are these and no others."""
    assert server_environment(3, 8123, tmp_path, {"A": "{n}-{n}"}) == {
        "OJS_HOST": "127.0.0.1",
        "OJS_PORT": "8123",
        "OJS_TEST_MODE": "true",
        "OJS_LOG_LEVEL": "warning",
        "OJS_SQLITE_PATH": str(tmp_path / "server-3.db"),
        "A": "3-3",
    }


def test_ports_differ() -> None:
    """As many ports as asked for, all different."""
    assert len(set(free_ports(20))) == 20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are not kept")
def test_a_port_is_kept_for_its_server() -> None:
    """Nobody is connected, and nobody else can have it, until the server listens; and again when it has ended."""
    (port,) = free_ports(1)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler):
            socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_is_not_kept_where_its_server_could_not_have_it_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux a port that is kept is in use for its server as well."""
    monkeypatch.setattr(servers, "sys", SimpleNamespace(platform="darwin"))
    (port,) = free_ports(1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{shlex.quote(sys.executable)} -c 'import sys; sys.stderr.write(\"boom\"); sys.exit(3)'", "boom"),
        (f"{shlex.quote(sys.executable)} -c 'import sys; sys.exit(3)'", "ended with code 3"),
        ("/nowhere/at/all", "cannot run /nowhere/at/all"),
        ("'unclosed", "cannot split"),
        ("  ", "empty"),
    ],
)
def test_a_server_that_does_not_start(command: str, says: str) -> None:
    """The reason is in the error, with what the server said."""
    with pytest.raises(ServerStartError, match=says), running_servers(command, 1, {}):
        pytest.fail("it did not start")


def test_a_server_that_is_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting ends at the deadline, and the process is stopped."""
    monkeypatch.setattr(servers, "READY_MAX_S", 0.3)
    with pytest.raises(ServerStartError, match="not ready in time"), running_servers(shlex.join(IDLE), 1, {}):
        pytest.fail("it was not ready")


def test_a_server_that_is_not_healthy(tmp_path: Path) -> None:
    """Any answer but 200 is not ready, and is told."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server = Server(IDLE, {}, other.server_address[1], tmp_path / "log")
        with pytest.raises(ServerStartError, match="gave status 501"):
            server.wait_ready(time.perf_counter() + 0.3)
        server.ask_to_stop()
        server.stop(time.perf_counter() + 60)
        other.shutdown()
        thread.join()


def test_a_server_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM first, SIGKILL after the deadline."""
    monkeypatch.setattr(servers, "STOP_MAX_S", 0.2)
    with running_servers(STUB, 1, {"STUB_STUBBORN": "1"}) as started:
        assert started[0].death() is None
    assert "ended with code -9" in str(started[0].death())


def test_servers_stop_after_an_exception() -> None:
    """Whatever ends the block, no process is left."""
    block = running_servers(STUB, 1, {})
    (server,) = block.__enter__()
    death = server.death()
    assert not block.__exit__(RuntimeError, RuntimeError("something else"), None)
    assert (death, server.death() is None) == (None, False)


def case_text(path: str, check: str) -> str:
    """Return a case that asks for one path."""
    return f'{{"test_id": "T", "level": 0, "steps": [{{"action": "GET", "path": "{path}", "expect": {check}}}]}}'


def test_cases_are_spread_and_reset_between() -> None:
    """Every case finds a wiped server, and every server gets work."""
    texts = [(case_text("/pid", '{"status": 200, "body.count": 1}'), f"{number}.json") for number in range(12)]
    cases = [parse_case(*text) for text in texts]
    with running_servers(STUB, 2, {}) as started:
        results = run_cases(cases, started)
    assert [result.outcome for result in results] == [Outcome.PASSED] * 12
    assert [result.case.file for result in results] == sorted(file for _, file in texts)


def test_a_server_that_dies_in_a_case() -> None:
    """The case it had is an error with the server's last words; the cases left over are errors too."""
    die = parse_case(case_text("/die", '{"status": 200}'), "a.json")
    other = parse_case(case_text("/x", '{"status": 200}'), "b.json")
    with running_servers(STUB, 1, {}) as started:
        first, second = run_cases([die, other], started)
    assert (first.outcome, second.outcome) == (Outcome.ERROR, Outcome.ERROR)
    assert "dying as told" in first.server_log
    assert "the stub starts" not in first.server_log
    assert "ended with code 7" in second.failures[0].got


def test_a_remote_server_has_no_process() -> None:
    """Nothing is known about a server somebody else runs."""
    remote = RemoteServer("http://127.0.0.1:1")
    assert (remote.death(), remote.log_position(), remote.log_since(0)) == (None, 0, "")


def test_the_deadline_is_over_at_once_for_a_dead_server(tmp_path: Path) -> None:
    """A server that has ended is not polled until the deadline."""
    server = Server([sys.executable, "-c", ""], {}, free_ports(1)[0], tmp_path / "log")
    server.stop(time.perf_counter() + 60)
    started = time.perf_counter()
    with pytest.raises(ServerStartError, match="ended with code 0"):
        server.wait_ready(started + 30)
    assert time.perf_counter() - started < 20
