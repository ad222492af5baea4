"""Default options of a workflow: merged under the options of each element, as JSON text (C-WF-02, C-WF-05)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from ojs_core.envelope import EMPTY_OBJECT, merge_objects

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode

_ALIASES: Final = (
    frozenset({"retry", "retry_policy"}),
    frozenset({"scheduled_at", "delay_until"}),
    frozenset({"timeout", "timeout_ms"}),
    frozenset({"visibility_timeout", "visibility_timeout_ms"}),
)
_NAMES: Final[Mapping[str, frozenset[str]]] = {name: group for group in _ALIASES for name in group}


def decode_members(text: Raw) -> dict[str, Raw]:
    """Return the JSON text of each member of an object."""
    return _decode(text)


def same_option(name: str) -> frozenset[str]:
    """Return every spelling of an option."""
    return _NAMES.get(name) or frozenset({name})


def with_defaults(
    element: Mapping[str, Any], text: Raw, defaults: Mapping[str, Raw], without: Collection[str] = ()
) -> Raw:
    """Return an element's JSON text with the default options merged into its `options`.

    Args:
        element: the element, decoded.
        text: its JSON text.
        defaults: JSON texts by option name.
        without: members to leave out.

    What the element sets itself wins, under any spelling, in `options` or beside it, even as `null`; options are taken
    or left as a whole, so that half a retry policy is never mixed with half of another. Values keep their text.
    """
    options = element.get("options")
    own = options if isinstance(options, dict) else {}
    merged = {
        name: value
        for name, value in defaults.items()
        if not any(spelling in own or spelling in element for spelling in same_option(name))
    }
    unwanted = [name for name in without if name in element]
    # Options of a wrong type are left for the validation to name.
    if not unwanted and (not merged or (options is not None and not isinstance(options, dict))):
        return text
    members = decode_members(text)
    for name in unwanted:
        del members[name]
    if merged and (options is None or isinstance(options, dict)):
        members["options"] = merge_objects(
            Raw(_encode(merged)), EMPTY_OBJECT if options is None else members["options"]
        )
    return Raw(_encode(members))
