"""Commits over several shards: prepared on each, decided on one, finished on all.

1. Each shard checks its part, locks what it is about, and keeps it. If one refuses, all drop theirs.
2. One of them applies its part, and notes in the same step that the commit happens.
3. The others apply theirs. What is locked cannot have changed, so they can.

Until its end nobody else changes what a commit has locked: they wait for it, and claims pass it over. If whoever runs
it dies, others find it: by its locks, or by looking for what is left every second. They ask the shard that decides,
whose number is in the commit's name. If it has decided, they do the rest; if not, it gives the commit up, and then
nobody can decide it any more. So all parts happen or none, whoever dies and whenever; a reader may see one before the
other.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar, cast

from ojs_backend_redis.packing import Arrival, pack_part, unpack_arrivals, unpack_commit
from ojs_backend_redis.shard import Busy, Shard
from ojs_core.backend import (
    Change,
    Commit,
    Committed,
    Conflict,
    CronWrite,
    NewJob,
    Refused,
    Removal,
    WorkflowWrite,
)
from ojs_core.errors import BackendUnavailableError
from ojs_core.events import Event
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import Transition

Answer = TypeVar("Answer")

log = logging.getLogger("ojs.redis")

PATIENCE_MS = 2000
"""How long a commit may be under way before others give it up, or finish it. It takes three trips."""
LOOK_S = 1.0
"""How often each server looks for what others have left."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.001, 0.05
"""Between two tries to change what is locked."""


async def gather_all(calls: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """Wait for all calls, and then raise if one has failed."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast("list[Answer]", answers)


class Divided(NamedTuple):
    """What a commit asks of which shard; the first one decides. `clashes`: conflicts between its own inserts."""

    parts: dict[int, Part]
    clashes: list[Conflict]


class Part:
    """What a commit asks of one shard; each piece with its position in the whole.

    A job that a transition takes to a queue of another shard departs from here, and arrives there.
    """

    def __init__(self) -> None:
        self.inserts: list[tuple[int, NewJob]] = []
        self.absent: list[tuple[int, NewJob]] = []
        """Inserts of other shards: nothing here may have their id, or what their holds forbid."""
        self.transitions: list[tuple[int, Transition]] = []
        self.removals: list[tuple[int, Removal]] = []
        self.departures: list[Removal] = []
        self.arrivals: list[tuple[int, JobState, Arrival]] = []
        self.workflows: list[tuple[int, WorkflowWrite]] = []
        self.cron: CronWrite | None = None
        self.events: tuple[Event, ...] = ()

    @cached_property
    def commit(self) -> Commit:
        """The part as the shard takes it; what must be absent and what arrives goes beside it."""
        return Commit(
            inserts=tuple(new for _, new in self.inserts),
            transitions=tuple(transition for _, transition in self.transitions),
            removals=(*(removal for _, removal in self.removals), *self.departures),
            workflows=tuple(write for _, write in self.workflows),
            cron=self.cron,
            events=self.events,
        )

    def packed(self) -> tuple[int, bytes]:
        """Return the places it may need, and the part as the scripts take it."""
        arrivals = [arrival for _, _, arrival in self.arrivals]
        return pack_part(self.commit, [new for _, new in self.absent], arrivals)

    def placed(self, conflict: Conflict) -> Conflict | None:
        """Return a conflict with its position in the whole; None: a job that was to depart has changed."""
        positions: Mapping[str, Sequence[tuple[int, Any]]] = {
            "id": (*self.inserts, *self.absent),
            "hold": (*self.inserts, *self.absent),
            "transition": self.transitions,
            "removal": self.removals,
            "workflow": self.workflows,
            "cron": ((0, self.cron),),
        }
        known = positions[conflict.kind]
        if conflict.index >= len(known):
            return None
        return Conflict(kind=conflict.kind, index=known[conflict.index][0], job=conflict.job)


class Spanning:
    """Runs the commits of one server process that are over several shards, and ends what others have left."""

    def __init__(self, shards: Sequence[Shard], timeout_ms: int) -> None:
        self._shards = shards
        self._timeout_s = timeout_ms / 1000
        self._closed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._ended: list[str] = []
        """Commits of which every shard has done its part: their decisions are forgotten at the next look."""
        self._left: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it looks for what others have left."""
        return self._looking is not None

    def open(self) -> None:
        """Begin to look for what others have left."""
        self._closed.clear()
        self._looking = asyncio.create_task(self._look(), name="ojs-redis-spanning")

    async def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking, *self._left})
            self._looking = None

    async def commit(self, divide: Callable[[], Awaitable[Divided | Refused]]) -> Committed | Refused:
        """Run a commit; `divide` says what it asks of which shard, as things stand."""
        patience = self.patience()
        while True:
            divided = await divide()
            if isinstance(divided, Refused):
                return divided
            answer = await self._try(divided)
            if not isinstance(answer, Busy):
                return answer
            await patience.wait(answer)

    async def _try(self, divided: Divided) -> Committed | Refused | Busy:
        parts = divided.parts
        first, *others = parts
        name = f"{first}.{secrets.token_hex(8)}"
        refusals: list[tuple[Part, Refused]] = []
        prepared: list[int] = []
        busy: Busy | None = None
        try:
            # One shard first: of rivals that want the same locks one gets them all, and none a few. So what is refused
            # there locks nothing elsewhere: it only looks for what else stands against it.
            for group in ([first], others):
                look = bool(refusals or divided.clashes)
                asked = [self._prepare(name, n, parts[n], look=look) for n in group]
                for n, answer in zip(group, await gather_all(asked), strict=True):
                    if isinstance(answer, Busy):
                        busy = answer
                    elif answer is not None:
                        refusals.append((parts[n], answer))
                    elif not look:
                        prepared.append(n)
                if busy is not None:
                    break
        except BackendUnavailableError:
            # The time for the request may be up: others need not wait for what is left of it.
            self._leave(self._drop(name, parts))
            raise
        if busy is not None or refusals or divided.clashes:
            await self._drop(name, prepared)
            return busy or _refused(name, divided.clashes, refusals)
        decided = await self._shards[first].finish(name, "decide")
        if decided is None:
            # It took so long that others gave it up.
            await self._drop(name, others)
            return Busy(name)
        try:
            results = [decided, *await gather_all(self._shards[n].finish(name, "apply") for n in others)]
        except BackendUnavailableError:
            self._shards[0].tell(None)
            raise
        self._ended.append(name)
        if None in results:
            raise BackendUnavailableError("The change took so long that another server has finished it.")
        committed = _joined(parts, results)
        self._shards[0].tell(committed)
        return committed

    async def _prepare(self, name: str, shard: int, part: Part, *, look: bool) -> Refused | Busy | None:
        return await self._shards[shard].prepare(name, part.commit, *part.packed(), look=look)

    async def _drop(self, name: str, shards: Iterable[int]) -> None:
        # Where it fails, somebody will find that nobody has decided it.
        with suppress(BackendUnavailableError):
            await gather_all(self._shards[n].finish(name, "drop") for n in shards)

    def _leave(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.create_task(work)
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    # What others have left.

    def patience(self) -> Patience:
        """Return what to wait with, where a lock is met."""
        return Patience(self, self._timeout_s)

    async def pause(self, pause_s: float) -> bool:
        """Wait; return whether the store was closed meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), pause_s)
        return self._closed.is_set()

    async def _look(self) -> None:
        while not await self.pause(LOOK_S):
            ended, self._ended = self._ended, []
            left = await asyncio.gather(*(shard.left(PATIENCE_MS) for shard in self._shards), return_exceptions=True)
            names = {name for found in left if not isinstance(found, BaseException) for name in found}
            await asyncio.gather(
                *(self._forget(n, [name for name in ended if _decider(name) == n]) for n in {*map(_decider, ended)}),
                *(self.end(name) for name in names.difference(ended)),
                return_exceptions=True,  # what fails is found again
            )

    async def _forget(self, shard: int, names: Sequence[str]) -> None:
        await self._shards[shard].forget(names)

    async def end(self, name: str) -> None:
        """Finish a commit of which nobody knows whether its server still lives, or give it up."""
        decider = _decider(name)
        verdict = await self._shards[decider].verdict(name, PATIENCE_MS)
        if verdict == "open":
            return
        how: Literal["apply", "drop"] = "apply" if verdict == "decided" else "drop"
        await asyncio.gather(*(shard.finish(name, how) for n, shard in enumerate(self._shards) if n != decider))
        log.info(
            "A change over several shards was left by its server: %s.", "finished" if how == "apply" else "dropped"
        )
        if how == "apply":
            self._ended.append(name)
        # What was locked may be handed out again.
        self._shards[0].tell(None)


class Patience:
    """Waits where a lock is met, a little longer each time, until the time for the request is up."""

    def __init__(self, spanning: Spanning, timeout_s: float) -> None:
        self._spanning = spanning
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._timeout_s = timeout_s
        self._pause_s = PAUSE_FIRST_S

    async def wait(self, busy: Busy) -> None:
        """Wait. Raises `BackendUnavailableError` when the time is up."""
        waited_s = self._loop.time() - self._begun
        if waited_s > self._timeout_s or await self._spanning.pause(self._pause_s * (1 + secrets.randbelow(100) / 100)):
            raise BackendUnavailableError("Another change of the same jobs is under way.")
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        if waited_s * 1000 > PATIENCE_MS:
            await self._spanning.end(busy.owner)


def _decider(name: str) -> int:
    """Return the shard that decides a commit."""
    return int(name.partition(".")[0])


def _refused(name: str, clashes: Sequence[Conflict], refusals: Iterable[tuple[Part, Refused]]) -> Refused | Busy:
    """Return what stands against a commit, each insert named once; busy: a job that was to move has changed."""
    found: dict[tuple[str, int], Conflict] = {}
    conflicts = [part.placed(conflict) for part, refused in refusals for conflict in refused.conflicts]
    for conflict in (*clashes, *conflicts):
        if conflict is None:
            return Busy(name)
        of_insert = conflict.kind in ("id", "hold")
        key = ("insert" if of_insert else conflict.kind, conflict.index)
        if key not in found or conflict.kind == "id":
            found[key] = conflict
    return Refused(tuple(found.values()))


def _joined(parts: Mapping[int, Part], results: Sequence[Any]) -> Committed:
    """Return the answer to the whole."""
    inserted: dict[int, Job] = {}
    changed: dict[int, Change] = {}
    for part, result in zip(parts.values(), results, strict=True):
        committed = unpack_commit(part.commit, result)
        assert isinstance(committed, Committed)  # noqa: S101 - it was checked before
        inserted.update(zip((position for position, _ in part.inserts), committed.inserted, strict=True))
        changed.update(zip((position for position, _ in part.transitions), committed.changed, strict=True))
        arrived = unpack_arrivals(part.commit, [arrival for _, _, arrival in part.arrivals], result)
        for (position, previous, _), job in zip(part.arrivals, arrived, strict=True):
            changed[position] = Change(job, previous)
    return Committed(
        inserted=tuple(inserted[position] for position in sorted(inserted)),
        changed=tuple(changed[position] for position in sorted(changed)),
    )
