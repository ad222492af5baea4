"""JSON values: reading them strictly, comparing them strictly, showing them shortly.

A JSON value is an ordinary Python object: `dict`, `list`, `str`, `int`, `float`, `bool` or `None`.
"""

from __future__ import annotations

import json
from typing import NoReturn, TypeGuard

SHOWN_CHARS_MAX = 400


def parse_json(text: str | bytes) -> object:
    """Parse one JSON document; `NaN` and `Infinity`, which JSON does not have, are refused. Raises `ValueError`."""
    return json.loads(text, parse_constant=_refuse_constant)


def parse_json_without_duplicates(text: str | bytes) -> object:
    """Like `parse_json`, but an object that names one key twice is refused too.

    For case files: the second of two equal keys would silently replace a check.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)


def same(left: object, right: object) -> bool:
    """Return whether two JSON values are equal: 1 equals 1.0, but `true` is not 1 and a missing key is not `null`."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a JSON value is a number; `true` and `false` are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer of 0 or more, written without a fraction."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def json_type(value: object) -> str:
    """Return the JSON name of a value's type: string, number, boolean, null, array or object."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names[type(value)]


def show(value: object) -> str:
    """Return a value as JSON on one line that any UTF-8 stream can take, cut after `SHOWN_CHARS_MAX` characters."""
    # A lone surrogate is legal in JSON and not in UTF-8.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}... ({len(text)} characters)"


def first_difference(left: object, right: object, at: str = "$") -> str | None:
    """Return the path of the first place where two JSON values are not the `same`, or None if they are."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            if key not in left or key not in right:
                return f"{at}.{key}"
            if found := first_difference(left[key], right[key], f"{at}.{key}"):
                return found
        return None
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            if found := first_difference(a, b, f"{at}[{index}]"):
                return found
        return None
    return None if same(left, right) else at


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return result
