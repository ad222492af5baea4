"""The settings of the Redis backend: one table, read from `REDIS_URL` and `OJS_REDIS_*`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from msgspec import Struct
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ojs_core.variables import Setting, read_values, whole

PREFIX_MAX = 64
SHARDS_MAX = 64
REPLICAS_MAX = 16
TIMEOUT_MAX_MS = 60_000
DEFAULT_PORT = 6379
SENTINEL_PORT = 26379

Kind = Literal["single", "sentinel", "cluster"]
_KINDS: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "single",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
_EXPECTED_URL = (
    "a URL such as redis://user:password@host:6379/0, rediss://..., unix:///path/to/socket, "
    "redis+sentinel://host:26379,other:26379/SERVICE/0 or redis+cluster://host:6379,other:6379"
)


class Address(NamedTuple):
    """Where a Redis listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Target(Struct, frozen=True, kw_only=True):
    """What a URL names: one server, the master that sentinels know, or the nodes of a cluster."""

    kind: Kind = "single"
    addresses: tuple[Address, ...] = ()
    path: str | None = None
    """A socket in the file system, instead of an address."""
    service: str = ""
    """The name by which sentinels know the master."""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        return self.path or ", ".join(map(str, self.addresses))


class Durability(Struct, frozen=True):
    """What an answer waits for: nothing, this server's append-only file on disk, or so many replicas."""

    aof: bool = False
    replicas: int = 0


class RedisConfig(Struct, frozen=True, kw_only=True):
    """The settings of one store; `SETTINGS` has the variable and the meaning of each."""

    target: Target = Target(addresses=(Address("127.0.0.1", DEFAULT_PORT),))
    prefix: str = "ojs"
    shards: int = 1
    shard: int = 0
    """Which of them these are the settings of."""
    timeout_ms: int = 5000
    durability: Durability = Durability()

    @property
    def root(self) -> str:
        """What all keys of the shard begin with. The braces put them into one slot of a cluster."""
        return f"{{{_tag(self.prefix, self.shard, self.shards)}}}:"

    def of_shard(self, shard: int) -> RedisConfig:
        """Return the settings of one shard, counted from 0."""
        return msgspec.structs.replace(self, shard=shard)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RedisConfig:
        """Read the settings. Raises `SettingsError`, naming the variable, for a value that makes no sense."""
        return cls(**read_values(SETTINGS, environ))


@lru_cache
def _tag(prefix: str, shard: int, shards: int) -> str:
    """Return what puts the keys of a shard into its slot. The slots of a store lie as far apart as they can.

    So do the slots of a cluster's nodes: with as many shards as nodes, or a multiple of it, each gets the same number.
    """
    if shard == 0:
        return prefix
    distance = REDIS_CLUSTER_HASH_SLOTS // shards
    wanted = key_slot(prefix.encode()) + shard * distance
    tags = (f"{prefix}/{shard}.{number}" for number in count())
    return next(tag for tag in tags if (key_slot(tag.encode()) - wanted) % REDIS_CLUSTER_HASH_SLOTS <= distance // 64)


def parse_url(text: str) -> Target:
    """Return what a URL names. Raises `ValueError` with what is expected."""
    try:
        url = urlsplit(text)
        kind = _KINDS[url.scheme]
        return _socket(url) if url.scheme == "unix" else _network(url, kind)
    except (KeyError, ValueError):
        raise ValueError(_EXPECTED_URL) from None


def _socket(url: SplitResult) -> Target:
    if not url.path:
        raise ValueError("no path")
    return Target(path=unquote(url.path), username=_part(url.username), password=_part(url.password))


def _network(url: SplitResult, kind: Kind) -> Target:
    parts = [unquote(part) for part in url.path.split("/")[1:] if part]
    service = ""
    if kind == "sentinel":
        service, *parts = parts  # without a name: ValueError
    if len(parts) > (0 if kind == "cluster" else 1) or url.query or url.fragment:
        raise ValueError("more than a database")
    hosts = url.netloc.rpartition("@")[2].split(",")
    default = SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    addresses = tuple(_address(host, default) for host in hosts)
    if kind == "single" and len(addresses) > 1:
        raise ValueError("several servers")
    username, password = _credentials(url)
    return Target(
        kind=kind,
        addresses=addresses,
        service=service,
        db=int(parts[0]) if parts else 0,
        tls=url.scheme.startswith("rediss"),
        username=username,
        password=password,
    )


def _address(text: str, default_port: int) -> Address:
    host = urlsplit(f"//{text}")
    if not host.hostname:
        raise ValueError("no host")
    return Address(host.hostname, host.port or default_port)


def _credentials(url: SplitResult) -> tuple[str | None, str | None]:
    # Not `url.username`: with several hosts the rest of the URL is none that urllib understands.
    credentials, found, _ = url.netloc.rpartition("@")
    if not found:
        return None, None
    username, has_password, password = credentials.partition(":")
    return _part(username), _part(password) if has_password else None


def _part(text: str | None) -> str | None:
    return unquote(text) if text else None


def _prefix(text: str) -> str:
    if len(text) > PREFIX_MAX or re.search(r"[\s{}\x00-\x1f]", text):
        raise ValueError(f"at most {PREFIX_MAX} characters, without spaces and braces")
    return text


def _durability(text: str) -> Durability:
    match re.fullmatch(r"(none)|(aof)|wait:(\d{1,2})", text.lower()):
        case re.Match(lastindex=1):
            return Durability()
        case re.Match(lastindex=2):
            return Durability(aof=True)
        case re.Match() as found if 1 <= int(found[3]) <= REPLICAS_MAX:
            return Durability(replicas=int(found[3]))
    raise ValueError(f"none, aof, or wait:N with a number of replicas from 1 to {REPLICAS_MAX}")


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "REDIS_URL",
        "target",
        parse_url,
        "Where Redis is: `redis://user:password@host:6379/0`, `rediss://` for TLS, `unix:///path`, "
        "`redis+sentinel://host:26379,.../SERVICE/0`, `redis+cluster://host:6379,...` (with TLS `rediss+...`).",
        "redis://127.0.0.1:6379/0",
        secret=True,
    ),
    Setting(
        "OJS_REDIS_PREFIX",
        "prefix",
        _prefix,
        "What all keys begin with, in braces. Stores with different prefixes share a Redis without meeting.",
        "ojs",
    ),
    Setting(
        "OJS_REDIS_SHARDS",
        "shards",
        whole(1, SHARDS_MAX),
        "Over how many slots of a cluster the queues of the store are spread: the number of its masters, or a multiple "
        "of it. It stays as it was when the store was first opened.",
        1,
    ),
    Setting(
        "OJS_REDIS_DURABILITY",
        "durability",
        _durability,
        "What an answer waits for. `none`: that Redis has the change in memory. `aof`: that its append-only file has it"
        " on disk. `wait:N`: that N replicas have it in memory.",
        "none",
    ),
    Setting(
        "OJS_REDIS_TIMEOUT_MS",
        "timeout_ms",
        whole(10, TIMEOUT_MAX_MS),
        "How long an operation waits for Redis in ms, before it is answered with 503.",
        5000,
    ),
)
"""Every variable of this backend."""
