"""Who may take up what a store has open: only one who knows that its processes are gone."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mpp_gateway.ledger.lock import StoreLock, keep_private, whole_store
from mpp_gateway.ledger.sql import StoreUnavailable

ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "books.db"
    path.touch()
    return path


def test_the_first_is_alone_and_the_others_share_its_name(store):
    first = StoreLock.take(store, ONE)
    assert (first.owner, first.is_alone) == (ONE, True)
    first.share()
    second = StoreLock.take(store, TWO)
    assert (second.owner, second.is_alone) == (ONE, False)
    first.close()
    third = StoreLock.take(store, TWO)
    assert not third.is_alone
    second.close()
    third.close()
    last = StoreLock.take(store, TWO)
    assert (last.owner, last.is_alone) == (ONE, True)
    last.close()


def test_a_lock_file_that_was_deleted_under_a_live_process_gets_another_name(store):
    first = StoreLock.take(store, ONE)
    first.share()
    store.with_name("books.db.lock").unlink()
    second = StoreLock.take(store, TWO)
    assert (second.owner, second.is_alone) == (TWO, True)
    first.close()
    second.close()


def test_a_lock_file_that_was_emptied_gives_nobody_the_name_of_another(store):
    first = StoreLock.take(store, ONE)
    first.share()
    file = store.with_name("books.db.lock")
    file.write_text("")
    second = StoreLock.take(store, TWO)
    assert (second.owner, second.is_alone) == (TWO, False)
    first.close()
    second.close()
    file.write_text("not a name")
    third = StoreLock.take(store, TWO)
    assert (third.owner, third.is_alone, file.read_text()) == (TWO, True, TWO)
    third.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(StoreUnavailable, match="cannot lock the store"):
        StoreLock.take(tmp_path / "nowhere" / "books.db", ONE)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_store_behind_links_is_locked_where_it_is(store, tmp_path, depth):
    link = store
    for number in range(depth):
        folder = tmp_path / f"elsewhere {number}"
        folder.mkdir()
        (folder / "link.db").symlink_to(link)
        link = folder / "link.db"
    first = StoreLock.take(store, ONE)
    first.share()
    second = StoreLock.take(whole_store(link), TWO)
    assert (second.owner, second.is_alone) == (ONE, False)
    first.close()
    second.close()


def test_a_store_in_a_linked_folder_is_locked_where_it_is(store, tmp_path):
    (tmp_path / "linked").symlink_to(store.parent, target_is_directory=True)
    assert whole_store(tmp_path / "linked" / "books.db") == store.resolve()


def test_a_store_that_is_not_there_yet_may_be_made_behind_a_link(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "new.db")
    assert whole_store(tmp_path / "link.db") == (tmp_path / "new.db").resolve()


def test_a_store_with_two_hard_links_is_refused_under_both(store, tmp_path):
    """Each name has a log of its own: what is claimed under one is not claimed under the other."""
    other = tmp_path / "other.db"
    os.link(store, other)
    for name in (store, other):
        with pytest.raises(StoreUnavailable, match="hard link"):
            whole_store(name)
    other.unlink()
    assert whole_store(store) == store.resolve()


def test_a_store_that_is_mounted_without_its_folder_is_refused(tmp_path):
    store = tmp_path / "my books.db"
    store.touch()
    mounts = tmp_path / "mountinfo"
    name = str(store.resolve()).replace(" ", "\\040")
    mounts.write_text(f"36 35 98:0 / {tmp_path} rw - ext4 /dev/x rw\n")
    assert whole_store(store, mounts) == store.resolve()
    mounts.write_text(f"36 35 98:0 /gateway.db {name} rw - ext4 /dev/x rw\n")
    with pytest.raises(StoreUnavailable, match="mount its folder"):
        whole_store(store, mounts)
    assert whole_store(store, tmp_path / "no such file") == store.resolve()


TAKES_ALL = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def test_a_store_that_is_in_use_here_keeps_its_locks(tmp_path):
    """A process that closes a file loses every lock it has on it: SQLite's on a store of a script
    that is reloaded, while its old self finishes its calls."""
    store = tmp_path / "gateway.db"
    keep_private(store)
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE n (x TEXT)")
        keep_private(store)
        command = [sys.executable, "-c", TAKES_ALL, str(store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "BlockingIOError" in done.stderr
