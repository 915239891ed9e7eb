"""One writer for all: batches that stand or fall together, and a store that says when it cannot."""

import asyncio
import sqlite3

import pytest

from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sql import StoreTooNew, StoreUnavailable
from mpp_gateway.ledger.sqlite import SqliteDriver

SCHEMA = "CREATE TABLE notes (text TEXT NOT NULL) STRICT"


def insert(text: str):
    return lambda db: db.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT text FROM notes ORDER BY rowid")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


def test_an_exception_of_one_job_undoes_that_job_alone(path):
    async def story() -> list[str]:
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()

        def fails(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO notes VALUES ('undone')")
            raise KeyError("mine")

        results = await asyncio.gather(
            database.write(insert("a")),
            database.write(fails),
            database.write(insert("b")),
            return_exceptions=True,
        )
        assert isinstance(results[1], KeyError)
        found = await database.read(notes)
        await database.close()
        return found

    assert asyncio.run(story()) == ["a", "b"]


def test_a_store_failure_undoes_the_batch_and_every_job_of_it_hears(path):
    async def story() -> None:
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()

        def full(_: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        results = await asyncio.gather(
            *(database.write(insert(str(n))) for n in range(3)),
            database.write(full),
            return_exceptions=True,
        )
        assert isinstance(results[-1], StoreUnavailable)
        written = await database.read(notes)
        assert len(written) == sum(not isinstance(r, StoreUnavailable) for r in results)
        await database.write(insert("after"))
        assert (await database.read(notes))[-1] == "after"
        await database.close()

    asyncio.run(story())


def test_a_writer_survives_a_job_that_breaks_its_transaction(path):
    async def story() -> None:
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()
        with pytest.raises(StoreUnavailable):
            await database.write(lambda db: db.execute("COMMIT"))
        await database.write(insert("after"))
        assert await database.read(notes) == ["after"]
        await database.close()

    asyncio.run(story())


def test_a_closed_store_refuses_and_never_hangs(path):
    async def story() -> None:
        database = Database(SqliteDriver(path), [SCHEMA])
        with pytest.raises(StoreUnavailable):
            await database.write(insert("too early"))
        database.open()
        await database.close()
        await database.close()
        with pytest.raises(StoreUnavailable):
            await database.write(insert("too late"))

    asyncio.run(story())


def test_what_was_asked_for_before_the_close_is_written(path):
    async def story() -> None:
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()
        tasks = [asyncio.ensure_future(database.write(insert(str(n)))) for n in range(1000)]
        await asyncio.sleep(0)
        await database.close()
        await asyncio.gather(*tasks)
        again = Database(SqliteDriver(path), [SCHEMA])
        again.open()
        assert len(await again.read(notes)) == 1000
        await again.close()

    asyncio.run(story())


def test_a_store_of_a_newer_gateway_is_not_touched(path):
    newer = Database(SqliteDriver(path), [SCHEMA, "CREATE TABLE more (x TEXT) STRICT"])
    newer.open()
    asyncio.run(newer.close())
    before = path.read_bytes()
    with pytest.raises(StoreTooNew):
        Database(SqliteDriver(path), [SCHEMA]).open()
    assert path.read_bytes() == before


def test_an_older_store_is_brought_up_to_date_and_keeps_its_rows(path):
    async def story() -> None:
        old = Database(SqliteDriver(path), [SCHEMA])
        old.open()
        await old.write(insert("kept"))
        await old.close()
        new = Database(SqliteDriver(path), [SCHEMA, "ALTER TABLE notes ADD COLUMN more TEXT"])
        new.open()
        assert await new.read(notes) == ["kept"]
        await new.close()

    asyncio.run(story())


def test_a_migration_that_fails_leaves_the_store_as_it_was(path):
    async def story() -> None:
        with pytest.raises(StoreUnavailable):
            Database(SqliteDriver(path), [SCHEMA, "CREATE TABLE broken ("]).open()
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()
        assert await database.read(notes) == []
        await database.close()

    asyncio.run(story())


@pytest.mark.parametrize("what", ["folder", "nowhere", "no store"])
def test_a_file_that_cannot_be_used_is_refused_at_the_start(tmp_path, what):
    path = tmp_path if what == "folder" else tmp_path / what / "store.db"
    if what == "no store":
        path = tmp_path / "text.db"
        path.write_text("this is no database " * 100)
    with pytest.raises(StoreUnavailable):
        Database(SqliteDriver(path), [SCHEMA]).open()


def test_the_store_is_durable_against_a_power_cut(path):
    async def story() -> None:
        database = Database(SqliteDriver(path), [SCHEMA])
        database.open()
        pragma = lambda name: lambda db: db.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
        assert await database.read(pragma("journal_mode")) == "wal"
        assert await database.read(pragma("synchronous")) == 2
        await database.close()

    asyncio.run(story())


def test_a_percent_sign_of_ours_means_the_same_to_every_store(place):
    """PostgreSQL's driver has a meaning for it of its own: refunds were never found there."""

    async def story() -> list[str]:
        database = Database(place.driver(), [SCHEMA])
        database.open()
        for text in ("refund:1", "refund", "refund:2"):
            await database.write(insert(text))
        with_one = "SELECT text FROM notes WHERE text LIKE 'refund:%' AND text <> ?"
        without = "SELECT text FROM notes WHERE text LIKE 'refund:%' ORDER BY text"
        found = await database.read(lambda db: db.execute(with_one, ("refund:2",)).fetchall())
        found += await database.read(lambda db: db.execute(without).fetchall())
        await database.close()
        return [text for (text,) in found]

    assert asyncio.run(story()) == ["refund:1", "refund:1", "refund:2"]
