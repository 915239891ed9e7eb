"""Free calls in the store: exactly so many, whoever counts, and no row for ever."""

import asyncio
from dataclasses import replace

import pytest

from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.free_calls import BATCH_ROWS, FreeCall, FreeCalls
from mpp_gateway.ledger.sql import StoreUnavailable

NOW_S = 1_000
CALL = FreeCall("api", "192.0.2.7", count=3, total=100, until_s=NOW_S + 60)


def run(place, story, databases: int = 1):
    """Run `story` with that many stores' worth of counts, as processes have them."""

    async def main():
        opened = [Database(place.driver(), MIGRATIONS) for _ in range(databases)]
        for database in opened:
            database.open()
        try:
            return await story(*(FreeCalls(database) for database in opened))
        finally:
            for database in opened:
                await database.close()

    return asyncio.run(main())


def test_each_client_has_so_many_and_no_more(place):
    async def story(calls: FreeCalls):
        left = [await calls.take(CALL, NOW_S) for _ in range(5)]
        other = await calls.take(replace(CALL, client="192.0.2.8"), NOW_S)
        return left, other, await calls.take(replace(CALL, scope="other"), NOW_S)

    assert run(place, story) == ([2, 1, 0, None, None], 2, 2)


def test_a_restart_forgets_nothing(place):
    async def story(calls: FreeCalls):
        return [await calls.take(CALL, NOW_S) for _ in range(2)]

    assert run(place, story) == [2, 1]
    assert run(place, story) == [0, None]


def test_two_clocks_at_the_turn_of_a_period_give_no_call_anew(place):
    late, early = replace(CALL, until_s=CALL.until_s + 60), CALL

    async def story(one: FreeCalls, other: FreeCalls):
        return [
            await calls.take(call, NOW_S)
            for _ in range(10)
            for calls, call in ((one, early), (other, late))
        ]

    # The period before the turn had three, and so has the one after it.
    given = [left for left in run(place, story, databases=2) if left is not None]
    assert len(given) <= 2 * CALL.count


def test_of_many_at_once_over_two_processes_exactly_so_many_are_free(place):
    call = replace(CALL, count=10)

    async def story(*processes: FreeCalls):
        taking = [calls.take(call, NOW_S) for _ in range(40) for calls in processes]
        return await asyncio.gather(*taking)

    left = run(place, story, databases=2)
    assert sorted(n for n in left if n is not None) == list(range(10))


def test_all_clients_together_have_no_more_than_the_total(place):
    """Whoever has a whole network of addresses cannot have them all call for nothing."""

    async def story(calls: FreeCalls):
        return [
            await calls.take(replace(CALL, client=f"2001:db8:{n:x}::/64", total=7), NOW_S)
            for n in range(50)
        ]

    assert sum(left is not None for left in run(place, story)) == 7
    (rows,) = place.rows("SELECT count(*) AS n FROM free_calls")
    assert rows["n"] == 1 + 7


def test_a_new_period_begins_with_all_of_them(place):
    later = replace(CALL, until_s=CALL.until_s + 60)

    async def story(calls: FreeCalls):
        for _ in range(4):
            await calls.take(CALL, NOW_S)
        return await calls.take(later, CALL.until_s), await calls.take(CALL, NOW_S)

    # And a clock that goes back gives none anew.
    assert run(place, story) == (2, None)


def test_a_clock_that_goes_back_gives_no_calls_anew(place):
    async def story(calls: FreeCalls):
        for _ in range(3):
            await calls.take(CALL, NOW_S)

    async def earlier(calls: FreeCalls):
        return await calls.take(replace(CALL, until_s=CALL.until_s - 60), NOW_S - 60)

    run(place, story)
    assert run(place, earlier) is None


def test_periods_that_are_over_are_forgotten_batch_by_batch(place):
    async def story(calls: FreeCalls):
        many = BATCH_ROWS + 10
        for n in range(many):
            await calls.take(replace(CALL, client=str(n), total=many), NOW_S)
        kept = replace(CALL, scope="kept", until_s=CALL.until_s + 1)
        await calls.take(kept, NOW_S)
        assert await calls.purge(CALL.until_s - 1) == 0
        return [await calls.purge(CALL.until_s) for _ in range(3)]

    assert run(place, story) == [BATCH_ROWS, 11, 0]
    assert len(place.rows("SELECT * FROM free_calls")) == 2


def test_who_has_none_left_costs_the_store_nothing_more(place):
    async def story(calls: FreeCalls):
        for _ in range(4):
            await calls.take(CALL, NOW_S)
        await calls._database.close()
        with pytest.raises(StoreUnavailable):
            await calls.take(replace(CALL, client="other"), NOW_S)
        return await calls.take(CALL, NOW_S)

    assert run(place, story) is None
