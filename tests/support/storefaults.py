"""What can befall a store while a gateway serves; each as real as a test may make it."""

import contextlib
import resource
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg

from mpp_gateway.ledger.postgres import WRITER_LOCK
from tests.support.line import Line
from tests.support.paid import Paid, wait_until
from tests.support.postgres import Server
from tests.support.stores import Place, PostgresPlace, SqlitePlace

HOLDER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
held.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""
FILE_MAX = 4096
PLACES = 12
"""How many connections the server of a crowd has."""


class StoreFault(ABC):
    """One fault. `begin` may be called from any thread but the gateway's."""

    words: ClassVar[tuple[str, ...]] = ()
    """One of them is in the log: what an operator has to go by."""
    is_over_at_once: ClassVar[bool] = False
    """Whoever meets it first ends it."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def befalls(self, gateway: Paid) -> None:
        """Say whose store it is."""
        self.gateway = gateway

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...


class Locked(StoreFault):
    """Another process holds the file, and does not let go."""

    words = ("database is locked",)
    how = "BEGIN IMMEDIATE"

    def begin(self) -> None:
        assert isinstance(self.place, SqlitePlace)
        self._holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(self.place.path), self.how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"held\n"

    def end(self) -> None:
        self._holder.communicate(timeout=30)


class LockedAlone(Locked):
    """The same, with not even readers beside it."""

    how = "BEGIN EXCLUSIVE"


class DiskFull(StoreFault):
    """No file of this process can grow: what a full disk, a quota or a limit does to a write."""

    words = ("disk I/O error", "disk is full")

    def begin(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MAX, self._limits[1]))

    def end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


class ReadOnlyFile(StoreFault):
    """The file can be read and not written."""

    words = ("attempt to write a readonly database",)

    def _set(self, value: str) -> None:
        driver: Any = self.gateway.proxy.runtime.serving.database._driver
        driver._connection.execute(f"PRAGMA query_only = {value}")

    def begin(self) -> None:
        self._set("ON")

    def end(self) -> None:
        self._set("OFF")


class PostgresFault(StoreFault):
    """`url` goes straight to the server, whatever is wrong with the way of the gateway."""

    def __init__(self, place: Place, server: Server) -> None:
        super().__init__(place)
        self.server = server

    def admin(self, *statements: str) -> None:
        with psycopg.connect(self.straight, autocommit=True) as connection:
            for sql in statements:
                connection.execute(sql)

    @property
    def straight(self) -> str:
        return self.place.straight if isinstance(self.place, LinePlace) else self.place.url

    def cut(self) -> None:
        """End every session of the gateway's."""
        self.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class Held(PostgresFault):
    """Another host hangs in its transaction."""

    words = ("lock timeout",)

    def begin(self) -> None:
        self._session = psycopg.connect(self.straight)
        self._session.execute("SELECT pg_advisory_xact_lock(%s)", (WRITER_LOCK,))

    def end(self) -> None:
        self._session.close()


class ServerDiskFull(PostgresFault):
    """The server says what it says when it cannot extend a file."""

    words = ("No space left on device",)
    function = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
        END $$"""

    def begin(self) -> None:
        triggers = (
            f"CREATE TRIGGER full_{table} BEFORE INSERT OR UPDATE ON {table}"
            " EXECUTE FUNCTION full_disk()"
            for table in ("exchanges", "journal")
        )
        self.admin(self.function, *triggers)

    def end(self) -> None:
        self.admin("DROP FUNCTION full_disk CASCADE")


class Standby(PostgresFault):
    """After a failover the server takes no writes."""

    words = ("read-only transaction", "connection was lost", "terminating connection")

    def _set(self, value: str) -> None:
        name = psycopg.conninfo.conninfo_to_dict(self.straight)["dbname"]
        self.admin(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )

    def begin(self) -> None:
        self._set("on")

    def end(self) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            name = psycopg.conninfo.conninfo_to_dict(self.straight)["dbname"]
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )


class Cut(PostgresFault):
    """The session is ended, and a new one can be had at once."""

    words = ("terminating connection", "connection was lost")
    is_over_at_once = True

    def begin(self) -> None:
        self.cut()

    def end(self) -> None:
        pass


class Down(PostgresFault):
    """The server stops, and is started again."""

    words = ("onnection refused", "terminating connection", "connection was lost")

    def begin(self) -> None:
        self.server.stop()

    def end(self) -> None:
        self.server.start()


class NoPlace(PostgresFault):
    """The session is lost, and every other one that the server can have is somebody else's."""

    words = ("too many clients", "remaining connection slots", "terminating connection")

    def begin(self) -> None:
        self._crowd: list[psycopg.Connection[Any]] = []
        with psycopg.connect(self.straight, autocommit=True) as admin:
            self._fill()
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                " datname = current_database() AND application_name = '' AND pid <> ALL(%s)",
                ([c.info.backend_pid for c in (*self._crowd, admin)],),
            )
            self._fill()
        wait_until(self._is_full, "the server is full")

    def _is_full(self) -> bool:
        self._fill()
        return len(self._crowd) == PLACES

    def _fill(self) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while len(self._crowd) < PLACES:
                self._crowd.append(psycopg.connect(self.straight))

    def end(self) -> None:
        for connection in self._crowd:
            connection.close()


class Vanished(PostgresFault):
    """The server's host is gone without a word, and later there again."""

    words = ("no time for a write", "does not answer", "connection was lost", "server closed")

    def begin(self) -> None:
        assert isinstance(self.place, LinePlace)
        self.place.line.die()

    def end(self) -> None:
        assert isinstance(self.place, LinePlace)
        self.place.line.heal()


@dataclass(frozen=True)
class LinePlace(PostgresPlace):
    """A database that the gateway reaches by a line that can go dead."""

    line: Line
    straight: str

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return PostgresPlace(self.straight).rows(sql)


def by_line(line: Line, url: str) -> LinePlace:
    """Return the database at `url`, to be reached through `line`."""
    place = psycopg.conninfo.conninfo_to_dict(url)
    return LinePlace(
        f"postgresql://{place['user']}@127.0.0.1:{line.port}/{place['dbname']}", line, url
    )


ON_SQLITE = {"locked": Locked, "locked alone": LockedAlone, "disk full": DiskFull,
             "read-only": ReadOnlyFile}  # fmt: skip
ON_POSTGRES = {"held": Held, "server disk full": ServerDiskFull, "standby": Standby, "cut": Cut,
               "down": Down, "no place": NoPlace, "vanished": Vanished}  # fmt: skip
