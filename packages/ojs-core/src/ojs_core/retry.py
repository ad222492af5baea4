"""The retry policy: how it is read, how long a retry waits, and what a failure leads to (C-RTY; ojs-retry).

Pure verdicts: nothing here reads a clock or a random source, touches a job or knows a store. The same functions decide
for every backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NoReturn, TypeAlias, TypeVar

import msgspec

from ojs_core.duration import DURATION_MS_MAX, format_duration, parse_duration
from ojs_core.errors import InvalidRetryPolicyError
from ojs_core.received import describe_received

_Choice = TypeVar("_Choice")

OnExhaustion: TypeAlias = Literal["discard", "dead_letter"]
Strategy: TypeAlias = Literal["exponential", "linear", "constant", "polynomial"]
DiscardReason: TypeAlias = Literal["exhausted", "non_retryable", "handler"]

# Beyond this a JSON number is no longer exact for every reader (C-JSON-05), and a policy is echoed to its client.
MAX_ATTEMPTS_MAX: Final = 2**53 - 1

_ON_EXHAUSTION: Final[Mapping[str, OnExhaustion]] = {"discard": "discard", "dead_letter": "dead_letter"}
_STRATEGIES: Final[Mapping[str, Strategy]] = {
    "exponential": "exponential",
    "linear": "linear",
    "constant": "constant",
    "none": "constant",  # The name ojs-retry §3.1 uses.
    "polynomial": "polynomial",
}


class RetryPolicy(msgspec.Struct, frozen=True):
    """A complete, valid policy in numbers; the defaults are those of ojs-retry §8 (C-RTY-02).

    Attributes:
        max_attempts: executions in all; 0 means the same as 1 (C-RTY-03).
        initial_ms: wait before the first retry, in ms, at least 1.
        coefficient: factor (exponential) or exponent (polynomial), at least 1.0.
        max_ms: upper bound of every wait, in ms, jitter included; at least `initial_ms`.
        jitter: whether a wait is spread over 0.5 to 1.5 times its length.
        non_retryable: error names that end the job at once, exact or `prefix.*` (C-RTY-08).
        on_exhaustion: where a job ends whose attempts are used up, or whose error is not retryable.
        strategy: how the wait grows.
    """

    max_attempts: int = 3
    initial_ms: int = 1_000
    coefficient: float = 2.0
    max_ms: int = 300_000
    jitter: bool = True
    non_retryable: tuple[str, ...] = ()
    on_exhaustion: OnExhaustion = "discard"
    strategy: Strategy = "exponential"


DEFAULT_RETRY_POLICY: Final = RetryPolicy()


class Retry(msgspec.Struct, frozen=True):
    """Try again, `delay_ms` from now."""

    delay_ms: int


class Discard(msgspec.Struct, frozen=True):
    """Give up; keep the job as a dead letter or not."""

    dead_letter: bool
    reason: DiscardReason


# C-RTY-10. `RETRY` is not here: it asks for what the policy says anyway.
_HANDLER_VERDICTS: Final[Mapping[str, Discard]] = {
    "DISCARD": Discard(dead_letter=False, reason="handler"),
    "FAIL": Discard(dead_letter=False, reason="handler"),
    "DEAD_LETTER": Discard(dead_letter=True, reason="handler"),
}


def delay_ms(policy: RetryPolicy, failed_attempt: int, rnd: float) -> int:
    """Compute how long to wait, in whole ms, after execution number `failed_attempt` (from 1) has failed.

    `rnd` is uniform in [0, 1) and only used with jitter, as the factor 0.5 + `rnd`. The cap holds before and after the
    jitter, so the result lies in 0 to `policy.max_ms`; no coefficient and no attempt number overflows. A fraction of a
    millisecond is rounded half up. Source: C-RTY-05.

    >>> steady = RetryPolicy(initial_ms=1_000, coefficient=2.0, max_ms=300_000, jitter=False)
    >>> [delay_ms(steady, attempt, 0.0) for attempt in (1, 2, 3, 9, 10)]
    [1000, 2000, 4000, 256000, 300000]
    >>> delay_ms(RetryPolicy(initial_ms=5_000, strategy="linear", jitter=False), 3, 0.0)
    15000
    >>> delay_ms(RetryPolicy(initial_ms=5_000, strategy="constant", jitter=False), 3, 0.0)
    5000
    >>> delay_ms(RetryPolicy(coefficient=4.0, strategy="polynomial", jitter=False), 3, 0.0)
    81000

    Jitter spreads the wait around the computed one, and never past the cap:

    >>> [delay_ms(RetryPolicy(initial_ms=2_000), 1, rnd) for rnd in (0.0, 0.5, 0.75)]
    [1000, 2000, 2500]
    >>> delay_ms(RetryPolicy(initial_ms=2_000, max_ms=2_000), 1, 0.75)
    2000
    """
    wait_ms = min(_uncapped_ms(policy, failed_attempt), policy.max_ms)
    if policy.jitter:
        wait_ms = min(wait_ms * (0.5 + rnd), policy.max_ms)
    return int(wait_ms + 0.5)


def _uncapped_ms(policy: RetryPolicy, failed_attempt: int) -> float:
    if policy.strategy == "constant":
        return policy.initial_ms
    if policy.strategy == "linear":
        return policy.initial_ms * failed_attempt
    try:
        if policy.strategy == "polynomial":
            return policy.initial_ms * math.pow(failed_attempt, policy.coefficient)
        return policy.initial_ms * math.pow(policy.coefficient, failed_attempt - 1)
    except OverflowError:  # Past the range of a float, so far past any cap.
        return policy.max_ms


def matches_non_retryable(patterns: Sequence[str], candidates: Sequence[str]) -> bool:
    """Tell whether any candidate is listed: exactly, or by `prefix.*` when it starts with `prefix.`.

    Case counts, and a pattern is never a regular expression. Source: C-RTY-08.

    >>> matches_non_retryable(["auth.*"], ["auth.token_expired"]), matches_non_retryable(["auth.*"], ["auth"])
    (True, False)
    """
    for pattern in patterns:
        if pattern in candidates:
            return True
        if pattern.endswith(".*"):
            prefix = pattern[:-1]
            for candidate in candidates:
                if candidate.startswith(prefix):
                    return True
    return False


def decide_failure(
    policy: RetryPolicy,
    *,
    failures: int,
    error_type: str,
    error_code: str,
    error_class: str | None,
    retryable: bool | None,
    rnd: float,
) -> Retry | Discard:
    """Decide what becomes of a job whose worker reported a failure.

    Args:
        policy: the job's policy.
        failures: number of the execution that just failed, from 1, requeues by the server not counted.
        error_type: `error.type`, or an empty text.
        error_code: `error.code`, or an empty text.
        error_class: `error.details.error_class`.
        retryable: `error.retryable` as sent, None when absent.
        rnd: uniform in [0, 1), for the jitter.

    In this order: the codes `DISCARD`, `FAIL` and `DEAD_LETTER` end the job whatever the policy says (C-RTY-10);
    `retryable: false` ends it (C-RTY-09); a listed error ends it (C-RTY-08); used-up attempts end it (C-RTY-03, -04);
    else it is retried. All but the handler codes end it where `on_exhaustion` says (C-RTY-11).

    The code `RETRY` overrides `retryable: false`, being the more explicit of two contradicting wishes, and nothing
    else: "normal policy" includes the list of non-retryable errors and the attempts (ojs-retry §7.2(3)).
    """
    verdict = _HANDLER_VERDICTS.get(error_code)
    if verdict is not None:
        return verdict
    dead_letter = policy.on_exhaustion == "dead_letter"
    if (retryable is False and error_code != "RETRY") or matches_non_retryable(
        policy.non_retryable, (error_type, error_code, error_class or "")
    ):
        return Discard(dead_letter, "non_retryable")
    if failures >= policy.max_attempts:
        return Discard(dead_letter, "exhausted")
    return Retry(delay_ms(policy, failures, rnd))


def parse_retry_policy(raw: object) -> RetryPolicy:
    """Read a policy from a decoded JSON value and complete it, key by key, from the defaults.

    `null`, for the whole or for a key, means absent (C-ENV-25); unknown keys are ignored (C-ENV-24). Aliases, each used
    only when the first name is absent: `initial_interval_ms` and `max_interval_ms` (C-RTY-14), `backoff_type` for
    `backoff_strategy` (C-RTY-01).

    Raises `InvalidRetryPolicyError`, whose message and `details.field` name the key, by the rules of C-RTY-13. They
    hold for the completed policy: an `initial_interval` above `PT5M` needs a `max_interval` as well.
    """
    if raw is None:
        return DEFAULT_RETRY_POLICY
    if not isinstance(raw, dict):
        _refuse("retry", "an object", raw)
    initial_ms = _interval_ms(raw, "initial_interval", DEFAULT_RETRY_POLICY.initial_ms)
    if initial_ms < 1:
        raise InvalidRetryPolicyError(
            "retry.initial_interval must be at least one millisecond (PT0.001S)",
            field="retry.initial_interval",
            expected="a duration above zero",
            received=format_duration(initial_ms),
        )
    max_ms = _interval_ms(raw, "max_interval", DEFAULT_RETRY_POLICY.max_ms)
    if max_ms < initial_ms:
        raise InvalidRetryPolicyError(
            f"retry.max_interval must not be shorter than retry.initial_interval ({format_duration(initial_ms)}); "
            f"it is {format_duration(max_ms)} (when omitted it defaults to PT5M)",
            field="retry.max_interval",
            expected=f"at least {format_duration(initial_ms)}",
            received=format_duration(max_ms),
        )
    return RetryPolicy(
        max_attempts=_max_attempts(raw),
        initial_ms=initial_ms,
        coefficient=_coefficient(raw),
        max_ms=max_ms,
        jitter=_jitter(raw),
        non_retryable=_non_retryable(raw),
        on_exhaustion=_choice(raw, "on_exhaustion", _ON_EXHAUSTION, DEFAULT_RETRY_POLICY.on_exhaustion),
        strategy=_choice(
            raw,
            "backoff_type" if raw.get("backoff_strategy") is None else "backoff_strategy",
            _STRATEGIES,
            DEFAULT_RETRY_POLICY.strategy,
        ),
    )


def _refuse(field: str, expected: str, value: object) -> NoReturn:
    path = field if field == "retry" else f"retry.{field}"
    received = describe_received(value)
    raise InvalidRetryPolicyError(
        f"{path} must be {expected}; received {received}", field=path, expected=expected, received=received
    )


def _max_attempts(raw: Mapping[str, object]) -> int:
    value = raw.get("max_attempts")
    if value is None:
        return DEFAULT_RETRY_POLICY.max_attempts
    # True is an int to Python, and not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ATTEMPTS_MAX:
        _refuse("max_attempts", "an integer from 0 to 2^53 - 1", value)
    return value


def _interval_ms(raw: Mapping[str, object], field: str, default_ms: int) -> int:
    value = raw.get(field)
    if value is not None:
        expected = "an ISO 8601 duration such as PT30S"
        if not isinstance(value, str):
            _refuse(field, expected, value)
        try:
            return parse_duration(value)
        except ValueError as error:
            raise InvalidRetryPolicyError(
                f"retry.{field}: {error}",
                field=f"retry.{field}",
                expected=expected,
                received=describe_received(value),
            ) from error
    field = f"{field}_ms"
    value = raw.get(field)
    if value is None:
        return default_ms
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= DURATION_MS_MAX:
        _refuse(field, "an integer number of milliseconds from 0 to 100 years", value)
    return value


def _coefficient(raw: Mapping[str, object]) -> float:
    value = raw.get("backoff_coefficient")
    if value is None:
        return DEFAULT_RETRY_POLICY.coefficient
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            coefficient = float(value)
        except OverflowError:
            coefficient = float("inf")
        if 1.0 <= coefficient < float("inf"):
            return coefficient
    _refuse("backoff_coefficient", "a number of 1.0 or more", value)


def _jitter(raw: Mapping[str, object]) -> bool:
    value = raw.get("jitter")
    if value is None:
        return DEFAULT_RETRY_POLICY.jitter
    if not isinstance(value, bool):
        _refuse("jitter", "true or false", value)
    return value


def _non_retryable(raw: Mapping[str, object]) -> tuple[str, ...]:
    value = raw.get("non_retryable_errors")
    if value is None:
        return DEFAULT_RETRY_POLICY.non_retryable
    if not isinstance(value, list):
        _refuse("non_retryable_errors", "an array of non-empty strings", value)
    for name in value:
        if not isinstance(name, str) or not name:
            _refuse("non_retryable_errors", "an array of non-empty strings", name)
    return tuple(value)


def _choice(raw: Mapping[str, object], field: str, choices: Mapping[str, _Choice], default: _Choice) -> _Choice:
    value = raw.get(field)
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        _refuse(field, "one of " + ", ".join(choices), value)
    return choices[value]
