"""A look into the store from beside the gateway: one snapshot, and never a byte written.

No lease is taken and nothing is migrated. Readers of SQLite's log and of PostgreSQL hold no writer
up; as long as one reads, though, SQLite's log cannot shrink. So whoever reads much copies it out
and lets go.
"""

import contextlib
import os
import pwd
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from mpp_gateway.config.model import PostgresStore, Store
from mpp_gateway.ledger.lock import whole_store
from mpp_gateway.ledger.sql import StoreUnavailable, known_version

BUSY_S = 5
BATCH_ROWS = 2_000
FAULTS_MAX = 20
NOT_MADE = "the gateway makes it when it first starts"


class StoreDamaged(Exception):
    """The store's own files contradict themselves; a disk or another program was at them."""


class Reading(Protocol):
    """One snapshot of a store, for as long as its block lasts."""

    def rows(self, sql: str, parameters: tuple[Any, ...] = (), /) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of one question, a batch in memory at a time.

        `sql` is as for `sql.Connection`. Errors: `StoreDamaged`, `StoreUnavailable`.
        """

    def damage(self) -> list[str]:
        """Return what the store itself finds wrong with its files."""


def reading(store: Store, schema: int) -> AbstractContextManager[Reading]:
    """Open `store` for reading for the length of a block; its schema must be `schema`.

    Errors, of the block too: `StoreUnavailable` with the cure, `StoreTooNew`, `StoreDamaged`.
    """
    if not isinstance(store, PostgresStore):
        return _reading_file(whole_store(store.path), schema)
    try:
        # Heavy, and not installed where nobody asked for it.
        from mpp_gateway.ledger.postgres_reading import reading_server  # noqa: PLC0415
    except ImportError:
        missing = "a store at postgresql:// needs psycopg: pip install 'mpp-gateway[postgres]'"
        raise StoreUnavailable(missing) from None
    return reading_server(store.url.get_secret_value(), schema)


def check_schema(found: int, known: int) -> None:
    """Return if the tables are those that this version reads.

    Errors: `StoreTooNew`; `StoreUnavailable` for older ones, which only the gateway upgrades.
    """
    if known_version(found, known) < known:
        raise StoreUnavailable(
            f"the store has schema {found}, this command reads {known}: the gateway upgrades it"
            " when it next starts"
        )


class FileReading:
    """Reads one SQLite file; see `Reading`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, parameters: tuple[Any, ...] = (), /) -> Iterator[tuple[Any, ...]]:
        """See `Reading`."""
        with _told():
            cursor = self._connection.execute(sql, parameters)
            while batch := cursor.fetchmany(BATCH_ROWS):
                yield from batch

    def damage(self) -> list[str]:
        """See `Reading`."""
        try:
            found = self._connection.execute(f"PRAGMA integrity_check({FAULTS_MAX})").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == [("ok",)] else [str(row[0]) for row in found]


@contextmanager
def _reading_file(path: Path, schema: int) -> Iterator[Reading]:
    before = _look_at(path)
    is_still = not _has_content(_beside(path, "-wal"))
    try:
        with contextlib.closing(_connect(path, is_still=is_still)) as connection:
            _begin(path, connection, schema)
            yield FileReading(connection)
    finally:
        # Without a log the file is read as one that nobody changes. Whoever began to change it
        # meanwhile had us read half of the old and half of the new: that must not count.
        if is_still and _look_at(path) != before:
            raise StoreUnavailable(
                f"the gateway began to write {path} while it was read: run the command again"
            )


def _begin(path: Path, connection: sqlite3.Connection, schema: int) -> None:
    with _told():
        connection.execute("BEGIN")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    if not found and not has_tables:
        raise StoreUnavailable(f"the store {path} is empty: {NOT_MADE}")
    check_schema(int(found), schema)


def _look_at(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StoreUnavailable(f"there is no store at {path}: {NOT_MADE}") from None
    except OSError as error:
        raise StoreUnavailable(f"cannot read the store {path}: {error.strerror}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _connect(path: Path, *, is_still: bool) -> sqlite3.Connection:
    """Open the file so that none is made beside it.

    SQLite makes the log and its index where they are missing, and leaves them behind: made by
    another user, they would keep the gateway out of its own store.
    """
    if path.is_dir() or not os.access(path, os.R_OK):
        raise StoreUnavailable(f"cannot read the store {path}: it is {_owner(path)}'s to read")
    uri = f"{path.as_uri()}?mode=ro"
    if is_still:
        uri += "&immutable=1"  # all is in the file: no log, no index and no lock are needed
    elif not _beside(path, "-shm").exists() and os.geteuid() not in (0, path.stat().st_uid):
        raise StoreUnavailable(
            f"the store {path} was not closed: start the gateway, or run this as {_owner(path)}"
        )
    try:
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"cannot read the store {path}: {error}") from None


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _has_content(log: Path) -> bool:
    try:
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


@contextmanager
def _told() -> Iterator[None]:
    """Say of an error of SQLite whether the file is damaged or only out of reach."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        is_garbled = "could not decode" in str(error).lower()  # what should be a text is none
        if is_garbled or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StoreDamaged(str(error)) from None
        raise StoreUnavailable(f"cannot read the store: {error}") from None
