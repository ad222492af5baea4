"""The limits, over real sockets. Deadlines are checked for a time that is 4 s early, as machines stall, then late."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
from typing import NamedTuple

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from ojs_api.protocol import LINGER_S, PIPELINED_MAX, REFUSALS_MAX, SLICE_BYTES, Limits, _sweepers, guarded

KEEP_ALIVE_S = 75
PATIENCE_S = 60
GET = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
CHUNKED = b"POST /%s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def on_both_loops(test):
    """Run an async test on asyncio's own event loop and on uvloop, whose transports differ."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def wrapped(run, **arguments):
        async def patient():
            async with asyncio.timeout(PATIENCE_S):
                await test(**arguments)

        run(patient())

    signature = inspect.signature(test)
    run = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wrapped.__signature__ = signature.replace(parameters=[run, *signature.parameters.values()])
    return wrapped


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def error(self):
        return json.loads(self.body)["error"]


class Client:
    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, *data):
        self.writer.write(b"".join(data))

    async def answer(self):
        start, *lines = (await self.reader.readuntil(b"\r\n\r\n")).splitlines()[:-1]
        headers = dict(line.split(b": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get(b"content-length", 0)))
        return Answer(int(start.split()[1]), headers, body)

    async def ask(self, *data):
        self.send(*data)
        return await self.answer()

    async def refusal(self, status, code):
        """Expect an error, and nothing after it."""
        answer = await self.answer()
        assert (answer.status, answer.error["code"]) == (status, code)
        assert answer.headers[b"connection"] == b"close"
        await self.end()
        return answer

    async def end(self):
        assert await self.reader.read() == b""


class Site:
    """A server in this event loop, with an application that does what the path says."""

    def __init__(self, **limits):
        # So seldom that only the test itself looks at the clock.
        self.limits = Limits(**{"sweep_s": 3600} | limits)
        self.state = ServerState()
        self.seen = []
        self.release = asyncio.Event()
        self.ended = []
        self._clients = []

    async def __aenter__(self):
        config = uvicorn.Config(
            self.application,
            http=guarded(self.limits),
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()

        class Counting(config.http_protocol_class):
            bytes_read = 0

            def data_received(self, data):
                super().data_received(data)
                self.bytes_read += len(data)

        def connection():
            return Counting(config=config, server_state=self.state, app_state={})

        self._server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.release.set()
        self._server.close()
        # Closed, a client would stay open for as long as what nobody reads waits to be sent.
        for end in (*(client.writer for client in self._clients), *self.state.connections):
            end.transport.abort()
        await until(lambda: not self.state.connections and not self.state.tasks)
        await asyncio.gather(*(client.writer.wait_closed() for client in self._clients), return_exceptions=True)
        assert not _sweepers[self.state]._connections  # noqa: SLF001 - what is kept here is kept for ever

    async def connect(self):
        client = Client(*await asyncio.open_connection(*self._server.sockets[0].getsockname()))
        self._clients.append(client)
        return client

    async def connection(self):
        await until(lambda: self.state.connections)
        (connection,) = self.state.connections
        return connection

    async def received(self, client, data):
        """Send `data` and wait until it has been read."""
        connection = await self.connection()
        expected = connection.bytes_read + len(data)
        client.send(data)
        await until(lambda: connection.bytes_read == expected)

    def pass_time(self, seconds):
        now = asyncio.get_running_loop().time()
        for connection in tuple(self.state.connections):
            connection.check_time(now + seconds)

    async def application(self, scope, receive, send):
        name = scope["path"].strip("/")
        self.seen.append(name)
        body = b"ok"
        if name in {"slow", "wait"}:
            await self.release.wait()
        if name == "stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await receive()
        if name not in {"early", "wait"}:
            body = await self.read_body(receive)
        if body is None:
            self.ended.append(name)
            return
        if name == "headers":
            body = b"\n".join(b": ".join(header) for header in scope["headers"])
        status = 401 if name == "early" else 200
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def read_body(self, receive):
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                return body
        return None


@on_both_loops
async def test_a_connection_is_used_again():
    async with Site() as site:
        client = await site.connect()
        for _ in range(3):
            assert (await client.ask(GET % b"a")).status == 200
            assert (await client.ask(POST % (b"b", 5), b"hello")).body == b"hello"


@on_both_loops
async def test_pipelined_requests_are_answered_in_order():
    async with Site() as site:
        client = await site.connect()
        client.send(GET % b"wait", *(POST % (b"echo", 2) + b"%02d" % n for n in range(20)))
        await until(lambda: site.seen)
        site.release.set()
        assert [(await client.answer()).body for _ in range(21)] == [b"ok", *(b"%02d" % n for n in range(20))]


@on_both_loops
async def test_pieces_of_any_size_make_the_same_requests():
    async with Site() as site:
        requests = POST % (b"echo", 5) + b"hello" + CHUNKED % b"echo" + b"3\r\nabc\r\n0\r\n\r\n" + GET % b"a"
        client = await site.connect()
        for piece in range(len(requests)):
            await site.received(client, requests[piece : piece + 1])
        assert [(await client.answer()).body for _ in range(3)] == [b"hello", b"abc", b""]


@on_both_loops
async def test_a_refusal_has_the_shape_of_every_error():
    async with Site() as site:
        client = await site.connect()
        client.send(b"nonsense\r\n\r\n")
        answer = await client.refusal(400, "invalid_request")
        assert answer.headers[b"content-type"] == b"application/openjobspec+json"
        assert answer.headers[b"ojs-version"] == b"1.0"
        assert re.fullmatch(rb"req_[0-9a-f-]{36}", answer.headers[b"x-request-id"])
        assert answer.error["request_id"] == answer.headers[b"x-request-id"].decode()
        assert answer.error.keys() == {"code", "message", "retryable", "request_id", "hint", "docs_url", "doc_url"}


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\n\n",
        b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nname : value\r\n\r\n",
        b"GET / HTTP/1.1\r\nname: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nname: a\0b\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        POST.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n") % (b"echo", 3) + b"0\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n") % b"echo" + b"0\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n") % b"echo" + b"0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"xchunked") % b"echo" + b"0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"gzip, chunked") % b"echo" + b"0\r\n\r\n",
        POST.replace(b"\r\n\r\n", b"\r\ncontent-length: 4\r\n\r\n") % (b"echo", 3) + b"abcd",
        POST % (b"echo", -3) + b"abc",
        POST.replace(b"%d", b"%d, 3") % (b"echo", 3) + b"abc",
    ],
)
@on_both_loops
async def test_malformed_requests_never_reach_the_application(request_):
    async with Site() as site:
        client = await site.connect()
        client.send(request_, GET % b"smuggled")
        await client.refusal(400, "invalid_request")
        assert site.seen == []


@on_both_loops
async def test_a_malformed_chunk_ends_the_request():
    async with Site() as site:
        client = await site.connect()
        await site.received(client, CHUNKED % b"echo")
        client.send(b"xyz\r\n", GET % b"smuggled")
        await client.refusal(400, "invalid_request")
        await until(lambda: site.ended == ["echo"])
        assert site.seen == ["echo"]


# Headers


def with_headers(*lines):
    return b"GET /headers HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@on_both_loops
async def test_the_number_of_header_fields_is_limited():
    async with Site() as site:
        for count in (101, 20_000):
            client = await site.connect()
            answer = await client.ask(with_headers(*(b"name-%d: x" % n for n in range(100))))
            assert answer.body.count(b"\n") == 99
            client.send(with_headers(*(b"name-%d: x" % n for n in range(count))))
            await client.refusal(431, "x_header_too_large")
        assert site.seen == ["headers", "headers"]


@pytest.mark.parametrize("lines", [1, 8])
@on_both_loops
async def test_the_size_of_a_header_is_limited(lines):
    async with Site() as site:
        limit = site.limits.header_max_bytes
        overhead = lines * len(b"name: \r\n")
        client = await site.connect()
        fitting = [b"name: " + b"x" * ((limit - overhead) // lines)] * lines
        # Three times: what an earlier request took is not held against a later one, wherever the reads are cut.
        for _ in range(3):
            assert (await client.ask(with_headers(*fitting))).status == 200
        client.send(with_headers(fitting[0] + b"y", *fitting[1:]))
        await client.refusal(431, "x_header_too_large")


@on_both_loops
async def test_a_header_without_end_is_not_kept():
    async with Site() as site:
        client = await site.connect()
        client.send(b"GET / HTTP/1.1\r\nname: ", b"x" * 20_000_000)
        await client.refusal(431, "x_header_too_large")
        assert site.seen == []


@on_both_loops
async def test_the_length_of_the_target_is_limited():
    async with Site() as site:
        limit = site.limits.url_max_bytes
        client = await site.connect()
        assert (await client.ask(GET % (b"x" * (limit - 1)))).status == 200
        client.send(GET % (b"x" * limit))
        await client.refusal(414, "x_uri_too_long")

        endless = await site.connect()
        endless.send(b"GET /" + b"x" * 1_000_000)
        await endless.refusal(414, "x_uri_too_long")


@on_both_loops
async def test_empty_lines_do_not_count_as_requests():
    async with Site() as site:
        client = await site.connect()
        assert (await client.ask(b"\r\n\r\n", GET % b"a")).status == 200
        client.send(b"\r\n" * 50_000)
        await client.refusal(431, "x_header_too_large")


# Bodies


@pytest.mark.parametrize("sent_bytes", [0, 8_000_000])
@on_both_loops
async def test_a_declared_length_over_the_limit_is_refused_at_once(sent_bytes):
    """A client that sends everything before it reads gets its answer too, instead of a connection reset."""
    async with Site(body_max_bytes=1000) as site:
        client = await site.connect()
        assert (await client.ask(POST % (b"echo", 1000), b"x" * 1000)).status == 200
        client.send(POST % (b"echo", 8_000_000), b"x" * sent_bytes)
        await client.writer.drain()
        await client.refusal(413, "envelope_too_large")
        assert site.seen == ["echo"]


@on_both_loops
async def test_a_chunked_body_is_counted():
    async with Site(body_max_bytes=100_000) as site:
        client = await site.connect()
        chunk = b"c350\r\n" + b"x" * 50_000 + b"\r\n"
        for _ in range(2):
            assert len((await client.ask(CHUNKED % b"echo", chunk * 2, b"0\r\n\r\n")).body) == 100_000
        client.send(CHUNKED % b"echo", chunk * 2, b"1\r\nx\r\n")
        await client.refusal(413, "envelope_too_large")
        await until(lambda: site.ended == ["echo"])


@on_both_loops
async def test_a_refusal_gets_through_to_a_client_whose_body_nobody_reads():
    async with Site(body_max_bytes=100_000) as site:
        client = await site.connect()
        client.send(CHUNKED % b"slow", *[b"c350\r\n" + b"x" * 50_000 + b"\r\n"] * 200)
        await client.writer.drain()
        await client.refusal(413, "envelope_too_large")


@on_both_loops
async def test_an_application_that_reads_too_late_finds_the_client_gone():
    async with Site(body_max_bytes=10) as site:
        client = await site.connect()
        head = (CHUNKED % b"slow").replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
        client.send(head, b"14\r\n" + b"x" * 20)
        await client.refusal(413, "envelope_too_large")
        site.release.set()
        await until(lambda: site.ended == ["slow"])


@on_both_loops
async def test_a_body_may_be_left_unread():
    async with Site() as site:
        client = await site.connect()
        client.send(POST % (b"early", 1_000_000), b"x" * 1_000_000, GET % b"a")
        assert [(await client.answer()).status for _ in range(2)] == [401, 200]


@on_both_loops
async def test_trailers_are_not_headers():
    async with Site() as site:
        client = await site.connect()
        answer = await client.ask(CHUNKED % b"headers", b"1\r\nx\r\n0\r\nauthorization: forged\r\n\r\n")
        assert b"forged" not in answer.body
        client.send(CHUNKED % b"headers", b"1\r\nx\r\n0\r\nname: ", b"x" * 1_000_000)
        await client.refusal(431, "x_header_too_large")


@on_both_loops
async def test_a_length_that_lies_is_found_out():
    async with Site() as site:
        client = await site.connect()
        client.send(POST % (b"echo", 3), b"abcdef", b"\r\n\r\n")
        assert (await client.answer()).body == b"abc"
        await client.refusal(400, "invalid_request")


# Times


@on_both_loops
async def test_a_header_has_to_be_complete_in_time():
    async with Site() as site:
        client = await site.connect()
        await client.ask(GET % b"a")
        # The time that an idle connection has does not count.
        site.pass_time(0)
        for piece in (b"GET / HT", b"TP/1.1\r\nhost:", b" x\r\n"):
            await site.received(client, piece)
            # Dripping does not help: the time runs from the first byte.
            site.pass_time(site.limits.header_timeout_s - 4)
        site.pass_time(site.limits.header_timeout_s + 0.5)
        assert (await client.refusal(408, "x_request_timeout")).error["retryable"] is True


@on_both_loops
async def test_a_body_has_to_be_complete_in_time():
    async with Site() as site:
        client = await site.connect()
        await site.received(client, POST % (b"echo", 10) + b"half")
        site.pass_time(site.limits.body_timeout_s - 4)
        site.pass_time(site.limits.body_timeout_s + 0.5)
        await client.refusal(408, "x_request_timeout")
        await until(lambda: site.ended == ["echo"])


@on_both_loops
async def test_each_part_of_a_request_has_its_own_time():
    async with Site() as site:
        client = await site.connect()
        await site.received(client, b"POST /echo HTTP/1.1\r\n")
        await site.received(client, b"content-length: 4\r\n\r\nha")
        site.pass_time(site.limits.body_timeout_s - 4)
        await site.received(client, b"lfGET / HT")
        assert (await client.answer()).body == b"half"
        site.pass_time(site.limits.header_timeout_s - 4)
        site.pass_time(site.limits.header_timeout_s + 0.5)
        await client.refusal(408, "x_request_timeout")


@on_both_loops
async def test_the_clock_really_runs():
    async with Site(sweep_s=0.02, header_timeout_s=0.1, body_timeout_s=0.1) as site:
        for request in (b"GET / HTTP/1.1\r\n", POST % (b"echo", 10) + b"half"):
            client = await site.connect()
            client.send(request)
            await client.refusal(408, "x_request_timeout")


@pytest.mark.parametrize("request_", [GET % b"wait", POST % (b"wait", 2) + b"ab"])
@on_both_loops
async def test_a_handler_may_take_its_time(request_):
    async with Site() as site:
        client = await site.connect()
        await site.received(client, request_)
        for hours in range(3):
            site.pass_time(3600 * hours)
        site.release.set()
        assert (await client.answer()).status == 200


@on_both_loops
async def test_the_clock_stands_still_while_the_application_does_not_read():
    async with Site(sweep_s=3600) as site:
        client = await site.connect()
        client.send(POST % (b"slow", 1_000_000), b"x" * 1_000_000)
        connection = await site.connection()
        await until(lambda: connection.flow.read_paused)
        site.pass_time(1000)
        site.release.set()
        assert len((await client.answer()).body) == 1_000_000


@on_both_loops
async def test_the_clock_stands_still_while_the_client_waits_for_a_go_ahead():
    async with Site() as site:
        client = await site.connect()
        await site.received(client, (POST % (b"slow", 5)).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
        site.pass_time(1000)
        site.release.set()
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"hello")).body == b"hello"


@pytest.mark.parametrize("before", [None, GET % b"a", POST % (b"early", 4)])
@on_both_loops
async def test_an_idle_connection_is_closed_without_a_word(before):
    async with Site() as site:
        client = await site.connect()
        if before is not None:
            await client.ask(before)
            if b"early" in before:
                # The rest of a body that was answered before it was there.
                await site.received(client, b"rest")
        await site.connection()
        site.pass_time(0)
        site.pass_time(KEEP_ALIVE_S - 4)
        site.pass_time(KEEP_ALIVE_S + 0.5)
        await client.end()


@on_both_loops
async def test_a_body_that_never_ends_is_given_up_after_an_early_answer():
    async with Site() as site:
        client = await site.connect()
        assert (await client.ask(POST % (b"early", 100), b"half")).status == 401
        site.pass_time(site.limits.body_timeout_s + 0.5)
        await client.end()


@on_both_loops
async def test_a_refused_client_that_does_not_hang_up_is_hung_up_on():
    async with Site() as site:
        client = await site.connect()
        client.send(b"nonsense\r\n\r\n")
        assert (await client.answer()).status == 400
        site.pass_time(LINGER_S - 4)
        assert site.state.connections
        site.pass_time(LINGER_S + 0.5)
        await until(lambda: not site.state.connections)


# Several requests on a connection


@on_both_loops
async def test_a_refusal_waits_for_the_answers_before_it():
    async with Site() as site:
        client = await site.connect()
        await site.received(client, GET % b"wait" + GET % b"a" + b"nonsense\r\n\r\n")
        await until(lambda: site.seen == ["wait"])
        site.release.set()
        assert [(await client.answer()).body for _ in range(2)] == [b"ok", b""]
        await client.refusal(400, "invalid_request")


@on_both_loops
async def test_a_request_refused_while_it_waits_never_reaches_the_application():
    async with Site(body_max_bytes=10) as site:
        client = await site.connect()
        await site.received(client, GET % b"wait" + CHUNKED % b"echo" + b"14\r\n" + b"x" * 20)
        site.release.set()
        assert (await client.answer()).body == b"ok"
        await client.refusal(413, "envelope_too_large")
        assert site.seen == ["wait"]


@on_both_loops
async def test_an_answer_begun_before_its_request_is_refused_breaks_off():
    async with Site(body_max_bytes=10) as site:
        client = await site.connect()
        await site.received(client, CHUNKED % b"stream")
        assert b"begun" in await client.reader.readuntil(b"begun\r\n")
        client.send(b"14\r\n" + b"x" * 20)
        await client.end()
        await until(lambda: site.ended == ["stream"])


@on_both_loops
async def test_the_number_of_requests_waiting_on_a_connection_is_limited():
    async with Site() as site:
        client = await site.connect()
        client.send(GET % b"wait", *[GET % b"a"] * (PIPELINED_MAX + 10))
        await until(lambda: site.seen)
        site.release.set()
        for _ in range(PIPELINED_MAX + 1):
            assert (await client.answer()).status == 200
        assert (await client.refusal(503, "x_too_many_pipelined")).error["retryable"] is True


@on_both_loops
async def test_every_request_of_a_lost_connection_is_told():
    async with Site() as site:
        client = await site.connect()
        await site.received(client, GET % b"stream" + GET % b"a" + GET % b"b")
        client.writer.close()
        await until(lambda: site.ended == ["stream"])


# Connections


@on_both_loops
async def test_sixty_four_connections_at_once():
    async with Site() as site:
        clients = [await site.connect() for _ in range(64)]
        for client in clients:
            client.send(GET % b"wait")
        await until(lambda: len(site.seen) == 64)
        site.release.set()
        assert {(await client.answer()).status for client in clients} == {200}


@on_both_loops
async def test_connections_above_the_limit_are_told_to_come_back():
    async with Site(connections_max=2) as site:
        kept = [await site.connect() for _ in range(2)]
        for client in kept:
            assert (await client.ask(GET % b"a")).status == 200
        refused = await site.connect()
        answer = await refused.refusal(503, "x_too_many_connections")
        assert answer.headers[b"retry-after"] == b"1"
        assert answer.error["retryable"] is True
        refused.writer.close()
        kept[0].writer.close()
        await until(lambda: len(site.state.connections) == 1)
        assert (await (await site.connect()).ask(GET % b"a")).status == 200


@on_both_loops
async def test_a_flood_of_connections_is_dropped():
    async with Site(connections_max=1) as site:
        clients = [await site.connect() for _ in range(1 + REFUSALS_MAX + 1)]
        assert (await clients[0].ask(GET % b"a")).status == 200
        await clients[1].refusal(503, "x_too_many_connections")
        await clients[-1].end()
        await until(lambda: len(site.state.connections) == 1 + REFUSALS_MAX)


@on_both_loops
async def test_a_server_that_stops_does_not_wait_for_refused_clients():
    async with Site(body_max_bytes=10) as site:
        client = await site.connect()
        client.send(CHUNKED % b"wait", b"14\r\n" + b"x" * 20)
        assert (await client.answer()).status == 413
        (await site.connection()).shutdown()
        await until(lambda: not site.state.connections)


@on_both_loops
async def test_a_server_that_stops_answers_what_came_before_a_refusal(caplog):
    async with Site() as site:
        client = await site.connect()
        await site.received(client, GET % b"wait" + b"nonsense\r\n\r\n")
        (await site.connection()).shutdown()
        site.release.set()
        assert (await client.answer()).status == 200
        await client.end()
    assert not caplog.records


# Offers to change the protocol


def offering(request):
    """Make the request as Java's own client does on a new connection."""
    return request.replace(b"host: x\r\n", b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n")


@pytest.mark.parametrize("split", [False, True])
@on_both_loops
async def test_an_offer_to_upgrade_is_ignored_and_the_body_kept(split):
    async with Site() as site:
        client = await site.connect()
        head = offering(POST % (b"echo", 5))
        if split:
            await site.received(client, head[:50])
            await site.received(client, head[50:])
            client.send(b"hello")
        else:
            client.send(head, b"hello", offering(GET % b"headers"), offering(CHUNKED % b"echo"), b"0\r\n\r\n")
        assert (await client.answer()).body == b"hello"
        if not split:
            headers = (await client.answer()).body
            assert b"host: x" in headers
            assert b"upgrade: h2c" not in headers
            assert (await client.answer()).body == b""


@on_both_loops
async def test_an_offer_to_upgrade_does_not_lift_the_limits():
    async with Site(body_max_bytes=10) as site:
        client = await site.connect()
        client.send(offering(POST % (b"echo", 11)))
        await client.refusal(413, "envelope_too_large")
        assert site.seen == []


def test_a_limit_too_small_to_be_kept_is_refused():
    with pytest.raises(ValueError, match="header_max_bytes"):
        Limits(header_max_bytes=SLICE_BYTES - 1)
