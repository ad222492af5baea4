"""Steps that name what they depend on: the form without `type` that the Python, Go and Java clients send (C-WF-21)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from ojs_core.records import Trigger
from ojs_core.workflow.members import CALLBACKS

NAME_MAX: Final = 255
"""Longest name of a workflow or id of a step, in characters."""
DEPENDENCIES_MAX: Final = 100_000
"""Most entries in all `depends_on` of one workflow together."""
_CYCLE_SHOWN_MAX: Final = 5

Refuse = Callable[[str, str], None]
"""Told the path of a mistake, from the workflow on, and what is wrong."""


class Node(Struct, frozen=True):
    """A step's name, the positions it waits for, and when it starts."""

    id: str
    depends_on: tuple[int, ...] = ()
    trigger: Trigger = "success"


def read_graph(steps: Sequence[Any], refuse: Refuse) -> list[Node]:
    """Read `id`, `depends_on` and `options.callback_type` of the steps; the result has their length and order.

    Checked: ids are there and differ, dependencies exist and have no cycle, callbacks are not waited for. A step is a
    callback, and starts as that of a batch does, if `options.callback_type` says so (as the Python client's `batch`
    writes it), or if the steps as a whole have the shape of a batch (see `_batch_triggers`).
    """
    positions = _read_ids(steps, refuse)
    depends_on = _read_dependencies(steps, positions, refuse)
    callbacks = _callback_types(steps, refuse)
    ids = [_id_of(step) or "" for step in steps]
    if not callbacks:
        callbacks = _batch_triggers(ids, depends_on)
    for position, before in enumerate(depends_on):
        if position in callbacks and not before:
            refuse(f"steps[{position}].depends_on", "a callback must wait for at least one step")
        for number in before:
            if number in callbacks:
                refuse(f"steps[{position}].depends_on", f"nothing can wait for the callback '{ids[number]}'")
    cycle = _find_cycle(depends_on)
    if cycle:
        shown = [ids[position] for position in cycle[:_CYCLE_SHOWN_MAX]]
        more = [] if len(cycle) <= _CYCLE_SHOWN_MAX else ["…"]
        refuse("steps", f"dependencies must not form a cycle: {' -> '.join([*shown, *more, ids[cycle[0]]])}")
    return [Node(ids[i], depends_on[i], callbacks.get(i, "success")) for i in range(len(steps))]


def _id_of(step: object) -> str | None:
    value = step.get("id") if isinstance(step, dict) else None
    return value if isinstance(value, str) and 0 < len(value) <= NAME_MAX else None


def _read_ids(steps: Sequence[Any], refuse: Refuse) -> dict[str, int]:
    """Return the position of each id; of two with the same the first."""
    positions: dict[str, int] = {}
    for position, step in enumerate(steps):
        step_id = _id_of(step)
        if step_id is None:
            refuse(f"steps[{position}].id", f"'id' must be a string of 1 to {NAME_MAX} characters")
        elif positions.setdefault(step_id, position) != position:
            refuse(f"steps[{position}].id", f"'{step_id}' is the id of steps[{positions[step_id]}] too")
    return positions


def _read_dependencies(steps: Sequence[Any], positions: dict[str, int], refuse: Refuse) -> list[tuple[int, ...]]:
    depends_on: list[tuple[int, ...]] = []
    count = 0
    for position, step in enumerate(steps):
        names = (step.get("depends_on") if isinstance(step, dict) else None) or []
        path = f"steps[{position}].depends_on"
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            refuse(path, "'depends_on' must be an array of step ids")
            names = []
        count += len(names)
        if count > DEPENDENCIES_MAX:
            refuse(path, f"a workflow may have {DEPENDENCIES_MAX} dependencies in all")
            return [()] * len(steps)
        for index, name in enumerate(names):
            if name not in positions:
                refuse(f"{path}[{index}]", f"there is no step '{name[:NAME_MAX]}'")
        # A dict drops repetitions and keeps the order.
        depends_on.append(tuple(dict.fromkeys(positions[name] for name in names if name in positions)))
    return depends_on


def _callback_types(steps: Sequence[Any], refuse: Refuse) -> dict[int, Trigger]:
    """Return when each step starts that calls itself a callback."""
    triggers: dict[int, Trigger] = {}
    for position, step in enumerate(steps):
        options = step.get("options") if isinstance(step, dict) else None
        name = options.get("callback_type") if isinstance(options, dict) else None
        if name is None:
            continue
        if isinstance(name, str) and name in CALLBACKS:
            triggers[position] = CALLBACKS[name]
        else:
            refuse(f"steps[{position}].options.callback_type", f"must be one of {', '.join(CALLBACKS)}")
    return triggers


def _batch_triggers(ids: Sequence[str], depends_on: Sequence[tuple[int, ...]]) -> dict[int, Trigger]:
    """Return the callbacks of steps that are a batch in all but name; empty if they are not.

    The Go and Java clients write a batch's callbacks as steps that depend on every job and carry nothing but their id
    (`on-complete` or `on_complete`). Taken literally, `on_failure` would run after a success and never after a failure.
    Only the exact shape counts: jobs without dependencies, and callbacks that depend on all of them.
    """
    triggers: dict[int, Trigger] = {}
    for position, step_id in enumerate(ids):
        name = step_id.replace("-", "_")
        if name in CALLBACKS:
            triggers[position] = CALLBACKS[name]
    jobs = {position for position in range(len(ids)) if position not in triggers}
    if not jobs or any(depends_on[position] for position in jobs):
        return {}
    return triggers if all(set(depends_on[position]) == jobs for position in triggers) else {}


def _find_cycle(depends_on: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the positions of one cycle in the order of waiting; empty if there is none."""
    waiting = [len(before) for before in depends_on]
    dependents: list[list[int]] = [[] for _ in depends_on]
    for position, before in enumerate(depends_on):
        for number in before:
            dependents[number].append(position)
    free = [position for position, count in enumerate(waiting) if count == 0]
    for position in free:
        for dependent in dependents[position]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                free.append(dependent)
    if len(free) == len(depends_on):
        return []
    # Whoever still waits does so for another that still waits: following that must come round.
    stuck = set(range(len(depends_on))) - set(free)
    position = min(stuck)
    path: dict[int, None] = {}
    while position not in path:
        path[position] = None
        position = next(number for number in depends_on[position] if number in stuck)
    order = list(path)
    return order[order.index(position) :]
