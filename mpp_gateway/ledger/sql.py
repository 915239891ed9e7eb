"""The SQL that every store of ours understands, and what goes wrong with a store."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

type Parameters = Sequence[Any] | dict[str, Any]


class StoreUnavailable(Exception):
    """The store could not do what was asked: disk full, locked, gone, silent for too long.

    Nothing changed, unless `may_be_written`: then the store was asked to keep it and did not
    answer, and only the store knows. Whoever moves money on such a write must take it for written.
    """

    def __init__(self, message: str, *, may_be_written: bool = False) -> None:
        super().__init__(message)
        self.may_be_written = may_be_written


class CommitLost(Exception):
    """The connection ended in the middle of a commit: here nobody knows whether it was made."""


class StoreTooNew(Exception):
    """The store was written by a newer version of the gateway; an older one must not touch it."""


class Cursor(Protocol):
    """The rows of one statement."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A transaction under way. Parameters are `?` in order or `:name`; nothing of SQLite's or
    PostgreSQL's own may be used."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Cursor:
        """Run one statement."""

    def append(self, sql: str, parameters: Any, /) -> int | None:
        """Insert one row, or none, into a table that numbers them in `seq`; return the number."""

    def executemany(self, sql: str, parameters: Any, /) -> Cursor:
        """Run one statement for each of many rows."""


type Work[T] = Callable[[Connection], T]


class Lease(Protocol):
    """Shows to other processes that this one lives; the system ends it when the process dies."""

    @property
    def owner(self) -> str:
        """The name under which this process marks its rows."""

    def is_gone(self, db: Connection, owner: str) -> bool:
        """Tell, within a transaction, whether nobody who marks rows with `owner` is left."""

    def share(self) -> None:
        """Let others in beside us: what was left behind is taken up."""

    def close(self) -> None:
        """Give it up, as the end of the process would."""


class Driver(Protocol):
    """One kind of store. All calls but `open`, `lease` and `interrupt` come from
    the writer's thread."""

    failures: tuple[type[Exception], ...]
    """Errors that say something of the store, not of the statement."""
    errors: tuple[type[Exception], ...]
    """Every error that comes from the store, whoever is to blame."""

    def open(self, migrations: Sequence[str]) -> None:
        """Connect, and bring the schema up to date; `migrations` are numbered by their place.

        Errors: `StoreUnavailable`, `StoreTooNew`.
        """

    def lease(self, fresh: str) -> Lease:
        """Show that we live; `fresh` (32 hex digits) names us if nothing else does.

        Errors: `StoreUnavailable`.
        """

    def begin(self) -> Connection:
        """Begin a transaction beside which no other one writes, in any process."""

    def commit(self) -> None:
        """Make it durable. Errors: `CommitLost`; after any other one it is not made."""

    def rollback(self) -> None:
        """Undo it; raises nothing."""

    def interrupt(self) -> None:
        """Make the call that is not answered fail soon; from any thread. Raises nothing."""

    def close(self) -> None:
        """Let go of the store."""


def statements(migration: str) -> Iterator[str]:
    """Split a migration into its statements."""
    return (text for text in migration.split(";") if text.strip())


def known_version(version: int, known: int) -> int:
    """Return the schema's version. Errors: `StoreTooNew` if it is above `known`."""
    if version > known:
        raise StoreTooNew(f"the store has schema {version}, this gateway knows up to {known}")
    return version
