"""The NATS backend of ojs-server: the hook that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import SETTINGS, NATSConfig
from ojs_core.backend import Backend
from ojs_core.hookspecs import hookimpl
from ojs_core.variables import Setting


@hookimpl
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:
    """Make the NATS backend from `NATS_URL` and `OJS_NATS_*`; nothing is connected yet. Raises `SettingsError`."""
    return NATSBackend(NATSConfig.from_environ(environ))


@hookimpl
def ojs_backend_settings() -> Sequence[Setting]:
    """Return the variables this backend reads."""
    return SETTINGS
