"""Command line: `python -m ojs_core.testing.conformance CASES_DIR (--serve COMMAND | --url URL | --check)`."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from ojs_core.testing.conformance.cases import Case, load_cases, select_cases
from ojs_core.testing.conformance.client import Client
from ojs_core.testing.conformance.pool import Target, run_cases
from ojs_core.testing.conformance.report import KnownDefect, Report
from ojs_core.testing.conformance.runner import CaseResult
from ojs_core.testing.conformance.servers import RemoteServer, ServerStartError, running_servers

SERVERS_DEFAULT = 8
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = "Run conformance cases of Open Job Spec over HTTP against a server."
EPILOG = """\
Before each case the server is wiped with POST /ojs/v1/admin/reset, which it must offer in its test mode.

exit codes:
  0  every selected case passed, except known defects, which failed
  1  a case failed or could not be judged, or a known defect passed
  2  nothing was run: bad arguments, no cases, or a server that did not start
"""


class UsageError(Exception):
    """The arguments cannot be served."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ojs_core.testing.conformance",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("cases", metavar="CASES_DIR", type=Path, help="folder with the case files (*.json, at any depth)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--serve", metavar="COMMAND", help="start servers with this command, each on a port and store of its own"
    )
    where.add_argument("--url", help="use the server at this base URL, one case at a time")
    where.add_argument("--check", action="store_true", help="only check that every selected case is understood")
    add("--servers", metavar="N", type=_positive, help=f"with --serve: how many servers (default {SERVERS_DEFAULT})")
    add(
        "--parallel",
        metavar="N",
        type=_positive,
        help="at most N cases at once; with --serve fewer servers are started",
    )
    add(
        "--env", metavar="KEY=VALUE", type=_assignment, action="append", default=[],
        help="with --serve: set a variable for the servers; {n} in VALUE is the server's number from 0",
    )  # fmt: skip
    add("--level", metavar="N", nargs="+", action="extend", default=[], help="only cases of these levels (0-4, ext)")
    add("--id", metavar="ID", nargs="+", action="extend", default=[], help="only cases with these ids or files")
    add(
        "--known-defect", metavar="ID[=REASON]", type=_known_defect, action="append", default=[],
        help="a case (id or file) that no server can pass honestly: it must fail, and counts as failed",
    )  # fmt: skip
    add(
        "--defect-at", metavar=("ID", "STEP", "PATH"), nargs=3, action="append", default=[],
        help="a place where the known defect ID fails; if any is given, it must fail at these places and no others",
    )  # fmt: skip
    add("--report", metavar="FILE", type=Path, help="write the report as JSON to this file")
    add("--json", action="store_true", help="print the report as JSON instead of text")
    add("--verbose", action="store_true", help="print a line to stderr as each case ends")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        with _stopped_by_sigterm():
            return _run(options)
    except (UsageError, ServerStartError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    try:
        cases = load_cases(options.cases)
    except OSError as error:
        raise UsageError(f"cannot read the cases: {error}") from error
    known_defects = _known_defects(options)
    for name in (*options.id, *known_defects):
        if not any(name in {case.id, case.file} for case in cases):
            raise UsageError(f"no case has the id or file {name!r}")
    selected = select_cases(cases, options.level, options.id)
    if not selected:
        raise UsageError(f"no case is selected, of {len(cases)} in {options.cases}")
    if options.check:
        return _check(selected)
    with _targets(options, len(selected)) as targets:
        results = run_cases(selected, targets, _show_progress if options.verbose else None)
    report = Report(results, known_defects)
    as_json = json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n"
    if options.report is not None:
        _write(options.report, as_json)
    sys.stdout.write(as_json if options.json else report.as_text())
    return EXIT_OK if report.ok else EXIT_FAILED


def _known_defects(options: argparse.Namespace) -> dict[str, KnownDefect]:
    places: dict[str, set[tuple[str, str]]] = {name: set() for name, _ in options.known_defect}
    for name, step, path in options.defect_at:
        if name not in places:
            raise UsageError(f"--defect-at {name}: it is not declared with --known-defect")
        places[name].add((step, path))
    return {name: KnownDefect(reason, frozenset(places[name])) for name, reason in options.known_defect}


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the report: {error}") from error


def _check(cases: list[Case]) -> int:
    problems = [case for case in cases if case.problem is not None]
    for case in problems:
        sys.stdout.write(f"{case.file}: {case.problem}\n")
    sys.stdout.write(f"{len(cases) - len(problems)} understood, {len(problems)} not\n")
    return EXIT_FAILED if problems else EXIT_OK


@contextlib.contextmanager
def _targets(options: argparse.Namespace, case_count: int) -> Iterator[Sequence[Target]]:
    if options.url is not None:
        if options.env or options.servers is not None or options.parallel not in {None, 1}:
            raise UsageError(
                "--url runs one case at a time on a server that runs already: no --servers, --env or --parallel"
            )
        try:
            Client(options.url)
        except ValueError as error:
            raise UsageError(str(error)) from error
        yield [RemoteServer(options.url)]
        return
    servers = options.servers if options.servers is not None else SERVERS_DEFAULT
    count = min(servers, case_count, *([options.parallel] if options.parallel is not None else []))
    with running_servers(options.serve, count, dict(options.env)) as started:
        yield started


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an interrupt, so that the servers we started are stopped before we end."""

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever called us has the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_progress(result: CaseResult) -> None:
    sys.stderr.write(f"{result.outcome.value} {result.case.id} {result.case.file} {result.ms} ms\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return name, value


def _known_defect(text: str) -> tuple[str, str]:
    name, _, reason = text.partition("=")
    return name, reason


if __name__ == "__main__":
    sys.exit(main())
