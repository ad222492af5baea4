"""Concurrency: of many callers of one server exactly one wins (C-LC-03, C-UNQ-12)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from ojs_core.backend import Backend
from ojs_core.testing.contract.races import RACES
from ojs_core.testing.contract.requirements import BackendFixtures


class ConcurrencyContract(BackendFixtures):
    """The races of `races`, within one process."""

    @pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
    async def test_one_winner(self, backend: Backend, race: Callable[..., Awaitable[None]]) -> None:
        """See the race."""
        await race(backend)
