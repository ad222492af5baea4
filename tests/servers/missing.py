"""What a test does without the program it needs."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Give up for want of a program: fail in CI, which has to bring it, and skip elsewhere."""
    if "CI" in os.environ:
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")
