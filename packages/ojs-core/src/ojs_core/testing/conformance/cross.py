"""Checks across the answers of several steps: what an `ASSERT` step asks for. It sends nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ojs_core.testing.conformance.checks import Violation
from ojs_core.testing.conformance.errors import CaseError, bad_value
from ojs_core.testing.conformance.templates import Scope, check_step_reference, has_references, resolve_reference
from ojs_core.testing.conformance.values import first_difference, same, show

_CLAIM_FLAGS = ("exactly_one_has_job", "exactly_one_empty")
_FETCHES_MIN = 2
_CLAIM_KEYS = frozenset({"job_id", "fetches", *_CLAIM_FLAGS})


class CrossCheck(Protocol):
    """One thing to compare between answers that are already there."""

    def violations(self, scope: Scope) -> Iterator[Violation]:
        """Yield what is wrong. Raises `UnresolvedError` if an answer is not there."""


@dataclass(frozen=True, slots=True)
class ExclusiveClaim:
    """Of several fetches exactly one was given the job, once; and exactly one came back empty if `one_empty`."""

    job_id: str
    fetches: tuple[str, ...]
    one_has_job: bool
    one_empty: bool

    def violations(self, scope: Scope) -> Iterator[Violation]:
        """Yield what is wrong with the fetched lists of jobs."""
        job_id = scope.fill_text(self.job_id)
        sizes: list[int] = []
        copies: list[int] = []
        for fetch in self.fetches:
            jobs = scope.fill_text(fetch)
            if not isinstance(jobs, list):
                yield Violation("exclusive_claim", f"{fetch} to be an array", show(jobs))
                return
            sizes.append(len(jobs))
            copies.append(sum(isinstance(job, dict) and same(job.get("id"), job_id) for job in jobs))
        if self.one_has_job and (copies.count(1), copies.count(0)) != (1, len(copies) - 1):
            yield Violation("exclusive_claim", f"job {show(job_id)} once, in one fetch", f"copies per fetch: {copies}")
        if self.one_empty and sizes.count(0) != 1:
            yield Violation("exclusive_claim", "exactly one empty fetch", f"jobs per fetch: {sizes}")


@dataclass(frozen=True, slots=True)
class Equality:
    """Two values, each named by a reference, are the same JSON value."""

    left: str
    right: str

    def violations(self, scope: Scope) -> Iterator[Violation]:
        """Yield the first difference, if there is one."""
        left, right = resolve_reference(self.left, scope), scope.fill_text(self.right)
        at = first_difference(left, right)
        if at is not None:
            yield Violation(f"equality at {at}", f"{self.right} = {show(right)}", f"{self.left} = {show(left)}")


def compile_cross_checks(raw: object) -> tuple[CrossCheck, ...]:
    """Compile the `assertions` of an `ASSERT` step. Raises `CaseError` for unknown keys and for checks of nothing."""
    if not isinstance(raw, dict) or not raw:
        raise CaseError(f"an ASSERT step needs assertions, not {show(raw)}")
    checks: list[CrossCheck] = []
    for key, value in raw.items():
        if key == "exclusive_claim":
            checks.append(_exclusive_claim(value))
        elif key == "equality":
            checks += _equality(value)
        elif key != "description":
            raise CaseError(f"unknown key {key!r} in the assertions of an ASSERT step")
    if not checks:
        raise CaseError("an ASSERT step checks nothing")
    return tuple(checks)


def _exclusive_claim(raw: object) -> CrossCheck:
    if not isinstance(raw, dict) or not raw.keys() <= _CLAIM_KEYS:
        raise bad_value(raw, "exclusive_claim")
    job_id, fetches = raw.get("job_id"), raw.get("fetches")
    flags = {flag: raw[flag] for flag in _CLAIM_FLAGS if flag in raw}
    # A flag that is false would ask for nothing, or for the opposite; no case says which.
    if not flags or any(flag is not True for flag in flags.values()):
        raise CaseError(f"exclusive_claim needs at least one flag, and flags that are true, not {show(raw)}")
    if (
        not _refers(job_id)
        or not isinstance(fetches, list)
        or len(fetches) < _FETCHES_MIN
        or not all(map(_refers, fetches))
    ):
        raise CaseError(f"exclusive_claim needs references: a job_id and two fetches or more, not {show(raw)}")
    return ExclusiveClaim(str(job_id), tuple(fetches), *(flag in flags for flag in _CLAIM_FLAGS))


def _refers(text: object) -> bool:
    return isinstance(text, str) and has_references(text)


def _equality(raw: object) -> list[CrossCheck]:
    if not isinstance(raw, dict) or not raw:
        raise bad_value(raw, "equality")
    checks: list[CrossCheck] = []
    for left, right in raw.items():
        if not left.startswith("$.") or not isinstance(right, str) or not has_references(right):
            raise CaseError(f"equality needs a path into the steps and a reference, not {left!r}: {show(right)}")
        check_step_reference(left.removeprefix("$."))
        checks.append(Equality(left.removeprefix("$."), right))
    return checks
