"""Places for a store, to be opened any number of times, as by several processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from mpp_gateway.config.model import PostgresStore, SqliteStore
from mpp_gateway.ledger.sql import Driver
from mpp_gateway.ledger.stores import driver_of


class Place(Protocol):
    """Where a store is. `url` is what a configuration says."""

    @property
    def url(self) -> str: ...

    def driver(self) -> Driver: ...


@dataclass(frozen=True)
class SqlitePlace:
    path: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def driver(self) -> Driver:
        return driver_of(SqliteStore(self.path))


@dataclass(frozen=True)
class PostgresPlace:
    url: str

    def driver(self) -> Driver:
        return driver_of(PostgresStore(SecretStr(self.url)))
