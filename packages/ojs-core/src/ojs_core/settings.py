"""Every setting of core and of the server: one table, read from the environment, printed into the docs.

A backend has settings of its own, in its package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from ojs_core.lifecycle import Retention
from ojs_core.variables import Setting, choice, flag, read_values, whole

DAY_MS = 24 * 3600 * 1000


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of one server. Lengths in ms unless the name says otherwise."""

    backend: str = "sqlite"
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    log_level: str = "info"
    api_keys: tuple[str, ...] = ()
    allow_insecure_no_auth: bool = False
    test_mode: bool = False
    drain_s: int = 25
    visibility_timeout_ms: int = 1_800_000
    execution_timeout_ms: int = 1_800_000
    worker_timeout_ms: int = 30_000
    retain_completed_ms: int = DAY_MS
    retain_cancelled_ms: int = DAY_MS
    retain_discarded_ms: int = 7 * DAY_MS
    retain_dead_letter_ms: int = 180 * DAY_MS
    dead_letter_max: int = 10_000
    retain_events_ms: int = 7 * DAY_MS
    events_max: int = 1_000_000
    body_max_bytes: int = 64 * 1024 * 1024
    batch_max: int = 10_000

    @property
    def retention(self) -> Retention:
        """How long finished jobs are kept."""
        return Retention(
            completed_ms=self.retain_completed_ms,
            cancelled_ms=self.retain_cancelled_ms,
            discarded_ms=self.retain_discarded_ms,
            dead_letter_ms=self.retain_dead_letter_ms,
        )


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise ValueError("one or more keys of printable ASCII without spaces, joined by commas")
    return keys


_ms = whole(1, 10 * 365 * DAY_MS)
_retention = whole(0, 100 * 365 * DAY_MS)

_ROWS = (
    Setting(
        "OJS_BACKEND", "backend", str, "The store: the name of an installed backend. `ojs-server backends` lists them."
    ),
    Setting("OJS_HOST", "host", str, "Address to listen on. Any but a loopback address needs OJS_API_KEY."),
    Setting("OJS_PORT", "port", whole(0, 65535), "Port to listen on; 0 picks a free one."),
    Setting("OJS_WORKERS", "workers", whole(1, 64), "Server processes sharing the port and the store."),
    Setting(
        "OJS_LOG_LEVEL",
        "log_level",
        choice("debug", "info", "warning", "error"),
        "Least severe log lines to write: debug, info, warning or error.",
    ),
    Setting(
        "OJS_API_KEY",
        "api_keys",
        _keys,
        "Keys a client may send as `Authorization: Bearer <key>`, joined by commas; several allow a rotation.",
        secret=True,
    ),
    Setting(
        "OJS_ALLOW_INSECURE_NO_AUTH",
        "allow_insecure_no_auth",
        flag,
        "Allow listening on a non-loopback address without a key.",
    ),
    Setting(
        "OJS_TEST_MODE",
        "test_mode",
        flag,
        "Enable POST /ojs/v1/admin/reset and meta.test_directive. Wipes data on request: never in production.",
    ),
    Setting("OJS_DRAIN_S", "drain_s", whole(0, 3600), "Seconds that requests under way get to finish after SIGTERM."),
    Setting(
        "OJS_VISIBILITY_TIMEOUT_MS", "visibility_timeout_ms", _ms, "Lease of a fetched job when neither says otherwise."
    ),
    Setting(
        "OJS_EXECUTION_TIMEOUT_MS", "execution_timeout_ms", _ms, "Longest execution of a job that names no timeout."
    ),
    Setting(
        "OJS_WORKER_TIMEOUT_MS", "worker_timeout_ms", _ms, "Silence after which a worker that sent heartbeats is dead."
    ),
    Setting("OJS_RETAIN_COMPLETED_MS", "retain_completed_ms", _retention, "How long completed jobs are kept."),
    Setting("OJS_RETAIN_CANCELLED_MS", "retain_cancelled_ms", _retention, "How long cancelled jobs are kept."),
    Setting("OJS_RETAIN_DISCARDED_MS", "retain_discarded_ms", _retention, "How long discarded jobs are kept."),
    Setting("OJS_RETAIN_DEAD_LETTER_MS", "retain_dead_letter_ms", _retention, "How long dead letters are kept."),
    Setting("OJS_DEAD_LETTER_MAX", "dead_letter_max", whole(1, 10**9), "Dead letters kept; the oldest go first."),
    Setting("OJS_RETAIN_EVENTS_MS", "retain_events_ms", _retention, "How long events are kept."),
    Setting("OJS_EVENTS_MAX", "events_max", whole(0, 10**9), "Events kept; the oldest go first."),
    Setting("OJS_BODY_MAX_BYTES", "body_max_bytes", whole(1024, 2**31), "Largest request body, in bytes."),
    Setting(
        "OJS_BATCH_MAX",
        "batch_max",
        whole(1, 100_000),
        "Most jobs in one batch, or in one workflow (there at most 10 000).",
    ),
)

_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}

SETTINGS = tuple(row._replace(default=_DEFAULTS[row.field]) for row in _ROWS)
"""Every variable of core and of the server."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings in an environment. Raises `SettingsError`, naming the variable and what it may be."""
    return Settings(**read_values(SETTINGS, environ))


def unknown_variables(environ: Mapping[str, str], known: Iterable[Setting]) -> list[str]:
    """Return a line for each `OJS_` variable that nothing reads, with the nearest one of those known."""
    names = {setting.variable for setting in known}
    lines = []
    for name in sorted(environ):
        if name.startswith("OJS_") and name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            lines.append(f"{name} is not a setting." + (f" Did you mean {near[0]}?" if near else ""))
    return lines
