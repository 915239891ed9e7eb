"""A real PostgreSQL server on a free port, for the length of a test session."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.components import need, postgres
from tests.support.process import free_port
from tests.support.stores import in_memory

START_S = 30
NOBODY = "postgres"
ROOM_BYTES = 2 * 1024 * 1024 * 1024
"""A database takes seven mebibytes; making one takes a third of the time in memory."""
QUICK = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=40")
"""For tests: it is our own processes that are killed, and never the server's machine."""


def _as_nobody(command: list[str]) -> list[str]:
    # The server refuses to run as root.
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]


class Server:
    """`url` is of its first database; `database` makes another one."""

    def __init__(self, settings: tuple[str, ...] = QUICK) -> None:
        need("postgres")
        self._programs = postgres()
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="mpp-postgres-", dir=in_memory(ROOM_BYTES)))
        self._is_root = os.geteuid() == 0
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()  # nobody's but ours while the server is down, too
        if self._is_root:
            shutil.chown(self._folder, NOBODY, NOBODY)

    def _command(self, *words: str) -> list[str]:
        return _as_nobody(list(words)) if self._is_root else list(words)

    def initialise(self) -> None:
        initdb = str(self._programs / "initdb")
        subprocess.run(
            self._command(
                initdb, "-D", str(self._folder / "data"), "-U", "tests", "--auth=trust", "-E",
                "UTF8", "--no-locale", "--no-sync",
            ),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )  # fmt: skip

    def start(self) -> None:
        options = [word for setting in self._settings for word in ("-c", setting)]
        self._process = subprocess.Popen(
            self._command(
                str(self._programs / "postgres"), "-D", str(self._folder / "data"),
                "-c", "listen_addresses=127.0.0.1", "-p", str(self.port),
                "-c", f"unix_socket_directories={self._folder}", *options,
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )  # fmt: skip
        self._await()

    def _await(self) -> None:
        pause = threading.Event()
        for _ in range(START_S * 20):
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                assert self._process is not None
                ended = self._process.poll()
                assert ended is None, f"postgres ended with {ended}"
                pause.wait(0.05)
            else:
                return
        raise AssertionError("PostgreSQL does not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast: sessions are cut
            self._process.wait(START_S)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://tests@127.0.0.1:{self.port}/{name}"

    def database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{secrets.token_hex(8)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Forget a database, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def serving(settings: tuple[str, ...] = QUICK) -> Iterator[Server]:
    """Run a server for the length of the block."""
    server = Server(settings)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.close()
