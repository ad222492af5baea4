"""What a manual retry may change on a dead letter (C-EP-18)."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from ojs_core.envelope import EMPTY_OBJECT, check_args, check_queue, merge_objects, read_meta
from ojs_core.job import Job, no_longer_sent
from ojs_core.retry import RetryPolicy, parse_retry_policy


class Revival(Struct, frozen=True, kw_only=True):
    """What a manual retry changes on a dead letter; None keeps it (C-EP-18)."""

    queue: str | None = None
    args: Raw | None = None
    meta: Raw | None = None
    retry: RetryPolicy | None = None
    retry_text: Raw | None = None

    def changes(self, job: Job) -> dict[str, Any]:
        """Return the fields of the job's record to set."""
        named = {"queue": self.queue, "args": self.args, "meta": self.meta, "retry": self.retry}
        changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        as_sent = job.as_sent
        if self.retry_text is not None:
            as_sent = merge_objects(as_sent or EMPTY_OBJECT, {"retry": self.retry_text})
        if job.expires_at is not None:
            # A revived job does not expire.
            as_sent = no_longer_sent(as_sent, "expires_at")
        if as_sent is not job.as_sent:
            changes["as_sent"] = as_sent
        return changes


def parse_revival(override: dict[str, Any], raw: dict[str, Raw]) -> Revival:
    """Validate what a manual retry changes on a dead letter."""
    given = {name: value for name, value in override.items() if value is not None}
    if "args" in given:
        check_args(given["args"], "override.args")
    return Revival(
        queue=check_queue(given["queue"], "override.queue") if "queue" in given else None,
        args=raw["args"] if "args" in given else None,
        meta=read_meta(override, raw) if "meta" in given else None,
        retry=parse_retry_policy(given["retry"]) if "retry" in given else None,
        retry_text=raw["retry"] if "retry" in given else None,
    )
