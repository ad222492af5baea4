"""One entry of the log: everything that one group of requests changed, whole.

An entry holds records as they are afterwards, never how they came about, so that applying the entries in their order
gives the present state, whichever of the older ones were removed because nothing in them is current any more. On the
wire it is JSON; a job's record is a text of its own in it, encoded once and kept as it is.

An entry too large for one message is cut into parts that follow each other without a gap. The last one makes it count:
parts whose last never came, or between which another message got, are passed over by every reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from ojs_core.events import Event
from ojs_core.job import JobState
from ojs_core.records import CronEntry, Queue, Worker, Workflow

FORMAT = 1
"""Version of this format. A server that meets a newer one stops with an error instead of guessing."""
PLACE_BITS = 20
"""Events and jobs that one entry numbers, at most, as a power of two."""
HEADER_PART = "Ojs-Part"
"""Header of a part: `<number>/<count>`. An entry of one message has none."""
HEADER_BY = "Ojs-By"
"""Header of every message: who wrote it, and the how-manyth of that writer it is. No two are alike."""


class Minute(Struct, frozen=True, array_like=True):
    """Executions of one queue that ended in one minute: totals, not additions."""

    queue: str
    minute: int
    completed: int = 0
    failed: int = 0
    duration_ms: int = 0
    wait_ms: int = 0


class Chunk(Struct, frozen=True, omit_defaults=True):
    """Events of one entry, numbered without a gap from `first` on. `latest` is the newest instant among them."""

    first: int
    count: int
    latest: int
    events: Raw
    """JSON array of `Event`."""


class Entry(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What changed. `jobs` are records of `Job`; `gone_*` are ids and names.

    `moved_*` are current records copied from older entries, so that those can be removed; nothing changed about them.
    `events_from`: events with lower numbers are pruned. `reset`: forget everything before this entry.
    """

    format: int = FORMAT
    jobs: tuple[Raw, ...] = ()
    gone_jobs: tuple[str, ...] = ()
    moved_jobs: tuple[Raw, ...] = ()
    queues: tuple[Queue, ...] = ()
    workers: tuple[Worker, ...] = ()
    gone_workers: tuple[str, ...] = ()
    crons: tuple[CronEntry, ...] = ()
    gone_crons: tuple[str, ...] = ()
    workflows: tuple[Workflow, ...] = ()
    gone_workflows: tuple[str, ...] = ()
    minutes: tuple[Minute, ...] = ()
    chunk: Chunk | None = None
    moved_chunks: tuple[Chunk, ...] = ()
    events_from: int = 0
    reset: bool = False


class HeadError(Struct, frozen=True):
    """What an index has of a job's error."""

    type: str


class Head(Struct, frozen=True):
    """What an index has of a job: the fields of `Job` it orders, counts and filters by. The rest is skipped."""

    id: str
    type: str
    queue: str
    state: JobState
    created_at: int
    priority: int = 0
    version: int = 0
    seq: int = 0
    wake_at: int | None = None
    expires_at: int | None = None
    discarded_at: int | None = None
    worker_id: str | None = None
    error: HeadError | None = None
    dead: bool = False
    fingerprint: str | None = None


class Message(Struct, frozen=True):
    """One message of the stream: an entry, or a part of one."""

    sequence: int
    payload: bytes
    by: str
    """Empty: nothing that a server wrote."""
    part: tuple[int, int]
    """Number and count, from 1."""


class UnreadableEntryError(Exception):
    """What is in the stream is no entry, or one of a newer format."""


encode_entry = msgspec.json.Encoder().encode
_decode_entry = msgspec.json.Decoder(Entry).decode
decode_head = msgspec.json.Decoder(Head).decode
encode_events = msgspec.json.Encoder().encode
decode_events = msgspec.json.Decoder(list[Event]).decode


def read_entry(text: bytes) -> Entry:
    """Return the entry in a text. Raises `UnreadableEntryError`."""
    try:
        entry = _decode_entry(text)
    except msgspec.MsgspecError as error:
        raise UnreadableEntryError(
            "The stream holds something that is no entry: restore it from a backup, or give this server another one "
            "(OJS_NATS_STREAM)."
        ) from error
    if entry.format > FORMAT:
        raise UnreadableEntryError(
            "The stream was written by a newer version of ojs-backend-nats: upgrade this server."
        )
    return entry


def cut(payload: bytes, part_max: int) -> list[bytes]:
    """Cut an encoded entry into as few parts of at most `part_max` bytes as there have to be."""
    return [payload[start : start + part_max] for start in range(0, len(payload), part_max)]


def part_header(number: int, count: int) -> str:
    """Return the value of `HEADER_PART` for part `number` of `count`, counted from 1."""
    return f"{number}/{count}"


def read_part_header(text: str | None) -> tuple[int, int]:
    """Return number and count of a part; a message without the header is the only one."""
    if text is None:
        return 1, 1
    number, _, count = text.partition("/")
    return int(number), int(count)


class Assembler:
    """Puts parts together again, as messages come in."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._by = ""

    def add(self, message: Message) -> bytes | None:
        """Take the next message of the stream; return the text of an entry if it completes one."""
        number, count = message.part
        payload = message.payload
        if number == 1:
            self._parts, self._by = [], message.by
        elif message.by != self._by or number != len(self._parts) + 1:
            # The parts before it were given up: another server's message got between.
            self._parts = []
            return None
        if count == 1:
            return payload
        self._parts.append(payload)
        if number < count:
            return None
        whole, self._parts = b"".join(self._parts), []
        return whole

    def clear(self) -> int:
        """Forget the parts so far, since what comes next does not follow them; return how many there were."""
        count, self._parts = len(self._parts), []
        return count


def numbers_from(sequence: int) -> int:
    """Return the first number an entry at that sequence of the stream gives to its jobs' places and to its events."""
    return sequence << PLACE_BITS


def joined(texts: Sequence[bytes]) -> tuple[Raw, ...]:
    """Return texts as they stand in an entry."""
    return tuple([Raw(text) for text in texts])
