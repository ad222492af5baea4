"""Is this a Redis to keep jobs in? What stops the start, and what an operator is warned of."""

from __future__ import annotations

from typing import NamedTuple

from ojs_backend_redis.client import Client
from ojs_backend_redis.config import RedisConfig
from ojs_backend_redis.errors import as_setting, code_of, unavailable
from ojs_core.clock import skew_warnings, wall_ms
from ojs_core.errors import BackendUnavailableError, SettingsError

REDIS_LEAST = (7, 0)
WAITAOF_LEAST = (7, 2)
SCHEMA = 1
"""How the keys are laid out; written into the store."""


class Facts(NamedTuple):
    """What INFO says that matters here."""

    name: str
    version: str
    compatible: tuple[int, int]
    """The version of Redis that it behaves like."""
    role: str
    policy: str
    maxmemory: int
    aof: bool
    rdb: bool
    replicas: int
    time_ms: float | None
    """None: it does not say."""


async def read_facts(client: Client) -> Facts:
    """Ask Redis about itself. Raises `BackendUnavailableError`."""
    info, save = await client.ask_leniently(("INFO",), ("CONFIG", "GET", "save"))
    if isinstance(info, Exception):
        info = b""
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    compatible = fields.get("redis_version", "0.0")
    valkey = fields.get("valkey_version")
    major, _, rest = compatible.partition(".")
    return Facts(
        name="Valkey" if valkey else "Redis",
        version=valkey or compatible,
        compatible=(int(major), int(rest.partition(".")[0] or 0)),
        role=fields.get("role", "master"),
        policy=fields.get("maxmemory_policy", "noeviction"),
        maxmemory=int(fields.get("maxmemory", "0")),
        aof=fields.get("aof_enabled", "1") == "1",
        # Who may not ask for the setting is not told that it is off.
        rdb=isinstance(save, Exception) or save[-1:] != [b""],
        replicas=int(fields.get("connected_slaves", "0")),
        time_ms=int(fields["server_time_usec"]) / 1000 if "server_time_usec" in fields else None,
    )


async def refuse_unfit(client: Client, config: RedisConfig) -> None:
    """Raise `SettingsError`, saying what to do, if the store cannot be kept in this Redis."""
    facts = await read_facts(client)
    if (0, 0) < facts.compatible < REDIS_LEAST:
        raise SettingsError(
            f"This is Redis {facts.version}; ojs-server needs Redis 7.0 or newer, or Valkey. Upgrade it, or name "
            "another one in REDIS_URL."
        )
    if config.durability.aof and (0, 0) < facts.compatible < WAITAOF_LEAST:
        raise SettingsError(
            f"OJS_REDIS_DURABILITY=aof needs Redis 7.2 or newer, or Valkey; this is Redis {facts.version}. Upgrade it, "
            "or use OJS_REDIS_DURABILITY=none with 'appendfsync always' in the configuration of Redis."
        )
    if config.durability.aof and not facts.aof:
        raise SettingsError(
            "OJS_REDIS_DURABILITY=aof, but this Redis has no append-only file: no answer would ever be given. Set "
            "'appendonly yes' in its configuration."
        )
    if facts.role != "master":
        raise BackendUnavailableError("This Redis is a replica, which takes no writes. Name its master in REDIS_URL.")
    key = f"{config.root}store"
    [stored] = await client.ask_leniently(("HGET", key, "schema"))
    # A store that was there before there were shards has one.
    _, _, schema, shards = await client.ask_leniently(
        ("HSETNX", key, "shards", config.shards if stored is None else 1),
        ("HSETNX", key, "schema", SCHEMA),
        ("HGET", key, "schema"),
        ("HGET", key, "shards"),
    )
    if isinstance(schema, Exception):
        raise _unusable(schema, config)
    if int(schema) > SCHEMA:
        raise SettingsError(
            f"The store under the prefix '{config.prefix}' was written by a newer ojs-backend-redis (schema "
            f"{int(schema)}; this one knows {SCHEMA}). Upgrade this server, or set OJS_REDIS_PREFIX to another prefix."
        )
    if int(shards) != config.shards:
        raise SettingsError(
            f"OJS_REDIS_SHARDS={config.shards}, but the store under the prefix '{config.prefix}' has {int(shards)}. "
            f"Set OJS_REDIS_SHARDS={int(shards)}, or OJS_REDIS_PREFIX to another prefix."
        )


def _unusable(error: Exception, config: RedisConfig) -> SettingsError | BackendUnavailableError:
    """Return what to raise for a first write that failed: some failures do not pass by waiting."""
    if code_of(error) == "WRONGTYPE":
        return SettingsError(
            f"OJS_REDIS_PREFIX={config.prefix}: there are keys of another application under this prefix. Name another."
        )
    return as_setting(error) or unavailable(error)


async def warnings(client: Client, config: RedisConfig) -> list[str]:
    """Return what an operator should know about this Redis."""
    asked_at = wall_ms()
    facts = await read_facts(client)
    found = skew_warnings(facts.time_ms, asked_at)
    if facts.policy != "noeviction":
        found.append(
            f"maxmemory-policy is '{facts.policy}': Redis will delete jobs when its memory is full. Set it to "
            "'noeviction'; then it refuses new ones instead."
        )
    if not facts.aof and not facts.rdb:
        found.append(
            "Persistence is off: a restart of Redis loses every job. Set 'appendonly yes' in its configuration."
        )
    elif not facts.aof:
        found.append(
            "Only snapshots are on: a crash of Redis loses every change since the last one, an hour of them if there "
            "were few. Set 'appendonly yes' in its configuration."
        )
    wanted = config.durability.replicas
    if wanted > facts.replicas:
        found.append(
            f"OJS_REDIS_DURABILITY=wait:{wanted}, but {facts.replicas} replicas are connected: every change is "
            "answered with 503 until there are enough."
        )
    return found
