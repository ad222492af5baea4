"""Clients that mean no good, or know no better, beside one that only wants its work done."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

ORDINARY = 64
PER_KIND = 16
REQUESTS = 60
HEADER_BYTES = 20_000_000
LATENCY_MAX_S = 2.0
"""For the 95th of 100 requests, on a machine busy with the abuse and whatever else; hanging takes longer."""
GROWTH_MAX_BYTES = 100_000_000
SLOWLY_S = 0.1


def request(method, path, body=None):
    payload = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    )
    return head.encode() + b"\r\n" + payload


async def read_answer(reader):
    """Return the status and the body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    (length,) = [int(line.removeprefix(b"content-length:")) for line in lines if line.startswith(b"content-length:")]
    return int(lines[0].split()[1]), json.loads(await reader.readexactly(length))


class Abuse:
    """Many connections of every kind to one port, until told to stop."""

    def __init__(self, port):
        self.port = port
        self.stop = asyncio.Event()
        self.answers = 0
        self.refused = []

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, connection, method, path, body=None):
        reader, writer = connection
        writer.write(request(method, path, body))
        status, answer = await read_answer(reader)
        assert status < 300, answer
        self.answers += 1
        return answer

    async def ordinary(self):
        """One that keeps the server busy in earnest."""
        connection = await self.connect()
        while not self.stop.is_set():
            await self.ask(connection, "POST", "/ojs/v1/jobs", {"type": "abuse.job", "args": []})
            fetched = await self.ask(connection, "POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})
            for job in fetched["jobs"]:
                await self.ask(connection, "POST", "/ojs/v1/workers/ack", {"job_id": job["id"]})
        connection[1].close()

    async def slow(self):
        """One that sends its header a byte at a time."""
        _, writer = await self.connect()
        for byte in request("GET", "/ojs/v1/queues"):
            if self.stop.is_set():
                break
            writer.write(bytes([byte]))
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), SLOWLY_S)
        writer.close()

    async def half(self):
        """One that sends half a request and forgets the rest."""
        _, writer = await self.connect()
        whole = request("POST", "/ojs/v1/jobs", {"type": "abuse.half", "args": ["x" * 10_000]})
        writer.write(whole[:5_000])
        await self.stop.wait()
        writer.close()

    async def deaf(self):
        """One that asks for a lot and reads nothing of it."""
        _, writer = await self.connect()
        writer.write(request("GET", "/ojs/v1/openapi.json") * 60)
        await self.stop.wait()
        writer.transport.abort()

    async def endless(self):
        """One that sends a header of 20 MB, again and again."""
        while not self.stop.is_set():
            reader, writer = await self.connect()
            writer.write(b"GET / HTTP/1.1\r\nname: ")
            with suppress(ConnectionError):
                for _ in range(HEADER_BYTES // 100_000):
                    writer.write(b"x" * 100_000)
                    await writer.drain()
                status, _ = await read_answer(reader)
                self.refused.append(status)
            writer.close()

    async def rude(self):
        """One that hangs up on everything it asked for."""
        while not self.stop.is_set():
            _, writer = await self.connect()
            writer.write(request("POST", "/ojs/v1/workers/fetch", {"queues": ["none"], "wait_ms": 30_000}))
            await writer.drain()
            writer.transport.abort()


async def test_abuse_costs_others_little(server):
    abuse = Abuse(server.port)
    patient = await abuse.connect()
    body = {"type": "abuse.normal", "args": []}
    await abuse.ask(patient, "GET", "/ojs/v1/openapi.json")
    before = server.resident_bytes()
    kinds = [abuse.slow, abuse.half, abuse.deaf, abuse.rude]
    crowd = [abuse.ordinary() for _ in range(ORDINARY)] + [kind() for kind in kinds for _ in range(PER_KIND)]
    crowd += [abuse.endless() for _ in range(2)]
    tasks = [asyncio.create_task(one) for one in crowd]
    times = []
    while len(times) < REQUESTS or not abuse.refused:
        began = time.monotonic()
        await abuse.ask(patient, "POST", "/ojs/v1/jobs", body)
        times.append(time.monotonic() - began)
        broken = [task.exception() for task in tasks if task.done() and task.exception()]
        assert broken == []
    grown = server.resident_bytes() - before
    abuse.stop.set()
    await asyncio.gather(*tasks)
    times.sort()
    typical, worst = times[len(times) // 2], times[int(len(times) * 0.95)]
    print(  # noqa: T201 - shown with -s
        f"{1000 * typical:.0f} ms, 95th of 100 {1000 * worst:.0f} ms; {abuse.answers} answers; "
        f"{len(abuse.refused)} large headers refused; grown by {grown / 1e6:.1f} MB"
    )
    assert set(abuse.refused) == {431}
    assert worst < LATENCY_MAX_S
    assert grown < GROWTH_MAX_BYTES
    # And it is as well as ever.
    await abuse.ask(patient, "GET", "/readyz")
    patient[1].close()
