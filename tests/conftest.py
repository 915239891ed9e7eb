"""What tests of several folders ask for, and what holds for all of them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.stores import Place, PostgresPlace, SqlitePlace

if TYPE_CHECKING:
    from tests.support.postgres import Server

# How much time a generated example may take is no claim of any test.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:
    """A PostgreSQL server of this test process."""
    from tests.support.postgres import serving

    with serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of either kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "store.db")
    return PostgresPlace(request.getfixturevalue("postgres").database())


@pytest.fixture(scope="session", autouse=True)
def children_hear_ctrl_c():
    """What a shell started with `&` ignores SIGINT, and so would every child of it.

    A handler of ours is gone when a child becomes another program; the suite itself goes on
    ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)
