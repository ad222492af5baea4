"""Cron entries: registration, and firing each occurrence once (OJS cron).

A firing is one commit: the entry moves to its next time under its version and the job is inserted, so that any number
of servers can look at the same entry and one of them fires it. The job's id follows from the entry and the occurrence,
so that even a store that needs two steps cannot make two jobs of one occurrence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import Commit, Committed, Conflict, CronWrite, NewJob
from ojs_core.cron import CronError, next_tick, parse_cron
from ojs_core.envelope import STANDARD, invalid, merge_objects, new_job, parse_job_request
from ojs_core.errors import InvalidRequestError, NotFoundError, OJSError, StateConflictError
from ojs_core.events import Event, other_event
from ojs_core.ids import uuid7_named
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.lifecycle import Transition, earliest, plan_activate, plan_cancel
from ojs_core.records import CronEntry, OverlapPolicy
from ojs_core.service.context import Context
from ojs_core.service.jobs import ROUNDS_MAX
from ojs_core.timestamps import format_ms

log = logging.getLogger("ojs.cron")

NAME_MAX = 255
CRON_NAME = re.compile(r"[a-z0-9][a-z0-9\-.]*")
OVERLAP_POLICIES: dict[str, OverlapPolicy] = {
    "skip": "skip",
    "allow": "allow",
    "cancel_previous": "cancel_previous",
    "cancel": "cancel_previous",
    "enqueue": "enqueue",
}
STAGED_LOOK_MS = 1000
"""How often an entry with staged instances (policy `enqueue`) looks whether the one before has ended."""
STAGED_MANY = 2
"""More staged instances than this deserve a warning (C-CRN-22)."""


class CronRequest(Struct, frozen=True, kw_only=True):
    """A validated registration. `job` is the raw job request of the template."""

    name: str
    expression: str
    timezone: str
    job: Raw
    overlap_policy: OverlapPolicy = "skip"
    enabled: bool = True
    description: str | None = None


class Registered(Struct, frozen=True):
    """The entry as stored, and whether it is new."""

    entry: CronEntry
    created: bool


def parse_cron_request(envelope: dict[str, Any], raw: dict[str, Raw], now: int) -> CronRequest:
    """Validate a registration in either dialect (C-EP-21, Q-14).

    Suite dialect: `expression`, `job_template`; prose dialect: `cron`, and `type`, `args`, `meta`, `options` beside it.
    Raises `InvalidRequestError` naming the field.
    """
    name = envelope.get("name")
    if not isinstance(name, str) or len(name) > NAME_MAX or not CRON_NAME.fullmatch(name):
        raise invalid("name", f"1 to {NAME_MAX} characters of [a-z0-9.-], the first a letter or digit", name)
    field = "cron" if envelope.get("expression") is None and envelope.get("cron") is not None else "expression"
    expression = envelope.get(field)
    timezone = envelope.get("timezone")
    timezone = "UTC" if timezone is None else timezone
    if not isinstance(expression, str):
        raise invalid(field, "a cron expression", expression)
    if not isinstance(timezone, str):
        raise invalid("timezone", "an IANA time zone", timezone)
    policy = envelope.get("overlap_policy")
    policy = "skip" if policy is None else policy
    if not isinstance(policy, str) or policy not in OVERLAP_POLICIES:
        raise invalid("overlap_policy", "one of skip, allow, cancel_previous, enqueue", policy)
    enabled = envelope.get("enabled")
    enabled = True if enabled is None else enabled
    if not isinstance(enabled, bool):
        raise invalid("enabled", "a boolean", enabled)
    description = envelope.get("description")
    if description is not None and not isinstance(description, str):
        raise invalid("description", "a text", description)
    _next_run_at(expression, timezone, now, field)
    job = _template(envelope, raw)
    new_job(parse_job_request(job, now, what="The job template"), now)
    return CronRequest(
        name=name,
        expression=expression,
        timezone=timezone,
        job=job,
        overlap_policy=OVERLAP_POLICIES[policy],
        enabled=enabled,
        description=description,
    )


def _next_run_at(expression: str, timezone: str, now: int, field: str = "expression") -> int:
    """Return when a schedule fires first. Raises `InvalidRequestError` naming the field."""
    try:
        return next_tick(parse_cron(expression, timezone), now).at
    except CronError as error:
        name, value = (field, expression) if error.field == "expression" else ("timezone", timezone)
        raise InvalidRequestError(f"'{name}': {error}", field=name, received=value[:100]) from None


def _template(envelope: dict[str, Any], raw: dict[str, Raw]) -> Raw:
    """Return the job request of a registration as text; `args` may be left out (C-CRN-03)."""
    template = envelope.get("job_template")
    if template is None:
        members: dict[str, Raw] = {key: raw[key] for key in ("type", "args", "meta", "options", "schema") if key in raw}
    elif isinstance(template, dict):
        members = msgspec.json.decode(raw["job_template"], type=dict[str, Raw])
    else:
        raise invalid("job_template", "an object", template)
    # What is null is absent, here as in the entry's view.
    members = {key: text for key, text in members.items() if key not in STANDARD or bytes(text) != b"null"}
    members.setdefault("args", Raw(b"[]"))
    members.pop("id", None)
    return Raw(msgspec.json.encode(members))


class CronService:
    """Cron entries."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def register(self, request: CronRequest) -> Registered:
        """Create an entry, or replace the definition of the one of that name (C-CRN-02)."""
        for _ in range(ROUNDS_MAX):
            now = self._context.clock.now()
            old = await self._context.backend.get_cron(request.name)
            entry = CronEntry(
                name=request.name,
                expression=request.expression,
                timezone=request.timezone,
                job=request.job,
                created_at=now if old is None else old.created_at,
                overlap_policy=request.overlap_policy,
                enabled=request.enabled,
                description=request.description,
                last_run_at=None if old is None else old.last_run_at,
                run_count=0 if old is None else old.run_count,
                last_job_id=None if old is None else old.last_job_id,
                waiting_job_ids=() if old is None else old.waiting_job_ids,
            )
            written = await self._write(_timed(entry, old, now), old)
            if written is not None:
                return Registered(written, created=old is None)
        raise _keeps_changing(request.name)

    async def get(self, name: str) -> CronEntry:
        """Read an entry."""
        entry = await self._context.backend.get_cron(name)
        if entry is None:
            raise _not_found(name)
        return entry

    async def list_crons(self, *, enabled: bool | None = None) -> list[CronEntry]:
        """Return the entries by name."""
        entries = await self._context.backend.list_crons()
        return [entry for entry in entries if enabled is None or entry.enabled == enabled]

    async def set_enabled(self, name: str, *, enabled: bool) -> CronEntry:
        """Switch an entry on or off (C-CRN-18)."""
        for _ in range(ROUNDS_MAX):
            old = await self.get(name)
            entry = msgspec.structs.replace(old, enabled=enabled)
            written = await self._write(_timed(entry, old, self._context.clock.now()), old)
            if written is not None:
                return written
        raise _keeps_changing(name)

    async def delete(self, name: str) -> CronEntry:
        """Remove an entry; jobs it made stay (C-CRN-19). Staged ones are released: nothing else would do it later."""
        for _ in range(ROUNDS_MAX):
            entry = await self.get(name)
            now = self._context.clock.now()
            waiting = await self._context.backend.get_jobs(entry.waiting_job_ids)
            staged = [job for job in waiting if job is not None and job.state is JobState.PENDING]
            commit = Commit(
                transitions=tuple(plan_activate(job.id, now) for job in staged),
                cron=CronWrite(name, None, entry.version),
            )
            if isinstance(await self._context.commits.ask(commit), Committed):
                return entry
        raise _keeps_changing(name)

    async def _write(self, entry: CronEntry, old: CronEntry | None) -> CronEntry | None:
        version = 0 if old is None else old.version
        answer = await self._context.commits.ask(Commit(cron=CronWrite(entry.name, entry, version)))
        return msgspec.structs.replace(entry, version=version + 1) if isinstance(answer, Committed) else None

    # Firing.

    async def wake(self, entry: CronEntry) -> None:
        """Do what is due for an entry: fire an occurrence, or release a staged instance.

        Losing the race for it to another server is as good as having done it.
        """
        met = _Met()
        for _ in range(ROUNDS_MAX):
            firing = await self._decide(entry, met)
            answer = await self._context.commits.ask(firing.commit())
            if isinstance(answer, Committed) or any(conflict.kind == "cron" for conflict in answer.conflicts):
                return
            for conflict in answer.conflicts:
                self._settle(conflict, firing, met)

    async def _decide(self, entry: CronEntry, met: _Met) -> _Firing:
        firing = _Firing(entry, self._context.clock.now())
        known = [job_id for job_id in (entry.last_job_id, *entry.waiting_job_ids) if job_id is not None]
        jobs = [job for job in await self._context.backend.get_jobs(known) if job is not None and not job.ended]
        # Someone may have released a staged instance by hand; then it is simply one that runs.
        running = next((job for job in jobs if job.id == entry.last_job_id or job.state is not JobState.PENDING), None)
        if running is None and jobs:
            running = jobs[0]
            firing.add(plan_activate(running.id, firing.now))
        if running is not None:
            firing.last_job_id = running.id
        firing.waiting = [job.id for job in jobs if job is not running]
        if entry.next_run_at is not None and entry.next_run_at <= firing.now:
            self._fire(firing, entry.next_run_at, running, met)
        return firing

    def _fire(self, firing: _Firing, scheduled_for: int, running: Job | None, met: _Met) -> None:
        """Fire an occurrence as the overlap policy says; `running` is the instance that has not ended."""
        entry, now = firing.entry, firing.now
        firing.advance(scheduled_for)
        policy = entry.overlap_policy if running is not None else "allow"
        if running is not None and policy == "skip":
            firing.skip("overlap_skip", existing_job_id=running.id)
            return
        if met.holder is not None:
            firing.skip("unique_conflict", existing_job_id=met.holder.id)
            return
        new = self._job_of(entry, scheduled_for, now)
        if isinstance(new, OJSError):
            firing.skip("invalid_template", message=new.message)
            return
        for swap in met.replaced.values():
            firing.add(swap)
        if running is not None and policy == "cancel_previous":
            firing.add(plan_cancel(running.id, now, self._context.retention, version=running.version))
        if policy == "enqueue":
            staged = replace_fields(new.job, state=JobState.PENDING, enqueued_at=None, wake_at=new.job.expires_at)
            new = msgspec.structs.replace(new, job=staged, events=())
        firing.insert(new, scheduled_for, met.there)

    def _job_of(self, entry: CronEntry, scheduled_for: int, now: int) -> NewJob | OJSError:
        """Make the job of an occurrence (C-CRN-14)."""
        try:
            request = parse_job_request(entry.job, now, what="The job template")
            marks = {"cron_name": entry.name, "cron_triggered_at": format_ms(now)}
            request = msgspec.structs.replace(request, meta=merge_objects(request.meta, marks))
            names = ("cron", entry.name, str(entry.created_at), str(scheduled_for))
            return new_job(request, now, job_id=uuid7_named(scheduled_for, *names))
        except OJSError as error:
            return error

    def _settle(self, conflict: Conflict, firing: _Firing, met: _Met) -> None:
        """Note what stands in the way, for the next attempt."""
        job = conflict.job
        if conflict.kind == "transition":
            # It changed since it was looked at; the next round finds out whether it still matters.
            met.replaced.pop(firing.swapped(conflict.index), None)
            return
        assert job is not None  # noqa: S101 - part of the contract of `id` and `hold`
        if conflict.kind == "id":
            # A step that was cut off after the insert. What is left is to move the entry on.
            met.there = job
        elif job.ended or self._stays(firing.entry, firing.now):
            met.holder = job
        else:
            met.replaced[job.id] = plan_cancel(job.id, firing.now, self._context.retention, version=job.version)

    def _stays(self, entry: CronEntry, now: int) -> bool:
        """Return whether the template's unique policy leaves the job it conflicts with where it is."""
        unique = parse_job_request(entry.job, now).unique
        return unique is None or unique.on_conflict in ("reject", "ignore")


class _Met:
    """What stood in the way of a firing in the attempts so far."""

    def __init__(self) -> None:
        self.there: Job | None = None
        """The job of the occurrence, in the store already."""
        self.holder: Job | None = None
        """A job that the unique policy of the template leaves alone."""
        self.replaced: dict[str, Transition] = {}
        """The end of each job that has to make room for this one."""


class _Firing:
    """What one look at an entry changes."""

    def __init__(self, entry: CronEntry, now: int) -> None:
        self.entry = entry
        self.now = now
        self.last_job_id = entry.last_job_id
        self.waiting: list[str] = []
        self._transitions: dict[str, Transition] = {}
        self._inserts: tuple[NewJob, ...] = ()
        self._events: list[Event] = []
        self._next_run_at = entry.next_run_at
        self._last_run_at = entry.last_run_at
        self._run_count = entry.run_count

    def advance(self, scheduled_for: int) -> None:
        """Move to the next occurrence, or past all that were missed: they are made up for once at most (C-CRN-16)."""
        schedule = parse_cron(self.entry.expression, self.entry.timezone)
        try:
            tick = next_tick(schedule, scheduled_for)
            if tick.at <= self.now:
                tick = next_tick(schedule, self.now)
        except CronError:
            # `30 2 * 3 SUN#2` in a zone that always skips that hour: it will not fire again.
            self._next_run_at = None
            return
        self._next_run_at = tick.at
        for wall_time in tick.skipped:
            self.skip("dst_skip", scheduled_time=wall_time)

    def add(self, transition: Transition) -> None:
        """Add a swap, in place of an earlier one of the same job."""
        self._transitions[transition.job_id] = transition

    def swapped(self, index: int) -> str:
        """Return the job of the swap at a position of the commit."""
        return list(self._transitions)[index]

    def insert(self, new: NewJob, scheduled_for: int, there: Job | None) -> None:
        """Fire: insert the job, unless it is `there` already."""
        entry = self.entry
        job = there or new.job
        self._inserts = () if there is not None else (new,)
        if entry.overlap_policy == "enqueue" and job.state is JobState.PENDING:
            self.waiting.append(job.id)
            if len(self.waiting) > STAGED_MANY:
                log.warning("Cron entry '%s' has %d staged instances.", entry.name, len(self.waiting))
        else:
            self.last_job_id = job.id
        self._last_run_at = self.now
        self._run_count += 1
        self._log(
            "cron.triggered",
            job_id=job.id,
            scheduled_at=format_ms(scheduled_for),
            scheduled_time=format_ms(scheduled_for),
            actual_time=format_ms(self.now),
            run_count=self._run_count,
            timezone=entry.timezone,
        )

    def skip(self, reason: str, **facts: Any) -> None:
        """Log that an occurrence was suppressed (C-CRN-23)."""
        self._log("cron.skipped", reason=reason, **facts)

    def _log(self, event_type: str, **facts: Any) -> None:
        entry = self.entry
        job_type = msgspec.json.decode(entry.job, type=_Typed).type
        data = {"cron_name": entry.name, "cron_expr": entry.expression, "cron_expression": entry.expression}
        self._events.append(other_event(event_type, self.now, entry.name, job_type=job_type, **data, **facts))

    def commit(self) -> Commit:
        """Return what is to be written."""
        entry = msgspec.structs.replace(
            self.entry,
            next_run_at=self._next_run_at,
            wake_at=_wake_at(self._next_run_at, self.waiting, self.now),
            last_run_at=self._last_run_at,
            run_count=self._run_count,
            last_job_id=self.last_job_id,
            waiting_job_ids=tuple(self.waiting),
        )
        return Commit(
            inserts=self._inserts,
            transitions=tuple(self._transitions.values()),
            cron=CronWrite(entry.name, entry, self.entry.version),
            events=tuple(self._events),
        )


def _timed(entry: CronEntry, old: CronEntry | None, now: int) -> CronEntry:
    """Return an entry with its next times. Registering the same schedule again loses no occurrence that is due."""
    next_run_at = None
    if entry.enabled and old is not None and (old.expression, old.timezone) == (entry.expression, entry.timezone):
        next_run_at = old.next_run_at
    if entry.enabled and next_run_at is None:
        next_run_at = _next_run_at(entry.expression, entry.timezone, now)
    wake_at = _wake_at(next_run_at, entry.waiting_job_ids, now)
    return msgspec.structs.replace(entry, next_run_at=next_run_at, wake_at=wake_at)


def _wake_at(next_run_at: int | None, waiting: Sequence[str], now: int) -> int | None:
    """Return when to look at an entry next: staged instances are released even if it is switched off."""
    return earliest(next_run_at, now + STAGED_LOOK_MS if waiting else None)


class _Typed(Struct):
    type: str


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(f"There is no cron entry '{name}'.", resource_type="cron", resource_id=name)


def _keeps_changing(name: str) -> StateConflictError:
    return StateConflictError(f"Cron entry '{name}' keeps changing. Try again.", name=name)
