"""The benchmark runs, counts right, and notices what it is there to notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PHASES = ["ceiling", "single enqueue", "batch of 100", "drain: fetch 10, ack", "mixed", "long poll"]


def test_every_phase_is_measured_and_every_job_accounted_for(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--backend", "memory", "--json", str(figures)]
    small = ["--jobs", "20", "--connections", "2", "--rounds", "1"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, check=False)  # noqa: S603 - our own file
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert [phase["name"] for phase in found["phases"]] == PHASES
    # Warm-up and single enqueues, a batch, mixed, long polls.
    assert found["audit"] == {"enqueued": 180, "acked": 180, "lost": 0, "twice": 0, "unknown": 0, "errors": 0}
    assert all(phase["timings_ms"] and phase["jobs_per_s"] > 0 for phase in found["phases"])
    assert "batch / single enqueue" in done.stdout


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__("phases")


def test_the_audit_tells_a_lost_job_from_one_that_came_twice(phases: ModuleType) -> None:
    audit = phases.Audit()
    for seen, ids in ((audit.enqueued, "abc"), (audit.delivered, "abbd"), (audit.acked, "abd")):
        seen.update(ids)
    assert (audit.lost, audit.twice, audit.unknown) == (1, 1, 1)
    assert not audit.fine
