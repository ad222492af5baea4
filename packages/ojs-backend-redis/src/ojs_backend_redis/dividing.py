"""Which shard has what: jobs are where their queue is, workflows and cron entries where their names say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from zlib import crc32

from ojs_backend_redis.packing import Arrival
from ojs_backend_redis.shard import Shard
from ojs_backend_redis.spanning import Divided, Part, gather_all
from ojs_core.backend import Commit, Conflict, NewJob, Refused, Removal
from ojs_core.job import Job
from ojs_core.lifecycle import apply_transition, guard_holds

KNOWN_MAX = 50_000
"""Jobs of which a server remembers where they are: those it has stored or handed out last."""


class Map:
    """Where things are. What is remembered of a job is a hint: if it is not there any more, it is looked for."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._known: dict[str, int] = {}

    def shard_of(self, name: str) -> int:
        """Return the shard of a queue, or of what else has a name; the same on every server, for good."""
        return crc32(name.encode()) % len(self._shards)

    def note(self, jobs: Iterable[Job]) -> None:
        """Remember where jobs are."""
        for job in jobs:
            self._known[job.id] = self.shard_of(job.queue)
        if len(self._known) > KNOWN_MAX:
            self.forget(list(islice(self._known, KNOWN_MAX // 2)))

    def forget(self, job_ids: Iterable[str]) -> None:
        """Forget where jobs are."""
        for job_id in job_ids:
            self._known.pop(job_id, None)

    def known(self, job_id: str) -> int | None:
        """Return where a job is as far as is known."""
        return self._known.get(job_id)

    def knows(self, job_ids: Iterable[str]) -> bool:
        """Tell whether it is known of all these jobs where they are."""
        return all(job_id in self._known for job_id in job_ids)

    def where(self, job_id: str) -> int:
        """Return the same; one that nobody has may be looked for anywhere."""
        return self._known.get(job_id, 0)

    async def find(self, job_ids: Iterable[str]) -> None:
        """Look for jobs of which nothing is remembered."""
        await self.look(job_id for job_id in job_ids if job_id not in self._known)

    async def look(self, job_ids: Iterable[str]) -> None:
        """Look for jobs everywhere. Raises if one was not found, and may be where nobody answers."""
        wanted = list(dict.fromkeys(job_ids))
        if not wanted:
            return
        answers = await asyncio.gather(*(shard.have(wanted) for shard in self._shards), return_exceptions=True)
        found = {
            job_id: n
            for n, have in enumerate(answers)
            if not isinstance(have, BaseException)
            for job_id, there in zip(wanted, have, strict=True)
            if there
        }
        missed = [job_id for job_id in wanted if job_id not in found]
        failed = next((answer for answer in answers if isinstance(answer, BaseException)), None)
        # Only now, in one step: others read meanwhile what was remembered.
        self.forget(missed)
        self._known.update(found)
        if missed and failed is not None:
            raise failed

    async def verify(self, job_ids: Sequence[str]) -> None:
        """Look for jobs of which nothing is remembered, or the wrong thing."""
        await self.find(job_ids)
        grouped = self._grouped(job_ids)
        have = await gather_all(self._shards[n].have(ids) for n, ids in grouped.items())
        moved = [
            job_id
            for ids, found in zip(grouped.values(), have, strict=True)
            for job_id, there in zip(ids, found, strict=True)
            if not there
        ]
        await self.look(moved)

    async def read(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Read jobs by id; those that do not exist are left out."""
        await self.find(job_ids)
        jobs = await self._read(job_ids)
        missed = [job_id for job_id in job_ids if job_id in self._known and job_id not in jobs]
        if missed:
            await self.look(missed)
            jobs |= await self._read(missed)
        return jobs

    async def _read(self, job_ids: Sequence[str]) -> dict[str, Job]:
        grouped = self._grouped(job_ids)
        found = await asyncio.gather(*(self._shards[n].get_jobs(ids) for n, ids in grouped.items()))
        return {job.id: job for jobs in found for job in jobs if job is not None}

    def _grouped(self, job_ids: Iterable[str]) -> dict[int, list[str]]:
        """Return jobs by their shards; those of which nothing is known are left out."""
        grouped: dict[int, list[str]] = {}
        for job_id in job_ids:
            if job_id in self._known:
                grouped.setdefault(self._known[job_id], []).append(job_id)
        return grouped

    # Commits.

    def only_shard(self, commit: Commit) -> int | None:
        """Return the one shard that a commit is for, as far as is known; None: several."""
        shards = {self.where(removal.job_id) for removal in commit.removals}
        for new in commit.inserts:
            if not new.one_queue:
                return None
            shards.add(self.shard_of(new.job.queue))
        for transition in commit.transitions:
            shards.add(self.where(transition.job_id))
            if "queue" in transition.changes:
                shards.add(self.shard_of(transition.changes["queue"]))
        shards.update(self.shard_of(write.workflow_id) for write in commit.workflows)
        if commit.cron is not None:
            shards.add(self.shard_of(commit.cron.name))
        return None if len(shards) > 1 else next(iter(shards), 0)

    async def divide(self, commit: Commit) -> Divided | Refused:
        """Return what a commit asks of which shard; or what stands against it, if a job that is to move has changed."""
        named = [transition.job_id for transition in commit.transitions]
        named += [removal.job_id for removal in commit.removals]
        await self.look(named)
        parts: dict[int, Part] = {}

        def part(shard: int) -> Part:
            return parts.setdefault(shard, Part())

        for position, write in enumerate(commit.workflows):
            part(self.shard_of(write.workflow_id)).workflows.append((position, write))
        if commit.cron is not None:
            part(self.shard_of(commit.cron.name)).cron = commit.cron
        for position, removal in enumerate(commit.removals):
            part(self.where(removal.job_id)).removals.append((position, removal))
        for position, transition in enumerate(commit.transitions):
            source = self.where(transition.job_id)
            target = self.shard_of(transition.changes["queue"]) if "queue" in transition.changes else source
            if target == source:
                part(source).transitions.append((position, transition))
                continue
            job = (await self.read([transition.job_id])).get(transition.job_id)
            if job is None or not guard_holds(transition, job):
                return Refused((Conflict(kind="transition", index=position, job=job),))
            part(source).departures.append(Removal(job.id, job.version))
            arrival = Arrival(apply_transition(job, transition), transition.events, transition.at)
            part(target).arrivals.append((position, job.state, arrival))
        for position, new in enumerate(commit.inserts):
            home = self.shard_of(new.job.queue)
            part(home).inserts.append((position, new))
            if not new.one_queue:
                for n in range(len(self._shards)):
                    if n != home:
                        part(n).absent.append((position, new))
        ordered = {n: parts[n] for n in sorted(parts)}
        next(iter(ordered.values())).events = commit.events
        return Divided(ordered, list(self._clashes(commit.inserts)))

    def _clashes(self, news: Sequence[NewJob]) -> Iterable[Conflict]:
        """Find conflicts between inserts of one commit that no shard sees, as each has one of them."""
        # By id, or fingerprint, and shard: a batch may have ten thousand.
        ids: dict[str, dict[int, list[Job]]] = {}
        marks: dict[str, dict[int, list[Job]]] = {}
        for position, new in enumerate(news):
            if new.one_queue:
                continue
            job, home = new.job, self.shard_of(new.job.queue)
            mark, hold = job.fingerprint, new.hold
            same = next(_elsewhere(ids.get(job.id), home), None)
            alike = () if mark is None or hold is None else filter(hold.forbids, _elsewhere(marks.get(mark), home))
            if same is not None:
                yield Conflict(kind="id", index=position, job=same)
            elif (holder := next(iter(alike), None)) is not None:
                yield Conflict(kind="hold", index=position, job=holder)
            ids.setdefault(job.id, {}).setdefault(home, []).append(job)
            if mark is not None:
                marks.setdefault(mark, {}).setdefault(home, []).append(job)


def _elsewhere(found: dict[int, list[Job]] | None, home: int) -> Iterator[Job]:
    return (job for shard, jobs in (found or {}).items() if shard != home for job in jobs)


def waves(commits: Sequence[Commit], shards: Sequence[int | None]) -> Iterator[list[int]]:
    """Yield the positions of commits in groups that may be run at once, though later ones must see the earlier ones.

    Those for one shard are run there in their order. One for several (None) is kept apart from what it may meet.
    """
    if None not in shards:
        yield list(range(len(commits)))
        return
    wave: list[int] = []
    all_things: set[str] = set()
    spanning_things: set[str] = set()
    for position, (commit, shard) in enumerate(zip(commits, shards, strict=True)):
        things, meets = _things(commit)
        if not meets.isdisjoint(all_things if shard is None else spanning_things):
            yield wave
            wave, all_things, spanning_things = [], set(), set()
        wave.append(position)
        all_things |= things
        if shard is None:
            spanning_things |= things
    yield wave


def _things(commit: Commit) -> tuple[set[str], set[str]]:
    """Return what a commit is about, and what it may meet of others."""
    things = {f"f{new.job.fingerprint}" for new in commit.inserts if new.job.fingerprint is not None}
    things.update(f"j{new.job.id}" for new in commit.inserts)
    # Jobs of one queue are accepted in the order of the call.
    things.update(f"q{new.job.queue}" for new in commit.inserts)
    things.update(f"j{transition.job_id}" for transition in commit.transitions)
    things.update(f"j{removal.job_id}" for removal in commit.removals)
    things.update(f"w{write.workflow_id}" for write in commit.workflows)
    if commit.cron is not None:
        things.add(f"c{commit.cron.name}")
    # Which fingerprint a job has that is swapped or removed is not known here.
    holds = {"hold"} if any(new.hold is not None for new in commit.inserts) else set()
    swaps = {"swap"} if commit.transitions or commit.removals else set()
    return things | holds | swaps, things | ({"swap"} if holds else set()) | ({"hold"} if swaps else set())
