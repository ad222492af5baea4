"""What the listings of every store share: opaque cursors, and the filters as predicates."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from ojs_core.backend import EventQuery, JobQuery
from ojs_core.errors import InvalidRequestError
from ojs_core.events import Event
from ojs_core.ids import event_seq
from ojs_core.job import Job

# A number a store cannot hold was never in a cursor of ours.
_Instant = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
_decode_key = msgspec.json.Decoder(tuple[_Instant, str]).decode


def encode_cursor(key: tuple[int, str]) -> str:
    """Return the opaque form of the sort key of the last row of a page (C-PAG-03)."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> tuple[int, str]:
    """Return the sort key in a cursor. Raises `InvalidRequestError` if this server did not make it."""
    try:
        return _decode_key(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidRequestError(
            "'cursor' is not one this server gave out.", field="cursor", expected="next_cursor of an earlier page"
        ) from None


def decode_event_id(text: str) -> int:
    """Return the sequence number in an event id. Raises `InvalidRequestError` if it is not one of ours."""
    try:
        return event_seq(text)
    except ValueError:
        raise InvalidRequestError(
            "'after' is not the id of an event.", field="after", expected="id of an event, or cursor of an answer"
        ) from None


def job_matches(job: Job, query: JobQuery) -> bool:
    """Return whether a job passes all filters of a query."""
    return (
        (query.states is None or job.state in query.states)
        and (query.queue is None or job.queue == query.queue)
        and (query.job_type is None or job.type == query.job_type)
        and (query.dead is None or job.dead == query.dead)
        and (query.error_type is None or (job.error is not None and job.error.type == query.error_type))
        and (query.since is None or (job.discarded_at or 0) >= query.since)
        and (query.until is None or (job.discarded_at or 0) < query.until)
        and (query.worker_id is None or job.worker_id == query.worker_id)
    )


def event_matches(event: Event, query: EventQuery) -> bool:
    """Return whether an event passes the filters of a query, its position aside."""
    return (
        (not query.types or any(_type_matches(event.type, wanted) for wanted in query.types))
        and (not query.queues or event.queue in query.queues)
        and (not query.job_types or event.job_type in query.job_types)
    )


def _type_matches(event_type: str, wanted: str) -> bool:
    if wanted.endswith(".*"):
        return event_type.startswith(wanted[:-1])
    return event_type == wanted
