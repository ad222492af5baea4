"""Opening: what is made, what is refused, and that each message says what to do."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import nats
import nkeys
import pytest
from nats.aio.msg import Msg
from tests.servers.certificates import make_certificate
from tests.servers.nats import NatsServer
from tests.servers.nats_fixtures import NATSOpener
from tests.servers.proxy import proxy_to

from ojs_backend_nats.config import NATSConfig
from ojs_backend_nats.link import Link
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.testing.conformance.servers import free_ports
from ojs_core.testing.contract.steps import claim_ids, insert_one

PATIENCE_S = 30
SEED = b"SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
"""An nkey of the documentation, known to everyone."""


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    """A server with the options a test gives: `indirect`."""
    server = NatsServer(tmp_path / "nats", *getattr(request, "param", ())).start()
    yield server
    server.stop()


def at(config: NATSConfig, server: NatsServer, **settings: Any) -> NATSConfig:
    return msgspec.structs.replace(config, servers=(server.url,), **settings)


async def test_nobody_listens(open_nats: NATSOpener) -> None:
    port = free_ports(1)[0]
    with pytest.raises(BackendUnavailableError, match="NATS_URL") as caught:
        await open_nats(servers=(f"nats://127.0.0.1:{port}",), timeout_ms=500)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_one_of_several_servers_is_enough(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    port = free_ports(1)[0]
    backend = await open_nats(servers=(f"nats://127.0.0.1:{port}", *nats_config.servers))
    await backend.ping()


async def test_servers_that_hang(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """They take connections and say nothing: the one that answers is found in time, whichever are asked first."""
    port = int(nats_config.servers[0].rpartition(":")[2])
    async with proxy_to(port) as one, proxy_to(port) as two, proxy_to(port) as three:
        hanging = []
        for proxy in (one, two, three):
            proxy.hold()
            hanging.append(f"nats://127.0.0.1:{proxy.port}")
        backend = await open_nats(servers=(*hanging, *nats_config.servers), timeout_ms=4000)
        await backend.ping()


@pytest.mark.parametrize("server", [["authorization { user: a, password: b }"]], indirect=True)
async def test_user_and_password(open_nats: NATSOpener, nats_config: NATSConfig, server: NatsServer) -> None:
    for wrong in ({}, {"user": "a", "password": "x"}):
        with pytest.raises(SettingsError, match="OJS_NATS_PASSWORD"):
            await open_nats(at(nats_config, server, **wrong))
    await (await open_nats(at(nats_config, server, user="a", password="b"))).ping()  # noqa: S106
    url = f"nats://a:b@127.0.0.1:{server.port}"
    await (await open_nats(nats_config, servers=(url,))).ping()


@pytest.mark.parametrize("server", [["authorization { token: t }"]], indirect=True)
async def test_a_token(open_nats: NATSOpener, nats_config: NATSConfig, server: NatsServer) -> None:
    with pytest.raises(SettingsError, match="OJS_NATS_TOKEN"):
        await open_nats(at(nats_config, server, token="x"))  # noqa: S106
    await (await open_nats(at(nats_config, server, token="t"))).ping()  # noqa: S106


async def test_an_nkey(open_nats: NATSOpener, nats_config: NATSConfig, tmp_path: Path) -> None:
    public = nkeys.from_seed(bytearray(SEED)).public_key.decode()
    seed = tmp_path / "seed"
    seed.write_bytes(SEED)
    server = NatsServer(tmp_path / "nats", f"authorization {{ users: [{{ nkey: {public} }}] }}").start()
    try:
        backend = await open_nats(at(nats_config, server, nkey_seed=str(seed)))
        await backend.ping()
        await backend.close()
    finally:
        server.stop()


async def test_tls(open_nats: NATSOpener, nats_config: NATSConfig, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:localhost", "IP:127.0.0.1")
    server = NatsServer(tmp_path / "nats", f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}').start()
    try:
        url = f"tls://127.0.0.1:{server.port}"
        with pytest.raises(SettingsError, match="OJS_NATS_TLS_CA"):
            await open_nats(nats_config, servers=(url,))
        backend = await open_nats(nats_config, servers=(url,), tls_ca=str(certificate))
        await backend.ping()
        await backend.close()
        with pytest.raises(SettingsError, match="OJS_NATS_TLS_"):
            await open_nats(nats_config, servers=(url,), tls_ca=str(tmp_path / "nats" / "nats.conf"))
    finally:
        server.stop()


@pytest.mark.parametrize("server", [["authorization { user: a, password: b }"]], indirect=True)
@pytest.mark.parametrize("by_url", [True, False])
async def test_tls_that_the_server_does_not_ask_for(
    open_nats: NATSOpener, nats_config: NATSConfig, server: NatsServer, tmp_path: Path, *, by_url: bool
) -> None:
    """No password may go over a connection that should have been encrypted."""
    certificate, _ = make_certificate(tmp_path, "IP:127.0.0.1")
    tls: dict[str, Any] = {} if by_url else {"tls_ca": str(certificate)}
    url = f"{'tls' if by_url else 'nats'}://a:b@127.0.0.1:{server.port}"
    with pytest.raises(SettingsError, match="does not ask for TLS"):
        await open_nats(nats_config, servers=(url,), **tls)


@pytest.mark.parametrize("field", ["credentials", "nkey_seed", "tls_ca", "tls_cert"])
async def test_a_file_that_is_not_there(open_nats: NATSOpener, field: str) -> None:
    with pytest.raises(SettingsError, match=f"OJS_NATS_{field.upper()}: there is no file"):
        await open_nats(**{field: "/nowhere/at/all"})


async def test_a_server_without_jetstream(open_nats: NATSOpener, nats_config: NATSConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=None).start()
    try:
        with pytest.raises(BackendUnavailableError, match="JetStream"):
            await open_nats(at(nats_config, server))
    finally:
        server.stop()


async def test_a_domain(open_nats: NATSOpener, nats_config: NATSConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", jetstream="domain: hub").start()
    try:
        backend = await open_nats(at(nats_config, server, domain="hub"))
        job = await insert_one(backend)
        assert await claim_ids(await open_nats(at(nats_config, server, domain="hub"))) == [job.id]
        with pytest.raises(BackendUnavailableError, match="JetStream"):
            await open_nats(at(nats_config, server, domain="other"))
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subjects": ["mine.>"]}, "belongs to something else"),
        ({"max_age": 60}, "would remove jobs"),
        ({"max_msgs": 100}, "would remove jobs"),
        ({"retention": "workqueue"}, "would remove jobs"),
        ({"max_bytes": 1 << 20, "discard": "old"}, "drops its oldest"),
    ],
)
async def test_a_stream_that_will_not_do(
    open_nats: NATSOpener, nats_config: NATSConfig, settings: dict[str, Any], message: str
) -> None:
    client = await nats.connect(nats_config.servers[0])
    await client.jetstream().add_stream(**{"name": nats_config.stream, "subjects": [nats_config.subject], **settings})
    await client.close()
    with pytest.raises(SettingsError, match=message):
        await open_nats()


async def test_too_many_replicas(open_nats: NATSOpener) -> None:
    with pytest.raises(BackendUnavailableError, match="OJS_NATS_REPLICAS"):
        await open_nats(replicas=3)


async def test_an_operators_own_settings_of_the_stream_stay(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """Room, placement, compression and the like are the operator's business."""
    client = await nats.connect(nats_config.servers[0])
    made = {"name": nats_config.stream, "subjects": [nats_config.subject], "discard": "new", "max_bytes": 1 << 30}
    await client.jetstream().add_stream(**made)
    backend = await open_nats()
    job = await insert_one(backend)
    assert await claim_ids(backend) == [job.id]
    assert (await client.jsm().stream_info(nats_config.stream)).config.max_bytes == 1 << 30
    await client.close()


async def test_servers_may_start_together(open_nats: NATSOpener) -> None:
    backends = await asyncio.gather(*(open_nats() for _ in range(5)))
    job = await insert_one(backends[0])
    assert await claim_ids(backends[4]) == [job.id]


async def test_a_server_leaves_nothing_behind(open_nats: NATSOpener, nats_config: NATSConfig) -> None:
    """One consumer per server while it runs, and none when it is gone; however many queues there are."""
    client = await nats.connect(nats_config.servers[0])
    backends = [await open_nats() for _ in range(3)]
    for n in range(20):
        await insert_one(backends[n % 3], queue=f"q{n}")
    assert len(await client.jsm().consumers_info(nats_config.stream)) == 3
    for backend in backends:
        await backend.close()
    assert await client.jsm().consumers_info(nats_config.stream) == []
    await client.close()


async def test_a_large_store_is_read_at_the_start(open_nats: NATSOpener) -> None:
    """However much longer than a request that takes: what counts is that it goes on."""
    backend = await open_nats()
    jobs = [await insert_one(backend) for _ in range(200)]
    again = await open_nats()
    assert await claim_ids(again) == [job.id for job in jobs]


async def test_advice(open_nats: NATSOpener) -> None:
    """One copy is one disk, and NATS flushes it now and then: that is said, with what to do."""
    warnings = await (await open_nats()).warnings()
    assert any("sync_interval" in warning and "OJS_NATS_REPLICAS" in warning for warning in warnings)


async def test_a_question_that_is_passed_over_is_asked_again(nats_server: NatsServer, nats_config: NATSConfig) -> None:
    """Servers of a cluster do so while a stream is being made or has no leader; a write is sent once."""
    link = Link(nats_config, lambda: None)
    await link.open()
    answerer = await nats.connect(nats_server.url)
    heard = []

    async def answer(message: Msg) -> None:
        heard.append(message.data)
        if heard.count(b"anybody?") == 2:
            await message.respond(b"here")

    subject = f"{nats_config.subject}.passed-over"
    try:
        await answerer.subscribe(subject, cb=answer)
        await answerer.flush()
        write = asyncio.create_task(link.request(subject, b"write this"))
        assert (await link.request(subject, b"anybody?", repeatable=True)).data == b"here"
        assert heard.count(b"write this") == 1
        write.cancel()
    finally:
        await answerer.close()
        await link.close()


async def test_a_request_nobody_hears_yet_is_sent_again(nats_server: NatsServer, nats_config: NATSConfig) -> None:
    """Servers of a cluster learn a moment later who answers for a stream: a request before that reached nobody."""
    link = Link(nats_config, lambda: None)
    await link.open()
    answerer = await nats.connect(nats_server.url)

    async def answer(message: Msg) -> None:
        await message.respond(b"here")

    subject = f"{nats_config.subject}.unheard"
    try:
        request = asyncio.create_task(link.request(subject, b"anybody?"))
        async with asyncio.timeout(PATIENCE_S):
            while link.requests < 2:
                await asyncio.sleep(0)
        await answerer.subscribe(subject, cb=answer)
        assert (await request).data == b"here"
        with pytest.raises(BackendUnavailableError, match="nobody answers"):
            await link.request(f"{subject}.ever")
    finally:
        await answerer.close()
        await link.close()


async def test_an_outage_does_not_fill_the_log(
    nats_config: NATSConfig, server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ojs.nats")
    link = Link(at(nats_config, server), lambda: None)
    await link.open()
    try:
        server.kill()
        async with asyncio.timeout(PATIENCE_S):
            while len([text for text in caplog.messages if f"Errno {errno.ECONNREFUSED}" in text]) < 3:
                await asyncio.sleep(0)
    finally:
        await link.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "The connection to NATS is down." in warnings
    assert len(warnings) == len(set(warnings))
