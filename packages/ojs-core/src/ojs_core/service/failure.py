"""What a worker reports when it fails, from the wire's loose shape to the stored one (C-OPS-31, C-OPS-32)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from ojs_core.envelope import invalid
from ojs_core.errors import InvalidRequestError
from ojs_core.job import JobError

BACKTRACE_FRAMES_MAX = 50
BACKTRACE_CHARS_MAX = 10_000
MESSAGE_CHARS_MAX = 10_000
NAME_CHARS_MAX = 255


class Failure(Struct, frozen=True, kw_only=True):
    """A reported failure. `error_class` is `details.error_class`, a third name the retry policy may match."""

    type: str
    code: str
    message: str
    error_class: str | None = None
    retryable: bool | None = None
    details: Raw | None = None
    backtrace: tuple[str, ...] | None = None

    def at(self, attempt: int, now: int) -> JobError:
        """Return the history entry of this failure."""
        return JobError(
            type=self.type,
            code=self.code,
            message=self.message,
            attempt=attempt,
            occurred_at=now,
            retryable=self.retryable,
            details=self.details,
            backtrace=self.backtrace,
        )


def parse_failure(error: object, raw: dict[str, Raw]) -> Failure:
    """Read the `error` object of a NACK: `error` decoded, `raw` the texts of its members.

    Raises `InvalidRequestError` naming the field.
    """
    if not isinstance(error, dict):
        raise invalid("error", "an object with a message", error)
    message = error.get("message")
    if not isinstance(message, str) or not message:
        raise invalid("error.message", "a text", message)
    code = _name(error, "code")
    retryable = error.get("retryable")
    if retryable is not None and not isinstance(retryable, bool):
        raise invalid("error.retryable", "a boolean", retryable)
    details = error.get("details")
    if details is not None and not isinstance(details, dict):
        raise invalid("error.details", "an object", details)
    error_class = (details or {}).get("error_class")
    if not isinstance(error_class, str) or not error_class:
        error_class = None
    return Failure(
        type=_name(error, "type") or error_class or code or "handler_error",
        code=code or "handler_error",
        message=message[:MESSAGE_CHARS_MAX],
        error_class=error_class,
        retryable=retryable,
        details=None if details is None else raw["details"],
        backtrace=_backtrace(error.get("backtrace")),
    )


def _name(error: dict[str, Any], field: str) -> str | None:
    value = error.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX:
        raise invalid(f"error.{field}", f"a text of at most {NAME_CHARS_MAX} characters", value)
    return value


def _backtrace(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, list):
        raise InvalidRequestError(
            "'error.backtrace' must be an array of frames or a text.", field="error.backtrace", expected="an array"
        )
    frames: list[str] = []
    room = BACKTRACE_CHARS_MAX
    for line in lines[:BACKTRACE_FRAMES_MAX]:
        frame = line if isinstance(line, str) else msgspec.json.encode(line).decode()
        frames.append(frame[:room])
        room -= len(frames[-1])
        if room <= 0:
            break
    return tuple(frames)
