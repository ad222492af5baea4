"""The settings: what each variable may be, and what is said of what it may not be."""

from __future__ import annotations

import pytest

from ojs_backend_redis.config import Address, Durability, RedisConfig, Target, parse_url
from ojs_core.errors import SettingsError


def read(**variables: str) -> RedisConfig:
    return RedisConfig.from_environ(variables)


def test_without_variables_it_is_the_redis_of_this_machine() -> None:
    config = read()
    assert config == RedisConfig()
    assert config.target == Target(addresses=(Address("127.0.0.1", 6379),))
    assert (config.root, config.timeout_ms, config.durability) == ("{ojs}:", 5000, Durability())


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://h", Target(addresses=(Address("h", 6379),))),
        ("redis://h:1/3", Target(addresses=(Address("h", 1),), db=3)),
        ("redis://:p%40ss@h", Target(addresses=(Address("h", 6379),), password="p@ss")),  # noqa: S106 - nobody's
        (
            "rediss://me:secret@h:7/0",
            Target(addresses=(Address("h", 7),), tls=True, username="me", password="secret"),  # noqa: S106 - nobody's
        ),
        ("redis://[::1]:7", Target(addresses=(Address("::1", 7),))),
        ("unix:///run/redis.sock", Target(path="/run/redis.sock")),
        (
            "redis+sentinel://a,b:5/mymaster/2",
            Target(kind="sentinel", addresses=(Address("a", 26379), Address("b", 5)), service="mymaster", db=2),
        ),
        (
            "rediss+cluster://u:p@a:1,b:2",
            Target(
                kind="cluster",
                addresses=(Address("a", 1), Address("b", 2)),
                tls=True,
                username="u",
                password="p",  # noqa: S106 - nobody's
            ),
        ),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_url(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://h",
        "redis://",
        "redis://h:port",
        "redis://h:99999",
        "redis://h/x",
        "redis://h/0/1",
        "redis://h?db=3",
        "redis://a,b",
        "redis+sentinel://h",
        "redis+cluster://h/1",
        "unix://",
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL: must be a URL such as redis://user:password@host:6379/0"):
        read(REDIS_URL=url)


@pytest.mark.parametrize(
    ("text", "durability"),
    [("none", Durability()), ("AOF", Durability(aof=True)), ("wait:2", Durability(replicas=2))],
)
def test_durability(text: str, durability: Durability) -> None:
    assert read(OJS_REDIS_DURABILITY=text).durability == durability


@pytest.mark.parametrize("text", ["full", "wait", "wait:0", "wait:17", "wait:-1", "aof "[::-1] + "x"])
def test_another_durability_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"OJS_REDIS_DURABILITY=.*: must be none, aof, or wait:N"):
        read(OJS_REDIS_DURABILITY=text)


@pytest.mark.parametrize("prefix", ["a{b", "a b", "x" * 65, "a\tb"])
def test_a_prefix_that_keys_cannot_have_is_refused(prefix: str) -> None:
    with pytest.raises(SettingsError, match="OJS_REDIS_PREFIX"):
        read(OJS_REDIS_PREFIX=prefix)


def test_a_timeout_out_of_range_is_refused() -> None:
    assert read(OJS_REDIS_TIMEOUT_MS="10").timeout_ms == 10
    with pytest.raises(SettingsError, match="OJS_REDIS_TIMEOUT_MS=9: must be a whole number from 10 to 60000"):
        read(OJS_REDIS_TIMEOUT_MS="9")
