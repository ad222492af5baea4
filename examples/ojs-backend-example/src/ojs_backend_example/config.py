"""The settings: one table, read from the environment the way the server reads its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ojs_core.variables import Setting, read_values


class ExampleConfig(NamedTuple):
    """Where the trail goes."""

    trail: Path = Path("trail.jsonl")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> ExampleConfig:
        """Read the settings. Raises `SettingsError`, naming the variable, for a value that makes no sense."""
        return cls(**read_values(SETTINGS, environ))


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        # Said after the variable and its value: "OJS_EXAMPLE_TRAIL=/tmp: must be ...".
        raise ValueError("a file, not a folder")
    return path


SETTINGS = (
    Setting(
        "OJS_EXAMPLE_TRAIL",
        "trail",
        _file,
        "The file that gets a line of JSON for each job that came, moved or went. Its folder must exist.",
        "trail.jsonl",
    ),
)
"""Every variable of this backend."""
