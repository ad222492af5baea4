"""The example keeps the contract; what it adds is tested here too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ojs_backend_example import SETTINGS, ExampleBackend, ExampleConfig
from ojs_core.backend import Removal
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.job import JobState
from ojs_core.registry import backend_settings, installed_backends, load_backend
from ojs_core.testing import BackendContract
from ojs_core.testing.contract.steps import accept, insert_one, job_in


def make(tmp_path: Path) -> ExampleBackend:
    return ExampleBackend(ExampleConfig(trail=tmp_path / "trail.jsonl"))


@pytest.fixture
async def backend(tmp_path):
    backend = make(tmp_path)
    await backend.open()
    yield backend
    await backend.close()


class TestContract(BackendContract):
    """Every sentence of `ojs_core.backend`, on the fixture `backend`."""

    @pytest.fixture
    def unopened(self, tmp_path):
        return make(tmp_path)


def trail(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "trail.jsonl").read_text(encoding="utf-8").splitlines()]


async def test_the_trail_has_every_change(backend, tmp_path) -> None:
    job = await job_in(backend, JobState.COMPLETED)

    await accept(backend, removals=(Removal(job.id, job.version),))
    states = [(line.get("from"), line["to"]) for line in trail(tmp_path)]
    assert states == [(None, "available"), ("available", "active"), ("active", "completed"), (None, None)]
    assert {line["job"] for line in trail(tmp_path)} == {job.id}


async def test_a_refused_commit_leaves_no_trail(backend, tmp_path) -> None:
    job = await insert_one(backend)
    with pytest.raises(AssertionError, match="refused"):
        await insert_one(backend, id=job.id)
    assert len(trail(tmp_path)) == 1


async def test_a_trail_that_cannot_be_opened_stops_the_start(tmp_path) -> None:
    backend = ExampleBackend(ExampleConfig(trail=tmp_path / "nowhere" / "trail.jsonl"))
    with pytest.raises(SettingsError, match=r"^OJS_EXAMPLE_TRAIL=.*No such file"):
        await backend.open()


async def test_no_error_of_the_trail_crosses_the_seam() -> None:
    full = ExampleBackend(ExampleConfig(trail=Path("/dev/full")))
    await full.open()
    with pytest.raises(BackendUnavailableError) as caught:
        await insert_one(full)
    assert isinstance(caught.value.__cause__, OSError)
    await full.close()


async def test_a_closed_backend_is_unavailable(backend) -> None:
    await backend.close()
    for call in (backend.ping(), backend.commit([]), backend.claim([])):
        with pytest.raises(BackendUnavailableError):
            await call


def test_the_server_finds_it_by_its_entry_point(tmp_path) -> None:
    assert installed_backends()["example"].value == "ojs_backend_example"
    assert load_backend("example", {}).capabilities.name == "example"
    assert backend_settings("example") == SETTINGS
    with pytest.raises(SettingsError, match=r"OJS_EXAMPLE_TRAIL=.*: must be a file, not a folder"):
        load_backend("example", {"OJS_EXAMPLE_TRAIL": str(tmp_path)})
