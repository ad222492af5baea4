"""SIGTERM under load: whoever was heard is answered, and the server ends as it was asked to."""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import closing, contextmanager, suppress

import apsw
import pytest
from tests.crash.load import now_ms
from tests.crash.servers import Client, GoneError

from ojs_api.process import CUT_OFF
from ojs_core.ids import uuid7

PRODUCERS = 8
WORKERS = 8
POLLERS = 20
AT_ONCE_S = 20
"""A busy machine may take a while; waiting for jobs in vain would take longer."""


class Traffic:
    """Clients that never wait for a server that is gone; they know what they were answered."""

    def __init__(self, server):
        self.server = server
        self.accepted = set()
        self.delivered = set()
        self.acked = set()
        self.problems = []
        self._answers = threading.Semaphore(0)
        roles = [self._produce] * PRODUCERS + [self._work] * WORKERS
        self._threads = [threading.Thread(target=self._run, args=(role,)) for role in roles]
        for thread in self._threads:
            thread.start()

    def await_answers(self, count):
        for _ in range(count):
            assert self._answers.acquire(timeout=60)

    def await_end(self):
        for thread in self._threads:
            thread.join()

    def _run(self, role):
        with closing(Client(self.server, patience_s=0)) as client, suppress(GoneError):
            while True:
                role(client)

    def _ask(self, client, path, body):
        answer = client.send("POST", path, body)
        if answer is None:
            return None
        if answer.status not in (200, 201):
            self.problems.append(answer)
        self._answers.release()
        return answer.body

    def _produce(self, client):
        job_id = uuid7(now_ms())
        if self._ask(client, "/ojs/v1/jobs", {"id": job_id, "type": "stop.job", "args": []}):
            self.accepted.add(job_id)

    def _work(self, client):
        fetched = self._ask(client, "/ojs/v1/workers/fetch", {"queues": ["default"], "count": 2, "wait_ms": 30_000})
        jobs = fetched["jobs"] if fetched else []
        self.delivered.update(job["id"] for job in jobs)
        for job in jobs:
            if self._ask(client, "/ojs/v1/workers/ack", {"job_id": job["id"]}):
                self.acked.add(job["id"])


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_done_without_an_answer(make_server, path, workers):
    """Neither is anything answered that was not done."""
    server = make_server(OJS_WORKERS=workers).start()
    traffic = Traffic(server)
    traffic.await_answers(300)
    server.stop()
    traffic.await_end()
    assert traffic.problems == []
    with closing(apsw.Connection(str(path))) as connection:
        states = dict(connection.execute("SELECT id, state FROM jobs"))
    assert set(states) == traffic.accepted
    assert {job_id for job_id, state in states.items() if state == "completed"} == traffic.acked
    assert {job_id for job_id, state in states.items() if state != "available"} == traffic.delivered


@pytest.mark.parametrize("workers", [1, 2])
def test_waiting_fetches_end_at_once(make_server, make_client, workers):
    server = make_server(OJS_WORKERS=workers).start()
    pollers = [make_client(server) for _ in range(POLLERS)]
    for number, poller in enumerate(pollers):
        body = {"queues": ["default"], "worker_id": f"poller-{number}", "wait_ms": 30_000}
        poller.begin("POST", "/ojs/v1/workers/fetch", body)
    client = make_client(server)
    # Who is listed has been looked for, and waits.
    while client.ask("GET", "/ojs/v1/admin/workers")["count"] < POLLERS:
        pass
    told_at = time.monotonic()
    server.stop()
    stopped_s = time.monotonic() - told_at
    answers = [poller.finish() for poller in pollers]
    assert [(answer.status, answer.body) for answer in answers] == [(200, {"jobs": []})] * POLLERS
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert stopped_s < AT_ONCE_S
    print(json.dumps({"workers": workers, "stopped_s": round(stopped_s, 2)}))  # noqa: T201 - shown with -s


@contextmanager
def locked(path):
    """Keep every server from writing to the file."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(60_000)
        connection.execute("BEGIN IMMEDIATE")
        yield


def begin_push(server, make_client):
    """Send a push that the store will not take; return the client, once the server has it."""
    client = make_client(server, patience_s=0)
    client.begin("POST", "/ojs/v1/jobs", {"type": "stop.job", "args": []})
    # The server reads in the order of arrival: who is answered came later.
    assert make_client(server).ask("GET", "/livez")
    return client


def test_a_drain_that_runs_out_of_time_says_so(make_server, make_client, path):
    """The client learns that it may try again, and the exit code tells whoever stopped the server."""
    server = make_server(OJS_SQLITE_BUSY_TIMEOUT_MS=600_000, OJS_DRAIN_S=1).start()
    with locked(path):
        client = begin_push(server, make_client)
        server.signal(signal.SIGTERM)
        answer = client.finish()
        assert (answer.status, answer.body["error"]["retryable"]) == (503, True)
    assert server.await_end() == CUT_OFF
    assert server.lines[-1] == "ojs-server: stopped with 1 request(s) unfinished after OJS_DRAIN_S=1"
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("drain_s", "phase", "unfinished"),
    [(600, "Waiting for connections to close", 1), (0, "Waiting for application shutdown", 0)],
)
def test_a_second_signal_ends_it_at_once(make_server, make_client, path, second, drain_s, phase, unfinished):
    """Whatever it waits for, and without a traceback."""
    server = make_server(OJS_SQLITE_BUSY_TIMEOUT_MS=600_000, OJS_DRAIN_S=drain_s).start()
    with locked(path):
        begin_push(server, make_client)
        server.signal(signal.SIGTERM)
        server.await_line(phase)
        server.signal(second)
        assert server.await_end() == CUT_OFF
    assert server.lines[-1] == f"ojs-server: stopped by a second signal, with {unfinished} request(s) unfinished"
    assert "Traceback" not in "".join(server.lines)
