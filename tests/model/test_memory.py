"""The model test itself: a backend agrees with itself, and one that is wrong is found out."""

from __future__ import annotations

import unittest
from collections.abc import Sequence

from ojs_core.backend import Claimed, ClaimRequest
from ojs_core.memory import MemoryBackend
from ojs_core.testing.model import model_test_case

TestMemory = model_test_case(MemoryBackend, examples=15)


class Forgetful(MemoryBackend):
    """Hands out jobs, and now and then says nothing about it."""

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        answers = await super().claim(requests)
        return [Claimed() if len(answer.jobs) == 1 else answer for answer in answers]


def test_a_wrong_backend_is_found_out() -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(model_test_case(Forgetful)).run(result)
    assert len(result.errors + result.failures) == 1
