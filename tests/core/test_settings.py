"""Settings, as the environment gives them."""

from __future__ import annotations

import re

import msgspec
import pytest

from ojs_core.errors import SettingsError
from ojs_core.settings import SETTINGS, Settings, read_settings, unknown_variables
from ojs_core.variables import choice, flag, whole


def test_nothing_set_means_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({setting.variable: " " for setting in SETTINGS}) == Settings()


def test_a_job_may_run_for_minutes_without_a_word() -> None:
    """C-VIS-08, Q-12: an official case holds one for 65 seconds."""
    assert min(Settings().visibility_timeout_ms, Settings().execution_timeout_ms) >= 30 * 60 * 1000


def test_every_field_has_a_variable_and_the_default_that_is_shown() -> None:
    assert {setting.field: setting.default for setting in SETTINGS} == msgspec.structs.asdict(Settings())
    for setting in SETTINGS:
        assert setting.variable == {"api_keys": "OJS_API_KEY"}.get(setting.field, f"OJS_{setting.field.upper()}")
        assert re.fullmatch(r"[A-Z].*\.", setting.meaning)


def test_what_is_set_is_read() -> None:
    environ = {
        "OJS_BACKEND": " memory ",
        "OJS_HOST": "::1",
        "OJS_PORT": "0",
        "OJS_WORKERS": "64",
        "OJS_LOG_LEVEL": "WARNING",
        "OJS_API_KEY": " one , two,",
        "OJS_TEST_MODE": "Yes",
        "OJS_ALLOW_INSECURE_NO_AUTH": "off",
        "OJS_RETAIN_COMPLETED_MS": "0",
        "OJS_RETAIN_CANCELLED_MS": "1",
        "OJS_RETAIN_DISCARDED_MS": "2",
        "OJS_RETAIN_DEAD_LETTER_MS": "3",
    }
    settings = read_settings(environ)
    assert settings == Settings(
        backend="memory",
        host="::1",
        port=0,
        workers=64,
        log_level="warning",
        api_keys=("one", "two"),
        test_mode=True,
        retain_completed_ms=0,
        retain_cancelled_ms=1,
        retain_discarded_ms=2,
        retain_dead_letter_ms=3,
    )
    retention = settings.retention
    assert (retention.completed_ms, retention.cancelled_ms, retention.discarded_ms) == (0, 1, 2)
    assert retention.dead_letter_ms == 3


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OJS_PORT", "65536", "OJS_PORT=65536: must be a whole number from 0 to 65535."),
        ("OJS_PORT", "-1", "a whole number"),
        ("OJS_PORT", "80.0", "a whole number"),
        ("OJS_PORT", "²", "a whole number"),
        ("OJS_WORKERS", "0", "a whole number from 1 to 64"),
        ("OJS_LOG_LEVEL", "loud", "OJS_LOG_LEVEL=loud: must be one of debug, info, warning, error."),
        ("OJS_TEST_MODE", "maybe", "OJS_TEST_MODE=maybe: must be true or false."),
        ("OJS_VISIBILITY_TIMEOUT_MS", "0", "a whole number from 1"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(expected)):
        read_settings({variable: value})


@pytest.mark.parametrize("key", ["schlüssel", "two words", "bell\a"])
def test_a_bad_key_is_not_shown(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"OJS_API_KEY": f"good,{key}"})
    assert str(caught.value).startswith("OJS_API_KEY: must be ")
    assert key not in str(caught.value)


def test_parsers() -> None:
    assert whole(1, 3)("3") == 3
    assert choice("a", "b")("B") == "b"
    assert [flag(text) for text in ("true", "1", "YES", "on", "false", "0", "no", "OFF")] == [True] * 4 + [False] * 4


def test_a_variable_that_nothing_reads_is_named() -> None:
    environ = {"OJS_PROT": "1", "OJS_PORT": "1", "PATH": "/bin", "OJS_SOMETHING_ELSE_ENTIRELY": "1"}
    assert unknown_variables(environ, SETTINGS) == [
        "OJS_PROT is not a setting. Did you mean OJS_PORT?",
        "OJS_SOMETHING_ELSE_ENTIRELY is not a setting.",
    ]
