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

LONGEST_FIRST = (
    "inproc/test_store_faults.py",
    "process/test_two_processes.py",
    "inproc/test_fault_matrix.py",
    "inproc/test_fault_matrix_rails.py",
    "peers/test_x402.py",
    "process/test_crash_matrix_rails.py",
    "peers/test_official_facilitator.py",
    "peers/test_x402_upto.py",
    "process/test_crash_matrix.py",
    "peers/test_clients.py",
    "inproc/test_rows_of_the_rails.py",
    "inproc/test_rules_of_the_rails.py",
    "inproc/test_engine_uploads.py",
    "process/test_cli.py",
    "property/test_machine_books.py",
    "unit/ledger/test_exchanges.py",
    "inproc/test_evm_own_key.py",
    "inproc/test_engine_backpressure.py",
    "unit/ledger/test_silent_stores.py",
    "inproc/test_refunds.py",
    "inproc/test_payment_page_browser.py",
)
"""A file stays with one process: one that began late would keep all the others waiting."""
TESTS = Path(__file__).parent

# How much time a generated example may take is no claim of any test.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:
    """A PostgreSQL server of this test process."""
    from tests.support.postgres import serving

    with serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty store of either kind."""
    if request.param == "sqlite":
        yield SqlitePlace(tmp_path / "store.db")
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.database()
    yield PostgresPlace(url)
    server.drop(url)


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
