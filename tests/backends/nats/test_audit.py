"""The audit of `tests/crash`, on NATS: whatever is killed, and whenever, what was answered holds, and once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.crash.history import Store, summary, violations
from tests.crash.load import CRON, Load
from tests.crash.servers import Client, Server
from tests.servers.nats import NatsServer

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_core.backend import JobQuery
from ojs_core.job import JobState, encode_record
from ojs_core.records import encode

SEED = 1


async def read_store(config: NATSConfig, events: list[dict[str, Any]], stats: dict[str, dict[str, int]]) -> Store:
    """Read a stream that nobody serves any more, as a server does that begins with it."""
    backend = NATSBackend(config)
    await backend.open()
    jobs = (await backend.list_jobs(JobQuery(limit=100_000))).jobs
    flows = {event["subject"] for event in events if event["type"].startswith("workflow.")}
    workflows = [await backend.get_workflow(flow) for flow in flows]
    names = {job.queue for job in jobs}
    numbers = {name: await backend.queue_stats(name, 0) for name in names}
    counted = Counter(
        {(name, state.value): stats.states[state] for name, stats in numbers.items() if stats for state in JobState}
    )
    await backend.close()
    return Store(
        jobs={job.id: msgspec.json.decode(encode_record(job)) for job in jobs},
        workflows={flow.id: msgspec.json.decode(encode(flow)) for flow in workflows if flow is not None},
        counted=dict(+counted),
        integrity="ok",
        events=events,
        stats=stats,
    )


@pytest.fixture
def make_server(own_config: NATSConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Make a server on the stream of the test, not yet started."""

    def read(_path: Path, events: list[dict[str, Any]], stats: dict[str, dict[str, int]]) -> Store:
        return asyncio.run(read_store(own_config, events, stats))

    monkeypatch.setattr(Store, "read", read)
    variables = {
        "OJS_BACKEND": "nats",
        "NATS_URL": own_config.servers[0],
        "OJS_NATS_STREAM": own_config.stream,
        "OJS_NATS_SLACK_MIB": 1,
    }
    with ExitStack() as stack:

        def make(**options: Any) -> Server:
            server = Server(Path("unused"), **variables, **options)
            stack.callback(server.end)
            return server

        yield make


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
def test_audit(make_server: Callable[..., Server], own_server: NatsServer, workers: int) -> None:
    """The job server dies, NATS dies, both die."""
    server = make_server(OJS_WORKERS=workers).start()
    rng = random.Random(SEED)  # noqa: S311 - nothing secret
    client = Client(server)
    client.ask("POST", "/ojs/v1/cron", {"name": "tick", **CRON})
    with Load([server], SEED * 1000).running() as load:
        for kill_server, kill_store in ((True, False), (False, True), (True, True)):
            load.await_answers(rng.randint(30, 150))
            if kill_server:
                server.kill()
            if kill_store:
                own_server.kill()
                own_server.start()
            if kill_server:
                server.start()
        load.await_answers(100)
    client.close()  # what it was connected to may be gone
    client.ask("DELETE", "/ojs/v1/cron/tick")
    client.close()
    store = load.settle(server)
    print(summary(load.history, store))  # noqa: T201 - shown with -s, and when it fails
    assert violations(load.history, store) == []
