"""What tests of several folders ask for: the kinds of store, each really there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores import Place, PostgresPlace, SqlitePlace


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:  # noqa: F821 - psycopg is imported by who needs it only
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
