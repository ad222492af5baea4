"""An example of a backend for ojs-server: the hooks that the entry point leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ojs_backend_example.backend import ExampleBackend
from ojs_backend_example.config import SETTINGS, ExampleConfig
from ojs_core.backend import Backend
from ojs_core.hookspecs import hookimpl
from ojs_core.variables import Setting


@hookimpl
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:
    """Make the backend from `OJS_EXAMPLE_*`; nothing is opened yet. Raises `SettingsError`."""
    return ExampleBackend(ExampleConfig.from_environ(environ))


@hookimpl
def ojs_backend_settings() -> Sequence[Setting]:
    """Return the variables this backend reads."""
    return SETTINGS
