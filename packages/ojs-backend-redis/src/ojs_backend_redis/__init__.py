"""The Redis backend of ojs-server: the hook that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import SETTINGS, RedisConfig
from ojs_backend_redis.spread import SpreadBackend
from ojs_core.backend import Backend
from ojs_core.hookspecs import hookimpl
from ojs_core.variables import Setting


@hookimpl
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:
    """Make the Redis backend from `REDIS_URL` and `OJS_REDIS_*`; nothing is connected yet. Raises `SettingsError`."""
    config = RedisConfig.from_environ(environ)
    return RedisBackend(config) if config.shards == 1 else SpreadBackend(config)


@hookimpl
def ojs_backend_settings() -> Sequence[Setting]:
    """Return the variables this backend reads."""
    return SETTINGS
