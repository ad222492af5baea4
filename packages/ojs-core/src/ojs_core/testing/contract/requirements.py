"""What the author of a backend provides, and which tests the backend's capabilities select."""

from __future__ import annotations

import pytest

from ojs_core.backend import Backend


@pytest.mark.asyncio
class BackendFixtures:
    """The root of the contract's classes.

    Provide a fixture `backend`: a fresh, empty, opened backend, closed afterwards. Where `capabilities.shared` is set,
    provide `second` too: another one, opened on the same store as another server would. `unopened`, one that was never
    opened, is optional.
    """

    @pytest.fixture
    def second(self, backend: Backend) -> Backend:
        """Override where several servers may use one store."""
        if not backend.capabilities.shared:
            pytest.skip("the store serves one process")
        # Whoever gets here has the fixture to write.
        pytest.fail("capabilities.shared is set: provide the fixture `second`")  # pragma: no cover

    @pytest.fixture
    def unopened(self) -> Backend:
        """Override to have `close` tested without `open`."""
        pytest.skip("no fixture `unopened`")  # pragma: no cover
