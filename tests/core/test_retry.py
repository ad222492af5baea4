"""Retry policies and decisions (C-RTY; ojs-retry)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_core.duration import DURATION_MS_MAX, format_duration
from ojs_core.errors import InvalidRetryPolicyError
from ojs_core.retry import (
    DEFAULT_RETRY_POLICY,
    Discard,
    OnExhaustion,
    Retry,
    RetryPolicy,
    Strategy,
    decide_failure,
    delay_ms,
    matches_non_retryable,
    parse_retry_policy,
)

policies = st.builds(
    lambda initial_ms, extra_ms, **rest: RetryPolicy(initial_ms=initial_ms, max_ms=initial_ms + extra_ms, **rest),
    initial_ms=st.integers(1, DURATION_MS_MAX // 2),
    extra_ms=st.integers(0, DURATION_MS_MAX // 2),
    coefficient=st.floats(1.0, 1.7e308),
    jitter=st.booleans(),
    strategy=st.sampled_from(["exponential", "linear", "constant", "polynomial"]),
)
attempts = st.one_of(st.integers(1, 50), st.integers(1, 10**9), st.just(10**400))
randoms = st.floats(0.0, 1.0, exclude_max=True)


def steady(**changes: Any) -> RetryPolicy:
    return RetryPolicy(jitter=False, **changes)


def decide(policy: RetryPolicy = DEFAULT_RETRY_POLICY, **changes: Any) -> Retry | Discard:
    facts: dict[str, Any] = {
        "failures": 1,
        "error_type": "",
        "error_code": "handler_error",
        "error_class": None,
        "retryable": None,
        "rnd": 0.5,
    }
    return decide_failure(policy, **(facts | changes))


# --- reading a policy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [None, {}, dict.fromkeys(("max_attempts", "initial_interval", "jitter", "backoff_type"))]
)
def test_an_absent_policy_is_the_default(raw: object) -> None:
    # C-RTY-02, C-ENV-25
    assert parse_retry_policy(raw) == DEFAULT_RETRY_POLICY
    assert (
        RetryPolicy(
            max_attempts=3,
            initial_ms=1_000,
            coefficient=2.0,
            max_ms=300_000,
            jitter=True,
            non_retryable=(),
            on_exhaustion="discard",
            strategy="exponential",
        )
        == DEFAULT_RETRY_POLICY
    )


def test_reads_every_key() -> None:
    # C-RTY-01
    raw = {
        "max_attempts": 5,
        "initial_interval": "PT2S",
        "backoff_coefficient": 1.5,
        "max_interval": "PT30S",
        "jitter": False,
        "non_retryable_errors": ["FatalError", "Auth.*"],
        "on_exhaustion": "dead_letter",
        "backoff_strategy": "polynomial",
    }
    assert parse_retry_policy(raw) == RetryPolicy(
        max_attempts=5,
        initial_ms=2_000,
        coefficient=1.5,
        max_ms=30_000,
        jitter=False,
        non_retryable=("FatalError", "Auth.*"),
        on_exhaustion="dead_letter",
        strategy="polynomial",
    )


def test_a_partial_policy_keeps_the_other_defaults() -> None:
    # C-RTY-02: jitter stays on; ojs-retry §8.1
    assert parse_retry_policy({"max_attempts": 10, "on_exhaustion": "dead_letter"}) == RetryPolicy(
        max_attempts=10, on_exhaustion="dead_letter", jitter=True
    )


def test_unknown_keys_are_ignored() -> None:
    # C-ENV-24
    assert parse_retry_policy({"x_mine": [1], "max_retries": -1}) == DEFAULT_RETRY_POLICY


@pytest.mark.parametrize("key", ["backoff_strategy", "backoff_type"])
@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("exponential", "exponential"),
        ("linear", "linear"),
        ("constant", "constant"),
        ("none", "constant"),
        ("polynomial", "polynomial"),
    ],
)
def test_reads_a_strategy_under_both_names(key: str, text: str, strategy: Strategy) -> None:
    # C-RTY-01, L1-RTR-009
    assert parse_retry_policy({key: text}).strategy == strategy


def test_backoff_strategy_wins_over_its_alias() -> None:
    assert parse_retry_policy({"backoff_strategy": "linear", "backoff_type": "constant"}).strategy == "linear"
    assert parse_retry_policy({"backoff_strategy": None, "backoff_type": "constant"}).strategy == "constant"


def test_reads_intervals_in_milliseconds() -> None:
    # C-RTY-14
    policy = parse_retry_policy({"initial_interval_ms": 250, "max_interval_ms": 4_000})
    assert (policy.initial_ms, policy.max_ms) == (250, 4_000)


def test_a_duration_wins_over_its_millisecond_alias() -> None:
    policy = parse_retry_policy({"initial_interval": "PT2S", "initial_interval_ms": 250})
    assert policy.initial_ms == 2_000


@pytest.mark.parametrize("value", [0, 1, 25, 2**31, 2**53 - 1])
def test_max_attempts_may_be_any_safe_integer(value: int) -> None:
    assert parse_retry_policy({"max_attempts": value}).max_attempts == value


@pytest.mark.parametrize("value", [1, 1.0, 10, 1e308])
def test_a_coefficient_is_a_finite_number_from_one(value: float) -> None:
    assert parse_retry_policy({"backoff_coefficient": value}).coefficient == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", -1),  # L1-RTR-011
        ("max_attempts", 3.0),
        ("max_attempts", True),
        ("max_attempts", "3"),
        ("max_attempts", [3]),
        ("max_attempts", 2**53),
        ("initial_interval", "1s"),
        ("initial_interval", ""),
        ("initial_interval", 1_000),
        ("initial_interval", "PT0S"),
        ("initial_interval", "PT0.0001S"),
        ("initial_interval", "P101Y"),
        ("initial_interval_ms", 1.5),
        ("initial_interval_ms", True),
        ("initial_interval_ms", -1),
        ("initial_interval_ms", "PT1S"),
        ("initial_interval_ms", 10**15),
        ("backoff_coefficient", 0.5),  # L1-RTR-012
        ("backoff_coefficient", 0),
        ("backoff_coefficient", -2.0),
        ("backoff_coefficient", True),
        ("backoff_coefficient", "2.0"),
        ("backoff_coefficient", 10**400),
        ("backoff_coefficient", float("inf")),
        ("backoff_coefficient", float("nan")),
        ("max_interval", "5m"),
        ("max_interval", {}),
        ("max_interval_ms", -5),
        ("jitter", 1),
        ("jitter", "true"),
        ("non_retryable_errors", "FatalError"),
        ("non_retryable_errors", {"FatalError": True}),
        ("non_retryable_errors", [""]),
        ("non_retryable_errors", ["FatalError", 7]),
        ("on_exhaustion", "dead-letter"),
        ("on_exhaustion", "DISCARD"),
        ("on_exhaustion", ["discard"]),
        ("backoff_strategy", "fibonacci"),
        ("backoff_strategy", 2),
        ("backoff_type", "EXPONENTIAL"),
    ],
)
def test_a_violation_names_its_field(field: str, value: object) -> None:
    # C-RTY-13, C-ERR-04
    with pytest.raises(InvalidRetryPolicyError) as caught:
        parse_retry_policy({field: value})
    assert field in caught.value.message
    assert caught.value.details["field"] == f"retry.{field}"
    assert caught.value.details["expected"]
    assert caught.value.details["received"]
    assert (caught.value.status, caught.value.code) == (422, "validation_error")


def test_zero_milliseconds_is_not_an_initial_interval() -> None:
    with pytest.raises(InvalidRetryPolicyError, match=r"retry\.initial_interval must be at least one millisecond"):
        parse_retry_policy({"initial_interval_ms": 0})


@pytest.mark.parametrize("raw", [[], "PT1S", 3, True])
def test_a_policy_is_an_object(raw: object) -> None:
    with pytest.raises(InvalidRetryPolicyError, match="retry must be an object") as caught:
        parse_retry_policy(raw)
    assert caught.value.details["field"] == "retry"


@pytest.mark.parametrize(
    "raw",
    [
        {"initial_interval": "PT10M"},
        {"initial_interval": "PT10S", "max_interval": "PT5S"},
        {"max_interval": "PT0.5S"},
        {"max_interval": "PT0S"},
        {"max_interval_ms": 999},
    ],
)
def test_the_cap_of_the_completed_policy_is_not_below_its_first_wait(raw: dict[str, Any]) -> None:
    # C-RTY-13
    with pytest.raises(
        InvalidRetryPolicyError, match=r"retry\.max_interval .* retry\.initial_interval.*PT5M"
    ) as caught:
        parse_retry_policy(raw)
    assert caught.value.details["field"] == "retry.max_interval"


def test_the_cap_may_equal_the_first_wait() -> None:
    assert parse_retry_policy({"initial_interval": "PT5M"}).initial_ms == 300_000


@given(policies)
def test_a_policy_survives_the_wire(policy: RetryPolicy) -> None:
    raw = {
        "initial_interval": format_duration(policy.initial_ms),
        "backoff_coefficient": policy.coefficient,
        "max_interval": format_duration(policy.max_ms),
        "jitter": policy.jitter,
        "backoff_strategy": policy.strategy,
    }
    assert parse_retry_policy(raw) == policy


# --- how long to wait -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "waits_ms"),
    [
        # The tables of ojs-retry §3.
        (steady(), [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000]),
        (steady(initial_ms=5_000, strategy="linear"), [5_000, 10_000, 15_000, 20_000]),
        (steady(initial_ms=5_000, strategy="constant"), [5_000] * 4),
        (steady(coefficient=4.0, strategy="polynomial"), [1_000, 16_000, 81_000, 256_000, 300_000]),
        (steady(coefficient=10.0, max_ms=2_000), [1_000, 2_000, 2_000]),  # L1-RTR-008
        (steady(coefficient=1.0), [1_000] * 4),  # L1-RTR-010
        (steady(initial_ms=1, coefficient=1.5), [1, 2, 2, 3]),
    ],
)
def test_a_wait_grows_as_its_strategy_says(policy: RetryPolicy, waits_ms: list[int]) -> None:
    assert [delay_ms(policy, attempt, 0.999) for attempt in range(1, len(waits_ms) + 1)] == waits_ms


@pytest.mark.parametrize(("rnd", "wait_ms"), [(0.0, 1_000), (0.25, 1_500), (0.5, 2_000), (0.999, 2_998)])
def test_jitter_spreads_a_wait_from_half_to_one_and_a_half(rnd: float, wait_ms: int) -> None:
    # C-RTY-05, L1-RTR-003
    assert delay_ms(RetryPolicy(initial_ms=2_000), 1, rnd) == wait_ms


def test_the_cap_holds_after_the_jitter() -> None:
    # ojs-retry §5.3: attempt 7 of PT10S lies in 150 s to 300 s
    policy = RetryPolicy(initial_ms=10_000)
    assert [delay_ms(policy, 7, rnd) for rnd in (0.0, 0.4, 0.5, 0.9)] == [150_000, 270_000, 300_000, 300_000]


@pytest.mark.parametrize("strategy", ["exponential", "linear", "polynomial"])
@pytest.mark.parametrize("coefficient", [1.5, 2.0, 1e308])
@pytest.mark.parametrize("attempt", [10**9, 10**400])
def test_nothing_overflows(strategy: Strategy, coefficient: float, attempt: int) -> None:
    assert delay_ms(steady(coefficient=coefficient, strategy=strategy), attempt, 0.0) == 300_000


@given(policies, attempts, randoms)
def test_a_wait_is_a_whole_number_between_half_the_first_one_and_the_cap(
    policy: RetryPolicy, attempt: int, rnd: float
) -> None:
    wait_ms = delay_ms(policy, attempt, rnd)
    assert type(wait_ms) is int
    assert policy.initial_ms // 2 <= wait_ms <= policy.max_ms


@given(policies, st.integers(1, 10**6), randoms)
def test_waits_never_shrink(policy: RetryPolicy, attempt: int, rnd: float) -> None:
    assert delay_ms(policy, attempt, rnd) <= delay_ms(policy, attempt + 1, rnd)


# --- which errors are not retried -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        # The table of ojs-retry §6.2.
        ("validation.payload_invalid", True),
        ("validation.schema_error", False),
        ("auth.token_expired", True),
        ("auth.forbidden", True),
        ("auth", False),
        ("external.auth.failure", False),
        # Case counts, and nothing is a regular expression (C-RTY-08).
        ("Auth.token_expired", False),
        ("authXtoken", False),
        ("validationXpayload_invalid", False),
        ("auth.*", True),
        ("", False),
    ],
)
def test_errors_match_exactly_or_by_prefix(candidate: str, *, expected: bool) -> None:
    assert matches_non_retryable(("validation.payload_invalid", "auth.*"), (candidate,)) is expected


@pytest.mark.parametrize("pattern", ["*", "auth*", "auth.", "a[u]th.x", "(", ".*"])
def test_only_a_dot_and_a_star_at_the_end_make_a_prefix(pattern: str) -> None:
    assert not matches_non_retryable((pattern,), ("auth.x",))


def test_any_candidate_may_match_any_pattern() -> None:
    assert matches_non_retryable(("a", "b.*"), ("x", "b.c"))
    assert not matches_non_retryable((), ("x",))
    assert not matches_non_retryable(("a",), ())


# --- what a failure leads to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_attempts", "executions"), [(0, 1), (1, 1), (2, 2), (3, 3), (25, 25)])
def test_max_attempts_counts_executions(max_attempts: int, executions: int) -> None:
    # C-RTY-03, C-RTY-04; L0-LC-006, L1-RTR-002, L1-RTR-006
    policy = RetryPolicy(max_attempts=max_attempts)
    outcomes = [decide(policy, failures=failures) for failures in range(1, executions + 2)]
    assert all(isinstance(outcome, Retry) for outcome in outcomes[: executions - 1])
    assert outcomes[executions - 1 :] == [Discard(dead_letter=False, reason="exhausted")] * 2


def test_a_retry_waits_as_long_as_the_policy_says() -> None:
    assert decide(steady(), failures=2) == Retry(2_000)
    assert decide(failures=1, rnd=0.25) == Retry(750)


@pytest.mark.parametrize("retryable", [True, None])
def test_retryable_true_or_absent_leaves_it_to_the_policy(*, retryable: bool | None) -> None:
    # C-RTY-09
    assert isinstance(decide(retryable=retryable), Retry)
    listed = RetryPolicy(non_retryable=("Fatal",))
    assert decide(listed, error_type="Fatal", retryable=retryable) == Discard(dead_letter=False, reason="non_retryable")


def test_retryable_false_ends_the_job() -> None:
    # C-RTY-09, L3-GRP-004
    assert decide(retryable=False) == Discard(dead_letter=False, reason="non_retryable")


@pytest.mark.parametrize("where", ["error_type", "error_code", "error_class"])
@pytest.mark.parametrize(("pattern", "name"), [("FatalError", "FatalError"), ("Auth.*", "Auth.TokenExpired")])
def test_a_listed_error_ends_the_job(where: str, pattern: str, name: str) -> None:
    # C-RTY-08; L1-RTR-004, L1-RTR-005
    policy = RetryPolicy(max_attempts=5, non_retryable=(pattern,))
    assert decide(policy, **{where: name}) == Discard(dead_letter=False, reason="non_retryable")
    assert isinstance(decide(policy, **{where: name.lower()}), Retry)


@pytest.mark.parametrize(
    "changes", [{"failures": 3}, {"retryable": False}, {"error_type": "Fatal"}, {"error_type": "Fatal", "failures": 3}]
)
def test_every_end_of_the_policy_goes_where_on_exhaustion_says(changes: dict[str, Any]) -> None:
    # C-RTY-11, C-DLQ-01
    discarded = decide(RetryPolicy(non_retryable=("Fatal",)), **changes)
    kept = decide(RetryPolicy(non_retryable=("Fatal",), on_exhaustion="dead_letter"), **changes)
    assert isinstance(discarded, Discard)
    assert isinstance(kept, Discard)
    assert (discarded.dead_letter, kept.dead_letter) == (False, True)
    assert discarded.reason == kept.reason


@pytest.mark.parametrize(("code", "dead_letter"), [("DISCARD", False), ("FAIL", False), ("DEAD_LETTER", True)])
@pytest.mark.parametrize("on_exhaustion", ["discard", "dead_letter"])
@pytest.mark.parametrize("changes", [{}, {"retryable": True}, {"retryable": False}, {"failures": 99}])
def test_a_handler_code_overrides_the_policy(
    code: str, on_exhaustion: OnExhaustion, changes: dict[str, Any], *, dead_letter: bool
) -> None:
    # C-RTY-10
    policy = RetryPolicy(on_exhaustion=on_exhaustion, non_retryable=(code,))
    assert decide(policy, error_code=code, **changes) == Discard(dead_letter, "handler")


@pytest.mark.parametrize("code", ["discard", "Fail", "DEADLETTER", " DISCARD", ""])
def test_a_handler_code_is_exact(code: str) -> None:
    assert isinstance(decide(error_code=code), Retry)


def test_the_code_retry_means_the_normal_policy() -> None:
    # C-RTY-10, ojs-retry §7.2(3)
    policy = RetryPolicy(non_retryable=("Fatal",))
    assert isinstance(decide(policy, error_code="RETRY"), Retry)
    assert isinstance(decide(policy, error_code="RETRY", retryable=False), Retry)
    assert decide(policy, error_code="RETRY", error_type="Fatal") == Discard(dead_letter=False, reason="non_retryable")
    assert decide(policy, error_code="RETRY", failures=3) == Discard(dead_letter=False, reason="exhausted")
