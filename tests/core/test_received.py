"""How a refused value is named in an error (OJS HTTP §9.1)."""

from __future__ import annotations

import pytest

from ojs_core.received import describe_received


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-1, "-1"),
        (2.5, "2.5"),
        ("1s", '"1s"'),
        ("é", '"é"'),
        ({}, "object"),
        ({"secret": 1}, "object"),
        ([], "array"),
        (["secret"], "array"),
        ("x" * 62, '"' + "x" * 62 + '"'),
        ("x" * 63, "string"),
        (10**64, "number"),
    ],
)
def test_shows_short_scalars_and_names_the_type_of_the_rest(value: object, text: str) -> None:
    assert describe_received(value) == text
