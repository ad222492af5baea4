"""Running many cases at once, each server with one case at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ojs_core.testing.conformance.cases import Case
from ojs_core.testing.conformance.client import Client
from ojs_core.testing.conformance.runner import CaseResult, Outcome, broken_case, run_case

DYING_MAX_S = 5.0


class Target(Protocol):
    """A server that cases can be run against."""

    @property
    def base_url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8080`."""

    def death(self, within_s: float = 0) -> str | None:
        """Return why it cannot take another case, or None if it still can after that many seconds."""

    def log_position(self) -> int:
        """Return a mark in the server's log."""

    def log_since(self, position: int) -> str:
        """Return what the server has logged since a mark, or the end of it."""


class _StoppedError(Exception):
    """The run was given up while a case was waiting."""


def in_running_order(cases: Iterable[Case]) -> list[Case]:
    """Return cases with the longest first, so that the last to finish is not one that started late."""
    return sorted(cases, key=lambda case: (-case.wait_ms, case.file))


def run_cases(
    cases: Iterable[Case],
    targets: Sequence[Target],
    on_result: Callable[[CaseResult], None] | None = None,
) -> list[CaseResult]:
    """Run cases on servers, as many at once as there are servers, and return the results sorted by file.

    A server that dies fails the case it had and gets no other; if none is left, the cases left over are errors.
    `on_result` is called once per case, from any thread but never twice at a time. An exception raised in a thread, and
    an interrupt, stop the run at the next wait or case.
    """
    run = _Run(deque(in_running_order(cases)), on_result)
    threads: list[threading.Thread] = []
    try:
        for target in targets:
            thread = threading.Thread(target=run.work_on, args=(target,), name=target.base_url)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    finally:
        run.stop.set()
        for thread in threads:
            thread.join()
    if run.errors:
        raise run.errors[0]
    deaths = "; ".join(death for target in targets if (death := target.death()))
    left_over = [broken_case(case, f"no server is left to run it: {deaths}") for case in run.waiting]
    return sorted([*run.results, *left_over], key=lambda result: result.case.file)


@dataclass(slots=True)
class _Run:
    """What the threads share, one thread per server."""

    waiting: deque[Case]
    on_result: Callable[[CaseResult], None] | None
    results: list[CaseResult] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def work_on(self, target: Target) -> None:
        """Run cases on one server until none is waiting, the server has died, or the run is stopped."""
        try:
            client = Client(target.base_url)
            while (case := self._next_for(target)) is not None:
                self._take(_run_on(case, target, client, self._pause))
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it: `run_cases` raises it
            self.errors.append(error)
            self.stop.set()

    def _next_for(self, target: Target) -> Case | None:
        with self.lock:
            if self.stop.is_set() or not self.waiting or target.death() is not None:
                return None
            return self.waiting.popleft()

    def _take(self, result: CaseResult) -> None:
        with self.lock:
            self.results.append(result)
            if self.on_result is not None:
                self.on_result(result)

    def _pause(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise _StoppedError


def _run_on(case: Case, target: Target, client: Client, pause: Callable[[float], None]) -> CaseResult:
    mark = target.log_position()
    result = run_case(case, client, pause=pause)
    if result.outcome is Outcome.PASSED:
        return result
    # A connection breaks a moment before the process that held it is gone.
    death = target.death(within_s=DYING_MAX_S) if result.outcome is Outcome.ERROR else None
    log = target.log_since(mark)
    return CaseResult(case, result.outcome, result.ms, result.failures, f"{log}{death}\n" if death else log)
