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


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """A declaration that a case cannot be passed honestly.

    `reason` is for people. `places` are the steps and paths where it fails: those and no others, so that the rest of
    the case still has to hold. Without places the case may fail anywhere.
    """

    reason: str = ""
    places: frozenset[tuple[str, str]] = frozenset()


class Report:
    """The results of one run, judged against the defects that are known.

    `known_defects` maps a case id or file to its declaration. Such a case is expected to fail: it is counted as failed,
    and only a pass, an error, or another failure than the declared ones is held against the run.
    """

    def __init__(self, results: Iterable[CaseResult], known_defects: Mapping[str, KnownDefect]) -> None:
        self.results = list(results)
        self._known = known_defects
        self.expected: list[CaseResult] = []
        self.stale: list[CaseResult] = []
        self.unexpected: list[CaseResult] = []
        for result in self.results:
            self._sort(result)

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
                {
                    "id": result.case.id,
                    "file": result.case.file,
                    "outcome": result.outcome.value,
                    "reason": defect.reason,
                }
                for result in self.results
                if (defect := self._defect(result)) is not None
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
            if self._defect(result) is not None:
                lines.append("  a known defect, but this is not the failure that was declared")
        for result in self.expected:
            defect = self._defect(result)
            reason = f": {defect.reason}" if defect and defect.reason else ""
            lines += ["", f"known defect {result.case.id} {result.case.file}"]
            lines += [f"  failed, as expected{reason}", *_describe_failures(result)]
        for result in self.stale:
            lines += ["", f"STALE EXCEPTION {result.case.id} {result.case.file}"]
            lines += [
                "  passed where it is declared a known defect: correct the declaration",
                *_describe_failures(result),
            ]
        return "\n".join([*lines, "", f"{self.total.passed} passed, {self.total.failed} failed", ""])

    def _sort(self, result: CaseResult) -> None:
        defect = self._defect(result)
        if defect is None or result.outcome is Outcome.ERROR:
            if result.outcome is not Outcome.PASSED:
                self.unexpected.append(result)
            return
        failed_at = {(failure.step, failure.path) for failure in result.failures}
        if defect.places and not failed_at <= defect.places:
            self.unexpected.append(result)
        elif not failed_at or failed_at < defect.places:
            self.stale.append(result)
        else:
            self.expected.append(result)

    def _defect(self, result: CaseResult) -> KnownDefect | None:
        return self._known.get(result.case.file, self._known.get(result.case.id))


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
