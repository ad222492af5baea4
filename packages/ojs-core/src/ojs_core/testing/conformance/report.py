"""What a run came to: the verdict, the text for people, the JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ojs_core.testing.conformance.runner import CaseResult, Outcome

_LEVEL_NAMES = {"0": "core", "1": "reliable", "2": "scheduled", "3": "workflows", "4": "advanced", "ext": "extensions"}


@dataclass(frozen=True, slots=True)
class Count:
    """How many cases passed, and how many did not, whether failed or in error."""

    passed: int
    failed: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.passed + self.failed


class Report:
    """The results of one run, judged against the defects that are known.

    `known_defects` maps a case id or file to the reason why that case cannot be passed, which may be empty. Such a case
    is expected to fail: it is counted as failed, and only a pass, or an error, is held against the run.
    """

    def __init__(self, results: Iterable[CaseResult], known_defects: Mapping[str, str]) -> None:
        """Sort the results into what was expected and what was not."""
        self.results = list(results)
        self._reasons = known_defects
        self.expected: list[CaseResult] = []
        self.stale: list[CaseResult] = []
        self.unexpected: list[CaseResult] = []
        for result in self.results:
            known = self._reason(result) is not None
            if known and result.outcome is Outcome.FAILED:
                self.expected.append(result)
            elif known and result.outcome is Outcome.PASSED:
                self.stale.append(result)
            elif result.outcome is not Outcome.PASSED:
                self.unexpected.append(result)

    @property
    def ok(self) -> bool:
        """Whether every case passed but the known defects, and every known defect failed."""
        return bool(self.results) and not self.stale and not self.unexpected

    @property
    def total(self) -> Count:
        """The count over all levels."""
        return _count(self.results)

    def levels(self) -> dict[str, Count]:
        """Return the count per level, in order."""
        names = sorted({result.case.level for result in self.results})
        return {name: _count(result for result in self.results if result.case.level == name) for name in names}

    def as_json(self) -> dict[str, object]:
        """Return the report as a JSON value; `ms` is the time a case took."""
        return {
            "ok": self.ok,
            "passed": self.total.passed,
            "failed": self.total.failed,
            "levels": {
                name: {"passed": c.passed, "failed": c.failed, "total": c.total} for name, c in self.levels().items()
            },
            "known_defects": [
                {"id": result.case.id, "file": result.case.file, "outcome": result.outcome.value, "reason": reason}
                for result in self.results
                if (reason := self._reason(result)) is not None
            ],
            "cases": [_case_as_json(result) for result in self.results],
        }

    def as_text(self) -> str:
        """Return the report for people. Its last line is `N passed, M failed`."""
        lines = [f"{'level':<16}{'passed':>8}{'failed':>8}{'total':>8}"]
        lines += [
            f"{f'{name} {_LEVEL_NAMES.get(name, str())}'.strip():<16}{count.passed:>8}{count.failed:>8}{count.total:>8}"
            for name, count in self.levels().items()
        ]
        for result in self.unexpected:
            lines += ["", *_describe(result)]
        for result in self.expected:
            reason = self._reason(result)
            lines += ["", f"known defect {result.case.id} {result.case.file}"]
            lines += [f"  failed, as expected{f': {reason}' if reason else ''}", *_describe_failures(result)]
        for result in self.stale:
            lines += ["", f"STALE EXCEPTION {result.case.id} {result.case.file}"]
            lines += ["  passed, although it is declared a known defect: take the declaration away"]
        return "\n".join([*lines, "", f"{self.total.passed} passed, {self.total.failed} failed", ""])

    def _reason(self, result: CaseResult) -> str | None:
        return self._reasons.get(result.case.file, self._reasons.get(result.case.id))


def _count(results: Iterable[CaseResult]) -> Count:
    outcomes = [result.outcome is Outcome.PASSED for result in results]
    return Count(outcomes.count(True), outcomes.count(False))


def _describe(result: CaseResult) -> list[str]:
    lines = [f"{result.outcome.value.upper()} {result.case.id} {result.case.file}", *_describe_failures(result)]
    if result.server_log.strip():
        lines += ["  the server's log meanwhile:", *(f"    {line}" for line in result.server_log.strip().splitlines())]
    return lines


def _describe_failures(result: CaseResult) -> list[str]:
    lines: list[str] = []
    for failure in result.failures:
        place = f"{failure.step} {failure.path}".strip()
        lines += [f"  {place}", f"    expected {failure.expected}", f"    got      {failure.got}"]
    return lines


def _case_as_json(result: CaseResult) -> dict[str, object]:
    failures = [{"step": f.step, "path": f.path, "expected": f.expected, "got": f.got} for f in result.failures]
    case = result.case
    return {
        "id": case.id,
        "file": case.file,
        "level": int(case.level) if case.level.isdecimal() else case.level,
        "outcome": result.outcome.value,
        "ms": result.ms,
        "failures": failures,
    }
