"""Any workflow, any order, any repetition: it ends, and ends the same (the guarantees of the engine).

A small world plays the store and the workers. Which jobs fail is settled beforehand, so a model that knows nothing of
order can say what has to come out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from ojs_core.envelope import decode_object
from ojs_core.events import Event
from ojs_core.job import Job, JobState
from ojs_core.records import Member, Workflow, decode_workflow, encode
from ojs_core.workflow import (
    Advance,
    Outcome,
    advance,
    cancel,
    child_ids,
    open_job_ids,
    outcome_of_job,
    outcome_of_workflow,
    parse_workflow,
    reissue,
    render,
    start,
)

NOW = 1_770_892_200_000
WORKFLOW_ID = "019c5186-9a40-7000-8000-000000000001"
CALLBACKS = ("on_complete", "on_success", "on_failure")

leaves = st.fixed_dictionaries({"ends": st.sampled_from(["completed"] * 4 + ["discarded", "cancelled"])})


def _workflows(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(elements, min_size=1, max_size=3)
    callbacks = st.dictionaries(st.sampled_from(CALLBACKS), leaves, min_size=1)
    return st.one_of(
        st.builds(lambda steps: {"type": "chain", "steps": steps}, some),
        st.builds(lambda jobs: {"type": "group", "jobs": jobs}, some),
        st.builds(lambda jobs, calls: {"type": "batch", "jobs": jobs, "callbacks": calls}, some, callbacks),
        st.builds(_graph, some, st.randoms(use_true_random=False), st.booleans()),
    )


def _graph(steps: list[Any], rnd: Random, called_back: object) -> dict[str, Any]:
    """Make steps with dependencies and without a cycle, in an order that hides it; perhaps with a batch's callbacks."""
    names = [f"s{number}" for number in range(len(steps))]
    named = [
        {**step, "id": name, "depends_on": rnd.sample(names[:number], rnd.randint(0, number))}
        for number, (name, step) in enumerate(zip(names, steps, strict=True))
    ]
    if called_back:
        named += [
            {"ends": "completed", "id": name, "depends_on": names, "options": {"callback_type": name}}
            for name in CALLBACKS
        ]
    rnd.shuffle(named)
    return {"steps": named}


# Four levels at most: an element of the outermost three may be a workflow.
elements = st.one_of(leaves, _workflows(st.one_of(leaves, _workflows(st.one_of(leaves, _workflows(leaves))))))
workflows = _workflows(elements)


def parts_of(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the elements of a definition by position; nothing if it is a job."""
    parts: list[dict[str, Any]] = definition.get("steps") or definition.get("jobs") or []
    calls = definition.get("callbacks", {})
    return [*parts, *(calls[name] for name in CALLBACKS if name in calls)]


def as_sent(definition: dict[str, Any], path: tuple[int, ...] = ()) -> dict[str, Any]:
    """Turn a drawn tree into what a client sends; each job carries its path and its end in `args`."""
    if "ends" in definition:
        return {**definition, "type": "a.b", "args": [path, definition["ends"]]}
    parts = [as_sent(part, (*path, index)) for index, part in enumerate(parts_of(definition))]
    key = "steps" if "steps" in definition else "jobs"
    split = len(definition[key])
    sent = {**definition, key: parts[:split]}
    if "callbacks" in definition:
        sent["callbacks"] = dict(
            zip((n for n in CALLBACKS if n in definition["callbacks"]), parts[split:], strict=True)
        )
    return sent


class Model:
    """What must come out: the paths of the jobs that run, and how each workflow ends."""

    def __init__(self, definition: dict[str, Any]) -> None:
        self.ran: set[tuple[int, ...]] = set()
        self.ends: dict[tuple[int, ...], bool] = {}
        self.run(definition, ())

    def run(self, definition: dict[str, Any], path: tuple[int, ...]) -> bool:
        """Run an element; tell whether it succeeds."""
        if "ends" in definition:
            self.ran.add(path)
            return bool(definition["ends"] == "completed")
        kind = definition.get("type", "dag")
        if kind == "chain":
            good = all(self.run(part, (*path, index)) for index, part in enumerate(definition["steps"]))
        elif kind == "dag":
            good = self._run_graph(definition["steps"], path)
        else:
            verdicts = [self.run(part, (*path, index)) for index, part in enumerate(definition["jobs"])]
            good = all(verdicts)
            if kind == "batch":
                good = self._call_back(definition, path, good=good)
        self.ends[path] = good
        return good

    def _call_back(self, definition: dict[str, Any], path: tuple[int, ...], *, good: bool) -> bool:
        fires = {"on_complete": True, "on_success": good, "on_failure": not good}
        calls = [name for name in CALLBACKS if name in definition["callbacks"]]
        ran = {
            name: self.run(definition["callbacks"][name], (*path, len(definition["jobs"]) + index))
            for index, name in enumerate(calls)
            if fires[name]
        }
        # Someone was told of the failure, or there was none.
        handled = good or bool(ran)
        return handled and all(ran.values())

    def _run_graph(self, steps: list[dict[str, Any]], path: tuple[int, ...]) -> bool:
        verdicts: dict[str, bool] = {}
        plain = [step for step in steps if step["id"] not in CALLBACKS]
        while len(verdicts) < len(plain):
            for index, step in enumerate(steps):
                if step["id"] in verdicts or step not in plain or not all(n in verdicts for n in step["depends_on"]):
                    continue
                ready = all(verdicts[name] for name in step["depends_on"])
                verdicts[step["id"]] = ready and self.run(step, (*path, index))
        good = all(verdicts.values())
        if len(plain) == len(steps):
            return good
        for index, step in enumerate(steps):
            if step["id"] == "on_complete" or step["id"] == ("on_success" if good else "on_failure"):
                self.run(step, (*path, index))
        return True


class World:
    """A store and workers that do everything in an unlucky order."""

    def __init__(self, definition: dict[str, Any], rnd: Random) -> None:
        self.rnd = rnd
        self.now = NOW
        self.workflows: dict[str, Workflow] = {}
        self.jobs: dict[str, Job] = {}
        self.running: list[str] = []
        self.reported: dict[str, list[Outcome]] = {}
        self.events: list[Event] = []
        text = json.dumps(as_sent(definition)).encode()
        root = parse_workflow(*decode_object(text), NOW, workflow_id=WORKFLOW_ID)
        self.write(start(root, NOW))

    @property
    def root(self) -> Workflow:
        return self.workflows[WORKFLOW_ID]

    def put(self, workflow: Workflow) -> None:
        """Keep a workflow as a store does."""
        self.workflows[workflow.id] = decode_workflow(encode(workflow))

    def write(self, step: Advance) -> None:
        before = self.workflows.get(step.workflow.id)
        self.put(step.workflow)
        for child in step.children:
            assert child.id not in self.workflows, "a nested workflow is started once"
            self.put(child)
        for new in step.inserts:
            assert new.job.id not in self.jobs, "a member is started once"
            self.jobs[new.job.id] = new.job
            self.running.append(new.job.id)
            self.check_results(new.job)
        self.events += step.events
        self.check_reissue(step, before)

    def check_results(self, job: Job) -> None:
        """C-WF-10, C-WF-14, C-WF-17: at position i the result of i, if that comes before; else null."""
        assert job.workflow_id is not None
        assert job.workflow_step is not None
        assert job.parent_results is not None
        told = json.loads(bytes(job.parent_results))
        workflow = self.workflows[job.workflow_id]
        split = len(workflow.members)
        if job.workflow_step >= split:
            before = set(range(split))
        else:
            before = set(ancestors(workflow.members, job.workflow_step))
        if before:
            assert told == [result_of(workflow.members[i]) if i in before else None for i in range(max(before) + 1)]
        elif workflow.parent_id is None:
            assert told == []
        else:
            assert told == json.loads(bytes(workflow.input or b"null"))

    def check_reissue(self, step: Advance, before: Workflow | None) -> None:
        """What this very step started would be made again just the same."""
        known = () if before is None else members_of(before)
        fresh = [
            position
            for position, member in enumerate(members_of(step.workflow))
            if member.state == "pending" and (not known or known[position].state == "waiting")
        ]
        again = reissue(self.workflows[step.workflow.id], fresh)
        assert [new.job for new in again.inserts] == [new.job for new in step.inserts]
        assert {child.id for child in again.children} == {child.id for child in step.children}

    def act(self) -> None:
        """Let one thing happen: a job ends, or some outcomes reach a workflow."""
        self.now += self.rnd.randint(0, 3)
        waiting = [workflow_id for workflow_id, outcomes in self.reported.items() if outcomes]
        if self.running and (not waiting or self.rnd.random() < 0.5):
            self.end_job()
        else:
            self.deliver(self.rnd.choice(waiting))

    def end_job(self) -> None:
        job_id = self.running.pop(self.rnd.randrange(len(self.running)))
        path, verdict = json.loads(bytes(self.jobs[job_id].args))
        state = JobState(verdict)
        job = msgspec.structs.replace(
            self.jobs[job_id],
            state=state,
            started_at=self.now,
            completed_at=self.now,
            result=Raw(json.dumps(path).encode()) if state is JobState.COMPLETED and self.rnd.random() < 0.8 else None,
        )
        self.jobs[job_id] = job
        assert job.workflow_id is not None
        self.reported.setdefault(job.workflow_id, []).append(outcome_of_job(job))

    def deliver(self, workflow_id: str) -> None:
        """Hand over some outcomes, in any order, some of them again; sometimes a racing server decides the same."""
        outcomes = self.reported[workflow_id]
        count = self.rnd.randint(1, len(outcomes))
        some = self.rnd.sample(outcomes, count)
        noted = [outcome for outcome in self.all_outcomes(workflow_id) if self.rnd.random() < 0.3]
        mixed = [*some, *noted, *some]
        self.rnd.shuffle(mixed)
        workflow = self.workflows[workflow_id]
        step = advance(workflow, mixed, self.now)
        assert step == advance(workflow, mixed, self.now), "a decision is a value"
        self.reported[workflow_id] = [outcome for outcome in outcomes if outcome not in mixed]
        if step.changed:
            self.write(step)
        assert not advance(self.workflows[workflow_id], mixed, self.now).changed, "an outcome counts once"
        after = self.workflows[workflow_id]
        if step.finished and after.parent_id is not None:
            self.reported.setdefault(after.parent_id, []).append(outcome_of_workflow(after))

    def all_outcomes(self, workflow_id: str) -> Iterator[Outcome]:
        for job in self.jobs.values():
            if job.workflow_id == workflow_id and job.ended:
                yield outcome_of_job(job)

    @property
    def busy(self) -> bool:
        return bool(self.running) or any(self.reported.values())

    def show(self) -> Any:
        return json.loads(msgspec.json.encode(render(self.root, self.jobs, self.workflows)))

    def path_of(self, workflow: Workflow) -> tuple[int, ...]:
        if workflow.parent_id is None or workflow.parent_step is None:
            return ()
        return (*self.path_of(self.workflows[workflow.parent_id]), workflow.parent_step)


def members_of(workflow: Workflow) -> list[Member]:
    return [*workflow.members, *(workflow.callbacks[name] for name in CALLBACKS if name in workflow.callbacks)]


def result_of(member: Member) -> Any:
    return None if member.result is None else json.loads(bytes(member.result))


def ancestors(members: tuple[Member, ...], position: int) -> set[int]:
    found: set[int] = set()
    for before in members[position].depends_on:
        found |= {before} | ancestors(members, before)
    return found


@given(workflows, st.randoms(use_true_random=False))
def test_every_workflow_ends_as_the_model_says(definition: dict[str, Any], rnd: Random) -> None:
    """C-WF-06 to C-WF-17, whatever the order, repetition and grouping of outcomes."""
    world = World(definition, rnd)
    model = Model(definition)
    shown_at = rnd.randint(0, 20)
    while world.busy:
        world.act()
        shown_at -= 1
        if shown_at == 0:
            world.show()
    assert world.show()["metadata"]["job_count"] == world.root.job_count

    ran = [tuple(json.loads(bytes(job.args))[0]) for job in world.jobs.values()]
    assert sorted(ran) == sorted(model.ran), "the jobs that run, each once"
    ends = {world.path_of(workflow): workflow.state for workflow in world.workflows.values()}
    assert ends == {path: "completed" if good else "failed" for path, good in model.ends.items()}
    for workflow in world.workflows.values():
        assert {member.state for member in members_of(workflow)} <= {"completed", "failed", "cancelled"}
        assert open_job_ids(workflow) == ()
        check_events(workflow, [event for event in world.events if event.subject == workflow.id])
    check_view(world.show(), world.root)


def check_events(workflow: Workflow, events: list[Event]) -> None:
    """One start, the ends of its members, counting down, its callbacks, one end (C-WF-22)."""
    types = [event.type.removeprefix("workflow.") for event in events]
    begun = ["started"] if workflow.parent_id else ["created", "started"]
    assert types[: len(begun)] == begun
    assert types[-1] == workflow.state
    ends = Counter(member.state for member in members_of(workflow))
    jobs = workflow.kind in ("group", "batch")
    assert Counter(types[len(begun) : -1]) == +Counter(
        step_completed=ends["completed"],
        job_completed=ends["completed"] * jobs,
        job_failed=ends["failed"] * jobs,
        step_failed=ends["failed"] * (not jobs),
        callback_fired=sum(member.job_id is not None for member in workflow.callbacks.values()),
    )
    data = [json.loads(bytes(event.data)) for event in events]
    left = [facts["steps_remaining"] for facts in data if "steps_remaining" in facts]
    assert left == sorted(left, reverse=True)


def check_view(view: dict[str, Any], workflow: Workflow) -> None:
    """C-WF-20: error keys exactly when something failed; counts that add up."""
    failed = [member for member in members_of(workflow) if member.error is not None]
    assert len(view.get("errors", [])) >= len(failed)
    assert view["metadata"]["completed_count"] + view["metadata"]["failed_count"] <= workflow.job_count
    if not failed:
        assert workflow.state == "completed"


@settings(max_examples=50)
@given(workflows, st.randoms(use_true_random=False), st.integers(0, 30))
def test_after_a_cancel_nothing_starts(definition: dict[str, Any], rnd: Random, acts: int) -> None:
    """C-WF-18: whatever is still reported, at whichever moment the cancel comes."""
    world = World(definition, rnd)
    for _ in range(acts):
        if not world.busy:
            break
        world.act()
    if world.root.state != "running":
        return
    level = [world.root]
    while level:
        cancelled = [cancel(workflow, world.now) for workflow in level if workflow.state == "running"]
        for one in cancelled:
            world.put(one.workflow)
            assert set(one.job_ids) <= set(world.jobs)
            assert set(one.child_ids) <= set(child_ids(one.workflow))
        level = [world.workflows[child_id] for one in cancelled for child_id in one.child_ids]
    before = {workflow_id: encode(workflow) for workflow_id, workflow in world.workflows.items()}
    jobs = set(world.jobs)
    while world.busy:
        world.act()
    assert set(world.jobs) == jobs
    assert {workflow_id: encode(workflow) for workflow_id, workflow in world.workflows.items()} == before
    states = {member.state for workflow in world.workflows.values() for member in members_of(workflow)}
    assert "waiting" not in states
    assert world.show()["state"] == "cancelled"
