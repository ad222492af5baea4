"""The scripts, one per file: what each does, its arguments with their units, what it returns, and the text.

`common.lua` stands in front of each but `ping.lua`, and `committing.lua` of those for commits. Redis keeps a script by
the SHA-1 of its text, so servers of different versions do not disturb each other.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script: its name, its text, and the digest by which Redis knows it."""

    name: str
    text: str
    digest: str


def _read(name: str) -> str:
    return (files(__name__) / f"{name}.lua").read_text(encoding="utf-8")


COMMON = _read("common")


def _script(name: str, text: str) -> Script:
    return Script(name, text, sha1(text.encode()).hexdigest())  # noqa: S324 - that is how Redis names scripts


def _load(name: str) -> Script:
    return _script(name, f"{COMMON}\n{_read(name)}")


COMMITTING = f"{COMMON}\n{_read('committing')}"


def _load_committing(name: str) -> Script:
    return _script(name, f"{COMMITTING}\n{_read(name)}")


COMMIT = _load_committing("commit")
PREPARE = _load_committing("prepare")
FINISH = _load_committing("finish")
VERDICT = _load_committing("verdict")
LEFT = _load("left")
CLAIM = _load("claim")
BEAT = _load("beat")
READ = _load("read")
DUE = _load("due")
VERSIONED = _load("versioned")
PAUSE = _load("pause")
WORKERS = _load("workers")
DIRECT = _load("direct")
FORGET = _load("forget")
PRUNE = _load("prune")
STATS = _load("stats")
SEEK = _load("seek")

MAY_WRITE = "#!lua flags=allow-oom\n"
"""Declares a script that might write. Redis does not even begin one where it takes no writes: on a replica, unable to
save, with too few replicas. Out of memory it does, as jobs can still be ended then."""
PING = _script("ping", MAY_WRITE + _read("ping"))
