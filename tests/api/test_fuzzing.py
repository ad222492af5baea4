"""The document and the server held against each other by schemathesis, over real connections, with all its checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("fuzzing")
KEY = "the-key"
AT_LEAST = {"coverage": 1500, "fuzzing": 250, "stateful": 50}
"""Requests in each phase."""


@pytest.mark.timeout(600)  # on an idle machine it takes a tenth of that
@pytest.mark.parametrize("phase", ["coverage", "fuzzing", "stateful"])
def test_the_server_does_what_the_document_says(live, tmp_path, phase) -> None:
    server = live(api_keys=(KEY,), test_mode=True)
    done = subprocess.run(  # noqa: S603 - the words are ours
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
            *("--config-file", str(FOLDER / "schemathesis.toml"), "run", f"{server.url}/ojs/v1/openapi.json"),
            *("--phases", phase, "--checks", "all", "-H", f"Authorization: Bearer {KEY}"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]
    # It did not just skip everything.
    (generated,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(generated) >= AT_LEAST[phase]
