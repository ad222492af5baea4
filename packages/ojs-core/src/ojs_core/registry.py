"""From the name in `OJS_BACKEND` to a backend: entry points of group `ojs.backends`, verified by pluggy.

Only the chosen module is imported. There is no fallback to another store.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata

import pluggy

from ojs_core import hookspecs
from ojs_core.backend import Backend
from ojs_core.errors import BackendNotInstalledError, SettingsError
from ojs_core.variables import Setting

GROUP = "ojs.backends"


def installed_backends() -> dict[str, EntryPoint]:
    """Return the installed backends by name, without importing any.

    Raises `SettingsError` if two distributions claim one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise SettingsError(
                f"Two packages provide the backend '{entry.name}': {other.value} and {entry.value}. Uninstall one."
            )
    return found


def load_backend(name: str, environ: Mapping[str, str]) -> Backend:
    """Make the backend called `name` from its variables in `environ`; it is not opened yet.

    Raises `BackendNotInstalledError` if there is none of that name, and `SettingsError` if the package does not
    implement the hook or refuses the settings.
    """
    backend: Backend | None = _hooks_of(name).ojs_make_backend(environ=environ)
    if backend is None:
        raise SettingsError(f"OJS_BACKEND={name}: the package has no hook ojs_make_backend.")
    return backend


def backend_settings(name: str) -> Sequence[Setting]:
    """Return the variables that the backend called `name` reads. Raises as `load_backend` does."""
    return _hooks_of(name).ojs_backend_settings() or ()


def _official_backends() -> set[str]:
    """Return the extras of `ojs-server`, each of which installs the backend of its name."""
    try:
        return set(metadata("ojs-server").get_all("Provides-Extra") or ()) - {"all"}
    except PackageNotFoundError:
        return set()


def _advice(name: str, installed: Iterable[str]) -> str:
    official = _official_backends()
    if name in official:
        return f" To install it: pip install 'ojs-server[{name}]', or ./packages/ojs-backend-{name} in a clone."
    near = difflib.get_close_matches(name, sorted({*official, *installed}), 1)
    return f" Did you mean {near[0]}?" if near else ""


def _hooks_of(name: str) -> pluggy.HookRelay:
    """Import the package of one backend and return its hooks, verified."""
    installed = installed_backends()
    entry = installed.get(name)
    if entry is None:
        raise BackendNotInstalledError(
            f"OJS_BACKEND={name}: no installed package provides this backend. Installed: {', '.join(installed)}."
            + _advice(name, installed)
        )
    manager = pluggy.PluginManager("ojs")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(entry.load(), name)
        manager.check_pending()
    except (ImportError, AttributeError, pluggy.PluginValidationError) as error:
        raise SettingsError(f"OJS_BACKEND={name}: the package {entry.value} cannot be used: {error}") from error
    return manager.hook
