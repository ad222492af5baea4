"""Running one case against one server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote

from ojs_core.testing.conformance.cases import Case, Group
from ojs_core.testing.conformance.checks import Violation, look_up
from ojs_core.testing.conformance.client import Client, Response, TransportError
from ojs_core.testing.conformance.errors import CaseError, UnresolvedError
from ojs_core.testing.conformance.paths import Missing
from ojs_core.testing.conformance.steps import Comparison, Request, Wait
from ojs_core.testing.conformance.templates import Scope

PARALLEL_START_MAX_S = 30.0
Pause = Callable[[float], object]  # waits that many seconds


class Outcome(StrEnum):
    """What came of a case.

    `FAILED`: the server did not do what the case wants. `ERROR`: the case could not be judged, because the runner does
    not understand it, because a reference in it leads nowhere though nothing failed before, or because the server did
    not answer.
    """

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that was not as wanted. `step` is empty if it concerns the case as a whole."""

    step: str
    path: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of one case: never `PASSED` with failures, never anything else without."""

    case: Case
    outcome: Outcome
    ms: int
    failures: tuple[Failure, ...] = ()
    server_log: str = ""


def run_case(case: Case, client: Client, *, reset: bool = True, pause: Pause = time.sleep) -> CaseResult:
    """Run a case and judge it; the server is wiped first if `reset`.

    A failed check does not end the case: the steps after it still run, so that one report shows everything. A reference
    that leads nowhere and a request without an answer do end it; its teardown runs all the same.
    """
    started = time.perf_counter()
    run = _CaseRun(client, pause)
    outcome = run.judge(case, reset=reset)
    return CaseResult(case, outcome, round((time.perf_counter() - started) * 1000), tuple(run.failures))


def broken_case(case: Case, reason: str) -> CaseResult:
    """Return the result of a case that could not be run at all."""
    return CaseResult(case, Outcome.ERROR, 0, (Failure("", "case", "a case that can be run", reason),))


@dataclass(slots=True)
class _CaseRun:
    client: Client
    pause: Pause
    scope: Scope = field(default_factory=Scope)
    failures: list[Failure] = field(default_factory=list)

    def judge(self, case: Case, *, reset: bool) -> Outcome:
        if case.problem is not None:
            self.failures.append(Failure("", "case", "a case this runner understands", case.problem))
            return Outcome.ERROR
        understood = self._run_groups(case.groups, reset=reset)
        # Teardown may well refer to what a broken case never made, so then only its own checks count.
        understood = self._run_groups(case.teardown, reset=False) and understood
        if not understood:
            return Outcome.ERROR
        return Outcome.FAILED if self.failures else Outcome.PASSED

    def _run_groups(self, groups: tuple[Group, ...], *, reset: bool) -> bool:
        """Run groups of steps in order; return False if that ended in anything but a wrong answer."""
        step_id = ""
        try:
            if reset:
                self.client.reset()
            for group in groups:
                step_id = group[0].id
                self._run_group(group)
        except UnresolvedError as error:
            # After a failed check this is its consequence: the server's fault, not the case's.
            follows = bool(self.failures)
            self.failures.append(Failure(step_id, "reference", "a value to refer to", str(error)))
            return follows
        except TransportError as error:
            self.failures.append(Failure(step_id, "request", "an HTTP answer", str(error)))
            return False
        except CaseError as error:
            self.failures.append(Failure(step_id, "case", "a case that can be run", str(error)))
            return False
        return True

    def _run_group(self, group: Group) -> None:
        if len(group) > 1:
            requests = [step for step in group if isinstance(step, Request)]
            for request, response in zip(requests, self._send_together(requests), strict=True):
                self._judge_response(request, response)
            return
        match group[0]:
            case Wait() as step:
                self._delay(step.delay_ms)
            case Comparison() as step:
                self._delay(step.delay_ms)
                self._note(step.id, (violation for check in step.checks for violation in check.violations(self.scope)))
            case step:
                self._delay(step.delay_ms)
                for _ in range(step.repeat):
                    self._judge_response(step, self._send(step))

    def _send(self, step: Request, before_send: Callable[[], None] | None = None) -> Response:
        path = self.scope.render(step.path, quote=lambda text: quote(text, safe=""))
        headers = {name: self.scope.render(value) for name, value in step.headers.items()}
        return self.client.send(
            step.method, path, headers=headers, body=step.payload(self.scope), before_send=before_send
        )

    def _send_together(self, steps: list[Request]) -> list[Response]:
        """Send requests at the same time: each has its connection open before the first one leaves."""
        barrier = threading.Barrier(len(steps), timeout=PARALLEL_START_MAX_S)

        def send(step: Request) -> Response:
            def start() -> None:
                barrier.wait()
                self._delay(step.delay_ms)

            try:
                return self._send(step, start)
            except BaseException:
                barrier.abort()  # nobody waits for a step that will not come
                raise

        with ThreadPoolExecutor(len(steps)) as threads:
            futures = [threads.submit(send, step) for step in steps]
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
        return [future.result() for future in futures]

    def _judge_response(self, step: Request, response: Response) -> None:
        self.scope.responses[step.id] = response
        self._note(step.id, (found for check in step.checks for found in check.violations(response, self.scope)))
        for name, path in step.captures:
            found = look_up(path, response, self.scope)
            if isinstance(found, Missing):
                raise UnresolvedError(f"{step.id}: cannot capture {name!r} from {path.text}: {found.reason}")
            self.scope.variables[name] = found.value

    def _note(self, step_id: str, violations: Iterator[Violation]) -> None:
        # One by one: what was found before a reference turns out to lead nowhere must not be lost.
        for found in violations:
            self.failures.append(Failure(step_id, found.path, found.expected, found.got))

    def _delay(self, delay_ms: int) -> None:
        if delay_ms:
            self.pause(delay_ms / 1000)
