"""Run a command beside a Redis of its own: `python -m tests.servers.with_redis COMMAND [ARGUMENT ...]`.

The command finds the server in `REDIS_URL`. The exit code is the command's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.servers.redis import RedisServer


def main(command: Sequence[str]) -> int:
    """Start the server, run the command, stop the server."""
    with RedisServer() as server:
        return subprocess.run(command, env={**os.environ, "REDIS_URL": server.url}, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
