"""The model test itself: a backend agrees with itself, and one that is wrong is found out."""

from __future__ import annotations

from ojs_core.memory import MemoryBackend
from ojs_core.testing.model import model_test_case

TestMemory = model_test_case(MemoryBackend)
