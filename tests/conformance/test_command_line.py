"""The command line, end to end on servers it starts itself."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ojs_core.testing.conformance.__main__ import main

STUB = shlex.join([sys.executable, str(Path(__file__).with_name("served_stub.py"))])


def write_case(folder: Path, name: str, *, count: int = 1, test_id: str = "", level: int = 0, wait_ms: int = 0) -> None:
    """Write a case that passes on the stub if `count` is 1."""
    step = {"id": "a", "action": "GET", "path": "/x", "delay_ms": wait_ms, "assertions": {"body": {"$.count": count}}}
    text = json.dumps({"test_id": test_id or name.upper(), "level": level, "steps": [step]})
    (folder / f"{name}.json").write_text(text)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line; return its exit code and what it wrote to stdout and stderr."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Return a folder with two good cases and one that fails."""
    folder = tmp_path / "cases"
    folder.mkdir()
    write_case(folder, "a")
    write_case(folder, "b", level=1)
    write_case(folder, "bad", count=2, level=1)
    return folder


def test_verdicts(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failures give 1, declared ones 0, stale declarations 1; the report is written as JSON."""
    report = tmp_path / "report.json"
    serve = (cases, "--serve", STUB, "--servers", 2)
    code, out, _ = run(capsys, *serve, "--report", report)
    assert (code, out.splitlines()[-1]) == (1, "2 passed, 1 failed")
    assert "FAILED BAD bad.json\n  a $.count\n    expected 2\n    got      1\n" in out
    assert json.loads(report.read_text())["failed"] == 1

    code, out, _ = run(capsys, *serve, "--known-defect", "BAD=counts wrong", "--parallel", 1)
    assert (code, out.splitlines()[-1]) == (0, "2 passed, 1 failed")
    assert "failed, as expected: counts wrong" in out

    code, out, _ = run(capsys, *serve, "--known-defect", "BAD", "--defect-at", "BAD", "a", "$.count")
    assert (code, out.splitlines()[-1]) == (0, "2 passed, 1 failed")
    code, out, _ = run(capsys, *serve, "--known-defect", "BAD", "--defect-at", "BAD", "a", "status")
    assert (code, out.splitlines()[-1]) == (1, "2 passed, 1 failed")

    code, out, _ = run(capsys, *serve, "--known-defect", "BAD", "--known-defect", "A", "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)

    code, out, err = run(capsys, *serve, "--level", 0, 4, "--known-defect", "BAD", "--verbose")
    assert (code, out.splitlines()[-1]) == (0, "1 passed, 0 failed")
    assert err.startswith("passed A a.json ")

    code, out, _ = run(capsys, *serve, "--id", "A", "b.json", "--env", "X={n}")
    assert (code, out.splitlines()[-1]) == (0, "2 passed, 0 failed")


def test_url(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that nobody answers at fails every case."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        code, out, _ = run(capsys, cases, "--url", url, "--id", "A", "--parallel", 1)
    assert (code, out.splitlines()[-1]) == (1, "0 passed, 1 failed")
    assert "ERROR A a.json" in out


def test_check(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cases can be checked without a server."""
    assert run(capsys, cases, "--check")[:2] == (0, "3 understood, 0 not\n")
    (cases / "odd.json").write_text('{"test_id": "O", "level": 0, "steps": [], "colour": 1}')
    code, out, _ = run(capsys, cases, "--check")
    assert (code, out) == (1, "odd.json: unknown key 'colour' in the case\n3 understood, 1 not\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:1", "--id", "NO"], "no case has the id or file 'NO'"),
        (["--url", "http://127.0.0.1:1", "--known-defect", "NO"], "no case has the id or file 'NO'"),
        (["--url", "http://127.0.0.1:1", "--defect-at", "BAD", "a", "status"], "not declared with --known-defect"),
        (["--url", "http://127.0.0.1:1", "--level", "7"], "no case is selected"),
        (["--url", "http://127.0.0.1:1", "--servers", "2"], "one case at a time"),
        (["--url", "http://127.0.0.1:1", "--parallel", "2"], "one case at a time"),
        (["--url", "http://127.0.0.1:1", "--env", "A=b"], "one case at a time"),
        (["--url", "nonsense"], "not the base URL"),
        (["--serve", "/nowhere/at/all"], "cannot run"),
        (["--url", "http://127.0.0.1:1", "--report", "/nowhere/at/all.json"], "cannot write the report"),
    ],
)
def test_what_cannot_be_run(cases: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    """Exit code 2 and one line that says why."""
    code, out, err = run(capsys, cases, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err


def test_no_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty or missing folder is no success."""
    assert run(capsys, tmp_path, "--check")[0] == 2
    assert run(capsys, tmp_path / "nowhere", "--check")[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--url", "http://h", "--serve", "x"],
        ["--serve", "x", "--servers", "0"],
        ["--serve", "x", "--servers", "many"],
        ["--serve", "x", "--env", "NAME"],
        ["--check", "--unknown"],
        ["--check", "--lev", "0"],
    ],
)
def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Argparse says what is wrong and exits with 2."""
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), *arguments])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_outside_the_main_thread(cases: Path) -> None:
    """Without the right to set signal handlers it still runs."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main([str(cases), "--check"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_sigterm_stops_the_servers_too(tmp_path: Path) -> None:
    """A run that is told to stop gives up its waits and leaves no process behind."""
    write_case(tmp_path, "long", wait_ms=600_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        notify = f"STUB_NOTIFY={listener.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "ojs_core.testing.conformance",
            str(tmp_path),
            "--serve",
            STUB,
            "--env",
            notify,
        ]
        with subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            connection, _ = listener.accept()
            with connection:
                server_pid = int(connection.recv(100))
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(server_pid, 0)
