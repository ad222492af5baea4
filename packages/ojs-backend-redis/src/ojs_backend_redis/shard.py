"""One shard of a store that is spread over several slots: a store of its own, and its side of what joins them."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple

from ojs_backend_redis import scripts
from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.eventlog import Entry
from ojs_backend_redis.layout import encode_text
from ojs_backend_redis.packing import busy_with, encode_packed, unpack_commit
from ojs_core.backend import Beaten, BeatRequest, Claimed, ClaimRequest, Commit, Committed, Refused
from ojs_core.records import WorkerState, Workflow

Verdict = Literal["dropped", "decided", "open"]
_VERDICTS: tuple[Verdict, ...] = ("dropped", "decided", "open")


class Busy(NamedTuple):
    """Something is locked by a commit over several shards."""

    owner: str


class Shard(RedisBackend):
    """A store in a slot of its own, in which commits over several shards may lock things."""

    async def commit_some(self, commits: Sequence[Commit]) -> tuple[list[Committed | Refused], Busy | None]:
        """Commit, up to one that meets a lock; return the answers so far, and whose lock that is."""
        answers, owner = await self._commit(commits)
        return answers, None if owner is None else Busy(owner)

    async def claim_some(self, requests: Sequence[ClaimRequest], noted_elsewhere: AbstractSet[int]) -> list[Claimed]:
        """Claim. The workers of some requests, named by position, are noted by another shard; directives hold."""
        return await self._claim(requests, noted_elsewhere)

    async def beat_some(self, request: BeatRequest, *, noted_elsewhere: bool) -> Beaten | Busy:
        """Take a heartbeat. Nothing is done if one of the jobs is locked."""
        result = await self._beat(request, noted_elsewhere=noted_elsewhere)
        owner = busy_with(result)
        return self._beaten(request, result) if owner is None else Busy(owner)

    async def have(self, job_ids: Sequence[str]) -> list[bool]:
        """Tell which ids belong to jobs of this shard."""
        return [bool(found) for found in await self._client.ask(*(("EXISTS", f"{self._root}j:{i}") for i in job_ids))]

    async def locked(self, job_ids: Sequence[str]) -> Busy | None:
        """Return a commit that is about to change one of these jobs, or to put it here."""
        [owners] = await self._client.ask(("HMGET", f"{self._root}locks", *(f"j{job_id}" for job_id in job_ids)))
        return next((Busy(owner.decode()) for owner in owners if owner is not None), None)

    async def heed(self, worker_id: str, directive: WorkerState | None) -> None:
        """Note what a worker that another shard keeps was told to do, since claims are served here."""
        key, name = f"{self._root}workers", encode_text(worker_id)
        if directive is None:
            await self._client.ask(("HDEL", key, name))
        else:
            await self._client.ask(("HSET", key, name, encode_packed((0, 0, directive, False))))

    async def get_unlocked_workflow(self, workflow_id: str) -> Workflow | Busy | None:
        """Read a workflow that no commit is about to change."""
        # In this order: what was begun in between has shown nobody anything yet.
        owner, found = await self._client.ask(
            ("HGET", f"{self._root}locks", f"w{workflow_id}"), ("HGET", f"{self._root}flows", workflow_id)
        )
        return self._workflow(found) if owner is None else Busy(owner.decode())

    # Its event log.

    async def clock_us(self) -> int:
        """Return the time of its server: later events have later numbers, as far as nobody sets the clock back."""
        [(seconds, us)] = await self._client.ask(("TIME",))
        return int(seconds) * 1_000_000 + int(us)

    async def count_events(self) -> int:
        """Return how many events are in the log."""
        [length] = await self._client.ask(("XLEN", f"{self._root}events"))
        return int(length)

    async def read_entries(self, first: str, count: int) -> list[Entry]:
        """Return entries of the log from an id on, oldest first."""
        return await self._read_entries(first, count)

    async def trim_events(self, first: str) -> int:
        """Remove the entries before an id; return how many there were."""
        [removed] = await self._client.ask(("XTRIM", f"{self._root}events", "MINID", first))
        return int(removed)

    # Commits over several shards.

    async def prepare(
        self, name: str, commit: Commit, places: int, packed: bytes, *, look: bool
    ) -> Refused | Busy | None:
        """Check and lock the part of a commit; None: it can be applied, whatever happens. `look`: only check it."""
        result = await self._client.write(scripts.PREPARE, name, places, packed, int(look))
        owner = busy_with(result)
        if owner is not None:
            return Busy(owner)
        answer = None if result == b"ready" else unpack_commit(commit, result)
        assert not isinstance(answer, Committed)  # noqa: S101 - nothing is applied yet
        return answer

    async def finish(self, name: str, how: Literal["decide", "apply", "drop"]) -> Any:  # noqa: ANN401 - see finish.lua
        """End what was prepared; None: it is not there, or not any more.

        `decide` applies the part, and with it all the others are to be applied. Without it they are to be dropped.
        """
        return await self._client.write(scripts.FINISH, self._origin, name, how)

    async def verdict(self, name: str, patience_ms: int) -> Verdict:
        """Tell what was decided here. A commit that has waited for so long is given up."""
        verdict: int = await self._client.write(scripts.VERDICT, name, patience_ms)
        return _VERDICTS[verdict]

    async def left(self, older_ms: int) -> list[str]:
        """Find the commits that somebody has begun, so long ago, and not ended."""
        return [name.decode() for name in await self._client.read(scripts.LEFT, older_ms)]

    def tell(self, committed: Committed | None) -> None:
        """Tell this server of queues that got work; its own wake-ups do not come back to it. None: some may have."""
        if committed is None:
            self._ring(None)
        else:
            self._ring_for([committed])

    async def forget(self, names: Sequence[str]) -> None:
        """Forget decisions: every shard has done its part."""
        await self._client.ask(("HDEL", f"{self._root}decided", *names))
