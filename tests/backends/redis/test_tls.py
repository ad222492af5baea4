"""TLS: which certificates are trusted, and what is said of those that are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.backends.redis.conftest import MakeBackend
from tests.servers.certificates import Certificate, make_certificate
from tests.servers.missing import missing
from tests.servers.redis import RedisServer

from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.testing.conformance.servers import free_ports
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.steps import claim_ids, insert_one

PASSWORD = "p@ss"  # noqa: S105 - a server's that ends with its test


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One for localhost, by which nobody may call 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:localhost")


@pytest.fixture
def port(certificate: Certificate) -> Iterator[int]:
    """Where a server speaks TLS, and lets two users in."""
    (found,) = free_ports(1)
    options = {
        "--tls-port": found,
        "--tls-cert-file": certificate.file,
        "--tls-key-file": certificate.key,
        "--tls-ca-cert-file": certificate.file,
        "--tls-auth-clients": "no",
    }
    server = RedisServer("redis", [str(word) for option in options.items() for word in option])
    with ExitStack() as stack:
        stack.callback(server.end)
        try:
            server.start()
        except AssertionError as error:
            if not re.search("Failed finding TLS support|Bad directive", str(error)):
                raise
            missing("a Redis that was built with TLS, as the redis-server of most systems is")
        server.ask("ACL", "SETUSER", "me", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        server.ask("ACL", "SETUSER", "default", f">{PASSWORD}")
        yield found


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, certificate: Certificate) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("user", ["", "me"])
async def test_a_trusted_certificate(port: int, make_backend: MakeBackend, user: str) -> None:
    url = f"rediss://{user}:p%40ss@localhost:{port}"
    here = await make_backend(url, prefix="tls")
    there = await make_backend(url, prefix="tls")
    bell = Bell(there)
    job = await insert_one(here, queue="q")
    await bell.expect("q")
    assert await claim_ids(there, "q") == [job.id]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("credentials", "message"),
    [("me:wrong@", "Redis refused the user name or password"), ("", "Redis wants a password")],
)
async def test_who_may_not_in(port: int, make_backend: MakeBackend, credentials: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^REDIS_URL: {message}"):
        await make_backend(f"rediss://{credentials}localhost:{port}")


async def test_a_certificate_that_is_not_trusted(
    port: int, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = f"its certificate is not trusted (SSL_CERT_FILE names those that are). REDIS_URL names localhost:{port}."
    for trusted in (None, make_certificate(tmp_path, "DNS:localhost").file):
        if trusted is None:
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        else:
            monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        with pytest.raises(BackendUnavailableError, match=f"TLS: {re.escape(refused)}$"):
            await make_backend(f"rediss://me:p%40ss@localhost:{port}")


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_of_another_name(port: int, make_backend: MakeBackend) -> None:
    expected = (
        f"with TLS: its certificate is for another name than the one in REDIS_URL. REDIS_URL names 127.0.0.1:{port}."
    )
    with pytest.raises(BackendUnavailableError, match=re.escape(expected)):
        await make_backend(f"rediss://me:p%40ss@127.0.0.1:{port}")


async def test_a_url_without_tls(port: int, make_backend: MakeBackend) -> None:
    with pytest.raises(BackendUnavailableError, match=f"^Redis cannot be reached. REDIS_URL names localhost:{port}"):
        await make_backend(f"redis://me:p%40ss@localhost:{port}")
