"""A store over several slots: evenly spread, whole whoever dies and whenever, and of use while a part of it is down."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count, pairwise
from time import monotonic
from typing import Any

import msgspec
import pytest
from redis.crc import key_slot
from tests.backends.redis.integrity import check_integrity, shards_of
from tests.backends.redis.test_commands import Meter, trips
from tests.servers.redis import PATIENCE_S, RedisCluster, RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_backend_redis.shard import Shard
from ojs_backend_redis.spread import SpreadBackend
from ojs_core.backend import Claimed, Commit, Committed, EventQuery, JobQuery, Refused, WorkflowWrite
from ojs_core.coalesce import Coalescer, Lanes
from ojs_core.errors import BackendUnavailableError, PartlyUnavailableError, SettingsError
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import accept, apply, claim_ids, insert, insert_one, job_in, read, snapshot
from ojs_core.testing.factories import (
    LEASE_MS,
    make_beat,
    make_claim,
    make_event,
    make_new,
    make_transition,
    make_unique,
    make_workflow,
)

MakeSpread = Callable[..., Awaitable[SpreadBackend]]
SHARDS = 3
QUEUES = ("a", "g", "b")
"""One of each shard, in their order."""
STEPS = 6
"""Trips of a commit over three shards: prepare, two more; decide; apply, apply."""
DECIDED = 3
"""Those before it is decided."""
EVENT = '[1,"worker.stopped","w",null,null,{}]'
"""One as the log has it."""
_numbers = count(1)


@pytest.fixture
async def make_spread() -> AsyncIterator[MakeSpread]:
    """Open a store of three shards; by default one of the test's own."""
    async with AsyncExitStack() as stack:

        async def make(url: str, **settings: Any) -> SpreadBackend:
            chosen = {"prefix": f"w{next(_numbers)}", "shards": SHARDS, **settings}
            backend = SpreadBackend(RedisConfig(target=parse_url(url), **chosen))
            stack.push_async_callback(backend.close)
            await backend.open()
            return backend

        yield make


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> Iterator[RedisCluster]:
    yield shared_cluster
    shared_cluster.flush()


def shard_of(backend: SpreadBackend, queue: str) -> int:
    return backend._map.shard_of(queue)  # noqa: SLF001 - to look behind it


# Spread.


@pytest.mark.parametrize("prefix", ["ojs", "x", "a-rather-long-prefix", "é"])
@pytest.mark.parametrize("shards", [1, 2, 3, 5, 6, 12, 64])
def test_the_slots_of_a_store_lie_far_apart(prefix: str, shards: int) -> None:
    """So that nodes with equal shares of the slots have equal numbers of shards, if those go into these."""
    config = RedisConfig(prefix=prefix, shards=shards)
    roots = [config.of_shard(n).root for n in range(shards)]
    assert roots[0] == RedisConfig(prefix=prefix).root
    slots = sorted(key_slot(root.encode()) for root in roots)
    distances = [after - before for before, after in pairwise([*slots, slots[0] + 16384])]
    assert max(distances) - min(distances) <= 16384 // shards // 32 + shards


async def test_jobs_lie_on_all_nodes(cluster: RedisCluster, make_spread: MakeSpread) -> None:
    backend = await make_spread(cluster.url)
    assert [shard_of(backend, queue) for queue in QUEUES] == list(range(SHARDS))
    await insert(backend, *(make_new(queue=f"q{n}", one_queue=True) for n in range(300)))
    stored = [len(node.ask("KEYS", "*:j:*")) for node in cluster.nodes]
    assert sum(stored) == 300
    assert min(stored) > 50
    assert len(await backend.list_queues()) == 300


async def test_what_is_about_one_queue_is_one_trip(shared: RedisServer, make_spread: MakeSpread) -> None:
    """To its shard alone, as in a store of one slot."""
    backend = await make_spread(shared.url)
    meter = Meter(shared)
    for queue in QUEUES:  # the scripts are loaded, the connections made
        job = await insert_one(backend, queue=queue, one_queue=True)
        await claim_ids(backend, queue)
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id))
    [job], spent = await meter.count(insert(backend, make_new(queue="g", one_queue=True)))
    assert (trips(spent), spent["evalsha"]) == (1, 1)
    unique = make_unique("a" * 64, queue="g", one_queue=True)
    _, spent = await meter.count(insert(backend, unique))
    assert trips(spent) == 1
    _, spent = await meter.count(claim_ids(backend, "g", count=1))
    assert trips(spent) == 1
    _, spent = await meter.count(apply(backend, make_transition(LifecycleEvent.ACK, job.id)))
    assert trips(spent) == 1


async def test_another_server_finds_a_job(shared: RedisServer, make_spread: MakeSpread) -> None:
    """It asks all shards where the job is, once."""
    first = await make_spread(shared.url, prefix="found")
    second = await make_spread(shared.url, prefix="found")
    jobs = [await job_in(first, JobState.DISCARDED, queue=queue) for queue in QUEUES]
    assert await second.get_jobs([job.id for job in jobs]) == jobs
    # The first remembers where they were; one that was moved is looked for.
    for job, queue in zip(jobs, ("b", "a", "g"), strict=True):
        await apply(second, make_transition(LifecycleEvent.REVIVE, job.id, changes={"queue": queue}))
    assert (await read(first, jobs[0].id)).queue == "b"
    await apply(first, make_transition(LifecycleEvent.CANCEL, jobs[1].id))
    assert (await read(second, jobs[1].id)).state is JobState.CANCELLED
    assert await claim_ids(first, "g") == [jobs[2].id]


async def test_a_moved_job_is_kept_alive(shared: RedisServer, make_spread: MakeSpread) -> None:
    """A heartbeat finds it, wherever the server remembers it to be."""
    first = await make_spread(shared.url, prefix="moved")
    second = await make_spread(shared.url, prefix="moved")
    job = await job_in(first, JobState.DISCARDED, queue="a")
    await apply(second, make_transition(LifecycleEvent.REVIVE, job.id, changes={"queue": "g"}))
    assert await claim_ids(second, "g", worker_id="w") == [job.id]
    beaten = await first.beat(make_beat("w", job.id, now=NOW + 5))
    assert [renewed.id for renewed in beaten.extended] == [job.id]


# Whole.


async def _never() -> None:
    await asyncio.Event().wait()


class Death:
    """Stops a server for good, before a certain trip of its commits over several shards."""

    def __init__(self, backend: SpreadBackend, steps: int) -> None:
        self.reached = asyncio.Event()
        self._steps = steps
        for shard in shards_of(backend):
            assert isinstance(shard, Shard)
            for name in ("prepare", "finish"):
                setattr(shard, name, self._counted(getattr(shard, name)))

    def _counted(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*arguments: Any, **options: Any) -> Any:
            if self._steps == 0:
                self.reached.set()
                await _never()
            self._steps -= 1
            return await call(*arguments, **options)

        return counted


async def die(backend: SpreadBackend, commit: Commit, steps: int) -> None:
    """Run a commit up to a trip, and stop there, with all that the server does."""
    death = Death(backend, steps)
    task = asyncio.create_task(backend.commit([commit]))
    await asyncio.wait_for(death.reached.wait(), PATIENCE_S)
    await backend._spanning.close()  # noqa: SLF001 - it would tidy up
    task.cancel()
    await asyncio.wait({task})


async def settled(backend: SpreadBackend) -> None:
    """Wait until nothing is left of commits over several shards, as the store tells."""
    async with asyncio.timeout(PATIENCE_S):
        while any([await shard.left(0) for shard in shards_of(backend) if isinstance(shard, Shard)]):
            await backend.ping()


class Situation:
    """A store, and a commit with something for every shard."""

    def __init__(self, backend: SpreadBackend) -> None:
        self.backend = backend

    async def fill(self) -> Commit:
        """Put something there, and return what is to happen to it."""
        self.first = await insert_one(self.backend, queue="a")
        self.second = await insert_one(self.backend, queue="g")
        self.flow = make_workflow()
        return Commit(
            inserts=(make_unique("a" * 64, queue="g"), make_new(queue="b")),
            transitions=(
                make_transition(LifecycleEvent.CANCEL, self.first.id, version=1),
                make_transition(LifecycleEvent.CANCEL, self.second.id, version=1),
            ),
            workflows=(WorkflowWrite(self.flow.id, self.flow, 0),),
        )

    async def outcome(self, commit: Commit) -> Counter[str]:
        """Return which parts have happened and which have not."""
        inserted = await self.backend.get_jobs([new.job.id for new in commit.inserts])
        changed = await self.backend.get_jobs([transition.job_id for transition in commit.transitions])
        flow = await self.backend.get_workflow(self.flow.id)
        return Counter(
            [
                *("old" if job is None else "new" for job in inserted),
                *("new" if job is not None and job.state is JobState.CANCELLED else "old" for job in changed),
                "old" if flow is None else "new",
            ]
        )


@pytest.mark.parametrize("steps", range(STEPS))
async def test_a_server_dies_between_two_trips(shared: RedisServer, make_spread: MakeSpread, steps: int) -> None:
    """All of the commit happens, or nothing; others finish it or give it up, and then go on."""
    prefix = f"dead{steps}"
    first = await make_spread(shared.url, prefix=prefix)
    second = await make_spread(shared.url, prefix=prefix)
    situation = Situation(second)
    commit = await situation.fill()
    await die(first, commit, steps)
    await settled(second)
    assert await situation.outcome(commit) == Counter({"new" if steps > DECIDED else "old": 5})
    for shard in shards_of(second):
        await check_integrity(shard)
    [answer] = await second.commit([commit])
    assert isinstance(answer, Refused if steps > DECIDED else Committed)
    assert await situation.outcome(commit) == Counter({"new": 5})


async def test_what_a_dead_server_has_locked(shared: RedisServer, make_spread: MakeSpread) -> None:
    """Claims pass it over, the rest is as it was, and whoever wants to change it waits until it is free."""
    first = await make_spread(shared.url, prefix="locked")
    second = await make_spread(shared.url, prefix="locked")
    active = await job_in(second, JobState.ACTIVE, queue="b", worker_id="w")
    situation = Situation(second)
    commit = await situation.fill()
    behind = await insert_one(second, queue="a")
    other = make_transition(LifecycleEvent.ACK, active.id, version=active.version)
    before = await snapshot(second)
    await die(first, Commit(inserts=commit.inserts, transitions=(*commit.transitions, other)), DECIDED)
    assert await snapshot(second) == before
    assert await claim_ids(second, "a") == [behind.id]
    answers = await asyncio.gather(
        second.commit([Commit(transitions=(make_transition(LifecycleEvent.CANCEL, situation.first.id),))]),
        second.commit([Commit(inserts=(make_unique("a" * 64, queue="b"),))]),
        second.commit([Commit(inserts=(make_new(id=commit.inserts[1].job.id, queue="g"),))]),
        second.beat(make_beat("w", active.id)),
    )
    assert [type(answer) for [answer] in answers[:3]] == [Committed] * 3
    assert [job.id for job in answers[3].extended] == [active.id]


@pytest.mark.parametrize("version", [0, 1])
async def test_a_workflow_knows_the_jobs_it_has_started(
    shared: RedisServer, make_spread: MakeSpread, version: int
) -> None:
    """A job may be there before its workflow is; who asks for that waits, and misses nothing of it."""
    first = await make_spread(shared.url, prefix=f"starts{version}")
    second = await make_spread(shared.url, prefix=f"starts{version}")
    flow = next(flow for flow in iter(make_workflow, None) if shard_of(first, flow.id) == SHARDS - 1)
    if version:
        await accept(second, workflows=(WorkflowWrite(flow.id, flow, 0),))
    job = make_new(queue=QUEUES[0], one_queue=True)
    write = WorkflowWrite(flow.id, msgspec.structs.replace(flow, name="started"), version)
    # Prepare, prepare, decide.
    await die(first, Commit(inserts=(job,), workflows=(write,)), 3)
    assert await claim_ids(second, QUEUES[0]) == [job.job.id]
    found = await second.get_workflow(flow.id)
    assert found is not None
    assert found.name == "started"


async def test_the_jobs_that_a_workflow_has_started_are_there(shared: RedisServer, make_spread: MakeSpread) -> None:
    """A workflow may know of a job before that is there; who asks for the job waits, and does not take it for gone."""
    first = await make_spread(shared.url, prefix="there")
    second = await make_spread(shared.url, prefix="there")
    flow = next(flow for flow in iter(make_workflow, None) if shard_of(first, flow.id) == 0)
    job = make_new(queue=QUEUES[-1], one_queue=True)
    # Prepare, prepare, decide.
    await die(first, Commit(inserts=(job,), workflows=(WorkflowWrite(flow.id, flow, 0),)), 3)
    assert await second.get_workflow(flow.id) is not None
    assert (await read(second, job.job.id)).state is JobState.AVAILABLE


async def test_a_lock_that_stays(shared: RedisServer, make_spread: MakeSpread) -> None:
    """A request waits for it no longer than it may take."""
    first = await make_spread(shared.url, prefix="stays")
    second = await make_spread(shared.url, prefix="stays", timeout_ms=300)
    situation = Situation(second)
    commit = await situation.fill()
    await die(first, commit, DECIDED)
    with pytest.raises(BackendUnavailableError, match="Another change of the same jobs is under way"):
        await apply(second, make_transition(LifecycleEvent.CANCEL, situation.first.id))
    await settled(second)
    await apply(second, make_transition(LifecycleEvent.CANCEL, situation.first.id))


async def test_a_server_that_was_given_up_begins_anew(shared: RedisServer, make_spread: MakeSpread) -> None:
    """It was held up before it decided; when it goes on, others have dropped what it had prepared."""
    first = await make_spread(shared.url, prefix="slow")
    second = await make_spread(shared.url, prefix="slow")
    situation = Situation(second)
    commit = await situation.fill()
    go_on = asyncio.Event()
    decider = shards_of(first)[0]
    assert isinstance(decider, Shard)
    finish = decider.finish

    async def held_up(name: str, how: Any) -> Any:
        if not go_on.is_set():
            await settled(second)
            go_on.set()
        return await finish(name, how)

    decider.finish = held_up  # type: ignore[method-assign]
    [answer] = await first.commit([commit])
    assert go_on.is_set()
    assert isinstance(answer, Committed)
    assert await situation.outcome(commit) == Counter({"new": 5})


async def test_nothing_is_left_of_commits_that_went_well(shared: RedisServer, make_spread: MakeSpread) -> None:
    backend = await make_spread(shared.url)
    for n in range(20):
        await insert(backend, make_unique(f"{n:064x}", queue=QUEUES[n % SHARDS]))
    await settled(backend)
    for shard in shards_of(backend):
        assert len(await check_integrity(shard)) in (6, 7)


# In part.


async def test_one_node_is_down(make_spread: MakeSpread) -> None:
    """The queues of the others are served; what it would have to know is answered with an error, and in time."""
    with RedisCluster() as cluster:
        backend = await make_spread(cluster.url, prefix="ojs", timeout_ms=500)
        jobs = {queue: await insert_one(backend, queue=queue, one_queue=True) for queue in QUEUES}
        down = cluster.owner(shards_of(backend)[1]._root)  # noqa: SLF001 - to look behind it
        down.signal(signal.SIGSTOP)
        begun_at = monotonic()
        commits = [Commit(inserts=(make_new(queue=queue, one_queue=True),)) for queue in QUEUES]
        with pytest.raises(PartlyUnavailableError) as failed:
            await backend.commit(commits)
        assert [type(answer) for answer in failed.value.answers] == [Committed, type(None), Committed]
        requests = [make_claim(queue) for queue in QUEUES]
        with pytest.raises(PartlyUnavailableError) as failed:
            await backend.claim(requests)
        found = [answer and [job.id for job in answer.jobs] for answer in failed.value.answers]
        assert found == [[jobs["a"].id], None, [jobs["b"].id]]
        # Whoever asked together with others is told what concerns it.
        claims: Coalescer[Any, Claimed] = Coalescer(backend.claim)
        answers = await asyncio.gather(*(claims.ask(make_claim(queue)) for queue in QUEUES), return_exceptions=True)
        assert [isinstance(answer, BackendUnavailableError) for answer in answers] == [False, True, False]
        # From several queues: the others are asked all the same, and what was handed out is not thrown away.
        ends = [await insert_one(backend, queue=queue, one_queue=True) for queue in ("a", "b")]
        [mixed] = await backend.claim([make_claim("a", "g", "b", count=3)])
        assert [job.id for job in mixed.jobs] == [job.id for job in ends]
        with pytest.raises(BackendUnavailableError):
            await backend.claim([make_claim("a", "g", "b")])
        # The clock goes on where it can be read.
        late = await insert_one(backend, JobState.SCHEDULED, queue="a", scheduled_at=NOW, one_queue=True)
        assert [job.id for job in await backend.due_jobs(NOW, 10)] == [late.id]
        assert await backend.next_wake_at() is not None
        await backend.ping()
        for call in (backend.list_jobs(JobQuery()), backend.list_events(EventQuery()), backend.warnings()):
            with pytest.raises(BackendUnavailableError):
                await call
        assert monotonic() - begun_at < PATIENCE_S
        down.signal(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            while await claim_ids(backend, "g") == []:
                pass


async def test_a_node_that_hangs_holds_up_its_own_queues_only(make_spread: MakeSpread) -> None:
    """What is asked of the others is not sent together with what waits for it."""
    with RedisCluster() as cluster:
        backend = await make_spread(cluster.url, prefix="ojs", timeout_ms=3000)
        owned = {queue: await insert_one(backend, queue=queue, one_queue=True) for queue in QUEUES}
        for queue in QUEUES:
            assert await claim_ids(backend, queue, worker_id="w") == [owned[queue].id]
        cluster.owner(shards_of(backend)[1]._root).signal(signal.SIGSTOP)  # noqa: SLF001 - to look behind it
        commits = Lanes(backend.commit, backend.lane_of, backend.groups_at_once)
        claims = Lanes(backend.claim, backend.lane_of, backend.groups_at_once)

        def push(queue: str) -> Awaitable[Committed | Refused]:
            return commits.ask(Commit(inserts=(make_new(queue=queue, one_queue=True),)))

        held_up = asyncio.gather(*(push("g") for _ in range(10)), claims.ask(make_claim("g")), return_exceptions=True)
        for _ in range(20):
            answers = await asyncio.gather(*(push(queue) for queue in "ab" * 5))
            assert all(isinstance(answer, Committed) for answer in answers)
            assert len((await claims.ask(make_claim("a", count=5))).jobs) == 5
        assert not held_up.done()
        # Leases that can be renewed are, though the heartbeat as a whole has failed.
        with pytest.raises(BackendUnavailableError):
            await backend.beat(make_beat("w", *(job.id for job in owned.values()), now=NOW + 5000))
        assert (await read(backend, owned["a"].id)).lease_expires_at == NOW + 5000 + LEASE_MS
        assert {type(answer) for answer in await held_up} == {BackendUnavailableError}


async def test_rivals_for_a_fingerprint_that_is_taken(shared: RedisServer, make_spread: MakeSpread) -> None:
    """All are refused; none waits for the others until its time is up."""
    servers = [await make_spread(shared.url, prefix="rivals") for _ in range(2)]
    await insert(servers[0], make_unique("a" * 64, queue="a"))
    answers = await asyncio.gather(
        *(servers[n % 2].commit([Commit(inserts=(make_unique("a" * 64, queue=QUEUES[n % 3]),))]) for n in range(64))
    )
    assert {type(answer) for [answer] in answers} == {Refused}


async def test_more_events_than_a_millisecond_has_numbers(shared: RedisServer, make_spread: MakeSpread) -> None:
    """They go into the next one; none is passed over by a cursor."""
    backend = await make_spread(shared.url)
    seconds, _ = shared.ask("TIME")
    for shard in shards_of(backend):
        # As after a failover to a server whose clock is behind.
        shared.ask("XADD", f"{shard._root}events", f"{seconds + 2}000-32760", "event", EVENT)  # noqa: SLF001 - its log
    for queue in QUEUES:
        await insert(backend, *(make_new(queue=queue, one_queue=True) for _ in range(20)))
    found: list[str] = []
    after = None
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 3 * 21:
            page = await backend.list_events(EventQuery(after=after, limit=7))
            found += [event.id for event in page.events]
            after = found[-1] if found else None
    assert len(set(found)) == 3 * 21


async def test_a_worker_that_is_gone_leaves_no_directive(shared: RedisServer, make_spread: MakeSpread) -> None:
    """Else the next of its name would get nothing from some queues, and nobody would know why."""
    backend = await make_spread(shared.url)
    await backend.beat(make_beat("w"))
    await backend.set_directive("w", "quiet")
    for queue in QUEUES:
        await insert_one(backend, queue=queue, one_queue=True)
        assert await claim_ids(backend, queue, worker_id="w") == []
    assert await backend.remove_worker("w", NOW + 1, make_event())
    for queue in QUEUES:
        assert len(await claim_ids(backend, queue, worker_id="w")) == 1


async def test_a_store_from_before_there_were_shards(shared: RedisServer, make_spread: MakeSpread) -> None:
    """It has one, and is not taken for an empty store of three."""
    shared.ask("HSET", "{old}:store", "schema", 1)
    with pytest.raises(SettingsError, match=r"has 1. Set OJS_REDIS_SHARDS=1"):
        await make_spread(shared.url, prefix="old")


async def test_the_number_of_shards_is_fixed(shared: RedisServer, make_spread: MakeSpread) -> None:
    """Another number would look for queues where they are not."""
    backend = await make_spread(shared.url, prefix="three")
    await insert_one(backend, queue="g")
    for other in (SpreadBackend, RedisBackend):
        shards = 4 if other is SpreadBackend else 1
        wrong = other(RedisConfig(target=parse_url(shared.url), prefix="three", shards=shards))
        with pytest.raises(SettingsError, match=f"OJS_REDIS_SHARDS={shards}, but the store .* has 3. Set"):
            await wrong.open()
    roots = [shard._root.encode() for shard in shards_of(backend)]  # noqa: SLF001 - to look behind it
    assert all(key.startswith(tuple(roots)) for key in shared.ask("KEYS", "{three*")), "nothing was written elsewhere"
    await accept(backend, inserts=(make_new(queue="g"),))


async def test_a_user_who_may_just_enough(shared: RedisServer, make_spread: MakeSpread) -> None:
    """What the documentation says that an ACL user needs."""
    keys = ("~{least}:*", "&{least}:*", "~{least/*", "&{least/*")
    rights = ("+@read", "+@write", "+@scripting", "+@connection", "+subscribe", "+publish", "+info", "+time")
    shared.ask("ACL", "SETUSER", "least", "on", ">p", *keys, *rights)
    backend = await make_spread(f"redis://least:p@127.0.0.1:{shared.port}", prefix="least")
    situation = Situation(backend)
    commit = await situation.fill()
    await accept(backend, inserts=commit.inserts, transitions=commit.transitions, workflows=commit.workflows)
    assert await situation.outcome(commit) == Counter({"new": 5})
    assert len((await backend.list_events(EventQuery())).events) > 0
    shared.ask("ACL", "DELUSER", "least")
