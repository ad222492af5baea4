"""From what NATS reports to what the seam promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ojs_core.errors import BackendUnavailableError

WRONG_LAST_SEQUENCE = 10071
"""A guard did not hold: the stream has gone on."""
WRONG_LAST_SEQUENCE_CONSTANT = 10164
"""The same, as some versions put it while an earlier write is still under way."""
STREAM_NOT_FOUND = 10059
NAME_IN_USE = 10058
"""There is a stream of that name, with other settings."""
PASSING = frozenset({10005, 10008, 10009, 10118})
"""What a cluster answers while it elects a leader, or while its servers come up."""
NO_MESSAGE_FOUND = 10037

_MESSAGES: dict[int, str] = {
    10008: "JetStream is not available: the cluster has no leader, or lost most of its servers.",
    10023: "JetStream is out of room (memory or disk).",
    10028: "JetStream is out of room for this account.",
    10039: "JetStream is not enabled for this account.",
    10047: "JetStream is out of room on this server.",
    10054: "A change is larger than NATS takes (max_payload, or the stream's max_msg_size).",
    10077: "The stream, or the disk, is full.",
    10076: "JetStream is not enabled on this server.",
    STREAM_NOT_FOUND: "The stream is gone.",
    10074: "The cluster has too few servers for that many replicas (OJS_NATS_REPLICAS).",
    10005: "The cluster has too few suitable servers for that many replicas (OJS_NATS_REPLICAS).",
}


class RefusedByStore(Exception):  # noqa: N818 - it becomes an error of the seam, or a decision, before anyone sees it
    """JetStream answered a request with an error.

    Attributes:
        code: `err_code` of the answer.
        description: what the server says.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{self.description} ({self.code})")


def unavailable(error: RefusedByStore) -> BackendUnavailableError:
    """Return what to raise for a refusal of JetStream. The cause is chained."""
    message = _MESSAGES.get(error.code, f"JetStream refused the operation: {error.description}.")
    wrapped = BackendUnavailableError(message)
    wrapped.__cause__ = error
    return wrapped


def closed() -> BackendUnavailableError:
    """Return what to raise for an operation on a store that is not open."""
    return BackendUnavailableError("The connection to NATS is not open.")
