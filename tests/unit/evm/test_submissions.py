"""The nonces of a gas key that has sold for years: what each payment asks of the store."""

import sqlite3

import pytest

from mpp_gateway.rails.evm import submissions
from mpp_gateway.rails.evm.submissions import SUBMISSIONS_SCHEMA


@pytest.fixture
def store():
    found = sqlite3.connect(":memory:")
    for statement in SUBMISSIONS_SCHEMA.split(";"):
        found.execute(statement)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("query", "values", "index"),
    [
        ("UNFINISHED", (1, "key"), "submissions_unfinished"),
        ("LOWEST_FREE", (1, "key", 7), "submissions_unfinished"),
        ("HIGHEST", (1, "key"), "sqlite_autoindex_submissions_1"),
    ],
)
def test_no_payment_walks_over_those_that_are_done(store, query, values, index):
    """In the only writer of the store: a million settled calls would make every buyer wait."""
    rows = [(1, "key", n, f"p{n}", "done", 9, 1) for n in range(5_000)]
    rows += [(1, "key", 5_000, "p", "open", 9, 1), (1, "key", 5_001, "q", "free", 9, 1)]
    store.executemany("INSERT INTO submissions VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    text = getattr(submissions, query)
    (plan,) = [row[3] for row in store.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    assert plan.startswith("SEARCH")
    assert index in plan
    steps: list[None] = []
    store.set_progress_handler(lambda: steps.append(None), 1)
    found = store.execute(text, values).fetchall()
    assert [row[0] for row in found] == ([5_000, 5_001] if query == "UNFINISHED" else [5_001])
    assert len(steps) < 200
