"""The document and the server held against each other by schemathesis, over real connections, with all its checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from ojs_api.app import create_app
from ojs_api.protocol import Limits, guarded
from ojs_core.clock import SystemClock
from ojs_core.memory import MemoryBackend
from ojs_core.service import Service
from ojs_core.settings import Settings

FOLDER = Path(__file__).with_name("fuzzing")
KEY = "the-key"
AT_LEAST = {"coverage": 2000, "fuzzing": 300, "stateful": 20}
"""Requests in each phase."""


@pytest.fixture
def server() -> Iterator[str]:
    """A server on a free port, in a thread."""
    service = Service(MemoryBackend(), SystemClock(), Settings(api_keys=(KEY,), test_mode=True))
    config = uvicorn.Config(
        create_app(service), port=0, http=guarded(Limits()), ws="none", lifespan="on", log_config=None, access_log=False
    )
    running = uvicorn.Server(config)
    started = threading.Event()
    startup = running.startup

    async def announce(sockets: object = None) -> None:
        await startup(sockets)
        started.set()

    running.startup = announce
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert started.wait(30)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


@pytest.mark.timeout(600)  # on an idle machine it takes a tenth of that
@pytest.mark.parametrize("phase", ["coverage", "fuzzing", "stateful"])
def test_the_server_does_what_the_document_says(server, tmp_path, phase) -> None:
    done = subprocess.run(  # noqa: S603 - the words are ours
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
            *("--config-file", str(FOLDER / "schemathesis.toml"), "run", f"{server}/ojs/v1/openapi.json"),
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
