"""One SQLite file and one writer thread: many exchanges share one fsync, none blocks the loop."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BATCH_MAX = 512
BUSY_TIMEOUT_MS = 5_000

type Work[T] = Callable[[sqlite3.Connection], T]


class StoreUnavailable(Exception):
    """The store could not do what was asked (disk full, locked, closed); nothing changed."""


class StoreTooNew(Exception):
    """The file was written by a newer version of the gateway; an older one must not touch it."""


@dataclass(slots=True)
class _Job:
    work: Work[object]
    future: asyncio.Future[object]
    loop: asyncio.AbstractEventLoop
    result: object = None
    error: BaseException | None = None


class Database:
    """A durable store. `write` and `read` return when the batch they were part of is on disk.

    `migrations` are numbered by their place in the sequence and applied forward only.
    """

    def __init__(self, path: str | Path, migrations: Sequence[str]) -> None:
        self._path = str(path)
        self._migrations = tuple(migrations)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def open(self) -> None:
        """Open the file, bring its schema up to date and start the writer.

        Errors: `StoreUnavailable` when the file cannot be used, `StoreTooNew` for a newer schema.
        """
        try:
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=5
            )
            _prepare(connection, self._migrations)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"cannot use the store {self._path}: {error}") from error
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="store-writer", daemon=True
        )
        self._thread.start()

    async def write[T](self, work: Work[T]) -> T:
        """Run `work` in the writer's transaction; what it did is durable when this returns.

        An exception of `work` undoes its own changes only. Errors of the store itself are
        `StoreUnavailable`; then nothing of the batch happened.
        """
        if self._closed or self._thread is None:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._jobs.put(_Job(work, future, loop))
        return await future  # type: ignore[return-value]

    async def read[T](self, work: Work[T]) -> T:
        """Run `work` after every write asked for before; see `write`."""
        return await self.write(work)

    async def close(self) -> None:
        """Finish what was asked for, then close the file."""
        if self._closed or self._thread is None:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self, connection: sqlite3.Connection) -> None:
        stopping = False
        while not stopping:
            first = self._jobs.get()
            batch: list[_Job] = []
            job = first
            while True:
                if job is None:
                    stopping = True
                    break
                batch.append(job)
                if len(batch) >= BATCH_MAX:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if batch:
                _commit(connection, batch)
                _deliver(batch)
        connection.close()
        self._refuse_the_rest()

    def _refuse_the_rest(self) -> None:
        # Asked for while the store was closing: without an answer the request would hang.
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.error = StoreUnavailable("the store is closed")
                    _deliver([job])


def _prepare(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    # Without FULL a power cut forgets claims that were already answered: the same proof buys twice.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _known_version(connection, len(migrations))
        for migration in migrations[version:]:
            for statement in migration.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        connection.close()
        raise


def _known_version(connection: sqlite3.Connection, known: int) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > known:
        raise StoreTooNew(f"the store has schema {version}, this gateway knows up to {known}")
    return int(version)


def _commit(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            _attempt(connection, job)
        connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live on
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        # The whole batch is gone with the transaction: nobody in it may believe it was written.
        for job in batch:
            job.error = StoreUnavailable(f"the store refused a write: {error}")


def _attempt(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except sqlite3.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - handed to the caller, whoever raised it
        connection.execute("ROLLBACK TO job")
        job.error = error
    connection.execute("RELEASE job")


def _deliver(batch: list[_Job]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:
            continue  # that loop is closed: nobody is left to hear


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
