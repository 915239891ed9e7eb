"""One writer thread over one store: many exchanges share one fsync, none blocks the loop."""

import asyncio
import contextlib
import enum
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.sql import CommitLost, Connection, Driver, StoreUnavailable, Work

BATCH_MAX = 512
WRITE_S = 10
"""How long a write may wait for its turn. A store that others have locked says so sooner."""
SILENT_S = 6
"""How long one batch may take before it is interrupted; above `postgres.SESSION`'s lock_timeout."""
INTERRUPT_S = 2
"""How long a store that was interrupted has for its answer; then nobody waits for it any more."""
WAITING_MAX = 8_192
BEGINNINGS_MAX = 4_096
"""How many writes may wait, and how many of them before new calls are refused: what was begun, and
may have moved money, has room when a flood of beginnings has none."""
CLOSE_S = 30


class _Phase(enum.Enum):
    WAITING = "waiting"
    TAKEN = "taken"
    """In the batch that the store is asked to begin."""
    RUNNING = "running"
    """It may be written from here on."""
    WITHDRAWN = "withdrawn"
    """Nobody waits for it any more, and it is not done."""
    DONE = "done"


class _Job:
    """A write that somebody waits for. A paid call makes five: this is made with few steps."""

    __slots__ = ("error", "future", "late_at_s", "loop", "phase", "result", "work")

    def __init__(self, work: Work[object], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[object] = loop.create_future()
        self.late_at_s = int(loop.time()) + WRITE_S + 1
        """By the clock of the loop."""
        self.phase = _Phase.WAITING
        self.result: object = None
        self.error: BaseException | None = None


class _Watch:
    """The jobs of one loop that somebody waits for, the oldest first, and a timer for that one."""

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.is_set = False

    def forget_done(self) -> None:
        while self.jobs and self.jobs[0].future.done():
            self.jobs.popleft()


class Database:
    """A durable store. `write` and `read` return when the batch they were part of is on disk.

    `migrations` are numbered by their place in the sequence and applied forward only.
    """

    def __init__(self, driver: Driver, migrations: Sequence[str]) -> None:
        self._driver = driver
        self._migrations = tuple(migrations)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._phases = threading.Lock()
        """Held to change a job's phase: what is withdrawn is certainly not written."""
        self._watches: dict[asyncio.AbstractEventLoop, _Watch] = {}
        self._batch = 0
        self._batch_since_s = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def open(self) -> None:
        """Open the store, bring its schema up to date and start the writer.

        Errors: `StoreUnavailable` when it cannot be used, `StoreTooNew` for a newer schema.
        """
        self._driver.open(self._migrations)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write[T](
        self,
        work: Work[T],
        around: tuple[FailPoint, FailPoint] | None = None,
        *,
        begins: bool = False,
    ) -> T:
        """Run `work` in the writer's transaction; what it did is durable when this returns.

        An exception of `work` undoes its own changes only. It may be run twice: it must do nothing
        but read and write the store. Errors of the store itself are `StoreUnavailable`, after
        `WRITE_S` and `INTERRUPT_S` at the latest; then nothing of the batch happened, or it
        `may_be_written`. A later write finds that decided.
        `begins`: it may be refused first when too many wait. `around` names the moments before and
        after.
        """
        if self._closed or self._thread is None:
            raise StoreUnavailable("the store is closed")
        # Counted with what was withdrawn: a store that hangs must not fill the memory.
        if self._jobs.qsize() >= (BEGINNINGS_MAX if begins else WAITING_MAX):
            raise StoreUnavailable("too many writes wait for the store")
        job = _Job(work, asyncio.get_running_loop())
        if around is not None:
            reach(around[0])
        self._jobs.put(job)
        self._watch(job)
        result = await job.future
        if around is not None:
            reach(around[1])
        return result  # type: ignore[return-value]

    async def read[T](self, work: Work[T]) -> T:
        """Run `work` after every write asked for before; see `write`."""
        return await self.write(work)

    async def close(self) -> None:
        """Finish what was asked for, then close the store; one that hangs is left as it is."""
        if self._closed or self._thread is None:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _watch(self, job: _Job) -> None:
        """See that somebody looks at `job` when it is late; they are many, and share a timer."""
        watch = self._watches.get(job.loop)
        if watch is None:
            watch = self._watches[job.loop] = _Watch()
        watch.forget_done()
        watch.jobs.append(job)
        if not watch.is_set:
            watch.is_set = True
            job.loop.call_later(WRITE_S + 1, self._look, job.loop, watch)

    def _look(self, loop: asyncio.AbstractEventLoop, watch: _Watch) -> None:
        now_s = int(loop.time())
        watch.forget_done()
        while watch.jobs and watch.jobs[0].late_at_s <= now_s:
            self._hurry(watch.jobs.popleft())
            watch.forget_done()
        watch.is_set = bool(watch.jobs)
        if watch.is_set:
            loop.call_later(watch.jobs[0].late_at_s - now_s, self._look, loop, watch)

    def _hurry(self, job: _Job) -> None:
        """Withdraw a job that is late, if that is still possible; see that the store goes on."""
        with self._phases:
            is_at_it = job.phase in (_Phase.TAKEN, _Phase.RUNNING)
            if job.phase in (_Phase.WAITING, _Phase.TAKEN):
                job.phase = _Phase.WITHDRAWN
            batch, since_s = self._batch, self._batch_since_s
        if is_at_it:
            left_s = max(0, since_s + SILENT_S - int(time.monotonic()))
            job.loop.call_later(left_s, self._interrupt, batch)
        if job.phase is _Phase.WITHDRAWN:
            job.error = StoreUnavailable(f"the store had no time for a write in {WRITE_S} s")
            _resolve([job])
        else:
            job.loop.call_later(INTERRUPT_S, _give_up, job)

    def _interrupt(self, batch: int) -> None:
        with self._phases:
            # Not a later one: that may be of others, and in good health.
            if self._batch == batch:
                self._driver.interrupt()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            first = self._jobs.get()
            taken: list[_Job] = []
            job = first
            while True:
                if job is None:
                    stopping = True
                    break
                taken.append(job)
                if len(taken) >= BATCH_MAX:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if batch := self._take(taken):
                self._commit(batch)
                self._set_done(batch)
                _deliver(batch)
        self._driver.close()
        self._refuse_the_rest()

    def _take(self, jobs: list[_Job]) -> list[_Job]:
        """Return what somebody still waits for."""
        with self._phases:
            batch = [job for job in jobs if job.phase is _Phase.WAITING]
            for job in batch:
                job.phase = _Phase.TAKEN
            self._batch += 1
            self._batch_since_s = int(time.monotonic())
        return batch

    def _begin(self, batch: list[_Job]) -> tuple[Connection, list[_Job]]:
        """Begin a transaction; return what is still wanted in it, and may be written from now on.

        Connecting and waiting for a lock may take long; who went away meanwhile has nothing done.
        """
        connection = self._driver.begin()
        with self._phases:
            wanted = [job for job in batch if job.phase is not _Phase.WITHDRAWN]
            for job in wanted:
                job.phase = _Phase.RUNNING
        return connection, wanted

    def _set_done(self, batch: list[_Job]) -> None:
        with self._phases:
            self._batch += 1
            for job in batch:
                if job.phase is not _Phase.WITHDRAWN:
                    job.phase = _Phase.DONE

    def _commit(self, batch: list[_Job]) -> None:
        try:
            if not self._all_at_once(batch):
                self._one_by_one(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live on
            self._driver.rollback()
            # The whole batch is gone with the transaction: nobody in it may believe it was written.
            is_lost = isinstance(error, CommitLost)
            for job in batch:
                job.error = StoreUnavailable(
                    f"the store refused a write: {error}", may_be_written=is_lost
                )

    def _all_at_once(self, batch: list[_Job]) -> bool:
        """Do all of it, or nothing if one job of it fails by its own fault."""
        connection, wanted = self._begin(batch)
        try:
            for job in wanted:
                job.result = job.work(connection)
        except self._driver.failures:
            raise
        except Exception:  # noqa: BLE001 - handed to its caller when it happens again
            self._driver.rollback()
            return False
        _make_durable(self._driver)
        return True

    def _one_by_one(self, batch: list[_Job]) -> None:
        """Do what can be done of it: a job that fails undoes its own changes."""
        connection, wanted = self._begin(batch)
        for job in wanted:
            _attempt(self._driver, connection, job)
        _make_durable(self._driver)

    def _refuse_the_rest(self) -> None:
        # Asked for while the store was closing: without an answer the request would hang.
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.error = StoreUnavailable("the store is closed")
                    _deliver([job])


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
        # A store that lost a table, or the right to write it, is one that cannot be used.
        is_ours = isinstance(error, driver.errors)
        job.error = StoreUnavailable(f"the store refused a write: {error}") if is_ours else error
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


def _give_up(job: _Job) -> None:
    """Tell who waits that nobody knows: the store is at it, and may yet do it."""
    if not job.future.done():
        job.future.set_exception(StoreUnavailable("the store does not answer", may_be_written=True))
