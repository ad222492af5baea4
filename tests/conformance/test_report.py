"""The verdict, and how it is told."""

from __future__ import annotations

import json

from ojs_core.testing.conformance import Case, CaseResult, Failure, KnownDefect, Outcome, Report


def result(
    case_id: str, outcome: Outcome = Outcome.PASSED, level: str = "0", file: str = "", log: str = ""
) -> CaseResult:
    """Return the result of a case."""
    failures = () if outcome is Outcome.PASSED else (Failure("step-1", "$.job.state", '"available"', '"active"'),)
    return CaseResult(Case(case_id, file or f"{case_id}.json", level), outcome, 12, failures, log)


def test_everything_passed() -> None:
    """The last line counts."""
    report = Report([result("A"), result("B", level="1"), result("C", level="ext")], {})
    assert report.ok
    lines = report.as_text().splitlines()
    assert lines[-1] == "3 passed, 0 failed"
    assert [line.split() for line in lines[:4]] == [
        ["level", "passed", "failed", "total"],
        ["0", "core", "1", "0", "1"],
        ["1", "reliable", "1", "0", "1"],
        ["ext", "extensions", "1", "0", "1"],
    ]


def test_failures_and_errors_are_told_in_full() -> None:
    """Each names the case, its file, the step, the place, both values and the server's log; both count as failed."""
    report = Report([result("A", Outcome.FAILED, log="a traceback\n"), result("B", Outcome.ERROR), result("C")], {})
    assert not report.ok
    text = report.as_text()
    assert 'FAILED A A.json\n  step-1 $.job.state\n    expected "available"\n    got      "active"\n' in text
    assert "  the server's log meanwhile:\n    a traceback\n" in text
    assert "ERROR B B.json\n" in text
    assert text.endswith("\n1 passed, 2 failed\n")


def test_a_known_defect_that_fails_is_fine() -> None:
    """It counts as failed, is explained before the last line, and does not fail the run."""
    report = Report([result("A"), result("D", Outcome.FAILED)], {"D": KnownDefect("asks for what it never sends")})
    assert report.ok
    lines = report.as_text().splitlines()
    assert lines[-1] == "1 passed, 1 failed"
    assert "known defect D D.json" in lines
    assert "  failed, as expected: asks for what it never sends" in lines
    assert "  failed, as expected" in Report([result("D", Outcome.FAILED)], {"D": KnownDefect()}).as_text().splitlines()


def test_a_known_defect_that_passes_is_stale() -> None:
    """The run fails, and says which declaration to take away."""
    report = Report([result("A"), result("D")], {"D": KnownDefect()})
    assert not report.ok
    assert "STALE EXCEPTION D D.json" in report.as_text()
    assert report.as_text().endswith("\n2 passed, 0 failed\n")


def test_a_known_defect_that_cannot_be_judged_is_a_failure() -> None:
    """A dead server must not pass for the expected failure."""
    report = Report([result("D", Outcome.ERROR)], {"D": KnownDefect()})
    assert not report.ok
    assert "ERROR D D.json" in report.as_text()


def test_a_known_defect_may_be_pinned_to_places() -> None:
    """It must fail there, at all of them, and nowhere else: the rest of the case still has to hold."""
    here, there = ("step-1", "$.job.state"), ("step-2", "status")
    failed = [result("D", Outcome.FAILED)]
    assert Report(failed, {"D": KnownDefect(places=frozenset({here}))}).ok
    elsewhere = Report(failed, {"D": KnownDefect(places=frozenset({there}))})
    assert (elsewhere.ok, elsewhere.unexpected) == (False, failed)
    assert "not the failure that was declared" in elsewhere.as_text()
    partly = Report(failed, {"D": KnownDefect(places=frozenset({here, there}))})
    assert (partly.ok, partly.stale) == (False, failed)
    assert not Report([result("D")], {"D": KnownDefect(places=frozenset({here}))}).ok


def test_other_failures_are_not_covered() -> None:
    """A known defect excuses its own case only."""
    assert not Report([result("A", Outcome.FAILED), result("D", Outcome.FAILED)], {"D": KnownDefect()}).ok


def test_known_defects_by_file() -> None:
    """Where two files share an id, one of them can be meant, and its own reason comes first."""
    twins = [result("D", Outcome.FAILED, file="x/one.json"), result("D", file="x/two.json")]
    assert Report(twins, {"x/one.json": KnownDefect()}).ok
    assert not Report(twins, {"D": KnownDefect()}).ok
    assert (
        "expected: by file"
        in Report(twins[:1], {"D": KnownDefect("by id"), "x/one.json": KnownDefect("by file")}).as_text()
    )


def test_a_known_defect_that_was_not_selected_does_not_matter() -> None:
    """A run of another level says nothing about it."""
    assert Report([result("A")], {"D": KnownDefect()}).ok


def test_nothing_run_is_not_a_success() -> None:
    """No results, no verdict."""
    assert not Report([], {}).ok


def test_json() -> None:
    """The JSON report has every case with its failures."""
    report = Report(
        [result("A"), result("D", Outcome.FAILED, level="1"), result("E", level="ext")], {"D": KnownDefect("why")}
    )
    assert json.loads(json.dumps(report.as_json())) == {
        "ok": True,
        "passed": 2,
        "failed": 1,
        "levels": {
            "0": {"passed": 1, "failed": 0, "total": 1},
            "1": {"passed": 0, "failed": 1, "total": 1},
            "ext": {"passed": 1, "failed": 0, "total": 1},
        },
        "known_defects": [{"id": "D", "file": "D.json", "outcome": "failed", "reason": "why"}],
        "cases": [
            {"id": "A", "file": "A.json", "level": 0, "outcome": "passed", "ms": 12, "failures": []},
            {
                "id": "D",
                "file": "D.json",
                "level": 1,
                "outcome": "failed",
                "ms": 12,
                "failures": [{"step": "step-1", "path": "$.job.state", "expected": '"available"', "got": '"active"'}],
            },
            {"id": "E", "file": "E.json", "level": "ext", "outcome": "passed", "ms": 12, "failures": []},
        ],
    }
