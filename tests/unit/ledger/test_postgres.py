"""A store for many machines: who died is known at once, and who is lost comes back."""

import asyncio
import contextlib
import threading

import psycopg
import pytest

from mpp_gateway.ledger import postgres as postgres_store
from mpp_gateway.ledger.book import Claim, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.postgres import WRITER_LOCK, PostgresDriver, place_of
from mpp_gateway.ledger.schema import EXCHANGES_SCHEMA, OWED_SCHEMA, QUESTIONS_SCHEMA
from mpp_gateway.ledger.sql import StoreTooNew, StoreUnavailable
from mpp_gateway.ledger.states import State
from tests.support.ledger import taken_up
from tests.support.postgres import serving
from tests.unit.ledger.test_exchanges import NOW_S, claim_of

SCHEMA = "CREATE TABLE notes (text TEXT NOT NULL) STRICT"


def insert(text: str):
    return lambda db: db.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(db) -> list[str]:
    return [row[0] for row in db.execute("SELECT text FROM notes ORDER BY text")]


POLL_S = 0.01
POLLS_MAX = 6_000


@pytest.fixture
def url(postgres):
    return postgres.database()


class Process:
    """What one gateway has of the store. `die` ends it as a kill does."""

    def __init__(self, url: str, name: str) -> None:
        self.driver = PostgresDriver(url)
        self.database = Database(self.driver, (EXCHANGES_SCHEMA, QUESTIONS_SCHEMA, OWED_SCHEMA))
        self.database.open()
        self.lease = self.driver.lease(name)
        self.exchanges = Exchanges(self.database, self.lease.owner)

    async def take_up(self) -> int:
        return await taken_up(self.exchanges, self.lease.is_gone, NOW_S)

    async def takes_something_up(self) -> bool:
        """Wait until the server has noticed a death."""
        for _ in range(POLLS_MAX):
            if await self.take_up():
                return True
            await asyncio.sleep(POLL_S)
        return False

    def die(self) -> None:
        self.driver._connection.close()

    async def close(self) -> None:
        await self.database.close()


def crowded(url: str) -> list[psycopg.Connection]:
    """Take every connection that the server has left."""
    crowd = []
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            crowd.append(psycopg.connect(url))
    return crowd


def test_what_a_dead_host_left_is_taken_up_and_what_a_live_one_does_is_not(url):
    async def story() -> None:
        first, second, third = (Process(url, name * 32) for name in "abc")
        for process, number in ((first, 1), (second, 2)):
            await process.exchanges.claim(claim_of(f"p{number}", number), NOW_S)
        assert await third.take_up() == 0
        first.die()
        assert await third.takes_something_up()
        assert await third.exchanges.state("x1") is State.RELEASED
        assert await third.exchanges.state("x2") is State.CLAIMED
        for process in (second, third):
            await process.close()

    asyncio.run(story())


def test_a_host_whose_connection_was_cut_goes_on_and_is_alive_again(url, postgres):
    async def story() -> None:
        first, second = (Process(url, name * 32) for name in "ab")
        await first.exchanges.claim(claim_of("p1", 1), NOW_S)
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(%s)", (first.driver._connection.info.backend_pid,)
            )
        with pytest.raises(StoreUnavailable):
            await first.exchanges.claim(claim_of("p2", 2), NOW_S)
        assert (await first.exchanges.claim(claim_of("p3", 3), NOW_S)).claim is Claim.FRESH
        assert await second.take_up() == 0
        assert await second.exchanges.state("x2") is None
        for process in (first, second):
            await process.close()

    asyncio.run(story())


def test_a_move_of_a_host_that_was_taken_for_dead_is_not_its_own_any_more(url):
    async def story() -> None:
        first, second = (Process(url, name * 32) for name in "ab")
        await first.exchanges.claim(claim_of("p1", 1), NOW_S)
        first.die()
        assert await second.takes_something_up()
        turn = Turn("x1", 1)
        assert not await first.exchanges.hold(turn, 100, 0, NOW_S)
        assert not await first.exchanges.move(turn, State.VERIFIED, State.SETTLING, NOW_S)
        for process in (first, second):
            await process.close()

    asyncio.run(story())


def test_a_server_that_restarts_costs_refusals_and_no_restart_of_ours():
    async def story() -> None:
        with serving() as server:
            database = Database(PostgresDriver(server.url()), [SCHEMA])
            database.open()
            await database.write(insert("before"))
            await asyncio.to_thread(server.stop)
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await database.write(insert("meanwhile"))
            await asyncio.to_thread(server.start)
            await database.write(insert("after"))
            assert await database.read(notes) == ["after", "before"]
            await database.close()

    asyncio.run(story())


def test_a_host_that_hangs_in_its_transaction_keeps_the_others_waiting_for_seconds_only(
    url, monkeypatch
):
    monkeypatch.setitem(postgres_store.SESSION, "lock_timeout", "100ms")

    async def story() -> None:
        database = Database(PostgresDriver(url), [SCHEMA])
        database.open()
        with psycopg.connect(url) as hanging:
            hanging.execute("SELECT pg_advisory_xact_lock(%s)", (WRITER_LOCK,))
            with pytest.raises(StoreUnavailable):
                await database.write(insert("refused"))
        await database.write(insert("after"))
        assert await database.read(notes) == ["after"]
        await database.close()

    asyncio.run(story())


def test_a_server_without_a_place_left_says_so_and_takes_us_later(postgres, url):
    async def story() -> None:
        first = Process(url, "a" * 32)
        first.die()
        crowd = crowded(url)
        with pytest.raises(StoreUnavailable):
            await first.exchanges.claim(claim_of("p1", 1), NOW_S)
        for connection in crowd:
            connection.close()
        for number in range(2, POLLS_MAX):
            try:
                claimed = await first.exchanges.claim(claim_of(f"p{number}", number), NOW_S)
            except StoreUnavailable:
                await asyncio.sleep(POLL_S)  # the server is still at its goodbyes
            else:
                break
        assert claimed.claim is Claim.FRESH
        await first.close()

    asyncio.run(story())


def test_two_writers_never_read_a_balance_that_the_other_is_about_to_change(url):
    """Each adds one to the only number there is: a lost update would show in the sum."""

    def add(db) -> None:
        (count,) = db.execute("SELECT count(*) FROM notes").fetchone()
        db.execute("INSERT INTO notes VALUES (?)", (f"{count:04}",))

    async def story(found: list[list[str]]) -> None:
        database = Database(PostgresDriver(url), [SCHEMA])
        database.open()
        await asyncio.gather(*(database.write(add) for _ in range(100)))
        found.append(await database.read(notes))
        await database.close()

    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: asyncio.run(story(found))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(found, key=len) == [f"{n:04}" for n in range(200)]


def test_a_commit_is_durable_whatever_the_server_has_as_its_default(url):
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        driver = PostgresDriver(url)
        driver.open(())
        (found,) = driver.begin().execute("SHOW synchronous_commit").fetchone()
        driver.close()
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")
    assert found == "on"


def test_a_store_of_a_newer_gateway_is_refused(url):
    newer = Database(PostgresDriver(url), [SCHEMA, "CREATE TABLE more (x TEXT) STRICT"])
    newer.open()
    asyncio.run(newer.close())
    with pytest.raises(StoreTooNew):
        Database(PostgresDriver(url), [SCHEMA]).open()


@pytest.mark.parametrize("schema", [[], [SCHEMA, "CREATE TABLE broken ("]])
def test_a_gateway_that_is_refused_at_every_try_takes_no_place_from_those_that_serve(url, schema):
    serving = Database(PostgresDriver(url), [SCHEMA])
    serving.open()
    drivers = [PostgresDriver(url) for _ in range(5)]
    for driver in drivers:
        with pytest.raises((StoreTooNew, StoreUnavailable)):
            driver.open(schema)
    asked = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as db:
        assert becomes(lambda: db.execute(asked).fetchone() == (1,))
    asyncio.run(serving.close())


def becomes(condition) -> bool:
    """Poll: a server ends its side of a connection a moment after ours."""
    pause = threading.Event()
    for _ in range(1_000):
        if condition():
            return True
        pause.wait(0.01)
    return False


def test_an_older_store_is_brought_up_to_date_and_keeps_its_rows(url):
    async def story() -> None:
        old = Database(PostgresDriver(url), [SCHEMA])
        old.open()
        await old.write(insert("kept"))
        await old.close()
        new = Database(PostgresDriver(url), [SCHEMA, "ALTER TABLE notes ADD COLUMN more TEXT"])
        new.open()
        assert await new.read(notes) == ["kept"]
        await new.close()

    asyncio.run(story())


@pytest.mark.parametrize("broken", ["port", "database", "migration"])
def test_a_store_that_cannot_be_used_is_refused_without_its_password(postgres, url, broken):
    places = {
        "port": "postgresql://tests:marked-password@127.0.0.1:1/d",
        "database": url.replace("tests@", "tests:marked-password@") + "nothing",
        "migration": url.replace("tests@", "tests:marked-password@"),
    }
    schema = [SCHEMA, *(["CREATE TABLE broken ("] if broken == "migration" else [])]
    with pytest.raises(StoreUnavailable) as refused:
        Database(PostgresDriver(places[broken]), schema).open()
    assert "marked-password" not in repr(refused.value)
    assert refused.value.__cause__ is None
    said = {"port": "the store at 127.0.0.1:1/d: ", "database": "nothing: ", "migration": ""}
    assert said[broken] in str(refused.value)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://u:marked@db.example:5433/books", " at db.example:5433/books"),
        ("postgresql://u:marked@db.example/books?password=marked", " at db.example/books"),
        ("postgresql://u:marked@one:1,two:2/books", " at one,two:1,2/books"),
        ("postgresql:///books?host=/run/pg&user=marked", " at /run/pg/books"),
        ("postgresql://u:marked@", " at localhost"),
        ("postgresql://u:marked@host:port:5/%zz", ""),
    ],
)
def test_a_place_is_named_without_user_and_password(url, where):
    assert place_of(url) == where
