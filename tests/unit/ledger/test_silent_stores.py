"""A store that says nothing: whoever waits for it is answered in seconds, and truly."""

import asyncio
import contextlib
import sqlite3
import threading
import time

import psycopg
import pytest

from mpp_gateway.ledger import database as databases
from mpp_gateway.ledger import postgres as postgres_store
from mpp_gateway.ledger import sqlite as sqlite_store
from mpp_gateway.ledger.book import Claim, Turn
from mpp_gateway.ledger.database import BEGINNINGS_MAX, WAITING_MAX, Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.postgres import PostgresDriver
from mpp_gateway.ledger.schema import EXCHANGES_SCHEMA, OWED_SCHEMA, QUESTIONS_SCHEMA
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.ledger.sqlite import SqliteDriver
from mpp_gateway.ledger.states import State
from tests.support.ledger import taken_up
from tests.support.line import line_to
from tests.unit.ledger.test_exchanges import NOW_S, claim_of

SCHEMA = "CREATE TABLE notes (text TEXT NOT NULL) STRICT"
BOUND_S = 20
"""Far above the short deadlines of these tests, far below what a silent line costs otherwise."""


@pytest.fixture
def hurried(monkeypatch):
    """Deadlines of a second each."""
    for name in ("WRITE_S", "SILENT_S", "INTERRUPT_S"):
        monkeypatch.setattr(databases, name, 1)
    monkeypatch.setitem(postgres_store.LINE, "connect_timeout", 2)


def insert(text: str):
    return lambda db: db.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(db) -> list[str]:
    return [row[0] for row in db.execute("SELECT text FROM notes ORDER BY text")]


def through(line, url: str) -> str:
    """Return `url` by way of `line`."""
    place = psycopg.conninfo.conninfo_to_dict(url)
    return f"postgresql://{place['user']}@127.0.0.1:{line.port}/{place['dbname']}"


class Process:
    """What one gateway has of the store, on a line of its own."""

    def __init__(self, url: str, name: str = "a" * 32) -> None:
        self.driver = PostgresDriver(url)
        self.database = Database(
            self.driver, (EXCHANGES_SCHEMA, QUESTIONS_SCHEMA, OWED_SCHEMA, SCHEMA)
        )
        self.database.open()
        self.lease = self.driver.lease(name)
        self.exchanges = Exchanges(self.database, self.lease.owner)


async def refused(work) -> StoreUnavailable:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as refusal:
        await work
    assert time.monotonic() - began < BOUND_S
    return refusal.value


async def until_it_works(work):
    """Ask again until the store is back, as buyers do; bounded."""
    end = time.monotonic() + BOUND_S
    while True:
        try:
            return await work()
        except StoreUnavailable:
            assert time.monotonic() < end, "the store never came back"


def test_a_server_that_vanishes_without_a_word_costs_seconds_and_no_restart(postgres, hurried):
    """Neither a reset nor an end of the connection comes: only our own clock can tell."""

    async def story(line) -> None:
        process = Process(through(line, postgres.database()))
        write = process.database.write
        await write(insert("before"))
        line.die()
        for _ in range(2):
            await refused(write(insert("meanwhile")))
        line.heal()
        await until_it_works(lambda: write(insert("after")))
        found = await process.database.read(notes)
        assert set(found) == {"before", "after"}
        await process.database.close()

    with line_to(postgres.port) as line:
        asyncio.run(story(line))


def test_a_host_that_comes_back_holds_its_lease_though_the_server_still_has_the_old_one(
    postgres, hurried
):
    """The server has not heard that the old line is dead: waiting for that takes hours."""

    async def story(line) -> None:
        url = postgres.database()
        process, other = Process(through(line, url)), Process(url, "b" * 32)
        await process.exchanges.claim(claim_of("p1", 1), NOW_S)
        line.die()
        await refused(process.exchanges.claim(claim_of("p2", 2), NOW_S))
        line.heal()
        claimed = await until_it_works(lambda: process.exchanges.claim(claim_of("p3", 3), NOW_S))
        assert claimed.claim is Claim.FRESH
        assert await taken_up(other.exchanges, other.lease.is_gone, NOW_S) == 0
        for one in (process, other):
            await one.database.close()

    with line_to(postgres.port) as line:
        asyncio.run(story(line))


def test_a_host_that_cannot_have_its_lease_back_writes_nothing_without_it(postgres, monkeypatch):
    """Others would take it for dead, and take up what it is at."""
    monkeypatch.setitem(postgres_store.SESSION, "lock_timeout", "100ms")

    async def story() -> None:
        url = postgres.database()
        process = Process(url)
        with psycopg.connect(url, autocommit=True) as thief:
            process.driver._connection.close()
            thief.execute(
                "SELECT pg_advisory_lock(%s, hashtext(%s))", (postgres_store.LEASES, "a" * 32)
            )
            for _ in range(3):
                await refused(process.database.write(insert("without a lease")))
        await until_it_works(lambda: process.database.write(insert("with it")))
        assert await process.database.read(notes) == ["with it"]
        await process.database.close()

    asyncio.run(story())


@pytest.mark.parametrize("was_made", [False, True])
@pytest.mark.parametrize("claims", ["fresh", "released", "credited"])
def test_a_claim_whose_commit_was_lost_is_taken_back_and_good_for_the_next_who_asks(
    postgres, hurried, claims, was_made
):
    async def story(line) -> None:
        process = Process(through(line, postgres.database()))
        exchanges = process.exchanges
        before = 1
        if claims != "fresh":
            await exchanges.claim(claim_of("p1", 1), NOW_S)
            after = State.RELEASED
            if claims == "credited":
                await exchanges.hold(Turn("x1", 1), 10**6, 0, NOW_S)
                await exchanges.move(Turn("x1", 1), State.VERIFIED, State.SETTLING, NOW_S)
                after = State.CREDITED
            assert await exchanges.give_up(Turn("x1", 1), after, NOW_S)
            before = 2
        lost = claim_of("p1", 7)
        (line.die_after if was_made else line.die_before)(b"COMMIT")
        assert (await refused(exchanges.claim(lost, NOW_S))).may_be_written
        line.heal()
        assert await until_it_works(lambda: exchanges.unclaim(lost, NOW_S)) is was_made
        again = await exchanges.claim(claim_of("p1", 8), NOW_S)
        assert again.claim is (Claim.CREDITED if claims == "credited" else Claim.FRESH)
        assert again.attempt == before + was_made
        assert not await exchanges.unclaim(lost, NOW_S)  # that one is not its own
        await process.database.close()

    with line_to(postgres.port) as line:
        asyncio.run(story(line))


class Stuck(SqliteDriver):
    """A disk that does not answer: `at` (begin or commit) waits until it is let go."""

    def __init__(self, path, at: str) -> None:
        super().__init__(path)
        self.at = at
        self.let_go = threading.Event()

    def begin(self):
        if self.at == "begin":
            self.let_go.wait(BOUND_S)
        return super().begin()

    def commit(self) -> None:
        if self.at == "commit":
            self.let_go.wait(BOUND_S)
        super().commit()


@pytest.mark.parametrize("at", ["begin", "commit"])
def test_who_is_told_that_nothing_was_written_can_rely_on_it(tmp_path, hurried, at):
    """Late in the queue it is certain; in the middle of a commit nobody knows."""

    async def story() -> None:
        driver = Stuck(tmp_path / "store.db", at)
        database = Database(driver, [SCHEMA])
        database.open()
        first = await refused(database.write(insert("first")))
        queued = await refused(database.write(insert("queued")))
        assert (first.may_be_written, queued.may_be_written) == (at == "commit", False)
        driver.let_go.set()
        await database.write(insert("after"))
        assert await database.read(notes) == ["after", *(["first"] if at == "commit" else [])]
        await database.close()

    asyncio.run(story())


def test_ten_thousand_writes_at_a_store_that_hangs_are_refused_in_seconds(tmp_path, hurried):
    async def story() -> None:
        driver = Stuck(tmp_path / "store.db", "begin")
        database = Database(driver, [SCHEMA])
        database.open()
        longest = [0]

        async def watch() -> None:
            while True:
                began = time.monotonic_ns()
                await asyncio.sleep(0)
                longest[0] = max(longest[0], time.monotonic_ns() - began)

        for _ in range(2):  # the memory is bounded over time too, not for one flood only
            watching = asyncio.ensure_future(watch())
            began = time.monotonic()
            answers = await asyncio.gather(
                *(database.write(insert("x"), begins=True) for _ in range(10_000)),
                return_exceptions=True,
            )
            assert all(isinstance(answer, StoreUnavailable) for answer in answers)
            assert not any(answer.may_be_written for answer in answers)
            assert time.monotonic() - began < BOUND_S
            assert database._jobs.qsize() <= BEGINNINGS_MAX
            watching.cancel()
        assert longest[0] < 5 * 10**9
        driver.let_go.set()
        await until_it_works(lambda: database.write(insert("after")))
        assert await database.read(notes) == ["after"]
        await database.close()

    asyncio.run(story())


def test_what_was_begun_has_room_when_beginnings_have_none(tmp_path, hurried):
    async def story() -> None:
        driver = Stuck(tmp_path / "store.db", "begin")
        database = Database(driver, [SCHEMA])
        database.open()
        flood = [
            asyncio.ensure_future(database.write(insert("new"), begins=True))
            for _ in range(WAITING_MAX)
        ]
        await asyncio.sleep(0)
        going_on = asyncio.ensure_future(database.write(insert("begun")))
        await asyncio.sleep(0)
        assert not going_on.done()
        driver.let_go.set()
        await going_on
        answers = await asyncio.gather(*flood, return_exceptions=True)
        assert any(isinstance(answer, StoreUnavailable) for answer in answers)
        await database.close()

    asyncio.run(story())


def test_a_store_that_hangs_does_not_keep_the_gateway_from_stopping(tmp_path, hurried, monkeypatch):
    monkeypatch.setattr(databases, "CLOSE_S", 1)

    async def story() -> None:
        driver = Stuck(tmp_path / "store.db", "commit")
        database = Database(driver, [SCHEMA])
        database.open()
        writing = asyncio.ensure_future(database.write(insert("x")))
        await asyncio.sleep(0)
        began = time.monotonic()
        await database.close()
        assert time.monotonic() - began < BOUND_S
        driver.let_go.set()
        with contextlib.suppress(StoreUnavailable):
            await writing

    asyncio.run(story())


def test_a_store_that_lost_a_table_is_one_that_cannot_be_used(place):
    """And is no fault of the gateway's code: the buyer gets 503, not 500."""

    async def story() -> None:
        database = Database(place.driver(), [SCHEMA])
        database.open()
        await database.write(lambda db: db.execute("ALTER TABLE notes RENAME TO gone") and None)
        await refused(database.write(insert("lost")))
        await database.write(lambda db: db.execute("ALTER TABLE gone RENAME TO notes") and None)
        await database.write(insert("after"))
        assert await database.read(notes) == ["after"]
        await database.close()

    asyncio.run(story())


def test_a_server_that_takes_no_writes_any_more_is_one_that_cannot_be_used(postgres):
    """What a failover to a standby looks like, and an operator who made the database read-only."""

    async def story() -> None:
        database = Database(PostgresDriver(postgres.database()), [SCHEMA])
        database.open()
        read_only = "SET default_transaction_read_only = {}"
        await database.write(lambda db: db.execute(read_only.format("on")) and None)
        refusal = await refused(database.write(insert("refused")))
        assert "read-only" in str(refusal)
        assert not refusal.may_be_written
        await database.read(lambda db: db.execute(read_only.format("off")) and None)
        await database.write(insert("after"))
        assert await database.read(notes) == ["after"]
        await database.close()

    asyncio.run(story())


def test_a_locked_file_is_waited_for_in_the_writer_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_MS", 1_000)
    path = tmp_path / "store.db"

    async def story() -> None:
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        waiting = asyncio.ensure_future(database.write(insert("x")))
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 20  # of some hundred in that second: the loop was never kept
        with pytest.raises(StoreUnavailable):
            await waiting
        blocker.execute("ROLLBACK")
        blocker.close()
        await database.write(insert("after"))
        await database.close()

    asyncio.run(story())
