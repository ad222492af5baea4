"""The settings: each variable, and what is said of a value that makes no sense."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_backend_nats import ojs_backend_settings, ojs_make_backend
from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import SETTINGS, NATSConfig
from ojs_core.errors import SettingsError


def test_the_defaults_are_those_shown() -> None:
    config = NATSConfig.from_environ({})
    assert config == NATSConfig()
    for setting in SETTINGS:
        value = getattr(config, setting.field)
        assert setting.default == (",".join(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("NATS_URL", "nats://a:4222, tls://b:4223 ,c", "servers", ("nats://a:4222", "tls://b:4223", "c")),
        ("NATS_URL", "nats://user:pass@[::1]:4222", "servers", ("nats://user:pass@[::1]:4222",)),
        ("OJS_NATS_STREAM", "other_1-x", "stream", "other_1-x"),
        ("OJS_NATS_REPLICAS", "3", "replicas", 3),
        ("OJS_NATS_TOKEN", "s3cret", "token", "s3cret"),
        ("OJS_NATS_CREDENTIALS", "/x/y.creds", "credentials", "/x/y.creds"),
        ("OJS_NATS_NKEY_SEED", "/x/seed", "nkey_seed", "/x/seed"),
        ("OJS_NATS_TLS_CA", "/x/ca.pem", "tls_ca", "/x/ca.pem"),
        ("OJS_NATS_DOMAIN", "hub", "domain", "hub"),
        ("OJS_NATS_TIMEOUT_MS", "100", "timeout_ms", 100),
        ("OJS_NATS_SLACK_MIB", "1", "slack_mib", 1),
    ],
)
def test_a_variable_fills_its_field(variable: str, text: str, field: str, value: Any) -> None:
    assert getattr(NATSConfig.from_environ({variable: text}), field) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("NATS_URL", "http://a:4222"),
        ("NATS_URL", "nats://"),
        ("NATS_URL", "nats://a:port"),
        ("NATS_URL", "nats://a:70000"),
        ("OJS_NATS_STREAM", "a.b"),
        ("OJS_NATS_STREAM", "a b"),
        ("OJS_NATS_STREAM", ">"),
        ("OJS_NATS_REPLICAS", "0"),
        ("OJS_NATS_REPLICAS", "6"),
        ("OJS_NATS_DOMAIN", "a.b"),
        ("OJS_NATS_TIMEOUT_MS", "99"),
        ("OJS_NATS_SLACK_MIB", "0"),
    ],
)
def test_nonsense_is_refused_by_name(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable) as caught:
        NATSConfig.from_environ({variable: text})
    assert "must be" in str(caught.value)


def test_secrets_are_not_repeated() -> None:
    secret = {setting.variable for setting in SETTINGS if setting.secret}
    assert secret == {"NATS_URL", "OJS_NATS_PASSWORD", "OJS_NATS_TOKEN"}
    with pytest.raises(SettingsError) as caught:
        NATSConfig.from_environ({"NATS_URL": "nats://user:hunter2@a:port"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OJS_NATS_TOKEN": "t", "OJS_NATS_NKEY_SEED": "/s"}, "OJS_NATS_TOKEN and OJS_NATS_NKEY_SEED"),
        ({"OJS_NATS_USER": "u"}, "OJS_NATS_PASSWORD"),
        ({"OJS_NATS_PASSWORD": "p"}, "OJS_NATS_USER"),
        ({"OJS_NATS_TLS_KEY": "/k"}, "OJS_NATS_TLS_CERT"),
    ],
)
def test_settings_that_do_not_go_together(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        NATSConfig.from_environ(environ)


def test_making_a_backend_connects_to_nothing() -> None:
    backend = ojs_make_backend(environ={"NATS_URL": "nats://192.0.2.1:4222", "OJS_NATS_CREDENTIALS": "/nowhere"})
    assert isinstance(backend, NATSBackend)
    assert backend.capabilities.name == "nats"
    assert ojs_backend_settings() is SETTINGS
