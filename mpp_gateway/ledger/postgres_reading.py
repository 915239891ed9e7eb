"""Reading the shared store at PostgreSQL: one transaction that may only read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from mpp_gateway.ledger.postgres import connect, place_of, reason, translated
from mpp_gateway.ledger.reading import BATCH_ROWS, NOT_MADE, Reading, check_schema
from mpp_gateway.ledger.sql import StoreUnavailable

SESSION = {
    "default_transaction_read_only": "on",
    "lock_timeout": "5s",
    # A snapshot that is kept open keeps the server from tidying its tables.
    "idle_in_transaction_session_timeout": "60s",
}


class ServerReading:
    """Reads within one transaction; see `reading.Reading`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._asked = 0

    def rows(self, text: str, parameters: tuple[Any, ...] = (), /) -> Iterator[tuple[Any, ...]]:
        """See `reading.Reading`. The rows stay at the server until their batch is asked for."""
        self._asked += 1
        try:
            with self._connection.cursor(name=f"reading_{self._asked}") as cursor:
                cursor.itersize = BATCH_ROWS
                spoken = translated(text) if parameters else text
                cursor.execute(sql.SQL(spoken), parameters or None)
                yield from cursor
        except psycopg.Error as error:
            raise StoreUnavailable(f"cannot read the store: {reason(error)}") from None

    def damage(self) -> list[str]:
        """See `reading.Reading`. The server keeps its own files, and checks its pages itself."""
        return []


@contextmanager
def reading_server(url: str, schema: int) -> Iterator[Reading]:
    """Open the store at `url` for reading; see `reading.reading`."""
    try:
        connection = connect(url, SESSION)
    except (psycopg.Error, OSError) as error:
        # Not the error's own text: it may repeat the URL, and with it the password.
        raise StoreUnavailable(f"cannot read the store{place_of(url)}: {reason(error)}") from None
    with connection:
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            (table,) = _one(connection, "SELECT to_regclass('schema_version')")
            row = _one(connection, "SELECT version FROM schema_version") if table else None
        except psycopg.Error as error:
            raise StoreUnavailable(f"cannot read the store: {reason(error)}") from None
        if row is None:
            raise StoreUnavailable(f"the store has no tables yet: {NOT_MADE}")
        check_schema(int(row[0]), schema)
        yield ServerReading(connection)


def _one(connection: psycopg.Connection[Any], text: str) -> Any:
    return connection.execute(sql.SQL(text)).fetchone()
