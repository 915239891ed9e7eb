"""Places for a store, to be opened any number of times, as by several processes."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from mpp_gateway.config.model import PostgresStore, SqliteStore
from mpp_gateway.ledger.sql import Driver
from mpp_gateway.ledger.stores import driver_of

MEMORY = Path("/dev/shm")
ROOM_BYTES = 64 * 1024 * 1024


def in_memory(room_bytes: int = ROOM_BYTES) -> Path | None:
    """Return where files are kept in memory, if the machine has such a place and room there.

    A store there does all that it does elsewhere, and no commit waits for a disk. Processes may
    die; no test pulls the plug of the machine.
    """
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < room_bytes:
        return None
    return MEMORY


class Place(Protocol):
    """Where a store is. `url` is what a configuration says."""

    @property
    def url(self) -> str: ...

    def driver(self) -> Driver: ...

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Look at it from outside, as it is on disk."""

    def write(self, sql: str) -> None:
        """Change it behind everybody's back."""


@dataclass(frozen=True)
class SqlitePlace:
    path: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def driver(self) -> Driver:
        return driver_of(SqliteStore(self.path))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path, timeout=5)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql)]

    def write(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=5)) as db, db:
            db.execute(sql)


@dataclass(frozen=True)
class PostgresPlace:
    url: str

    def driver(self) -> Driver:
        return driver_of(PostgresStore(SecretStr(self.url)))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        import psycopg
        import psycopg.rows

        with psycopg.connect(self.url, row_factory=psycopg.rows.dict_row) as db:
            return db.execute(sql).fetchall()

    def write(self, sql: str) -> None:
        import psycopg

        with psycopg.connect(self.url) as db:
            db.execute(sql)
