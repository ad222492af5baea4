"""The statements, one per file: what it answers, its parameters with their units, and the text."""

from __future__ import annotations

from importlib.resources import files


def _load(name: str) -> str:
    text = (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")
    # The header is for people; the rest is the key under which SQLite's compiled form is kept.
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).removesuffix(";")


NEXT_READY = _load("next_ready")
DUE_JOBS = _load("due_jobs")
NEXT_WAKE_AT = _load("next_wake_at")
FIND_HOLDERS = _load("find_holders")
TAKEN_FINGERPRINTS = _load("taken_fingerprints")
LIST_QUEUES = _load("list_queues")
COUNT_STATES = _load("count_states")
SUM_MINUTES = _load("sum_minutes")
LIST_WORKERS = _load("list_workers")
LIST_CRONS = _load("list_crons")
DUE_CRONS = _load("due_crons")
DUE_WORKFLOWS = _load("due_workflows")
LOAD_STORE = _load("load_store")
SAVE_STORE = _load("save_store")
ADD_MINUTE = _load("add_minute")
OLDEST_KEPT = _load("oldest_kept")
EVENT_RANGE = _load("event_range")
DELETE_EVENTS = _load("delete_events")
