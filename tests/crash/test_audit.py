"""Whatever is killed, and whenever: what was answered holds, and nothing happens twice.

`CRASH_ROUNDS=20` kills twenty times as often.
"""

from __future__ import annotations

import os
import random
import signal

import pytest
from tests.crash.history import summary, violations
from tests.crash.load import CRON, Load

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "1"))
SEED = int(os.environ.get("CRASH_SEED", "1"))


def kill_the_server(server, load, rng):
    load.await_answers(rng.randint(30, 150), lambda: server.signal(signal.SIGKILL))
    assert server.await_end() == -signal.SIGKILL
    server.start()


def kill_a_worker(server, load, rng):
    victim = rng.choice(server.worker_pids())
    load.await_answers(rng.randint(30, 150), lambda: os.kill(victim, signal.SIGKILL))
    server.await_line(f"Worker {victim} died")


@pytest.mark.timeout(540 + 60 * ROUNDS)
@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        pytest.param(1, [kill_the_server] * 3, id="one-process"),
        pytest.param(2, [kill_a_worker, kill_the_server], id="two-workers"),
    ],
)
def test_audit(make_server, make_client, workers, kills):
    server = make_server(OJS_WORKERS=workers).start()
    client = make_client(server)
    client.ask("POST", "/ojs/v1/cron", {"name": "tick", **CRON})
    rng = random.Random(SEED)  # noqa: S311 - nothing secret
    with Load([server], SEED * 1000).running() as load:
        for kill in kills * ROUNDS:
            kill(server, load, rng)
        load.await_answers(100)
    client.close()
    client.ask("DELETE", "/ojs/v1/cron/tick")
    store = load.settle(server)
    print(summary(load.history, store))  # noqa: T201 - shown with -s, and when it fails
    assert violations(load.history, store) == []
