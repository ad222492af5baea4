"""Entries of several messages, and what a reader makes of those that were given up."""

from __future__ import annotations

import asyncio

import nats
import pytest
from tests.servers.nats_fixtures import NATSOpener

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_backend_nats.entry import HEADER_BY, HEADER_PART, Assembler, Message, cut, read_part_header
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import JobState
from ojs_core.testing.contract.steps import claim, claim_ids, counts, insert, insert_one, job_in, read
from ojs_core.testing.factories import make_new, raw


def test_what_is_cut_is_put_together_again() -> None:
    text = bytes(range(256)) * 5
    for size in (1, 7, 1279, 1280, 5000):
        parts = cut(text, size)
        assert max(map(len, parts)) <= size
        assembler = Assembler()
        found = [assembler.add(Message(9, part, "w-1", (number, len(parts)))) for number, part in enumerate(parts, 1)]
        assert found == [None] * (len(parts) - 1) + [text]


@pytest.mark.parametrize(
    ("messages", "entries"),
    [
        ([("a", 1, 2), ("b", 1, 1), ("a", 2, 2)], ["b1"]),
        ([("a", 1, 3), ("b", 1, 1), ("a", 3, 3), ("b", 1, 1)], ["b1", "b1"]),
        ([("a", 1, 3), ("b", 1, 2), ("a", 3, 3), ("b", 2, 2)], []),
        ([("a", 1, 2), ("b", 1, 2), ("b", 2, 2)], ["b1b2"]),
        ([("a", 1, 2), ("b", 2, 2), ("a", 2, 2)], []),
        ([("a", 2, 2), ("b", 1, 1)], ["b1"]),
        ([("a", 1, 2), ("a", 1, 2), ("a", 2, 2)], ["a1a2"]),
    ],
)
def test_parts_count_only_together(messages: list[tuple[str, int, int]], entries: list[str]) -> None:
    """Whatever comes between them: then the entry was refused, and its writer knows."""
    assembler = Assembler()
    found = [assembler.add(Message(9, f"{by}{number}".encode(), by, (number, count))) for by, number, count in messages]
    assert [text.decode() for text in found if text is not None] == entries


def test_a_message_without_the_header_is_whole() -> None:
    assert read_part_header(None) == (1, 1)
    assert read_part_header("3/12") == (3, 12)


async def test_a_change_larger_than_a_message(open_nats: NATSOpener) -> None:
    """Atomic and readable like any other: here, on another server, and after a new start."""
    backend, second = await open_nats(), await open_nats()
    big = [make_new(args=raw(["x" * 300_000, n])) for n in range(10)]
    jobs = await insert(backend, *big, make_new(queue="small"))
    for server in (backend, second, await open_nats()):
        assert await counts(server) == {"available": 10}
        assert await server.get_jobs([job.id for job in jobs]) == jobs
    claimed = (await claim(second, count=10)).jobs
    assert [bytes(job.args) for job in claimed] == [bytes(new.job.args) for new in big]


async def test_a_large_record_that_ended(open_nats: NATSOpener) -> None:
    """It is read from the messages it is in, not from memory."""
    backend = await open_nats()
    job = await job_in(backend, JobState.COMPLETED, args=raw(["x" * 2_000_000]))
    assert await read(backend, job.id) == job
    assert await read(await open_nats(), job.id) == job


async def test_large_changes_of_two_servers_at_once(open_nats: NATSOpener) -> None:
    """Their parts get between each other; each is there whole in the end."""
    servers = [await open_nats(), await open_nats()]
    writes = [
        insert(servers[n % 2], *(make_new(queue=f"q{n}", args=raw(["x" * 300_000])) for _ in range(8)))
        for n in range(6)
    ]
    await asyncio.gather(*writes)
    for server in (*servers, await open_nats()):
        assert [await counts(server, f"q{n}") for n in range(6)] == [{"available": 8}] * 6


async def stray(config: NATSConfig, backend: NATSBackend, headers: dict[str, str], payload: bytes) -> None:
    client = await nats.connect(config.servers[0])
    await client.jetstream().publish(config.subject, payload, headers=headers)
    await client.close()
    await backend.ping()


async def test_parts_of_a_server_that_died(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """It got as far as the first one; what follows is not taken for the rest."""
    backend = await open_nats()
    job = await insert_one(backend)
    await stray(nats_config, backend, {HEADER_BY: "gone-1", HEADER_PART: "1/3"}, b'{"gone_jobs":["')
    assert await claim_ids(backend) == [job.id]
    new = await insert_one(await open_nats())
    assert await claim_ids(backend) == [new.id]


async def test_a_newer_format_is_not_guessed_at(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """A server that is too old for the stream says so, instead of working on half of the truth."""
    backend = await open_nats()
    await insert_one(backend)

    async def upgrade() -> None:
        await stray(nats_config, backend, {HEADER_BY: "new-1"}, b'{"format":2}')

    with pytest.raises(BackendUnavailableError, match="newer version"):
        await upgrade()
    with pytest.raises(BackendUnavailableError, match="newer version"):
        await claim_ids(backend)
    with pytest.raises(BackendUnavailableError, match="newer version"):
        await open_nats()


async def test_what_others_publish_is_passed_over(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """Somebody tried out the subject: that is no entry, and no reason to stop."""
    backend = await open_nats()
    job = await insert_one(backend)
    await stray(nats_config, backend, {}, b"hello")
    assert await read(backend, job.id) == job
    assert await claim_ids(await open_nats()) == [job.id]


async def test_an_entry_that_cannot_be_read_stops_everything(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """It may be anything that was answered: to go on without it would be to forget it."""
    backend = await open_nats()
    await insert_one(backend)
    with pytest.raises(BackendUnavailableError, match="no entry"):
        await stray(nats_config, backend, {HEADER_BY: "broken-1"}, b"{")
    with pytest.raises(BackendUnavailableError, match="OJS_NATS_STREAM"):
        await claim_ids(backend)


async def test_a_very_large_entry_is_read_back(open_nats: NATSOpener) -> None:
    """NATS closes the connection of a client that asks for more than 64 MB at once: that is less than this entry."""
    backend = await open_nats(timeout_ms=60_000)
    large = raw(["x" * 1_000_000])
    inserted = await insert(backend, *(make_new(args=large) for _ in range(60)))
    assert (await read(backend, inserted[0].id)).args == large
