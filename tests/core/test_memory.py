"""What only the reference backend promises; the contract is in tests/contract/test_memory.py."""

from __future__ import annotations

from ojs_core.backend import Backend
from ojs_core.memory import MemoryBackend, ojs_make_backend


async def test_it_says_that_it_forgets() -> None:
    backend = ojs_make_backend({"OJS_ANYTHING": "x"})
    assert isinstance(backend, MemoryBackend)
    assert (backend.capabilities.name, backend.capabilities.durable, backend.capabilities.shared) == (
        "memory",
        False,
        False,
    )
    [warning] = await backend.warnings()
    assert "memory only" in warning


async def test_a_backend_that_says_nothing_warns_of_nothing() -> None:
    assert await Backend.warnings(MemoryBackend()) == []
