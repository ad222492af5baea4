"""The pytest plugin of the kit: readable assertion failures in the contract, and the fixture `clock`.

pytest loads it at its start wherever `ojs-core` is installed, so it imports nothing of the kit until a test asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ojs_core.testing.clock import FakeClock

pytest.register_assert_rewrite("ojs_core.testing.contract")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until the test moves it."""
    from ojs_core.testing.clock import FakeClock  # noqa: PLC0415 - see the top of the module

    return FakeClock()
