"""A look into the store: what is seen, and that nothing changes by it."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from mpp_gateway.config.model import PostgresStore, SqliteStore
from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger import inquiry
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.reading import StoreDamaged, reading
from mpp_gateway.ledger.sql import StoreTooNew, StoreUnavailable
from tests.support.components import need
from tests.support.ledger import SCHEMA, Keeper, store_of
from tests.support.process import ROOT
from tests.support.stores import SqlitePlace


def ids(place) -> list[str]:
    with reading(store_of(place), SCHEMA) as books:
        return [record.exchange_id for record in inquiry.every(books)]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


def test_what_a_running_gateway_has_written_is_seen(place):
    with Keeper(place) as keeper:
        keeper.sell("x1")
        assert ids(place) == ["x1"]
        keeper.sell("x2")
        assert ids(place) == ["x1", "x2"]


def test_a_reading_is_one_snapshot_however_long_it_lasts(place):
    with Keeper(place) as keeper:
        keeper.sell("x1")
        with reading(store_of(place), SCHEMA) as books:
            assert [record.exchange_id for record in inquiry.every(books)] == ["x1"]
            keeper.sell("x2")
            assert [record.exchange_id for record in inquiry.every(books)] == ["x1"]


def test_a_reader_takes_no_lease_and_holds_no_writer_up(place):
    with Keeper(place) as keeper:
        keeper.sell("x1")
        with reading(store_of(place), SCHEMA) as books:
            rows = inquiry.every(books)
            next(rows)
            # The next write would wait for the lock's whole time-out.
            keeper.sell("x2")
    driver = place.driver()
    database = Database(driver, MIGRATIONS)
    database.open()
    with reading(store_of(place), SCHEMA):
        lease = driver.lease("f" * 32)
        assert getattr(lease, "is_alone", True)
        lease.close()
    asyncio.run(database.close())


def test_a_reader_cannot_write(place):
    is_file = isinstance(place, SqlitePlace)
    writing = "DELETE FROM journal" if is_file else "SELECT setval('journal_seq_seq', 1)"
    with Keeper(place) as keeper:
        keeper.sell("x1")
        with (
            reading(store_of(place), SCHEMA) as books,
            pytest.raises(StoreUnavailable, match=r"read-?only"),
        ):
            list(books.rows(writing))
        assert len(place.rows("SELECT * FROM journal")) == 4


@pytest.mark.parametrize("ending", ["closed", "killed"])
def test_not_a_byte_of_a_store_without_a_gateway_changes(ending, tmp_path):
    place = SqlitePlace(tmp_path / "store.db")
    with Keeper(place) as keeper:
        keeper.sell("x1")
        if ending == "killed":
            kept = files(tmp_path)
    if ending == "killed":
        for name, (data, _) in kept.items():
            (tmp_path / name).write_bytes(data)
    before = files(tmp_path)

    assert ids(place) == ["x1"]

    after = files(tmp_path)
    # The index of the log is no part of the books: SQLite makes it anew from the log.
    for found in (before, after):
        found.pop("store.db-shm", None)
    assert after == before
    if ending == "closed":
        assert {p.name for p in tmp_path.iterdir()} == {"store.db", "store.db.lock"}


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with (
        pytest.raises(StoreUnavailable, match=r"there is no store at .*none\.db"),
        reading(SqliteStore(tmp_path / "none.db"), SCHEMA),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_tables_is_told_as_one(place):
    if isinstance(place, SqlitePlace):
        place.path.touch()
    with pytest.raises(StoreUnavailable, match="makes it when"), reading(store_of(place), SCHEMA):
        pass


def test_an_older_store_is_left_to_the_gateway(place):
    with Keeper(place):
        pass
    with (
        pytest.raises(StoreUnavailable, match="the gateway upgrades it when it next starts"),
        reading(store_of(place), SCHEMA + 1),
    ):
        pass


def test_a_newer_store_is_refused(place):
    with Keeper(place):
        pass
    with pytest.raises(StoreTooNew), reading(store_of(place), SCHEMA - 1):
        pass


def test_a_file_that_is_no_database_is_damaged(tmp_path):
    (tmp_path / "store.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(StoreDamaged), reading(SqliteStore(tmp_path / "store.db"), SCHEMA):
        pass


def start_and_sell(place, books) -> None:
    list(inquiry.every(books))
    with Keeper(place) as keeper:
        keeper.sell("x2")


def test_a_gateway_that_starts_meanwhile_makes_the_reading_void(tmp_path):
    """Else half of the old and half of the new would be told as one."""
    place = SqlitePlace(tmp_path / "store.db")
    with Keeper(place) as keeper:
        keeper.sell("x1")
    with (
        pytest.raises(StoreUnavailable, match="run the command again"),
        reading(store_of(place), SCHEMA) as books,
    ):
        start_and_sell(place, books)


def test_a_store_under_two_names_is_refused(tmp_path):
    """The other name has another log: what is newest would be missing."""
    place = SqlitePlace(tmp_path / "store.db")
    with Keeper(place) as keeper:
        keeper.sell("x1")
    (tmp_path / "other.db").hardlink_to(place.path)
    with pytest.raises(StoreUnavailable, match="hard link"), reading(store_of(place), SCHEMA):
        pass


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from mpp_gateway.config.model import SqliteStore
from mpp_gateway.ledger import inquiry
from mpp_gateway.ledger.reading import reading
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with reading(SqliteStore(Path(sys.argv[1])), int(sys.argv[3])) as books:
        print([r.exchange_id for r in inquiry.every(books)])
except Exception as error:
    print(type(error).__name__, error)
"""


def as_nobody(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", READ_AS_NOBODY, str(path), str(ROOT), str(SCHEMA)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or done.stderr


def test_another_user_leaves_nothing_behind_that_keeps_the_gateway_out():
    need("root")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        place = SqlitePlace(folder / "store.db")
        with Keeper(place) as keeper:
            keeper.sell("x1")
            assert "StoreUnavailable cannot read the store" in as_nobody(place.path)
            for path in folder.iterdir():
                path.chmod(0o644)
            assert as_nobody(place.path) == "['x1']"
        assert as_nobody(place.path) == "['x1']"
        assert {path.stat().st_uid for path in folder.iterdir()} == {0}
        with Keeper(place) as keeper:
            keeper.sell("x2")
            log = (folder / "store.db-wal").read_bytes()
        (folder / "store.db-wal").write_bytes(log)
        (folder / "store.db-wal").chmod(0o644)
        assert "was not closed: start the gateway, or run this as root" in as_nobody(place.path)
        assert {path.stat().st_uid for path in folder.iterdir()} == {0}


def test_a_password_is_in_no_error(postgres):
    url = postgres.url().replace("tests@", "tests:marked-password@") + "-not-there"
    with (
        pytest.raises(StoreUnavailable) as failed,
        reading(PostgresStore(SecretStr(url)), SCHEMA),
    ):
        pass
    assert "does not exist" in str(failed.value)
    assert "marked-password" not in repr(failed.value)
    assert failed.value.__cause__ is None


def test_a_text_that_is_none_is_told_as_damage(tmp_path):
    place = SqlitePlace(tmp_path / "store.db")
    with Keeper(place) as keeper:
        keeper.sell("x1")
    place.write("UPDATE exchanges SET account = CAST(x'ff61' AS TEXT)")
    with pytest.raises(StoreDamaged, match="decode"), reading(store_of(place), SCHEMA) as books:
        list(inquiry.every(books))


def test_a_damaged_page_is_told_as_damage(tmp_path):
    place = SqlitePlace(tmp_path / "store.db")
    with Keeper(place) as keeper:
        for number in range(200):
            keeper.sell(f"x{number}")
    data = bytearray(place.path.read_bytes())
    with closing(sqlite3.connect(place.path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name='exchanges'").fetchone()
        (page,) = db.execute("PRAGMA page_size").fetchone()
    data[(root - 1) * page : root * page] = b"\xff" * page
    place.path.write_bytes(data)
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    with pytest.raises(StoreDamaged), reading(store_of(place), SCHEMA) as books:
        list(inquiry.every(books))
    with reading(store_of(place), SCHEMA) as books:
        assert books.damage()
