"""The command, as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from ojs_api import cli

PATIENCE_S = 30
COMMAND = [sys.executable, "-m", "ojs_api.cli"]


def environ(folder: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "OJS_SQLITE_PATH": str(folder / "jobs.db"), **variables}


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [*COMMAND, *arguments],
        env=environ(folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def refused(folder: Path, *arguments: str, **variables: str) -> str:
    """Run a command whose settings make no sense; return its one line of complaint."""
    done = run(folder, *arguments, **variables)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("ojs-server: ")
    return line.removeprefix("ojs-server: ")


class Running:
    """A server, and the lines it has logged."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def await_line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Read on until so many lines have matched; return the last match."""
        while len(found := [match for line in self.lines if (match := re.search(pattern, line))]) < count:
            assert self.process.stderr is not None
            line = self.process.stderr.readline()
            assert line, "\n".join(["the server has ended:", *self.lines])
            self.lines.append(line)
        return found[-1]

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, object]]:
        port = int(self.await_line(r"Listening on http://127\.0\.0\.1:(\d+)")[1])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=PATIENCE_S)
        self.lines += rest.splitlines()
        return self.process.returncode


@contextmanager
def serving(folder: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    process = subprocess.Popen(  # noqa: S603
        [*COMMAND, *arguments],
        env=environ(folder, **{"OJS_PORT": "0", **variables}),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


# Telling.


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="ojs-server")
    assert command.load() is cli.main


def test_version_and_help(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"ojs-server {version('ojs-api')}\n"
    shown = " ".join(run(tmp_path, "--help").stdout.split())
    for option, variable in cli.OPTIONS.items():
        assert option in shown
        assert f"({variable}, default " in shown
    for command in ("serve", "backends", "check"):
        assert command in shown


def test_what_is_not_an_option_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--colour")
    assert done.returncode == 2
    assert "--colour" in done.stderr


def test_backends_are_listed(tmp_path: Path) -> None:
    done = run(tmp_path, "backends")
    assert done.returncode == 0
    assert re.search(
        rf"^memory +ojs-core {re.escape(version('ojs-core'))}\n +.*shared: no, durable: no", done.stdout, re.MULTILINE
    )
    assert re.search(r"^sqlite +ojs-backend-sqlite .*\n +.*shared: yes, durable: yes.*none$", done.stdout, re.MULTILINE)


def test_a_backend_that_is_broken_does_not_hide_the_others(tmp_path: Path) -> None:
    done = run(tmp_path, "backends", OJS_SQLITE_SYNCHRONOUS="sometimes")
    assert done.returncode == 0
    assert "OJS_SQLITE_SYNCHRONOUS=sometimes" in done.stdout
    assert "shared: no" in done.stdout


# Checking.


def test_a_check_shows_the_settings_and_reaches_the_store(tmp_path: Path) -> None:
    """And warns of what production does not have (C-CNF-05)."""
    done = run(tmp_path, "check", OJS_API_KEY="hush", OJS_PORT="81", OJS_PROT="82", OJS_TEST_MODE="true")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    words = {line.split()[0]: line.split()[1:] for line in lines}
    assert words["OJS_PORT"] == ["81", "set"]
    assert words["OJS_HOST"] == ["127.0.0.1", "default"]
    assert words["OJS_API_KEY"] == ["***", "set"]
    assert words["OJS_ALLOW_INSECURE_NO_AUTH"] == ["no", "default"]
    assert words["OJS_SQLITE_PATH"] == [str(tmp_path / "jobs.db"), "set"]
    assert "hush" not in done.stdout
    assert "warning: OJS_PROT is not a setting. Did you mean OJS_PORT?" in lines
    assert "warning: Test mode is on: anyone who may use this server can wipe it." in lines
    assert lines[-1] == "store: sqlite answers"


def test_a_store_without_a_schema_has_nothing_to_migrate(tmp_path: Path) -> None:
    for arguments in ((), ("--check",)):
        done = run(tmp_path, "migrate", *arguments)
        assert (done.returncode, done.stdout) == (
            0,
            "Nothing to do: a server prepares the store 'sqlite' by itself when it starts.\n",
        )
    assert run(tmp_path, "migrate", "--sql").stdout.startswith("-- The store 'sqlite' has no schema")
    assert run(tmp_path, "migrate", "--sql", "--check").returncode == 2


@pytest.mark.parametrize(
    "arguments", [("--port", "81", "check"), ("check", "--port", "81"), ("--port=1", "check", "--port=81")]
)
def test_options_may_stand_before_or_after_the_command(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments, OJS_PORT="80", OJS_BACKEND="memory")
    assert done.returncode == 0
    assert re.search(r"^OJS_PORT +81 +set$", done.stdout, re.MULTILINE)
    assert re.search(r"^OJS_API_KEY +none +default$", done.stdout, re.MULTILINE)


def test_a_store_that_cannot_be_is_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere" / "jobs.db")
    complaint = refused(tmp_path, "check", OJS_SQLITE_PATH=nowhere)
    assert complaint.startswith(f"OJS_SQLITE_PATH={nowhere} cannot be created")


def test_a_store_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        done = run(tmp_path, "check", OJS_PROT="1", OJS_SQLITE_BUSY_TIMEOUT_MS="1")
    assert done.returncode == 1, done
    lines = done.stdout.splitlines()
    # A setting that nobody reads may well be the reason.
    assert "Did you mean OJS_PORT?" in lines[-2]
    assert lines[-1].startswith("store: cannot be used: ")
    assert lines[-1].endswith("locked)")


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"OJS_PORT": "http"}, r"OJS_PORT=http: must be a whole number from 0 to 65535\."),
        ({"OJS_HOST": "::"}, r"OJS_HOST=:: is reachable from other machines.*OJS_ALLOW_INSECURE_NO_AUTH"),
        ({"OJS_HOST": "somewhere.example"}, r"OJS_HOST=somewhere\.example is reachable"),
        ({"OJS_WORKERS": "2", "OJS_BACKEND": "memory"}, r"OJS_WORKERS=2: .*one process"),
        ({"OJS_BACKEND": "sqllite"}, r"OJS_BACKEND=sqllite: .*: .*memory, .*sqlite.* Did you mean sqlite\?"),
        ({"OJS_SQLITE_SYNCHRONOUS": "sometimes"}, r"OJS_SQLITE_SYNCHRONOUS=sometimes: "),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(tmp_path: Path, command: str, variables: dict[str, str], complaint: str) -> None:
    assert re.match(complaint, refused(tmp_path, command, **variables))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_addresses(host: str) -> None:
    assert cli.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost.example", ""])  # noqa: S104
def test_other_addresses(host: str) -> None:
    assert not cli.is_loopback(host)


@pytest.mark.parametrize("variables", [{"OJS_ALLOW_INSECURE_NO_AUTH": "true"}, {"OJS_API_KEY": "hush"}])
def test_other_addresses_may_be_listened_on(tmp_path: Path, variables: dict[str, str]) -> None:
    done = run(tmp_path, "check", "--host", "0.0.0.0", "--backend", "memory", **variables)  # noqa: S104
    assert done.returncode == 0
    assert ("without a key" in done.stdout) == ("OJS_API_KEY" not in variables)


# Serving.


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with serving(tmp_path, "--backend", "memory", OJS_API_KEY="hush", OJS_PROT="1") as server:
        assert server.ask("GET", "/ojs/v1/health")[0] == 200
        assert server.ask("GET", "/ojs/v1/queues")[0] == 401
        assert server.ask("GET", "/ojs/v1/queues", authorization="Bearer hush")[0] == 200
        assert server.stop() == 0
        assert any("WARNING ojs: OJS_PROT is not a setting. Did you mean OJS_PORT?" in line for line in server.lines)
        assert any("on backend 'memory'" in line for line in server.lines)
        assert not any("hush" in line for line in server.lines)


def test_several_processes_share_a_port_and_a_store(tmp_path: Path) -> None:
    with serving(tmp_path, "serve", OJS_WORKERS="2") as server:
        server.await_line("Application startup complete", 2)
        pushed = [server.ask("POST", "/ojs/v1/jobs", {"type": "a.b", "args": [n]}) for n in range(8)]
        assert [status for status, _ in pushed] == [201] * 8
        taken = 0
        for _ in range(8):
            status, answer = server.ask("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "worker_id": "w"})
            jobs = answer["jobs"]
            assert (status, isinstance(jobs, list)) == (200, True)
            taken += len(jobs)  # type: ignore[arg-type]
        assert taken == 8
        assert server.stop() == 0
    with serving(tmp_path) as server:
        status, stats = server.ask("GET", "/ojs/v1/queues/default/stats")
        assert status == 200
        assert stats["stats"]["active"] == 8  # type: ignore[index]
        assert server.stop() == 0
