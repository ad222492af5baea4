"""The kit: what a backend author needs to prove a backend, and anyone else to test against one.

Install `ojs-core[testing]`. Inherit `BackendContract` with a `backend` fixture, hand a factory to `model_test_case`,
and a backend is held to every sentence of `ojs_core.backend`. The names are imported when first used, because pytest
imports this package before it starts to rewrite the assertions of the contract.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ojs_core.testing.clock import FakeClock
    from ojs_core.testing.contract import BackendContract
    from ojs_core.testing.counting import CountingBackend
    from ojs_core.testing.faults import FaultyBackend
    from ojs_core.testing.model import model_test_case
    from ojs_core.testing.wrapper import BackendWrapper

__all__ = ["BackendContract", "BackendWrapper", "CountingBackend", "FakeClock", "FaultyBackend", "model_test_case"]

_HOMES = {
    "BackendContract": "contract",
    "BackendWrapper": "wrapper",
    "CountingBackend": "counting",
    "FakeClock": "clock",
    "FaultyBackend": "faults",
    "model_test_case": "model",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
