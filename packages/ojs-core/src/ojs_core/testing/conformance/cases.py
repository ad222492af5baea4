"""Case files: finding, reading and selecting them.

A case that cannot be understood is still a case. It keeps its place in the list, with the reason in `problem`, and is
reported as an error: leaving it out would turn a bad file into a pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ojs_core.testing.conformance.errors import CaseError, bad_value
from ojs_core.testing.conformance.steps import Request, Step, Wait, parse_step
from ojs_core.testing.conformance.values import is_count, parse_json_without_duplicates, show

EXTENSION_LEVEL = "ext"
UNKNOWN_LEVEL = "?"
_CASE_KEYS = frozenset({
    "test_id", "level", "category", "name", "description", "spec_ref", "tags", "preconditions",
    "setup", "steps", "teardown",
})  # fmt: skip

Group = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One case file. Ids are not unique in the official suites; `file`, relative to the cases folder, is.

    `level` is the number as text, `ext` for extensions, or `?` if the file does not say. Steps are in groups that run
    one after another; the steps of one group run at the same time.
    """

    id: str
    file: str
    level: str
    groups: tuple[Group, ...] = ()
    teardown: tuple[Group, ...] = ()
    problem: str | None = None

    @property
    def wait_ms(self) -> int:
        """How long the case takes at least: the sum of its delays, in milliseconds."""
        return sum(max(step.delay_ms for step in group) for group in (*self.groups, *self.teardown))


def load_cases(folder: Path) -> list[Case]:
    """Read every `*.json` under a folder, sorted by path. Raises `OSError` if the folder or a file cannot be read."""
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    return [
        parse_case(path.read_bytes(), path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.json"))
    ]


def parse_case(text: str | bytes, file: str) -> Case:
    """Parse one case file. What cannot be understood is told in the `problem` of the result."""
    try:
        raw = parse_json_without_duplicates(text)
    except ValueError as error:
        return Case(Path(file).stem, file, UNKNOWN_LEVEL, problem=f"not a JSON document: {error}")
    if not isinstance(raw, dict):
        return Case(Path(file).stem, file, UNKNOWN_LEVEL, problem="not a JSON object")
    case_id = raw.get("test_id")
    case_id = case_id if isinstance(case_id, str) and case_id else Path(file).stem
    level = _level(raw.get("level"))
    try:
        return _case(raw, case_id, file, level)
    except CaseError as error:
        return Case(case_id, file, level, problem=str(error))


def select_cases(cases: Iterable[Case], levels: Collection[str], ids: Collection[str]) -> list[Case]:
    """Return the cases of any of the levels, and with any of the ids or files; an empty collection selects all.

    Cases whose level cannot be read are selected at every level.
    """
    return [
        case
        for case in cases
        if (not levels or case.level in {*levels, UNKNOWN_LEVEL}) and (not ids or case.id in ids or case.file in ids)
    ]


def _level(raw: object) -> str:
    if is_count(raw):
        return str(raw)
    return EXTENSION_LEVEL if raw in ("ext", "extension") else UNKNOWN_LEVEL


def _case(raw: dict[str, object], case_id: str, file: str, level: str) -> Case:
    for key in raw:
        if key not in _CASE_KEYS:
            raise CaseError(f"unknown key {key!r} in the case")
    for key, bad in (("test_id", raw.get("test_id") != case_id), ("level", level == UNKNOWN_LEVEL)):
        if bad:
            raise bad_value(raw.get(key), key)
    setup = _steps(raw.get("setup"), "setup")
    steps = _step_list(raw.get("steps"), "steps", len(setup))
    teardown = _steps(raw.get("teardown"), "teardown", len(setup) + len(steps))
    everything = [*setup, *steps, *teardown]
    ids = [step.id for step in everything]
    if len(set(ids)) != len(ids):
        raise CaseError(f"two steps have the id {next(step for step in ids if ids.count(step) > 1)!r}")
    if not any(not isinstance(step, Wait) and step.checks for step in everything):
        raise CaseError("the case checks nothing")
    return Case(case_id, file, level, (*group_steps(setup), *group_steps(steps)), group_steps(teardown))


def _steps(raw: object, where: str, before: int = 0) -> list[Step]:
    """Parse the optional `setup` or `teardown`: an object with `steps`."""
    if raw is None:
        return []
    if not isinstance(raw, dict) or raw.keys() != {"steps"}:
        raise CaseError(f"{where} must be an object with steps, not {show(raw)}")
    return _step_list(raw["steps"], where, before)


def _step_list(raw: object, where: str, before: int) -> list[Step]:
    if not isinstance(raw, list) or not raw:
        raise CaseError(f"{where} must be a list with at least one step")
    return [parse_step(step, number) for number, step in enumerate(raw, start=before + 1)]


def group_steps(steps: list[Step]) -> tuple[Group, ...]:
    """Join neighbours that name each other in `parallel_with`. Raises `CaseError` if a partner is not a neighbour."""
    groups: list[list[Step]] = []
    for step in steps:
        if groups and _belongs(step, groups[-1]):
            groups[-1].append(step)
        else:
            groups.append([step])
    for group in groups:
        ids = {step.id for step in group}
        for step in group:
            partner = _partner(step)
            if partner is not None and (partner == step.id or partner not in ids):
                raise CaseError(f"{step.id}: parallel_with names {partner!r}, which is not a request next to it")
    return tuple(tuple(group) for group in groups)


def _belongs(step: Step, group: list[Step]) -> bool:
    if not isinstance(step, Request):
        return False
    ids = {member.id for member in group if isinstance(member, Request)}
    return bool(ids) and (step.parallel_with in ids or any(_partner(member) == step.id for member in group))


def _partner(step: Step) -> str | None:
    return step.parallel_with if isinstance(step, Request) else None
