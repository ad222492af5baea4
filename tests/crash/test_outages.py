"""A store that is full, locked, unwritable or gone: 503 and nothing half done, then on as before, without a restart."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest
from tests.crash.load import now_ms
from tests.crash.servers import PATIENCE_S, Client

from ojs_core.ids import uuid7

JOB = {"type": "outage.job", "args": []}
CHANGES = [
    ("POST", "/ojs/v1/jobs", JOB),
    ("POST", "/ojs/v1/jobs/batch", {"jobs": [JOB] * 3}),
    ("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]}),
    ("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "wait_ms": 30_000}),
    ("POST", "/ojs/v1/workers/heartbeat", {"worker_id": "w"}),
    ("POST", "/ojs/v1/workers/ack", {"job_id": "{active}"}),
    ("POST", "/ojs/v1/workers/nack", {"job_id": "{active}", "error": {"message": "It failed."}}),
    ("DELETE", "/ojs/v1/jobs/{active}", None),
    ("POST", "/ojs/v1/workflows", {"type": "chain", "steps": [JOB]}),
    ("POST", "/ojs/v1/cron", {"name": "daily", "expression": "0 0 * * *", "job_template": JOB}),
    ("POST", "/ojs/v1/queues/default/pause", None),
]
LOOKS = [
    ("GET", "/ojs/v1/jobs/{active}", None),
    ("GET", "/ojs/v1/queues", None),
    ("GET", "/ojs/v1/queues/default/stats", None),
    ("GET", "/ojs/v1/cron", None),
    ("GET", "/ojs/v1/dead-letter", None),
    ("GET", "/ojs/v1/events", None),
    ("GET", "/ojs/v1/admin/workers", None),
]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit another process")


def check_refused(answer):
    assert answer is not None
    assert answer.status == 503, answer
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/openjobspec+json"
    assert answer.body["error"]["code"] == "backend_error"
    assert answer.body["error"]["retryable"] is True


def ask_for(client, requests, active):
    for method, path, body in requests:
        yield client.send(method, path.replace("{active}", active), body and {**body, "job_id": active})


def make_active(client):
    """Enqueue a job and fetch it; return its id."""
    client.ask("POST", "/ojs/v1/jobs", JOB)
    (job,) = client.ask("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})["jobs"]
    return job["id"]


def lock(path: Path):
    """Keep everyone else from writing until the connection returned rolls back."""
    locker = apsw.Connection(str(path))
    locker.set_busy_timeout(PATIENCE_S * 1000)  # the server may be writing just now
    locker.execute("BEGIN EXCLUSIVE")
    return locker


def listed(path: Path):
    """Return what the file holds, less what changes while nobody does anything."""
    connection = apsw.Connection(str(path))
    try:
        assert connection.pragma("integrity_check") == "ok"
        return [connection.execute(f"SELECT * FROM {table}").get for table in ("jobs", "workflows", "crons", "events")]  # noqa: S608
    finally:
        connection.close()


def push_until_refused(client):
    """Enqueue large jobs until the store has no room; return the ids that were accepted."""
    accepted = []
    while True:
        job_id = uuid7(now_ms())
        answer = client.send("POST", "/ojs/v1/jobs", {**JOB, "id": job_id, "args": ["x" * 100_000]})
        if answer.status != 201:
            check_refused(answer)
            return accepted
        accepted.append(job_id)


def check_full(client, active):
    """Check what a full disk means to all requests, and return the jobs that were accepted before."""
    accepted = push_until_refused(client)
    assert accepted
    big = {**JOB, "args": ["x" * 500_000]}
    check_refused(client.send("POST", "/ojs/v1/jobs", big))
    check_refused(client.send("POST", "/ojs/v1/jobs/batch", {"jobs": [big] * 3}))
    assert {answer.status for answer in ask_for(client, LOOKS, active)} == {200}
    return accepted


def check_recovered(client, active, accepted):
    client.ask("POST", "/ojs/v1/jobs/batch", {"jobs": [{**JOB, "args": ["x" * 500_000]}] * 3})
    client.ask("POST", "/ojs/v1/workers/ack", {"job_id": active})
    jobs = client.ask("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "count": 1000})["jobs"]
    assert [job["id"] for job in jobs[:-3]] == accepted
    assert client.send("GET", "/readyz").status == 200


def test_a_locked_database(make_server, make_client, path):
    client = make_client(make_server(OJS_SQLITE_BUSY_TIMEOUT_MS=100).start())
    active = make_active(client)
    before = listed(path)
    locker = lock(path)
    for answer in ask_for(client, CHANGES, active):
        check_refused(answer)
    assert {answer.status for answer in ask_for(client, LOOKS, active)} == {200}
    assert client.send("GET", "/livez").status == 200
    assert listed(path) == before
    locker.execute("ROLLBACK")
    locker.close()
    client.ask("POST", "/ojs/v1/jobs", JOB)
    client.ask("POST", "/ojs/v1/workers/ack", {"job_id": active})


def test_a_short_lock_is_waited_for(server, client, path):
    locker = lock(path)
    others = [Client(server) for _ in range(8)]
    with ThreadPoolExecutor(len(others)) as pool:
        waiting = [pool.submit(other.ask, "POST", "/ojs/v1/jobs", JOB) for other in others]
        with pytest.raises(TimeoutError):
            waiting[0].result(0.3)
        assert client.send("GET", "/readyz").status == 200
        locker.execute("ROLLBACK")
        assert len({answer.result(PATIENCE_S)["job"]["id"] for answer in waiting}) == len(others)
    for other in others:
        other.close()
    locker.close()


@LINUX
def test_a_file_that_may_not_grow(server, client, path):
    """A limit on the size of files is a full disk that any test can have, and take away again."""
    active = make_active(client)
    pid, unlimited = server.process.pid, resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000_000, unlimited))
    accepted = check_full(client, active)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    check_recovered(client, active, accepted)
    server.stop()
    assert listed(path)


@LINUX
def test_a_full_disk(make_server, make_client, tmp_path):
    """On a small file system of the server's own, which ends with it."""
    folder = tmp_path / "small"
    folder.mkdir()
    inside = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    mount = ["sh", "-c", f'mount -t tmpfs -o size=24m tmpfs "{folder}" && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*inside, *mount, "true"], check=False).returncode:  # noqa: S603
        pytest.skip("this system lets us mount nothing")
    server = make_server(path=folder / "ojs.db", prefix=[*inside, *mount]).start()
    client = make_client(server)
    active = make_active(client)
    filler = Path(f"/proc/{server.process.pid}/root{folder}/filler")
    filler.write_bytes(bytes(22_000_000))
    accepted = check_full(client, active)
    filler.unlink()
    check_recovered(client, active, accepted)
    server.stop()


@LINUX
def test_a_folder_that_becomes_read_only(make_server, make_client, tmp_path):
    # Permissions mean nothing to root, unless it gives that up.
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("root cannot be kept from writing")
    folder = tmp_path / "folder"
    folder.mkdir()
    server = make_server(path=folder / "ojs.db", prefix=prefix).start()
    client = make_client(server)
    active = make_active(client)
    folder.chmod(0o500)
    try:
        # All files are open; what there is to do needs no others.
        client.ask("POST", "/ojs/v1/jobs", JOB)
        client.ask("POST", "/ojs/v1/workers/ack", {"job_id": active})
        assert {answer.status for answer in ask_for(client, LOOKS, active)} == {200}
        second = make_server(path=folder / "other.db", prefix=prefix)
        second.launch()
        assert second.await_end() == 1
        assert second.lines[-1].endswith("other.db cannot be created: Permission denied.")
    finally:
        folder.chmod(0o700)
    server.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_is_deleted_and_put_back(make_server, make_client, path, tmp_path, workers):
    """Else every change would be answered, and be gone."""
    server = make_server(OJS_WORKERS=workers).start()
    client = make_client(server)
    active = make_active(client)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = list(tmp_path.glob("ojs.db*"))
    for file in files:
        file.rename(elsewhere / file.name)
    for _ in range(2):
        for answer in ask_for(client, [*CHANGES, *LOOKS], active):
            check_refused(answer)
        check_refused(client.send("GET", "/readyz"))
        assert client.send("GET", "/livez").status == 200
        assert not path.exists()
        client.close()  # the next connection may be another worker's
    for file in files:
        (elsewhere / file.name).rename(file)
    client.ask("POST", "/ojs/v1/jobs", JOB)
    client.ask("POST", "/ojs/v1/workers/ack", {"job_id": active})
    assert {answer.status for answer in ask_for(client, LOOKS, active)} == {200}
    server.stop()
