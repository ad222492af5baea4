"""Many cases at once: the order they start in, and what stops them."""

from __future__ import annotations

import json
import threading

import pytest

from ojs_core.testing.conformance import Case, CaseResult, Client, Outcome, RemoteServer, parse_case, pool, run_cases
from ojs_core.testing.conformance.pool import in_running_order
from ojs_core.testing.conformance.runner import Pause


def make_case(file: str, wait_ms: int = 0) -> Case:
    """Return a case that waits."""
    steps = [{"action": "GET", "path": "/", "delay_ms": wait_ms, "expect": {"status": 200}}]
    case = parse_case(json.dumps({"test_id": "T", "level": 0, "steps": steps}), file)
    assert case.problem is None
    return case


def test_longest_first() -> None:
    """Cases start in the order of their waits, longest first, ties by file."""
    cases = [make_case("b.json"), make_case("c.json", 130_000), make_case("a.json"), make_case("d.json", 65_000)]
    assert [case.file for case in in_running_order(cases)] == ["c.json", "d.json", "a.json", "b.json"]


class _Recorder:
    """Stands in for `run_case`: notes which case ran where, and how many at a time."""

    def __init__(self) -> None:
        self.order: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.busy: set[str] = set()
        self.most_busy = 0

    def __call__(self, case: Case, client: Client, *, pause: Pause) -> CaseResult:  # noqa: ARG002 - as run_case
        with self.lock:
            assert client.base_url not in self.busy, "one case at a time per server"
            self.busy.add(client.base_url)
            self.most_busy = max(self.most_busy, len(self.busy))
            self.order.append((case.file, client.base_url))
        with self.lock:
            self.busy.discard(client.base_url)
        return CaseResult(case, Outcome.PASSED, 1)


def test_one_server_runs_all_cases_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one server nothing overlaps, each result is announced once, and the results come sorted by file."""
    recorder = _Recorder()
    monkeypatch.setattr(pool, "run_case", recorder)
    announced: list[str] = []
    cases = [make_case("a.json"), make_case("b.json", 5), make_case("c.json", 10)]
    results = run_cases(cases, [RemoteServer("http://127.0.0.1:1")], lambda result: announced.append(result.case.file))
    assert [file for file, _ in recorder.order] == ["c.json", "b.json", "a.json"]
    assert announced == ["c.json", "b.json", "a.json"]
    assert recorder.most_busy == 1
    assert [result.case.file for result in results] == ["a.json", "b.json", "c.json"]


def test_several_servers_run_each_case_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No case is lost or run twice, and no server has two."""
    recorder = _Recorder()
    monkeypatch.setattr(pool, "run_case", recorder)
    targets = [RemoteServer(f"http://127.0.0.1:{port}") for port in (1, 2, 3)]
    files = [f"{number:03}.json" for number in range(100)]
    results = run_cases([make_case(file) for file in files], targets)
    assert [result.case.file for result in results] == files
    assert sorted(file for file, _ in recorder.order) == files


def test_servers_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cases on three servers are all running before the first one ends."""
    all_running = threading.Barrier(3, timeout=30)

    def run(case: Case, _: Client, *, pause: Pause) -> CaseResult:  # noqa: ARG001 - as run_case
        all_running.wait()
        return CaseResult(case, Outcome.PASSED, 1)

    monkeypatch.setattr(pool, "run_case", run)
    targets = [RemoteServer(f"http://127.0.0.1:{port}") for port in (1, 2, 3)]
    assert len(run_cases([make_case(f"{number}.json") for number in range(3)], targets)) == 3


def test_an_exception_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the runner is raised, and a case that waits meanwhile does not hold it up."""
    waiting = threading.Event()

    def run(case: Case, _: Client, *, pause: Pause) -> CaseResult:
        if case.wait_ms:
            waiting.set()
            pause(600)
        assert waiting.wait(30)
        raise RuntimeError("a fault")

    monkeypatch.setattr(pool, "run_case", run)
    targets = [RemoteServer(f"http://127.0.0.1:{port}") for port in (1, 2)]
    with pytest.raises(RuntimeError, match="a fault"):
        run_cases([make_case("long.json", 1000), make_case("bad.json")], targets)


def test_a_pause_that_nobody_interrupts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes, and the case goes on."""

    def run(case: Case, _: Client, *, pause: Pause) -> CaseResult:
        pause(0.001)
        return CaseResult(case, Outcome.PASSED, 1)

    monkeypatch.setattr(pool, "run_case", run)
    assert len(run_cases([make_case("a.json")], [RemoteServer("http://127.0.0.1:1")])) == 1


def test_a_bad_server_address_is_raised() -> None:
    """A target that cannot be one stops the run instead of failing every case."""
    with pytest.raises(ValueError, match="not the base URL"):
        run_cases([make_case("a.json")], [RemoteServer("nonsense")])
