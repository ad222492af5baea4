"""How a refused value is named in an error (`error.details.received`, OJS HTTP §9.1).

For the validators only. It never quotes an object, an array or a long text: an answer must not grow with what was
sent, nor repeat more of it than a person needs to find the mistake.
"""

from __future__ import annotations

from typing import Final

import msgspec

SHOWN_CHARACTERS_MAX: Final = 64


def describe_received(value: object) -> str:
    """Name a decoded JSON value: a short scalar as JSON text, anything else by its JSON type.

    >>> describe_received(-1), describe_received("1s"), describe_received([1, 2])
    ('-1', '"1s"', 'array')
    """
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "array"
    text = msgspec.json.encode(value).decode()
    if len(text) <= SHOWN_CHARACTERS_MAX:
        return text
    return "string" if isinstance(value, str) else "number"
