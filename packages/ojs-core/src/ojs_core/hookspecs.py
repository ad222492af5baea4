"""The hooks a backend package implements. Hooks are for wiring, never on the path of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from ojs_core.backend import Backend
from ojs_core.variables import Setting

hookspec = pluggy.HookspecMarker("ojs")
hookimpl = pluggy.HookimplMarker("ojs")


@hookspec(firstresult=True)
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:  # type: ignore[empty-body]  # a specification has no body
    """Make the backend, not yet opened, from its own variables in `environ`.

    Raises `SettingsError`, naming the variable, when one makes no sense. Must not connect: `Backend.open` does.
    """


@hookspec(firstresult=True)
def ojs_backend_settings() -> Sequence[Setting]:  # type: ignore[empty-body]  # a specification has no body
    """Return the variables the backend reads, for `ojs-server check` and the documentation. Optional."""
