"""One writer thread over one store: many exchanges share one fsync, none blocks the loop."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.sql import Connection, Driver, StoreUnavailable, Work

BATCH_MAX = 512


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

    def __init__(self, driver: Driver, migrations: Sequence[str]) -> None:
        self._driver = driver
        self._migrations = tuple(migrations)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def open(self) -> None:
        """Open the store, bring its schema up to date and start the writer.

        Errors: `StoreUnavailable` when it cannot be used, `StoreTooNew` for a newer schema.
        """
        self._driver.open(self._migrations)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write[T](self, work: Work[T], around: tuple[FailPoint, FailPoint] | None = None) -> T:
        """Run `work` in the writer's transaction; what it did is durable when this returns.

        An exception of `work` undoes its own changes only. It may be run twice: it must do nothing
        but read and write the store. Errors of the store itself are `StoreUnavailable`; then
        nothing of the batch happened. `around` names the moments before and after.
        """
        if self._closed or self._thread is None:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        if around is not None:
            reach(around[0])
        self._jobs.put(_Job(work, future, loop))
        result = await future
        if around is not None:
            reach(around[1])
        return result  # type: ignore[return-value]

    async def read[T](self, work: Work[T]) -> T:
        """Run `work` after every write asked for before; see `write`."""
        return await self.write(work)

    async def close(self) -> None:
        """Finish what was asked for, then close the store."""
        if self._closed or self._thread is None:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
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
                _commit(self._driver, batch)
                _deliver(batch)
        self._driver.close()
        self._refuse_the_rest()

    def _refuse_the_rest(self) -> None:
        # Asked for while the store was closing: without an answer the request would hang.
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.error = StoreUnavailable("the store is closed")
                    _deliver([job])


def _commit(driver: Driver, batch: list[_Job]) -> None:
    try:
        if not _all_at_once(driver, batch):
            _one_by_one(driver, batch)
    except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live on
        driver.rollback()
        # The whole batch is gone with the transaction: nobody in it may believe it was written.
        for job in batch:
            job.error = StoreUnavailable(f"the store refused a write: {error}")


def _all_at_once(driver: Driver, batch: list[_Job]) -> bool:
    """Do all of it, or nothing if one job of it fails by its own fault."""
    connection = driver.begin()
    try:
        for job in batch:
            job.result = job.work(connection)
    except driver.failures:
        raise
    except Exception:  # noqa: BLE001 - handed to its caller when it happens again
        driver.rollback()
        return False
    _make_durable(driver)
    return True


def _one_by_one(driver: Driver, batch: list[_Job]) -> None:
    """Do what can be done of it: a job that fails undoes its own changes."""
    connection = driver.begin()
    for job in batch:
        _attempt(driver, connection, job)
    _make_durable(driver)


def _make_durable(driver: Driver) -> None:
    reach(FailPoint.COMMITTING)
    driver.commit()
    reach(FailPoint.COMMITTED)


def _attempt(driver: Driver, connection: Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except driver.failures:
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
