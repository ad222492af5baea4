"""Unique jobs: how a policy is read, and what makes two jobs "the same" (C-UNQ; ojs-unique-jobs).

Pure: whether a job with the same fingerprint exists, and what to do then, is decided where the store is. A fingerprint
stands for the contents of a job, so it must not be logged above DEBUG (C-UNQ-14).

The canonical form is RFC 8785 with two refinements. Strings, keys included, are normalised to NFC (C-UNQ-05). Numbers
coincide exactly when they are equal: RFC 8785 rounds to doubles, which would take 9007199254740993 for 9007199254740992
and so refuse a job that is no duplicate; here integers keep all their digits. Below 2^53 there is no difference.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal, NoReturn, TypeAlias

import msgspec

from ojs_core.duration import DURATION_MS_MAX, parse_duration
from ojs_core.errors import InvalidRequestError
from ojs_core.received import describe_received

Dimension: TypeAlias = Literal["type", "queue", "args", "meta"]
OnConflict: TypeAlias = Literal["reject", "ignore", "replace", "replace_except_schedule"]

_DIMENSIONS: Final[tuple[Dimension, ...]] = ("type", "queue", "args", "meta")
_STATES: Final = ("scheduled", "available", "pending", "active", "completed", "retryable", "cancelled", "discarded")
_DEFAULT_STATES: Final = frozenset({"available", "active", "scheduled", "retryable", "pending"})
_ON_CONFLICT: Final[Mapping[str, OnConflict]] = {
    "reject": "reject",
    "ignore": "ignore",
    "replace": "replace",
    "replace_except_schedule": "replace_except_schedule",
    "use_existing": "ignore",
    "drop": "ignore",
}

# RFC 8785 follows ECMAScript, which writes an exponent from here on, and below 10^-6.
_EXPONENT_FROM: Final = 10**21
_PLAIN_POWER_MIN: Final = -6

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_meta = msgspec.json.Decoder(dict[str, Any]).decode
_encode_string = msgspec.json.Encoder().encode


class UniquePolicy(msgspec.Struct, frozen=True):
    """A complete, valid policy; the defaults are those of ojs-unique-jobs §2.1 (C-UNQ-01).

    Attributes:
        keys: the dimensions that count, without repeats, in the order type, queue, args, meta; always holds `type`.
        args_keys: keys that stand for `args`; empty means all of `args`.
        meta_keys: keys that stand for `meta`; not empty when `meta` is in `keys`.
        period_ms: how long after its creation a job can be found, in ms; None means without limit.
        states: the states in which a job can be found.
        on_conflict: what to do when one is found.
    """

    keys: tuple[Dimension, ...] = ("type",)
    args_keys: tuple[str, ...] = ()
    meta_keys: tuple[str, ...] = ()
    period_ms: int | None = None
    states: frozenset[str] = _DEFAULT_STATES
    on_conflict: OnConflict = "reject"


def parse_unique_policy(raw: object) -> UniquePolicy:
    """Read a policy from a decoded JSON object; a job without a policy has none to read, so `null` is refused.

    A key that is `null` is absent (C-ENV-25); unknown keys are ignored (C-ENV-24). Aliases, each used only when the
    first name is absent: `period_ms` for `period`, `key` for `keys` and `args_keys` (C-UNQ-13); `use_existing` and
    `drop` mean `ignore`.

    `key` has two readings in the official clients. The Go and JavaScript ones list fields of the arguments in it, the
    Python one lists dimensions. A list of nothing but dimension names is therefore taken as `keys`; any other one, the
    empty one included, means `keys: ["type", "args"]` with these `args_keys`.

    Raises `InvalidRequestError`, whose message and `details.field` name the key (`unique.keys`). Source: C-UNQ-01 to
    C-UNQ-03.
    """
    if not isinstance(raw, dict):
        _refuse("unique", "an object", raw)
    keys = _strings(raw, "keys", _DIMENSIONS)
    args_keys = _strings(raw, "args_keys")
    if keys is None:
        alias = _strings(raw, "key")
        if alias and all(name in _DIMENSIONS for name in alias):
            keys = alias
        elif alias is not None:
            keys, args_keys = ("type", "args"), alias
    named: Sequence[str] = keys or ()
    meta_keys = _strings(raw, "meta_keys") or ()
    if "meta" in named and not meta_keys:
        _refuse("unique.meta_keys", "a non-empty array when unique.keys holds meta", raw.get("meta_keys"))
    states = _strings(raw, "states", _STATES)
    if states == ():
        _refuse("unique.states", "an array of at least one state", [])
    return UniquePolicy(
        keys=tuple(name for name in _DIMENSIONS if name == "type" or name in named),
        args_keys=args_keys or (),
        meta_keys=meta_keys,
        period_ms=_period_ms(raw),
        states=_DEFAULT_STATES if states is None else frozenset(states),
        on_conflict=_on_conflict(raw),
    )


def _refuse(field: str, expected: str, value: object) -> NoReturn:
    received = describe_received(value)
    raise InvalidRequestError(
        f"{field} must be {expected}; received {received}", field=field, expected=expected, received=received
    )


def _strings(raw: Mapping[str, object], key: str, allowed: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """Read an optional array of strings; None when it is absent."""
    value = raw.get(key)
    if value is None:
        return None
    expected = "an array of " + ("strings" if allowed is None else ", ".join(allowed))
    if not isinstance(value, list):
        _refuse(f"unique.{key}", expected, value)
    for element in value:
        if not isinstance(element, str) or (allowed is not None and element not in allowed):
            _refuse(f"unique.{key}", expected, element)
    return tuple(value)


def _period_ms(raw: Mapping[str, object]) -> int | None:
    period = raw.get("period")
    if period is not None:
        expected = "an ISO 8601 duration above zero such as PT1H"
        if not isinstance(period, str):
            _refuse("unique.period", expected, period)
        try:
            period_ms = parse_duration(period)
        except ValueError as error:
            raise InvalidRequestError(
                f"unique.period: {error}", field="unique.period", expected=expected, received=describe_received(period)
            ) from error
        if period_ms == 0:
            _refuse("unique.period", expected, period)
        return period_ms
    value = raw.get("period_ms")
    if value is None:
        return None
    # True is an int to Python, and not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= DURATION_MS_MAX:
        _refuse("unique.period_ms", "an integer number of milliseconds from 1 to 100 years", value)
    return value


def _on_conflict(raw: Mapping[str, object]) -> OnConflict:
    value = raw.get("on_conflict")
    if value is None:
        return "reject"
    if not isinstance(value, str) or value not in _ON_CONFLICT:
        _refuse("unique.on_conflict", "one of reject, replace, replace_except_schedule, ignore", value)
    return _ON_CONFLICT[value]


def fingerprint(policy: UniquePolicy, *, job_type: str, queue: str, args: bytes, meta: bytes) -> str:
    """Compute the SHA-256, in lower-case hex, of what the policy says makes a job unique (C-UNQ-05).

    `args` is the JSON array and `meta` the JSON object of the job, as text. Two jobs have the same fingerprint exactly
    when the selected dimensions hold equal values; each dimension stays under its own name. A name in `args_keys`
    stands for the value it has in the first element of `args` that is an object holding it (C-UNQ-04). A name in
    `meta_keys` that the job lacks counts as absent, which differs from `null`.

    Raises `InvalidRequestError` when no element of `args` holds a name in `args_keys`, whether or not `args` is in
    `keys` (C-UNQ-03; ojs-unique-jobs §2.2), and when a selected part cannot be read: a number beyond the range of a
    double, or hundreds of levels of nesting.
    """
    selected: dict[str, object] = {"type": job_type}
    try:
        if policy.args_keys:
            elements = _decode_args(args)
            chosen = {key: _find_argument(elements, key) for key in policy.args_keys}
            if "args" in policy.keys:
                selected["args"] = chosen
        elif "args" in policy.keys:
            selected["args"] = _decode_args(args)
        if "queue" in policy.keys:
            selected["queue"] = queue
        if "meta" in policy.keys:
            attributes = _decode_meta(meta)
            selected["meta"] = {key: attributes[key] for key in policy.meta_keys if key in attributes}
        return sha256(_canonical(selected)).hexdigest()
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"unique: the job cannot be compared with others: {error}", field="unique") from error


def _find_argument(elements: list[Any], key: str) -> object:
    for element in elements:
        if isinstance(element, dict) and key in element:
            return element[key]
    raise InvalidRequestError(
        f"unique.args_keys names {describe_received(key)}, which no object in args holds",
        field="unique.args_keys",
        expected="keys of an object in args",
        received=describe_received(key),
    )


def canonical_json(raw: bytes | msgspec.Raw) -> bytes:
    """Write a JSON text in its canonical form: equal values give equal bytes, different values different bytes.

    Keys are sorted by UTF-16 code units at every level, nothing is indented, numbers and strings follow RFC 8785 as
    refined at the top of this module. Of a repeated key the last value counts (C-JSON-07). Keys that differ only before
    normalisation are all kept.

    Raises `ValueError` for text that is not JSON, holds a number beyond the range of a double, or is nested too deeply.

    >>> canonical_json(b'{"b": 2.0, "a": [1E30, 0.000001]}')
    b'{"a":[1e+30,0.000001],"b":2}'
    """
    try:
        return _canonical(msgspec.json.decode(raw))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _canonical(value: object) -> bytes:
    chunks: list[bytes] = []
    _write(value, chunks)
    return b"".join(chunks)


def _write(value: Any, chunks: list[bytes]) -> None:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        chunks.append(_encode_string(_normalise(value)))
    elif value is None or isinstance(value, bool):
        chunks.append(b"null" if value is None else b"true" if value else b"false")
    elif isinstance(value, int):
        chunks.append(_format_integer(value).encode())
    elif isinstance(value, float):
        chunks.append(_format_float(value).encode())
    elif isinstance(value, list):
        opening = b"["
        for element in value:
            chunks.append(opening)
            _write(element, chunks)
            opening = b","
        chunks.append(b"]" if value else b"[]")
    else:
        opening = b"{"
        for key in sorted(value, key=_key_order):
            chunks.append(opening)
            chunks.append(_encode_string(_normalise(key)))
            chunks.append(b":")
            _write(value[key], chunks)
            opening = b","
        chunks.append(b"}" if value else b"{}")


def _normalise(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _key_order(key: str) -> tuple[bytes, bytes]:
    """Order by the normalised key; the key as sent only separates those that normalise alike."""
    sent = key.encode("utf-16-be")
    return (sent if key.isascii() else _normalise(key).encode("utf-16-be"), sent)


def _format_integer(value: int) -> str:
    if -_EXPONENT_FROM < value < _EXPONENT_FROM:
        return str(value)
    try:
        double = float(value)
    except OverflowError:
        return str(value)
    # Equal to a double, it takes the double's form so that 10^21 and 1e21 coincide. No other integer has that form.
    return _format_float(double) if double == value else str(value)


def _format_float(value: float) -> str:
    """Write a finite double as ECMAScript does, except that a whole number below 10^21 keeps all its digits."""
    if value.is_integer() and -_EXPONENT_FROM < value < _EXPONENT_FROM:
        return str(int(value))
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    power = int(exponent)
    if power < _PLAIN_POWER_MIN or power > 0:
        return f"{mantissa}e{power:+d}"
    sign = "-" if value < 0 else ""
    digits = mantissa.lstrip("-").replace(".", "")
    return f"{sign}0.{'0' * (-power - 1)}{digits}"
