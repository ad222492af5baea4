"""Clients that do everything at once, and write down what they learn."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

from tests.crash.history import Delivery, History, Store, WorkflowSent, to_ms
from tests.crash.servers import PATIENCE_S, Answer, Client, Server, events

from ojs_core.ids import uuid7

LEASE_MS = 1500
QUEUES = ("default", "other", "cron")
RETRY = {"max_attempts": 1000, "initial_interval_ms": 20, "max_interval_ms": 100}
OPTIONS = {"retry": RETRY}
ALL_STATES = ["scheduled", "available", "pending", "active", "completed", "retryable", "cancelled", "discarded"]
OPEN_STATES = ("scheduled", "available", "pending", "active", "retryable")
CRON = {
    "expression": "* * * * * *",
    "overlap_policy": "allow",
    "job_template": {"type": "audit.cron", "args": ["cron"], "options": {"queue": "cron", **OPTIONS}},
}
BACKLOG_MAX = 60
"""Jobs that wait before producers lend the workers a hand."""
SETTLE_S = 180


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def job(token: str, **options: Any) -> dict[str, Any]:
    """Return a job that can be told from all others by its argument."""
    return {"type": "audit.job", "args": [token], "options": OPTIONS | options}


class Load:
    """Producers and workers against one server. Same seed, same intentions; what comes of them is up to the threads."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        self.history = History()
        self._servers = servers
        self._seed = seed
        self._stopping = threading.Event()
        self._answered = threading.Condition()
        self._answers = 0
        self._target = 0
        self._then: Callable[[], object] | None = None
        self._recent: list[str] = []

    @contextmanager
    def running(self, producers: int = 3, workers: int = 4) -> Iterator[Load]:
        """Keep the clients busy for the length of the block."""
        roles: list[Callable[[_Caller], None]] = [self._produce] * producers + [self._work] * workers
        threads = [
            threading.Thread(target=self._run, args=(role, number)) for number, role in enumerate(roles, self._seed)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def await_answers(self, count: int, then: Callable[[], object] | None = None) -> None:
        """Wait until this many more requests were answered, and do `then` the moment the last of them is."""
        with self._answered:
            self._target, self._then = self._answers + count, then
            arrived = self._answered.wait_for(
                lambda: self._answers >= self._target or self.history.surprises, PATIENCE_S
            )
        assert arrived, f"{self._answers} of {self._target} answers"
        assert not self.history.surprises

    def _run(self, role: Callable[[_Caller], None], number: int) -> None:
        caller = _Caller(self._servers[number % len(self._servers)], number, self._note)
        try:
            while not self._stopping.is_set():
                role(caller)
        except Exception:  # noqa: BLE001 - told to the thread that waits
            self.history.surprises.append(traceback.format_exc())
            self._note("error", None)
        finally:
            caller.client.close()

    def _note(self, request: str, answer: Answer | None) -> None:
        with self._answered:
            self._answers += answer is not None
            if self._then is not None and self._answers >= self._target:
                self._then()
                self._then = None
            self._answered.notify_all()
        if answer is None or answer.status == 503:
            self.history.unknown.append(request)
        elif answer.status >= 500:
            self.history.surprises.append(f"{request}: {answer}")

    # Producers.

    def _produce(self, caller: _Caller) -> None:
        ended = sum(delivery.acked for delivery in self.history.deliveries)
        if len(self.history.accepted) - ended > BACKLOG_MAX:
            self._work(caller)
            return
        (produce,) = caller.rng.choices(
            [
                self._push,
                self._push_later,
                self._push_batch,
                self._push_unique,
                self._push_workflow,
                self._cancel,
                self._cancel_workflow,
            ],
            weights=[36, 10, 12, 12, 16, 12, 2],
        )
        produce(caller)

    def _push(self, caller: _Caller, **options: Any) -> None:
        """Push under an id of our own, again and again until there is an answer: at most one may come of it."""
        job_id = uuid7(now_ms())
        body = {**job(job_id, queue=caller.rng.choice(QUEUES[:2]), **options), "id": job_id}
        status = caller.insist("POST", "/ojs/v1/jobs", body, {201, 409})
        if status == 409 and not caller.asked_again:
            self.history.surprises.append(f"{job_id} was taken before it was sent")
        self.history.accepted.add(job_id)
        self._recent.append(job_id)

    def _push_later(self, caller: _Caller) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 1))
        self._push(caller, scheduled_at=f"{at}Z", priority=caller.rng.randint(-5, 5))

    def _push_batch(self, caller: _Caller) -> None:
        ids = [uuid7(now_ms()) for _ in range(caller.rng.randint(2, 20))]
        body = {"jobs": [{**job(job_id, queue=caller.rng.choice(QUEUES[:2])), "id": job_id} for job_id in ids]}
        answer = caller.send("POST", "/ojs/v1/jobs/batch", body, {201})
        self.history.batches.append((ids, answer is not None))
        if answer is not None:
            self.history.accepted.update(ids)

    def _push_unique(self, caller: _Caller) -> None:
        """Push what another client may be pushing at this moment."""
        token = f"unique-{self._answers // 40}"
        policy = caller.rng.choice(["reject", "ignore"])
        unique = {"keys": ["args"], "states": ALL_STATES, "on_conflict": policy}
        caller.insist("POST", "/ojs/v1/jobs", job(token, unique=unique), {200, 201, 409})
        self.history.uniques.add(token)

    def _push_workflow(self, caller: _Caller) -> None:
        name = f"workflow-{uuid7(now_ms())}"
        make = caller.rng.choice([_chain, _group, _batch, _nested])
        body, sent = make(name, [f"{name}/{number}" for number in range(caller.rng.randint(2, 4))])
        self.history.workflows.append(sent)
        answer = caller.send("POST", "/ojs/v1/workflows", body, {201})
        if answer is not None:
            sent.id = answer.body["id"]

    def _cancel_workflow(self, caller: _Caller) -> None:
        known = [sent for sent in self.history.workflows[-10:] if sent.id]
        if known:
            sent = caller.rng.choice(known)
            sent.cancelled = True
            caller.send("DELETE", f"/ojs/v1/workflows/{sent.id}", None, {200, 409})

    def _cancel(self, caller: _Caller) -> None:
        if self._recent:
            job_id = caller.rng.choice(self._recent[-50:])
            answer = caller.send("DELETE", f"/ojs/v1/jobs/{job_id}", None, {200, 409})
            if answer is not None and answer.status == 200:
                self.history.cancelled.add(job_id)

    # Workers.

    def _work(self, caller: _Caller) -> None:
        count = caller.rng.randint(1, 8)
        fetched = self._fetch(caller, count, wait_ms=caller.rng.choice([0, 200]))
        for delivery, token in fetched:
            chance = caller.rng.random()
            if chance < 0.1:
                self._beat(caller, [delivery for delivery, _ in fetched])
            if token.endswith("/doomed"):
                self._fail(caller, delivery, {"error": {"message": "It was bound to fail.", "retryable": False}})
            elif chance < 0.75:
                self._ack(caller, delivery)
            elif chance < 0.88:
                self._fail(caller, delivery, {"error": {"message": "It failed."}})
            elif chance < 0.97:
                self._fail(caller, delivery, {"requeue": True})
            # The rest is forgotten, as by a worker that died.

    def _beat(self, caller: _Caller, held: list[Delivery]) -> None:
        body = {"worker_id": caller.name, "active_jobs": [delivery.job_id for delivery in held]}
        answer = caller.send("POST", "/ojs/v1/workers/heartbeat", body, {200})
        if answer is not None:
            until = to_ms(answer.body["server_time"]) + LEASE_MS
            for delivery in held:
                if delivery.job_id in answer.body["jobs_extended"]:
                    delivery.lease_until = until

    def _fetch(self, caller: _Caller, count: int, wait_ms: int = 0) -> list[tuple[Delivery, str]]:
        queues = caller.rng.sample(QUEUES, len(QUEUES))
        body = {
            "queues": queues,
            "count": count,
            "worker_id": caller.name,
            "visibility_timeout_ms": LEASE_MS,
            "wait_ms": wait_ms,
        }
        answer = caller.send("POST", "/ojs/v1/workers/fetch", body, {200})
        if answer is None:
            self.history.lost_fetches.append(count)
            return []
        fetched = [
            (
                Delivery(
                    job_id=got["id"],
                    attempt=got["attempt"],
                    fence=int(got["lease_id"]),
                    lease_until=to_ms(got["lease_expires_at"]),
                ),
                got["args"][0],
            )
            for got in answer.body["jobs"]
        ]
        self.history.deliveries += [delivery for delivery, _ in fetched]
        return fetched

    def _ack(self, caller: _Caller, delivery: Delivery) -> None:
        delivery.given_back = True
        body = {"job_id": delivery.job_id, "lease_id": str(delivery.fence), "result": {"fence": delivery.fence}}
        delivery.acked = caller.insist("POST", "/ojs/v1/workers/ack", body, {200, 409}) == 200

    def _fail(self, caller: _Caller, delivery: Delivery, body: dict[str, Any]) -> None:
        delivery.given_back = True
        body = {"job_id": delivery.job_id, "lease_id": str(delivery.fence), **body}
        caller.send("POST", "/ojs/v1/workers/nack", body, {200, 409})

    # The end.

    def settle(self, server: Server) -> Store:
        """Do all the work that is left, stop the server, and return what there is."""
        caller = _Caller(server, 0, self._note)
        try:
            log, stats = self._end_all(caller)
        finally:
            caller.client.close()
        server.stop()
        return server.read_store(log, stats)

    def _end_all(self, caller: _Caller) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
        """Do all the work that is left; return the event log and the numbers of each queue."""
        client = caller.client
        deadline = time.monotonic() + SETTLE_S
        while True:
            for delivery, token in self._fetch(caller, 100, wait_ms=100):
                if token.endswith("/doomed"):
                    self._fail(caller, delivery, {"error": {"message": "It was bound to fail.", "retryable": False}})
                else:
                    self._ack(caller, delivery)
            names = [queue["name"] for queue in client.ask("GET", "/ojs/v1/queues")["queues"]]
            stats = {name: client.ask("GET", f"/ojs/v1/queues/{name}/stats")["stats"] for name in names}
            stats = {name: {state: numbers[state] for state in ALL_STATES} for name, numbers in stats.items()}
            log = events(client)
            half = _half_told(log)
            if not half and not any(numbers[state] for numbers in stats.values() for state in OPEN_STATES):
                return log, stats
            if time.monotonic() > deadline:
                workflows = [client.send("GET", f"/ojs/v1/workflows/{subject}") for subject in sorted(half)]
                raise AssertionError(f"not settled after {SETTLE_S} s: {stats}, {workflows}")


def _half_told(log: list[dict[str, Any]]) -> set[str]:
    """Return the workflows of whose beginning and end the log has only one."""
    began = {event["subject"] for event in log if event["type"] == "workflow.started"}
    ends = ("workflow.completed", "workflow.failed", "workflow.cancelled")
    return began ^ {event["subject"] for event in log if event["type"] in ends}


def _chain(_: str, tokens: list[str]) -> tuple[dict[str, Any], WorkflowSent]:
    return {"type": "chain", "steps": [job(token) for token in tokens]}, WorkflowSent(tokens, list(pairwise(tokens)))


def _group(_: str, tokens: list[str]) -> tuple[dict[str, Any], WorkflowSent]:
    return {"type": "group", "jobs": [job(token) for token in tokens]}, WorkflowSent(tokens, [])


def _batch(name: str, tokens: list[str]) -> tuple[dict[str, Any], WorkflowSent]:
    """Make a batch with all callbacks; the first job of every other one is bound to fail."""
    doomed = int(name[-1], 16) % 2 == 0
    tokens = [tokens[0] + "/doomed" * doomed, *tokens[1:]]
    callbacks = {callback: job(f"{name}/{callback}") for callback in ("on_complete", "on_success", "on_failure")}
    expected = [f"{name}/on_complete", f"{name}/{'on_failure' if doomed else 'on_success'}"]
    body = {"type": "batch", "jobs": [job(token) for token in tokens], "callbacks": callbacks}
    return body, WorkflowSent([*tokens, *expected], list(product(tokens, expected)))


def _nested(_: str, tokens: list[str]) -> tuple[dict[str, Any], WorkflowSent]:
    """Make a chain of a group and a last step."""
    *inner, last = tokens
    body = {"type": "chain", "steps": [{"type": "group", "jobs": [job(token) for token in inner]}, job(last)]}
    return body, WorkflowSent(tokens, [(token, last) for token in inner])


class _Caller:
    """One client, its chance, and the book in which every answer is noted."""

    def __init__(self, server: Server, seed: int, note: Callable[[str, Answer | None], None]) -> None:
        self.client = Client(server)
        self.rng = random.Random(seed)  # noqa: S311 - nothing secret
        self.name = f"worker-{seed}"
        self.asked_again = False
        self._note = note

    def send(self, method: str, path: str, body: object, expected: set[int]) -> Answer | None:
        """Send once; None: the outcome is unknown."""
        answer = self.client.send(method, path, body)
        self._note(f"{method} {path}", answer)
        if answer is None or answer.status == 503:
            return None
        assert answer.status in expected, f"{method} {path} {body}: {answer}"
        return answer

    def insist(self, method: str, path: str, body: object, expected: set[int]) -> int:
        """Send again until there is an answer; return its status."""
        self.asked_again = False
        while (answer := self.send(method, path, body, expected)) is None:
            self.asked_again = True
        return answer.status
