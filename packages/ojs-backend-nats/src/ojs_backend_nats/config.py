"""The settings of the NATS backend: one table, read from `NATS_URL` and `OJS_NATS_*`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from ojs_core.errors import SettingsError
from ojs_core.variables import Setting, read_values, whole

SCHEMES = ("nats", "tls", "ws", "wss")
REPLICAS_MAX = 5
MIB = 1 << 20

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,200}")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,200}")


class NATSConfig(Struct, frozen=True, kw_only=True):
    """The settings of one store; `SETTINGS` has the variable and the meaning of each."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    stream: str = "OJS"
    replicas: int = 1
    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: str | None = None
    nkey_seed: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    domain: str | None = None
    timeout_ms: int = 5000
    slack_mib: int = 64

    @property
    def timeout_s(self) -> float:
        """How long one request to the store may take, in seconds."""
        return self.timeout_ms / 1000

    @property
    def subject(self) -> str:
        """The one subject of the stream."""
        return f"{self.stream}.log"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> NATSConfig:
        """Read the settings. Raises `SettingsError`, naming the variable, for a value that makes no sense."""
        config = cls(**read_values(SETTINGS, environ))
        ways = {
            "OJS_NATS_USER": config.user,
            "OJS_NATS_TOKEN": config.token,
            "OJS_NATS_CREDENTIALS": config.credentials,
            "OJS_NATS_NKEY_SEED": config.nkey_seed,
        }
        given = [variable for variable, value in ways.items() if value is not None]
        if len(given) > 1:
            raise SettingsError(f"{' and '.join(given)}: give one way to sign in, not {len(given)}.")
        if (config.user is None) != (config.password is None):
            raise SettingsError("OJS_NATS_USER and OJS_NATS_PASSWORD: set both or neither.")
        if config.tls_key is not None and config.tls_cert is None:
            raise SettingsError("OJS_NATS_TLS_KEY: needs OJS_NATS_TLS_CERT, the certificate it belongs to.")
        return config


def _servers(text: str) -> tuple[str, ...]:
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    for server in servers:
        try:
            address = urlsplit(server if "://" in server else f"nats://{server}")
            valid = address.scheme in SCHEMES and bool(address.hostname) and address.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("addresses such as nats://host:4222 or tls://host:4222, joined by commas")
    return servers


def _name(pattern: re.Pattern[str]) -> type[str]:
    def parse(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError("1 to 200 letters, digits, - or _")
        return text

    return parse  # type: ignore[return-value]


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "NATS_URL",
        "servers",
        _servers,
        "Addresses of the servers, joined by commas; `tls://` asks for TLS and takes nothing less. A user and password "
        "may be part of them.",
        "nats://127.0.0.1:4222",
        secret=True,
    ),
    Setting(
        "OJS_NATS_STREAM",
        "stream",
        _name(_STREAM),
        "The stream that holds everything. Several deployments on one NATS take a name each.",
        "OJS",
    ),
    Setting(
        "OJS_NATS_REPLICAS",
        "replicas",
        whole(1, REPLICAS_MAX),
        "Servers of the cluster that hold a copy, 1, 3 or 5. A change is answered when most of them have it.",
        1,
    ),
    Setting("OJS_NATS_USER", "user", str, "User to sign in as."),
    Setting("OJS_NATS_PASSWORD", "password", str, "Password of that user.", secret=True),
    Setting("OJS_NATS_TOKEN", "token", str, "Token to sign in with.", secret=True),
    Setting("OJS_NATS_CREDENTIALS", "credentials", str, "Path of a credentials file (JWT and seed)."),
    Setting("OJS_NATS_NKEY_SEED", "nkey_seed", str, "Path of a file with an nkey seed."),
    Setting("OJS_NATS_TLS_CA", "tls_ca", str, "Path of the certificates to trust, instead of the system's."),
    Setting("OJS_NATS_TLS_CERT", "tls_cert", str, "Path of the certificate to show the server."),
    Setting("OJS_NATS_TLS_KEY", "tls_key", str, "Path of that certificate's key."),
    Setting("OJS_NATS_DOMAIN", "domain", _name(_DOMAIN), "JetStream domain, where the stream is behind a leaf node."),
    Setting(
        "OJS_NATS_TIMEOUT_MS",
        "timeout_ms",
        whole(100, 60_000),
        "How long NATS may take to answer a request, in ms, before it is answered with 503.",
        5000,
    ),
    Setting(
        "OJS_NATS_SLACK_MIB",
        "slack_mib",
        whole(1, 1_000_000),
        "MiB of superseded records the stream may hold beyond as much again as is live, before it is compacted.",
        64,
    ),
)
"""Every variable of this backend."""
