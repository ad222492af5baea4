"""The examples in docstrings are right."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

SOURCES = sorted(Path(__file__).parent.parent.glob("packages/*/src"))
MODULES = [
    ".".join(path.relative_to(source).with_suffix("").parts)
    for source in SOURCES
    for path in sorted(source.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
