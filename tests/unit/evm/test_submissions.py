"""The nonces of a gas key that has sold for years: what each payment asks of the store."""

import asyncio
import sqlite3

import pytest

from mpp_gateway.ledger.database import Database
from mpp_gateway.rails.evm import submissions
from mpp_gateway.rails.evm.permit_trace import Senders
from mpp_gateway.rails.evm.submissions import (
    DONE,
    FOREVER_S,
    GAP,
    LOST,
    ONCE,
    ONCE_SCHEMA,
    SUBMISSIONS_SCHEMA,
    Fees,
    Signed,
    Submissions,
)

NOW_S = 1_000
REFUND = ONCE + "p"


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


def signed(what: int) -> Signed:
    return Signed(f"0x{what:064x}", what.to_bytes(4), Fees(10, 1))


def on_a_store(place, story) -> None:
    """Run `story` with the nonces of one key."""

    async def main() -> None:
        database = Database(place.driver(), (SUBMISSIONS_SCHEMA, ONCE_SCHEMA))
        database.open()
        try:
            await story(Submissions(database, 1, b"k" * 20))
        finally:
            await database.close()

    asyncio.run(main())


def test_a_refund_that_was_made_under_a_lower_nonce_is_the_last_one(place):
    """The first one failed in its block. Taken for the last, it would be paid again."""

    async def story(key: Submissions) -> None:
        await key.lease("q", 1, 0, signed, NOW_S)
        first = await key.lease(REFUND, FOREVER_S, 0, signed, NOW_S)
        assert first.nonce == 1
        await key.finish(first, DONE)
        await key.release(0)
        second = await key.lease(REFUND, FOREVER_S, 0, lambda _: signed(9), NOW_S, passed=1)
        assert second.nonce == 0
        for state in (None, DONE):
            if state is not None:
                await key.finish(second, state)
            assert (await key.find(REFUND)).nonce == 0
            again = await key.lease(REFUND, FOREVER_S, 0, signed, NOW_S, passed=1)
            assert (again.nonce, again.is_fresh) == (0, False)

    on_a_store(place, story)


@pytest.mark.parametrize("state", [DONE, LOST])
def test_a_refund_that_has_another_nonce_by_now_is_not_followed_again(place, state):
    async def story(key: Submissions) -> None:
        first = await key.lease(REFUND, FOREVER_S, 0, signed, NOW_S)
        await key.finish(first, state)
        (kept,) = (await key.at(0)).sent
        assert kept == signed(0)
        passed = 0 if state == DONE else None
        second = await key.lease(REFUND, FOREVER_S, 0, signed, NOW_S, passed=passed)
        assert second.nonce == 1
        assert not await key.reopen(await key.at(0))
        # What fills its nonce is no refund, and does not pass for one.
        assert await key.replace(await key.at(0), signed(7), NOW_S, fills=True)
        filling = await key.at(0)
        assert (filling.proof_id, filling.is_once) == (GAP + REFUND, False)
        await key.finish(filling, DONE)
        await key.finish(second, DONE)
        assert (await key.find(REFUND)).nonce == 1

    on_a_store(place, story)


@pytest.mark.parametrize("state", [DONE, LOST])
def test_a_refund_without_another_nonce_is_followed_again_under_its_own(place, state):
    async def story(key: Submissions) -> None:
        first = await key.lease(REFUND, FOREVER_S, 0, signed, NOW_S)
        await key.finish(first, state)
        assert await key.reopen(await key.at(0))
        again = await key.lease(REFUND, FOREVER_S, 0, signed, NOW_S)
        assert (again.nonce, again.is_fresh) == (0, False)

    on_a_store(place, story)


def test_a_nonce_that_was_leased_meanwhile_is_not_filled(place):
    async def story(key: Submissions) -> None:
        leased = await key.lease("p", 1, 0, signed, NOW_S)
        assert not await key.fill(0, signed(7), NOW_S)
        assert (await key.at(0)).sent == leased.sent
        assert await key.fill(1, signed(8), NOW_S)
        assert not await key.fill(1, signed(9), NOW_S)
        assert (await key.lease("q", 1, 0, signed, NOW_S)).nonce == 2

    on_a_store(place, story)


def test_what_any_key_of_ours_has_sent_is_known_whichever_there_is_now(place):
    keys = tuple(bytes((first,)) * 20 for first in (1, 9, 10, 255))

    async def story(key: Submissions) -> None:
        database, others = key._database, (2, b"o" * 20)
        assert await Senders(database, 1).accounts() == ()
        await Submissions(database, *others).lease("q", FOREVER_S, 0, lambda _: signed(9), NOW_S)
        for number, of in enumerate(keys):
            own = Submissions(database, 1, of)
            await own.lease(f"p{number}", FOREVER_S, 0, lambda _, n=number: signed(n), NOW_S)

        senders = Senders(database, 1)
        assert await senders.accounts() == keys
        for number in range(len(keys)):
            assert await senders.sent_for(f"p{number}") == (signed(number).tx_hash,)
        assert await senders.sent_for("q") == ()

    on_a_store(place, story)
