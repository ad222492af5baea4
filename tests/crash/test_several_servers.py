"""Several `ojs-server` commands on one file know of each other only what is in it."""

from __future__ import annotations

import statistics
import time

from tests.crash.history import History, Store, summary, violations
from tests.crash.load import ALL_STATES, CRON
from tests.crash.servers import PATIENCE_S, events

ROUNDS = 15
WAKE_S = 0.5
"""What is promised is a tenth of it, on a machine that has nothing else to do."""
SERVERS = 3
CRONS = 2
SLOTS = 8


def start_all(servers):
    for server in servers:
        server.launch()
    return [server.await_up() for server in servers]


def test_work_of_one_server_wakes_who_waits_at_the_other(make_server, make_client):
    here, there = start_all([make_server(), make_server()])
    client, worker = make_client(here), make_client(there)
    waits = []
    for number in range(ROUNDS):
        name = f"worker-{number}"
        body = {"queues": ["default"], "worker_id": name, "wait_ms": 30_000}
        worker.begin("POST", "/ojs/v1/workers/fetch", body)
        # Who is listed has been looked for, and waits.
        while name not in {worker["id"] for worker in client.ask("GET", "/ojs/v1/admin/workers")["workers"]}:
            pass
        job_id = client.ask("POST", "/ojs/v1/jobs", {"type": "wake.job", "args": []})["job"]["id"]
        pushed_at = time.monotonic()
        assert [job["id"] for job in worker.finish().body["jobs"]] == [job_id]
        waits.append(time.monotonic() - pushed_at)
    median = statistics.median(waits)
    print(f"woken after {1000 * median:.1f} ms, at most {1000 * max(waits):.1f} ms")  # noqa: T201 - shown with -s
    assert median < WAKE_S


def test_each_slot_of_a_cron_entry_fires_once(make_server, make_client):
    """Whichever of the servers does it, and though one of them is killed."""
    servers = start_all([make_server() for _ in range(SERVERS)])
    client = make_client(servers[0])
    for number in range(CRONS):
        client.ask("POST", "/ojs/v1/cron", {"name": f"tick-{number}", **CRON})
    done = 0
    give_up_at = time.monotonic() + 3 * PATIENCE_S
    while done < CRONS * SLOTS:
        assert time.monotonic() < give_up_at
        fetch = {"queues": ["cron"], "count": 10, "wait_ms": 1000}
        for job in client.ask("POST", "/ojs/v1/workers/fetch", fetch)["jobs"]:
            client.ask("POST", "/ojs/v1/workers/ack", {"job_id": job["id"], "result": {"fence": 1}})
            done += 1
        if done > CRONS * SLOTS / 2 and servers[-1].up.is_set():
            servers[-1].kill()
    for number in range(CRONS):
        client.ask("DELETE", f"/ojs/v1/cron/tick-{number}")
    for job in client.ask("POST", "/ojs/v1/workers/fetch", {"queues": ["cron"], "count": 100})["jobs"]:
        client.ask("POST", "/ojs/v1/workers/ack", {"job_id": job["id"]})
    numbers = client.ask("GET", "/ojs/v1/queues/cron/stats")["stats"]
    log = events(client)
    for server in servers[:-1]:
        server.stop()
    store = Store.read(servers[0].path, log, {"cron": {state: numbers[state] for state in ALL_STATES}})
    print(summary(History(), store))  # noqa: T201 - shown with -s
    assert violations(History(), store) == []
