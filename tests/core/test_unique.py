"""Unique policies and fingerprints (C-UNQ; ojs-unique-jobs)."""

from __future__ import annotations

import unicodedata
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.duration import DURATION_MS_MAX
from ojs_core.errors import InvalidRequestError
from ojs_core.unique import Dimension, UniquePolicy, canonical_json, fingerprint, parse_unique_policy

DEFAULT_STATES = frozenset({"available", "active", "scheduled", "retryable", "pending"})

texts = st.text(st.characters(codec="utf-8"), max_size=8)
integers = st.one_of(st.integers(-(10**4), 10**4), st.integers(-(2**70), 2**70), st.integers(-(10**25), 10**25))
floats = st.floats(allow_nan=False, allow_infinity=False)
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, floats, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=10,
)


def canonical(value: object) -> str:
    return canonical_json(msgspec.json.encode(value)).decode()


def fp(policy: UniquePolicy, **job: Any) -> str:
    facts: dict[str, Any] = {"job_type": "email.send", "queue": "email", "args": b"[1]", "meta": b"{}"}
    return fingerprint(policy, **(facts | job))


# --- reading a policy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [{}, dict.fromkeys(("keys", "args_keys", "period", "states", "on_conflict", "key"))])
def test_an_empty_policy_is_the_default(raw: dict[str, Any]) -> None:
    # C-UNQ-01, C-ENV-25
    assert parse_unique_policy(raw) == UniquePolicy(
        keys=("type",), args_keys=(), meta_keys=(), period_ms=None, states=DEFAULT_STATES, on_conflict="reject"
    )


def test_reads_every_key() -> None:
    # C-UNQ-01
    raw = {
        "keys": ["meta", "args", "queue"],
        "args_keys": ["user_id"],
        "meta_keys": ["tenant"],
        "period": "PT1H",
        "states": ["completed", "available", "completed"],
        "on_conflict": "replace_except_schedule",
    }
    assert parse_unique_policy(raw) == UniquePolicy(
        ("type", "queue", "args", "meta"),
        ("user_id",),
        ("tenant",),
        3_600_000,
        frozenset({"completed", "available"}),
        "replace_except_schedule",
    )


@pytest.mark.parametrize("keys", [[], ["type"], ["type", "type"]])
def test_type_is_always_one_of_the_keys_and_only_once(keys: list[str]) -> None:
    # C-UNQ-02
    assert parse_unique_policy({"keys": keys}).keys == ("type",)


def test_unknown_keys_are_ignored() -> None:
    # C-ENV-24
    assert parse_unique_policy({"x_scope": "global"}) == UniquePolicy()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("reject", "reject"),
        ("ignore", "ignore"),
        ("replace", "replace"),
        ("replace_except_schedule", "replace_except_schedule"),
        ("use_existing", "ignore"),
        ("drop", "ignore"),
    ],
)
def test_reads_every_conflict_strategy(text: str, meaning: str) -> None:
    # C-UNQ-01, Q-27
    assert parse_unique_policy({"on_conflict": text}).on_conflict == meaning


@pytest.mark.parametrize(
    ("key", "keys", "args_keys"),
    [
        (["user_id"], ("type", "args"), ("user_id",)),
        (["user_id", "type"], ("type", "args"), ("user_id", "type")),
        ([], ("type", "args"), ()),
        # The official Python client lists dimensions here.
        (["type", "queue", "args"], ("type", "queue", "args"), ()),
        (["queue"], ("type", "queue"), ()),
    ],
)
def test_reads_the_alias_key(key: list[str], keys: tuple[str, ...], args_keys: tuple[str, ...]) -> None:
    # C-UNQ-13
    policy = parse_unique_policy({"key": key})
    assert (policy.keys, policy.args_keys) == (keys, args_keys)


def test_keys_wins_over_its_alias() -> None:
    policy = parse_unique_policy({"keys": ["queue"], "key": ["user_id"]})
    assert (policy.keys, policy.args_keys) == (("type", "queue"), ())


@pytest.mark.parametrize("value", [1, 3_600_000, DURATION_MS_MAX])
def test_reads_a_period_in_milliseconds(value: int) -> None:
    # C-UNQ-13
    assert parse_unique_policy({"period_ms": value}).period_ms == value


def test_a_period_wins_over_its_millisecond_alias() -> None:
    assert parse_unique_policy({"period": "PT2S", "period_ms": 1}).period_ms == 2_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys", ["argz"]),
        ("keys", ["Type"]),
        ("keys", "type"),
        ("keys", [["type"]]),
        ("keys", {"type": True}),
        ("key", "user_id"),
        ("key", [1]),
        ("args_keys", "user_id"),
        ("args_keys", [None]),
        ("meta_keys", 5),
        ("meta_keys", [{}]),
        ("period", "1h"),
        ("period", "PT0S"),
        ("period", 3_600),
        ("period", "P101Y"),
        ("period_ms", 0),
        ("period_ms", -1),
        ("period_ms", True),
        ("period_ms", 1.5),
        ("period_ms", "PT1S"),
        ("period_ms", DURATION_MS_MAX + 1),
        ("states", []),
        ("states", ["running"]),
        ("states", ["available", "ACTIVE"]),
        ("states", "available"),
        ("on_conflict", "overwrite"),
        ("on_conflict", "Reject"),
        ("on_conflict", ["reject"]),
    ],
)
def test_a_violation_names_its_field(field: str, value: object) -> None:
    # C-UNQ-03
    with pytest.raises(InvalidRequestError) as caught:
        parse_unique_policy({field: value})
    assert f"unique.{field}" in caught.value.message
    assert caught.value.details["field"] == f"unique.{field}"
    assert caught.value.details["expected"]
    assert caught.value.details["received"]
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("raw", [{"keys": ["meta"]}, {"keys": ["meta"], "meta_keys": []}, {"key": ["type", "meta"]}])
def test_meta_needs_meta_keys(raw: dict[str, Any]) -> None:
    # C-UNQ-03
    with pytest.raises(InvalidRequestError, match=r"unique\.meta_keys must be a non-empty array"):
        parse_unique_policy(raw)


@pytest.mark.parametrize("raw", [None, [], "type", 1, True])
def test_a_policy_is_an_object(raw: object) -> None:
    with pytest.raises(InvalidRequestError, match="unique must be an object") as caught:
        parse_unique_policy(raw)
    assert caught.value.details["field"] == "unique"


# --- the canonical form -----------------------------------------------------------------------------------------------


def test_the_example_of_rfc_8785() -> None:
    # RFC 8785 §3.2.2 to §3.2.4
    raw = rb"""{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"""
    assert canonical_json(raw).decode() == (
        '{"literals":[null,true,false],'
        '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_sorted_by_utf16_code_units() -> None:
    # RFC 8785 §3.2.3; by code points U+1F600 would come after U+FB33. (U+FB33 is 05D3 05BC in NFC.)
    raw = '{"\u20ac":1,"\\r":2,"\ufb33":3,"1":4,"\U0001f600":5,"\x80":6,"\u00f6":7,"\uff21":8}'.encode()
    assert list(msgspec.json.decode(canonical_json(raw)).values()) == [2, 4, 6, 7, 3, 1, 5, 8]


def test_keys_are_sorted_at_every_level() -> None:
    # C-UNQ-05
    assert canonical_json(b'{"b":[{"z":1,"a":{"d":1,"c":2}}],"a":{}}') == b'{"a":{},"b":[{"a":{"c":2,"d":1},"z":1}]}'


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        # RFC 8785 appendix B, and the borders of ECMAScript's notations.
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("5e-324", "5e-324"),
        ("-5e-324", "-5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("-1.7976931348623157e308", "-1.7976931348623157e+308"),
        ("9007199254740992", "9007199254740992"),
        ("-9007199254740992", "-9007199254740992"),
        ("9.999999999999997e22", "9.999999999999997e+22"),
        ("1e23", "1e+23"),
        ("1.0000000000000001e23", "1.0000000000000001e+23"),
        ("999999999999999700000", "999999999999999700000"),
        ("1e21", "1e+21"),
        ("1e20", "100000000000000000000"),
        ("9.999999999999997e-7", "9.999999999999997e-7"),
        ("0.000001", "0.000001"),
        ("-0.000001", "-0.000001"),
        ("1.5e-6", "0.0000015"),
        ("1.25e-5", "0.0000125"),
        ("0.0001", "0.0001"),
        ("1e-7", "1e-7"),
        ("1.5E-10", "1.5e-10"),
        ("333333333.3333332", "333333333.3333332"),
        ("123456789012345.6", "123456789012345.6"),
        ("4.5", "4.5"),
        ("1.0", "1"),
        ("1e2", "100"),
        ("-1.0", "-1"),
        # Whole numbers keep every digit (ours).
        ("9007199254740993", "9007199254740993"),
        ("9223372036854775808", "9223372036854775808"),
        ("9223372036854775808.0", "9223372036854775808"),
        ("1000000000000000000000", "1e+21"),
        ("-1000000000000000000000", "-1e+21"),
        ("1000000000000000000001", "1000000000000000000001"),
        ("1" + "0" * 400, "1" + "0" * 400),
    ],
)
def test_writes_numbers(raw: str, text: str) -> None:
    assert canonical_json(raw.encode()).decode() == text


@given(st.one_of(integers, floats), st.one_of(integers, floats))
def test_numbers_coincide_exactly_when_they_are_equal(left: float, right: float) -> None:
    assert (canonical(left) == canonical(right)) is (left == right)


@given(integers)
def test_a_whole_number_coincides_with_its_double_only_if_that_is_equal(value: int) -> None:
    assert (canonical(value) == canonical(float(value))) is (value == float(value))


@given(integers)
def test_neighbouring_integers_never_coincide(value: int) -> None:
    # C-JSON-05
    assert canonical(value) != canonical(value + 1)


@given(floats)
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(canonical(value)) == value


def test_strings_are_normalised_to_nfc() -> None:
    # C-UNQ-05
    composed, decomposed = "\u00e9", "e\u0301"
    assert canonical([decomposed]) == canonical([composed]) == f'["{composed}"]'
    assert canonical({decomposed: 1}) == canonical({composed: 1}) == f'{{"{composed}":1}}'
    assert canonical("\ufb01") != canonical("fi"), "NFC keeps compatibility characters apart"


@given(texts)
def test_every_unicode_form_of_a_string_coincides(text: str) -> None:
    assert canonical(unicodedata.normalize("NFD", text)) == canonical(text)


def test_keys_that_normalise_alike_are_all_kept() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    both = canonical({composed: 1, decomposed: 2})
    assert both == canonical({decomposed: 2, composed: 1})
    assert len({both, canonical({composed: 2, decomposed: 1}), canonical({composed: 1}), canonical({composed: 2})}) == 4


def test_of_a_repeated_key_the_last_value_counts() -> None:
    # C-JSON-07
    assert canonical_json(b'{"a":1,"a":2}') == b'{"a":2}'


def test_accepts_a_raw_value() -> None:
    assert canonical_json(msgspec.Raw(b'[ 1, {"a" : null} ]')) == b'[1,{"a":null}]'


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1,]", b"NaN", b"Infinity", b"1e400", b'"\xff"', b'"\\ud800 ."', b"[" * 5_000 + b"]" * 5_000]
)
def test_refuses_what_it_cannot_compare(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_json(raw)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [reordered(element) for element in value]
    return value


@given(documents)
def test_neither_key_order_nor_white_space_matters(document: Any) -> None:
    # C-JSON-09, C-JSON-10
    shuffled = msgspec.json.encode(reordered(document))
    assert canonical_json(msgspec.json.format(shuffled, indent=3)).decode() == canonical(document)


@given(documents)
def test_the_canonical_form_is_its_own(document: Any) -> None:
    once = canonical_json(msgspec.json.encode(document))
    assert canonical_json(once) == once


# --- the fingerprint --------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_sha256_of_the_selected_dimensions() -> None:
    # The example of ojs-unique-jobs §4.3, with array arguments.
    policy = parse_unique_policy({"keys": ["type", "queue", "args"], "args_keys": ["user_id"]})
    made = fingerprint(
        policy,
        job_type="email.send",
        queue="notifications",
        args=b'[{"user_id": 42, "template": "welcome", "locale": "en-US"}]',
        meta=b'{"tenant_id": "acme"}',
    )
    assert made == sha256(b'{"args":{"user_id":42},"queue":"notifications","type":"email.send"}').hexdigest()


def test_only_the_selected_dimensions_count() -> None:
    # C-UNQ-02, C-UNQ-05; L4-UNIQ-006
    by_type = UniquePolicy()
    assert fp(by_type) == fp(by_type, queue="other", args=b"[2]", meta=b'{"a":1}') == fp(by_type, args=b"not read")
    assert fp(by_type) != fp(by_type, job_type="sms.send")
    by_queue = UniquePolicy(keys=("type", "queue"))
    assert fp(by_queue) == fp(by_queue, args=b"[2]")
    assert fp(by_queue) != fp(by_queue, queue="other")
    by_args = UniquePolicy(keys=("type", "args"))
    assert fp(by_args) == fp(by_args, queue="other", meta=b'{"a":1}')
    assert fp(by_args) != fp(by_args, args=b"[2]")
    by_meta = UniquePolicy(keys=("type", "meta"), meta_keys=("tenant",))
    assert fp(by_meta, meta=b'{"tenant":1}') == fp(by_meta, args=b"[2]", meta=b'{"tenant":1.0,"trace":"x"}')
    assert fp(by_meta, meta=b'{"tenant":1}') != fp(by_meta, meta=b'{"tenant":2}')


def test_the_dimensions_stay_apart() -> None:
    made = [
        fp(UniquePolicy(), job_type="a", queue="b"),
        fp(UniquePolicy(keys=("type", "queue")), job_type="a", queue="b"),
        fp(UniquePolicy(keys=("type", "queue")), job_type="b", queue="a"),
        fp(UniquePolicy(keys=("type", "args")), job_type="a", args=b'["b"]'),
        fp(UniquePolicy(keys=("type", "args"), args_keys=("k",)), job_type="a", args=b'[{"k":"b"}]'),
        fp(UniquePolicy(keys=("type", "meta"), meta_keys=("k",)), job_type="a", meta=b'{"k":"b"}'),
        fp(UniquePolicy(keys=("type", "meta"), meta_keys=("k",)), job_type="a", meta=b'{"k":null}'),
        fp(UniquePolicy(keys=("type", "meta"), meta_keys=("k",)), job_type="a", meta=b"{}"),
    ]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (b'[{"a":1,"b":2}]', b'[{"b":2,"a":1}]'),
        (b"[1]", b"[1.0]"),
        (b'["\xc3\xa9"]', b'["e\xcc\x81"]'),
        (b'["\\u00e9"]', b'["\xc3\xa9"]'),
        (b"[1,2]", b" [ 1 , 2 ] "),
    ],
)
def test_equal_arguments_coincide(left: bytes, right: bytes) -> None:
    # C-UNQ-05
    policy = UniquePolicy(keys=("type", "args"))
    assert fp(policy, args=left) == fp(policy, args=right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (b"[1]", b'["1"]'),
        (b"[true]", b"[1]"),
        (b"[null]", b"[]"),
        (b"[1,2]", b"[2,1]"),
        (b"[9007199254740993]", b"[9007199254740992]"),
        (b'["a"]', b'["A"]'),
    ],
)
def test_different_arguments_do_not(left: bytes, right: bytes) -> None:
    policy = UniquePolicy(keys=("type", "args"))
    assert fp(policy, args=left) != fp(policy, args=right)


def test_a_named_argument_is_looked_for_in_the_first_object_that_holds_it() -> None:
    # C-UNQ-04
    policy = UniquePolicy(keys=("type", "args"), args_keys=("user", "order"))
    expected = fp(policy, args=b'[{"user":1,"order":2}]')
    assert fp(policy, args=b'[0,"user",{"order":2},{"user":1,"order":3},{"user":9}]') == expected
    assert fp(policy, args=b'[{"user":1,"order":2,"trace":"x"}]') == expected
    assert fp(policy, args=b'[{"user":2,"order":1}]') != expected
    assert fp(policy, args=b'[{"user":null,"order":2},{"user":1}]') != expected, "null is a value"


@pytest.mark.parametrize("args", [b"[]", b"[1]", b'["user"]', b'[["user"]]', b'[{"User":1}]', b'[{"a":{"user":1}}]'])
@pytest.mark.parametrize("keys", [("type", "args"), ("type",)])
def test_a_named_argument_that_no_object_holds_is_refused(keys: tuple[Dimension, ...], args: bytes) -> None:
    # C-UNQ-03
    with pytest.raises(InvalidRequestError, match=r'unique\.args_keys names "user"') as caught:
        fp(UniquePolicy(keys=keys, args_keys=("user",)), args=args)
    assert caught.value.details["field"] == "unique.args_keys"


def test_named_arguments_count_only_when_args_does() -> None:
    policy = UniquePolicy(args_keys=("user",))
    assert fp(policy, args=b'[{"user":1}]') == fp(policy, args=b'[{"user":2}]') == fp(UniquePolicy())


@pytest.mark.parametrize("args", [b"[1e400]", b"[" * 5_000 + b"]" * 5_000, b"{}", b"[1", b'["\xff"]'])
def test_refuses_arguments_it_cannot_compare(args: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="unique: the job cannot be compared with others") as caught:
        fp(UniquePolicy(keys=("type", "args")), args=args)
    assert caught.value.details["field"] == "unique"


def test_refuses_meta_it_cannot_compare() -> None:
    with pytest.raises(InvalidRequestError, match="cannot be compared"):
        fp(UniquePolicy(keys=("type", "meta"), meta_keys=("a",)), meta=b'{"a":1e999}')
