"""The example of a backend works as a stranger's package does: built, installed beside the server, found by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/ojs-backend-example"
SMOKE_CASES = ROOT / "tests/smoke"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder to import from, with the example's wheel in it: a wheel is installed by unpacking it."""
    source = tmp_path_factory.mktemp("source") / EXAMPLE.name
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source.parent)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)  # noqa: S603 - our own command
    (wheel,) = source.parent.glob("*.whl")
    target = tmp_path_factory.mktemp("target")
    with ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture
def run(installed: Path, tmp_path: Path):
    """Run a module of Python where the example is installed, in a folder of the test's own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OJS_", "COV", "PYTEST_"))}
    environ |= {"PYTHONPATH": str(installed), "OJS_BACKEND": "example"}

    def run(*arguments: str | Path, cwd: Path = tmp_path, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=cwd, env=environ | variables, capture_output=True, text=True, check=False
        )
        print(done.stdout, done.stderr)  # noqa: T201 - shown when the test fails
        return done

    return run


def test_the_command_lists_it_and_shows_its_settings(run) -> None:
    listed = run("ojs_api.cli", "backends").stdout
    assert re.search(r"^example +ojs-backend-example 0\.1\.0\n.*durable: no", listed, re.MULTILINE)
    checked = run("ojs_api.cli", "check")
    assert checked.returncode == 0
    assert re.search(r"^OJS_EXAMPLE_TRAIL +trail\.jsonl +default$", checked.stdout, re.MULTILINE)
    assert checked.stdout.endswith("store: example answers\n")


def test_settings_that_make_no_sense_stop_the_start(run, tmp_path: Path) -> None:
    for command in ("check", "serve"):
        refused = run("ojs_api.cli", command, OJS_EXAMPLE_TRAIL=str(tmp_path))
        assert refused.returncode == 2
        assert refused.stderr == f"ojs-server: OJS_EXAMPLE_TRAIL={tmp_path}: must be a file, not a folder.\n"


def test_a_server_runs_on_it(run, tmp_path: Path) -> None:
    server = f"{sys.executable} -m ojs_api.cli"
    trail = tmp_path / "trail.jsonl"
    done = run("ojs_core.testing.conformance", SMOKE_CASES, "--serve", server, OJS_EXAMPLE_TRAIL=str(trail))
    assert done.returncode == 0
    assert re.search(r"\b1 passed\b", done.stdout)
    lines = trail.read_text(encoding="utf-8").splitlines()
    assert [line.rpartition('"to": ')[2] for line in lines] == ['"available"}', '"active"}', '"completed"}']


@pytest.mark.timeout(600)
def test_its_own_tests_hold_it_to_the_contract(run, installed: Path) -> None:
    source = EXAMPLE / "tests"
    config = EXAMPLE / "pyproject.toml"
    done = run("pytest", "-q", "-p", "no:cacheprovider", "-c", config, source, cwd=installed)
    assert done.returncode == 0
    passed = re.search(r"^(\d+) passed, (\d+) skipped", done.stdout, re.MULTILINE)
    assert passed is not None
    # What is skipped needs a store that several servers share.
    assert int(passed[1]) > 600
    assert int(passed[2]) < 30
