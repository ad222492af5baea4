"""What is done to a server, how long it took, and whether every job came out exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns, process_time

from client import (
    Connection,
    FetchedJob,
    UnexpectedAnswerError,
    ack_request,
    batch_request,
    decode_acknowledged,
    decode_batch,
    decode_enqueued,
    decode_fetched,
    enqueue_request,
    fetch_request,
)

from servers import Server

BATCH = 100
FETCH = 10
WAIT_MS = 1000
STALL_S = 20.0
"""A drain that gets no job for this long gives up; the audit then names what is missing."""
SETTLE_S = 0.01
"""Between a long poll and the enqueue that ends it, so that it is certainly waiting."""


@dataclass
class Audit:
    """Every job of one server by its id: enqueued, delivered, acknowledged; and whatever went wrong."""

    enqueued: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    acked: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Jobs that were enqueued and not delivered or not acknowledged."""
        return sum(1 for job_id in self.enqueued if not self.delivered[job_id] or not self.acked[job_id])

    @property
    def twice(self) -> int:
        """Ids that were given, delivered or acknowledged more than once."""
        return len(
            {job_id for seen in (self.enqueued, self.delivered, self.acked) for job_id in seen if seen[job_id] > 1}
        )

    @property
    def unknown(self) -> int:
        """Jobs that were delivered though nobody enqueued them."""
        return len(self.delivered.keys() - self.enqueued.keys())

    @property
    def fine(self) -> bool:
        """Whether every job came out exactly once, and every answer was as it should be."""
        return not (self.lost or self.twice or self.unknown or self.errors)

    @property
    def outstanding(self) -> bool:
        """Whether there are jobs that were not delivered yet."""
        return len(self.delivered) < len(self.enqueued)


@dataclass
class Phase:
    """One measured piece of work. `timings_ms`: how long each kind of step took; the first kind is the main one."""

    name: str
    timings_ms: dict[str, list[float]]
    jobs: int = 0
    requests: int = 0
    seconds: float = 0.0
    server_cpu_s: float | None = None
    client_cpu_s: float = 0.0

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.seconds if self.seconds else 0.0

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def cpu_s_per_10k(self) -> float | None:
        """Processor seconds of the server for 10,000 jobs."""
        return None if self.server_cpu_s is None or not self.jobs else self.server_cpu_s / self.jobs * 10_000


def merged(phases: list[Phase]) -> Phase:
    """Return several rounds of one phase as one."""
    cpu = [phase.server_cpu_s for phase in phases]
    return Phase(
        name=phases[0].name,
        timings_ms={kind: [ms for phase in phases for ms in phase.timings_ms[kind]] for kind in phases[0].timings_ms},
        jobs=sum(phase.jobs for phase in phases),
        requests=sum(phase.requests for phase in phases),
        seconds=sum(phase.seconds for phase in phases),
        server_cpu_s=None if None in cpu else sum(seconds for seconds in cpu if seconds is not None),
        client_cpu_s=sum(phase.client_cpu_s for phase in phases),
    )


class Load:
    """Connections to one server, and the phases that run on them. Use `loading`."""

    def __init__(self, server: Server, connections: list[Connection]) -> None:
        self.server = server
        self.audit = Audit()
        self._connections = connections
        self._queue = "bench-0"

    # The phases.

    async def ceiling(self, count: int) -> Phase:
        """Send enqueues to the server that does not enqueue."""
        phase = Phase("ceiling", {"request": []})

        async def work(connection: Connection, tickets: Iterator[int]) -> None:
            for _ in tickets:
                if await self._timed(phase, "request", connection, enqueue_request(self._queue)) is not None:
                    phase.jobs += 1

        return await self._run(phase, work, count)

    async def enqueue(self, count: int) -> Phase:
        """Enqueue jobs one by one."""
        phase = Phase("single enqueue", {"request": []})

        async def work(connection: Connection, tickets: Iterator[int]) -> None:
            for _ in tickets:
                if await self._enqueue_one(phase, "request", connection):
                    phase.jobs += 1

        return await self._run(phase, work, count)

    async def batch(self, count: int) -> Phase:
        """Enqueue jobs by the hundred."""
        phase = Phase(f"batch of {BATCH}", {"request": []})

        async def work(connection: Connection, tickets: Iterator[int]) -> None:
            for _ in tickets:
                body = await self._timed(phase, "request", connection, batch_request(self._queue, BATCH))
                if body is not None:
                    ids = [job.id for job in decode_batch(body).jobs]
                    if len(ids) != BATCH:
                        self.audit.errors.append(f"A batch of {BATCH} was answered with {len(ids)} jobs.")
                    self.audit.enqueued.update(ids)
                    phase.jobs += len(ids)

        return await self._run(phase, work, -(-count // BATCH))

    async def drain(self, name: str = "drain") -> Phase:
        """Fetch and acknowledge until nothing is left."""
        phase = Phase(f"{name}: fetch {FETCH}, ack", {"ack": [], "fetch": []})
        last = perf_counter()

        async def work(connection: Connection, tickets: Iterator[int]) -> None:
            nonlocal last
            fetch = fetch_request(self._queue, FETCH, f"bench-{next(tickets)}")
            while self.audit.outstanding and perf_counter() - last < STALL_S:
                if await self._work_off(phase, connection, fetch):
                    last = perf_counter()
                else:
                    await asyncio.sleep(0.005)

        return await self._run(phase, work, len(self._connections))

    async def mixed(self, count: int) -> Phase:
        """Enqueue on half of the connections while the other half works the jobs off by long polls."""
        phase = Phase("mixed", {"end to end": [], "enqueue": [], "ack": []})
        producers = self._connections[: len(self._connections) // 2]
        to_send = iter(range(count))
        producing = len(producers)
        last = perf_counter()

        async def work(connection: Connection, tickets: Iterator[int]) -> None:
            nonlocal producing, last
            if connection in producers:
                for _ in to_send:
                    await self._enqueue_one(phase, "enqueue", connection)
                producing -= 1
                return
            fetch = fetch_request(self._queue, FETCH, f"bench-{next(tickets)}", WAIT_MS)
            while (producing or self.audit.outstanding) and perf_counter() - last < STALL_S:
                if await self._work_off(phase, connection, fetch):
                    last = perf_counter()

        return await self._run(phase, work, len(self._connections))

    async def long_poll(self, count: int) -> Phase:
        """Have one fetch wait, then enqueue what it waits for: how long until it is answered?"""
        phase = Phase("long poll", {"enqueue to fetched": []})
        waiting, sending = self._connections[0], self._connections[-1]
        fetch = fetch_request(self._queue, 1, "bench-0", WAIT_MS * 10)

        async def work(connection: Connection, tickets: Iterator[int]) -> None:
            if connection is not waiting:
                return
            for _ in tickets:
                polling = asyncio.ensure_future(self._fetch(phase, waiting, fetch))
                await asyncio.sleep(SETTLE_S)
                await self._enqueue_one(phase, None, sending)
                jobs, answered = await polling
                for job in jobs:
                    phase.timings_ms["enqueue to fetched"].append((answered - job.args[1]) / 1e6)
                    await self._ack(phase, None, waiting, job.id)

        return await self._run(phase, work, count)

    # Their steps.

    async def _run(
        self, phase: Phase, work: Callable[[Connection, Iterator[int]], Awaitable[None]], count: int
    ) -> Phase:
        """Work on every connection until `count` tickets, which they share, are used up."""
        tickets = iter(range(count))
        server_cpu_s, client_cpu_s, began = self.server.cpu_s(), process_time(), perf_counter()
        # Until the last useful answer: a long poll that outlasts the work is not part of it.
        phase.seconds = began
        await asyncio.gather(*(work(connection, tickets) for connection in self._connections))
        self.server.check_alive()
        phase.seconds -= began
        phase.client_cpu_s = process_time() - client_cpu_s
        after = self.server.cpu_s()
        phase.server_cpu_s = None if server_cpu_s is None or after is None else after - server_cpu_s
        return phase

    async def _timed(self, phase: Phase, kind: str | None, connection: Connection, request: bytes) -> bytes | None:
        """Return the body of the answer, or None, with a note in the audit, if it was not one of success."""
        sent = perf_counter_ns()
        try:
            body = await connection.expect(request)
        except UnexpectedAnswerError as error:
            self.audit.errors.append(str(error))
            return None
        finally:
            phase.requests += 1
        if kind is not None:
            phase.timings_ms[kind].append((perf_counter_ns() - sent) / 1e6)
        phase.seconds = perf_counter()
        return body

    async def _enqueue_one(self, phase: Phase, kind: str | None, connection: Connection) -> bool:
        """Enqueue a job; return whether it was."""
        body = await self._timed(phase, kind, connection, enqueue_request(self._queue))
        if body is None:
            return False
        self.audit.enqueued[decode_enqueued(body).job.id] += 1
        return True

    async def _work_off(self, phase: Phase, connection: Connection, fetch: bytes) -> bool:
        """Fetch jobs and acknowledge each; return whether there were any."""
        asked = perf_counter_ns()
        jobs, answered = await self._fetch(phase, connection, fetch)
        if jobs and "fetch" in phase.timings_ms:
            phase.timings_ms["fetch"].append((answered - asked) / 1e6)
        for job in jobs:
            await self._ack(phase, "ack", connection, job.id)
            if "end to end" in phase.timings_ms:
                phase.timings_ms["end to end"].append((perf_counter_ns() - job.args[1]) / 1e6)
        return bool(jobs)

    async def _fetch(self, phase: Phase, connection: Connection, fetch: bytes) -> tuple[list[FetchedJob], int]:
        """Return the jobs of a fetch, and when its answer came (`perf_counter_ns`)."""
        # Not by `_timed`: an answer without jobs does not prolong the phase.
        phase.requests += 1
        try:
            body = await connection.expect(fetch)
        except UnexpectedAnswerError as error:
            self.audit.errors.append(str(error))
            return [], 0
        answered = perf_counter_ns()
        jobs = decode_fetched(body).jobs
        self.audit.delivered.update(job.id for job in jobs)
        return jobs, answered

    async def _ack(self, phase: Phase, kind: str | None, connection: Connection, job_id: str) -> None:
        """Complete a job."""
        body = await self._timed(phase, kind, connection, ack_request(job_id))
        if body is None:
            return
        answer = decode_acknowledged(body)
        if answer.acknowledged and answer.job.id == job_id and answer.job.state == "completed":
            self.audit.acked[job_id] += 1
            phase.jobs += 1
        else:
            self.audit.errors.append(f"The ack of {job_id} was answered with {body[:200].decode(errors='replace')}")


@asynccontextmanager
async def loading(server: Server, connections: int) -> AsyncIterator[Load]:
    """Open connections to a server; hang up in the end."""
    opened = [await Connection.open(server.port) for _ in range(connections)]
    try:
        yield Load(server, opened)
    finally:
        for connection in opened:
            connection.close()
