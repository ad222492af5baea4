"""The reference backend, with a trail: a file that gets a line for each job that came, moved or went.

A store of your own starts from `Backend` and writes every method. What is particular to this one is what every store
has, in small: something to open and close, writes that may fail, and errors of its own that must not cross the seam.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TextIO

import msgspec

from ojs_backend_example.config import ExampleConfig
from ojs_core.backend import Capabilities, Claimed, ClaimRequest, Commit, Committed, Refused
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.job import Job, JobState
from ojs_core.memory import MemoryBackend


class ExampleBackend(MemoryBackend):
    """All records of one process, and a trail of them in a file."""

    def __init__(self, config: ExampleConfig) -> None:
        super().__init__()
        self._config = config
        self._trail: TextIO | None = None

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, name="example")

    async def open(self) -> None:
        # What does not pass by waiting is a SettingsError and stops the start; a server that is down is not.
        try:
            self._trail = self._config.trail.open("a", encoding="utf-8")
        except OSError as error:
            path = self._config.trail
            raise SettingsError(f"OJS_EXAMPLE_TRAIL={path} cannot be written: {error.strerror}.") from error

    async def close(self) -> None:
        trail, self._trail = self._trail, None
        if trail is not None:
            with suppress(OSError):  # what could not be written was answered so
                trail.close()

    async def ping(self) -> None:
        self._opened()

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        trail = self._opened()
        answers = await super().commit(commits)
        _write(
            trail, (line for commit, answer in zip(commits, answers, strict=True) for line in _lines(commit, answer))
        )
        return answers

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        trail = self._opened()
        answers = await super().claim(requests)
        _write(trail, (_line(job, JobState.AVAILABLE) for answer in answers for job in answer.jobs))
        return answers

    def _opened(self) -> TextIO:
        if self._trail is None:
            raise BackendUnavailableError("The trail is not open.")
        return self._trail


def _write(trail: TextIO, lines: Iterable[str]) -> None:
    """Write lines, in one go for the whole group of requests. Only a toy may wait for a disk on the event loop.

    When this fails the change has happened and is answered with 503 all the same, as after an answer lost on its way:
    the error means that it may or may not have happened, and whoever repeats it meets the guards.
    """
    try:
        trail.writelines(lines)
        trail.flush()
    except OSError as error:
        raise BackendUnavailableError("The trail cannot be written.") from error


def _lines(commit: Commit, answer: Committed | Refused) -> Iterable[str]:
    if isinstance(answer, Committed):
        for job in answer.inserted:
            yield _line(job, None)
        for change in answer.changed:
            yield _line(change.job, change.previous)
        for removal in commit.removals:
            yield json.dumps({"job": removal.job_id, "to": None}) + "\n"


def _line(job: Job, before: JobState | None) -> str:
    return (
        json.dumps({"job": job.id, "queue": job.queue, "attempt": job.attempt, "from": before, "to": job.state}) + "\n"
    )
