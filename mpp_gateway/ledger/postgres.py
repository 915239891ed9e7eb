"""The shared store: PostgreSQL, for many machines.

One transaction writes at a time, over all hosts, as with SQLite: whoever reads a balance and then
holds a part of it must not be overtaken in between. Many exchanges share one of them.
"""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import conninfo

from mpp_gateway.ledger.sql import (
    CommitLost,
    Connection,
    Cursor,
    StoreTooNew,
    StoreUnavailable,
    known_version,
    statements,
)

CONNECT_TIMEOUT_S = 5
WRITER_LOCK = 0x6D70_7067
"""What the one transaction that writes holds; any number that nobody else uses."""
LEASES = 0x6D70_706C
"""The first of the two numbers that name a process's lease; the other is of its owner's name."""

END_SESSION = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE pid = %s AND locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = %s::oid AND objid = hashtext(%s)::oid AND granted"
)
"""Ends our own earlier session, and no other: who has that number and holds that lease."""

SESSION = {
    # A host that hangs with the lock must not keep all the others waiting.
    "lock_timeout": "5s",
    "statement_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    # Without it a power cut forgets claims that were already answered: the same proof buys twice.
    "synchronous_commit": "on",
    # A host without power says no goodbye: in half a minute the server lets go of its lease.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
LINE = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
"""How soon a server that is gone is noticed, unless the URL says otherwise."""

_SPELLING = (
    (re.compile(r"\bINTEGER PRIMARY KEY AUTOINCREMENT"), "BIGSERIAL PRIMARY KEY"),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
    (re.compile(r"\)\s*STRICT\b"), ")"),
)
_PARAMETER = re.compile(r"\?|:([a-z_]+)\b")
_SAID = re.compile(
    r"FATAL:[^\n]*|Connection refused|timeout expired|No such file or directory|No route to host"
    r"|Name or service not known|server closed the connection unexpectedly"
)
"""What libpq says of a connection that did not come about, without the place it was to go to."""


class PostgresDriver:
    """Writes the database that `url` names; see `sql.Driver`."""

    failures: tuple[type[Exception], ...] = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        # A server that has become a standby, for one: it takes no writes.
        psycopg.InternalError,
    )
    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._lease: PostgresLease | None = None
        self._session_pid = 0
        self._lines = threading.Lock()
        self._line: socket.socket | None = None
        """The connection's socket, under a number of our own: libpq may close its own at any time,
        and what is shut down then could be a buyer's."""

    def open(self, migrations: Sequence[str]) -> None:
        """See `sql.Driver`."""
        try:
            self._connection = self._connect()
            self._session_pid = self._connection.info.backend_pid
            _migrate(self._connection, migrations)
        except (psycopg.Error, OSError) as error:
            self.close()
            # Not the error's own text: it may repeat the URL, and with it the password.
            where = place_of(self._url)
            raise StoreUnavailable(f"cannot use the store{where}: {reason(error)}") from None
        except StoreTooNew:
            # Kept, each try of a gateway that is too old would take a place from those that serve.
            self.close()
            raise

    def lease(self, fresh: str) -> "PostgresLease":
        """Hold a lock of our own for as long as we are connected."""
        assert self._connection is not None
        self._lease = PostgresLease(fresh)
        try:
            self._lease.take(self._connection)
        except psycopg.Error as error:
            raise StoreUnavailable(f"cannot lock the store: {reason(error)}") from None
        return self._lease

    def begin(self) -> Connection:
        """See `sql.Driver`. Connects anew where the connection was lost."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connect_again()
        # One message, since it has no parameters: a round trip less for every batch.
        self._connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({WRITER_LOCK})")
        return _Transaction(self._connection)

    def commit(self) -> None:
        """See `sql.Driver`."""
        assert self._connection is not None
        try:
            # One message: prepared, as psycopg would after a while, it is three.
            self._connection.execute("COMMIT", prepare=False)
        except psycopg.Error as error:
            if self._connection.closed:
                raise CommitLost(f"the connection was lost: {reason(error)}") from None
            raise

    def rollback(self) -> None:
        """See `sql.Driver`. A connection that cannot even do that is given up."""
        if self._connection is None:
            return
        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()

    def interrupt(self) -> None:
        """See `sql.Driver`. The connection is given up: a server that is gone answers no cancel."""
        with self._lines, contextlib.suppress(OSError):
            if self._line is not None:
                self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `sql.Driver`."""
        if self._connection is not None:
            self._connection.close()
        self._hold_line(None)

    def _hold_line(self, line: socket.socket | None) -> None:
        with self._lines:
            earlier, self._line = self._line, line
            if earlier is not None:
                earlier.close()

    def _connect(self) -> psycopg.Connection[Any]:
        connection = connect(self._url, SESSION)
        self._hold_line(socket.socket(fileno=os.dup(connection.fileno())))
        return connection

    def _connect_again(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            if self._lease is not None:
                # On the other side of a broken line the server keeps the old session, and with it
                # the lease: for hours, if nobody ends it.
                connection.execute(END_SESSION, (self._session_pid, LEASES, self._lease.owner))
                self._lease.take(connection)
        except BaseException:
            # Open and without its lease it would be used: the others would take us for dead.
            connection.close()
            raise
        self._session_pid = connection.info.backend_pid
        return connection


class PostgresLease:
    """A lock that the server lets go of when our connection ends; see `sql.Lease`."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def owner(self) -> str:
        """See `sql.Lease`. Every process has a name of its own."""
        return self._owner

    def take(self, connection: psycopg.Connection[Any]) -> None:
        """Hold it on `connection` from now on."""
        self._connection = connection
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (LEASES, self._owner))

    def is_gone(self, db: Connection, owner: str) -> bool:
        """See `sql.Lease`. Two names may share a number: then a dead one counts as alive."""
        if owner == self._owner:
            return False
        asked = "SELECT pg_try_advisory_xact_lock(?, hashtext(?))"
        (is_free,) = db.execute(asked, (LEASES, owner)).fetchone()
        return bool(is_free)

    def share(self) -> None:
        """See `sql.Lease`. Others were never kept out."""

    def close(self) -> None:
        """See `sql.Lease`. The connection's end is its end too."""


class _Transaction:
    """Speaks our SQL to PostgreSQL."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        if not parameters:
            return self._connection.execute(sql)  # and the server reads a % as it stands
        return self._connection.execute(translated(sql), parameters)

    def append(self, sql: str, parameters: Any, /) -> int | None:
        row = self.execute(sql + " RETURNING seq", parameters).fetchone()
        return None if row is None else int(row[0])

    def executemany(self, sql: str, parameters: Any, /) -> Cursor:
        cursor = self._connection.cursor()
        cursor.executemany(translated(sql), parameters)
        return cursor


def connect(url: str, session: Mapping[str, str]) -> psycopg.Connection[Any]:
    """Connect with `session` as settings; what the URL itself sets stays, where these are silent.

    Errors: those of psycopg, whose text may repeat the URL: show `reason` of them only.
    """
    given = psycopg.conninfo.conninfo_to_dict(url)
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    place = psycopg.conninfo.make_conninfo(
        url,
        **{name: given.get(name, value) for name, value in LINE.items()},
        options=f"{given.get('options', '')} {options}".strip(),
    )
    return psycopg.connect(place, autocommit=True)


@lru_cache
def translated(sql: str) -> str:
    """Return our SQL with its parameters as PostgreSQL's driver has them."""
    marked = sql.replace("%", "%%")
    return _PARAMETER.sub(lambda found: f"%({found[1]})s" if found[1] else "%s", marked)


def _migrate(connection: psycopg.Connection[Any], migrations: Sequence[str]) -> None:
    with connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
        row = connection.execute("SELECT version FROM schema_version").fetchone()
        found = known_version(row[0] if row else 0, len(migrations))
        for migration in migrations[found:]:
            for statement in statements(migration):
                connection.execute(_spelled(statement))
        connection.execute("DELETE FROM schema_version")
        connection.execute("INSERT INTO schema_version VALUES (%s)", (len(migrations),))


def _spelled(statement: str) -> str:
    for pattern, text in _SPELLING:
        statement = pattern.sub(text, statement)
    return statement


def place_of(url: str) -> str:
    """Return ` at host:port/database`, as the URL has it: no user and no password of it."""
    try:
        found = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return ""
    host = found.get("host") or found.get("hostaddr") or "localhost"
    port, name = found.get("port"), found.get("dbname")
    return f" at {host}" + (f":{port}" if port else "") + (f"/{name}" if name else "")


def reason(error: Exception) -> str:
    """Return what went wrong in the server's words, or the system's; never what repeats the URL."""
    text = getattr(getattr(error, "diag", None), "message_primary", None)
    said = _SAID.search(str(error)) if text is None else None
    return str(text or (said and said[0].removeprefix("FATAL:").strip()) or type(error).__name__)
