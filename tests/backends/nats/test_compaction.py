"""The stream stays short, and nothing that is current goes with what is removed."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.servers.nats import NatsServer
from tests.servers.nats_fixtures import NATSOpener
from tests.servers.proxy import proxy_to

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.compaction import ABREAST
from ojs_backend_nats.config import MIB, NATSConfig
from ojs_core.backend import Commit, CronWrite, Removal, WorkflowWrite
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import accept, apply, claim, claim_ids, insert, insert_one, job_in, read, snapshot
from ojs_core.testing.factories import make_beat, make_cron, make_new, make_transition, make_unique, make_workflow, raw

PATIENCE_S = 30
SLACK = 1
PAYLOAD_MAX = 64 * 1024


@pytest.fixture
def nats_config(nats_config: NATSConfig) -> NATSConfig:
    return msgspec.structs.replace(nats_config, slack_mib=SLACK)


@pytest.fixture
async def backend(open_nats: NATSOpener) -> NATSBackend:
    return await open_nats()


async def churn(backend: NATSBackend, rounds: int, *, of: int = 20, size: int = 2000) -> None:
    """Jobs come, are done and go."""
    for n in range(rounds):
        await insert(backend, *(make_new(queue="churn", args=raw(["x" * size])) for _ in range(of)))
        jobs = (await claim(backend, "churn", count=of, now=NOW + n)).jobs
        acks = [make_transition(LifecycleEvent.ACK, job.id, at=NOW + n) for job in jobs]
        await backend.commit([Commit(transitions=(ack,)) for ack in acks])
        await backend.commit([Commit(removals=(Removal(job.id, job.version + 1),)) for job in jobs])
        await backend.prune_events(0, 100, 10_000)


async def fill(backend: NATSBackend) -> tuple[str, list[Job]]:
    """Put one of everything in."""
    flow = make_workflow(wake_at=NOW + 5)
    await accept(backend, cron=CronWrite("c", make_cron("c"), 0), workflows=(WorkflowWrite(flow.id, flow, 0),))
    jobs = [await job_in(backend, state, queue=f"q{state}", worker_id="w", expires_at=NOW + 9) for state in JobState]
    jobs += await insert(backend, make_unique("a" * 64, max_per_second=1), make_new(args=raw(["y" * 50_000])))
    await backend.beat(make_beat("w", jobs[0].id))
    await backend.set_paused("paused", NOW, paused=True)
    return flow.id, jobs


async def settled_size(backend: NATSBackend) -> int:
    """Wait until nothing is compacted any more, and return the size of the stream in bytes."""
    parts = backend._parts  # noqa: SLF001 - the size is nothing a backend tells
    assert parts is not None
    async with asyncio.timeout(PATIENCE_S):
        while parts.compactor.busy:
            await asyncio.sleep(0)
    return (await parts.stream.info()).state.size


async def test_the_stream_stays_short(backend: NATSBackend) -> None:
    """However much has come and gone."""
    for _ in range(3):
        await churn(backend, 20)
        assert await settled_size(backend) < (SLACK + 1) * MIB


async def test_what_is_large_and_current_is_not_copied_for_ever(backend: NATSBackend) -> None:
    """Whatever kind of record it is: there is an end to compacting."""
    member = make_workflow().members[0]
    member = msgspec.structs.replace(member, definition=raw({"type": "t", "args": ["x" * 20_000]}))
    flows = [make_workflow(members=(member,)) for _ in range(300)]
    for flow in flows:
        await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))
    await churn(backend, 40)
    assert await settled_size(backend) > 300 * 20_000
    assert await backend.get_workflow(flows[0].id) == msgspec.structs.replace(flows[0], version=1)


async def test_what_is_current_outlives_its_entries(backend: NATSBackend, open_nats: NATSOpener) -> None:
    """On the server that compacted, on one that looked on, and on one that begins to read afterwards."""
    flow, jobs = await fill(backend)
    second = await open_nats()
    before = await snapshot(backend, [flow])
    await backend.prune_events(0, 7, 10_000)
    for _ in range(3):
        await churn(backend, 20)
        await settled_size(backend)
    third = await open_nats()
    shown = [await snapshot(server, [flow]) for server in (backend, second, third)]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0].jobs == before.jobs
    assert (shown[0].workers, shown[0].crons) == (before.workers, before.crons)
    assert await third.get_jobs([job.id for job in jobs]) == await backend.get_jobs([job.id for job in jobs])


async def test_finished_records_are_found_where_they_went(backend: NATSBackend) -> None:
    """A dead letter that was moved can still be read, revived and removed."""
    dead = await job_in(backend, JobState.DISCARDED, changes={"dead": True, "discarded_at": NOW})
    done = await job_in(backend, JobState.COMPLETED)
    await churn(backend, 40)
    await settled_size(backend)
    assert await read(backend, dead.id) == dead
    await apply(backend, make_transition(LifecycleEvent.REVIVE, dead.id, version=dead.version))
    assert await claim_ids(backend) == [dead.id]
    await accept(backend, removals=(Removal(done.id, done.version),))


async def test_two_servers_may_compact_at_once(backend: NATSBackend, open_nats: NATSOpener) -> None:
    second = await open_nats()
    flow, _ = await fill(backend)
    await asyncio.gather(churn(backend, 25), churn(second, 25))
    await asyncio.gather(settled_size(backend), settled_size(second))
    assert (
        await snapshot(backend, [flow]) == await snapshot(second, [flow]) == await snapshot(await open_nats(), [flow])
    )


async def test_copied_but_not_removed_is_no_harm(backend: NATSBackend, open_nats: NATSOpener) -> None:
    """A server may die between the two: who reads then sees the records twice, and keeps the last."""
    flow, _ = await fill(backend)
    parts = backend._parts  # noqa: SLF001 - a crash at this place cannot be had from outside
    assert parts is not None

    async def die(before: int | None = None) -> None:
        raise BackendUnavailableError(f"died before removing what is below {before}")

    parts.stream.purge = die  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailableError):
        await parts.compactor.step()
    del parts.stream.purge
    assert await snapshot(await open_nats(), [flow]) == await snapshot(backend, [flow])
    assert await parts.compactor.step()
    assert await snapshot(await open_nats(), [flow]) == await snapshot(backend, [flow])


async def test_who_was_away_starts_over(backend: NATSBackend, open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """What it would have read next is gone, and so are jobs it still knows."""
    port = int(nats_config.servers[0].rpartition(":")[2])
    async with proxy_to(port) as proxy:
        away = await open_nats(servers=(f"nats://127.0.0.1:{proxy.port}",))
        job = await insert_one(backend)
        assert await away.get_jobs([job.id]) == [job]
        await proxy.cut()
        await accept(backend, removals=(Removal(job.id, job.version),))
        await churn(backend, 40)
        await settled_size(backend)
        with pytest.raises(BackendUnavailableError):
            await away.get_jobs([job.id])
        await proxy.mend()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert await away.get_jobs([job.id]) == [None]
                    break
                except BackendUnavailableError:
                    await asyncio.sleep(0)
        assert await snapshot(away) == await snapshot(backend)
        await away.close()


async def test_what_was_written_in_many_parts_goes_too(own_server: NatsServer, open_nats: NATSOpener) -> None:
    """An entry of more parts than are looked through at a time must not stay in the way for ever."""
    own_server.stop()
    small = NatsServer(own_server.folder, f"max_payload: {PAYLOAD_MAX}", port=own_server.port).start()
    try:
        config = NATSConfig(servers=(small.url,), stream="PARTS", slack_mib=SLACK)
        backend = await open_nats(config)
        large = raw(["x" * PAYLOAD_MAX])
        done = await insert(backend, *(make_new(queue="large", args=large) for _ in range(2 * ABREAST)))
        removals = tuple(Removal(job.id, job.version) for job in done)
        await accept(backend, removals=removals)
        await churn(backend, 20)
        assert await settled_size(backend) < 2 * SLACK * MIB
        await backend.close()
    finally:
        small.stop()
