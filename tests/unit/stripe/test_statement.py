"""Stripe's lists as a statement: what counts, until when it is read, and what it can be asked."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from mpp_gateway.rails.statement import Booked, Shown, Transferred
from mpp_gateway.rails.stripe.client import StripeClient, StripeFailed
from mpp_gateway.rails.stripe.request import PROOF_PREFIX, StripeSettings
from mpp_gateway.rails.stripe.statement import StripeStatement
from tests.support.stripe_server import KEY, PROFILE, StandInStripe, stand_in_stripe

SETTINGS = StripeSettings(PROFILE, "usd", is_live=False)
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture(scope="module")
def running() -> Iterator[StandInStripe]:
    with stand_in_stripe() as server:
        yield server


@pytest.fixture
def server(running: StandInStripe) -> StandInStripe:
    running.intents.clear()
    running.refunded.clear()
    running.asked.clear()
    return running


def charge(server: StandInStripe, name: str, created_s: int, proof: str = ONE, **changes) -> str:
    intent = {
        "id": f"pi_{name}",
        "amount": 100,
        "amount_received": 100,
        "currency": "usd",
        "created": created_s,
        "metadata": {"mpp_proof": proof},
        "status": "succeeded",
        "_account": None,
        "_token": "",
    }
    server.intents[f"pi_{name}"] = intent | changes
    return f"pi_{name}"


def refund(server: StandInStripe, name: str, of: str, created_s: int, minor: int = 100) -> str:
    made: dict[str, Any] = {"id": f"re_{name}", "payment_intent": of, "amount": minor}
    server.refunded.append(made | {"created": created_s, "status": "succeeded"})
    return f"re_{name}"


def asked[T](server: StandInStripe, work: Callable[[StripeStatement], Awaitable[T]]) -> T:
    async def run() -> T:
        client = StripeClient(KEY, api_base=server.url, version="v", account=None, settle_s=3)
        statement = StripeStatement("stripe", SETTINGS, client)
        try:
            return await work(statement)
        finally:
            await statement.close()

    return asyncio.run(run())


async def searched(statement: StripeStatement, first: int, last: int) -> list[str]:
    found = statement.movements(first, last)
    return [reference async for _, page in found for reference in page]


def test_what_was_made_while_the_books_were_read_is_left_out(server: StandInStripe):
    """Also in the same second: else every busy shop had extra charges and refunds."""
    known = charge(server, "known", 50)
    charge(server, "back", 40, TWO)
    refund(server, "known", "pi_back", 50)

    async def work(statement: StripeStatement) -> list[str]:
        last = await statement.newest()
        charge(server, "late", 50)
        refund(server, "late", known, 50)
        return await searched(statement, 0, last)

    assert asked(server, work) == ["pi_back", "re_known", known]


def test_an_empty_account_has_no_place_and_no_money(server: StandInStripe):
    async def work(statement: StripeStatement) -> tuple[int, list[str]]:
        last = await statement.newest()
        return last, await searched(statement, 0, last)

    assert asked(server, work) == (0, [])


def test_a_search_from_earlier_on_reads_what_is_missing_and_nothing_twice(server: StandInStripe):
    made = [charge(server, f"n{at}", at) for at in (10, 20, 30, 40)]

    async def work(statement: StripeStatement) -> list[str]:
        last = await statement.newest()
        await statement.read_ahead(30)
        await statement.read_ahead(35)
        return await searched(statement, 10, last)

    assert asked(server, work) == made
    ranges = [
        (given.get("created[gte]"), given.get("created[lt]"))
        for given, _ in server.calls("list")
        if given["limit"] != "1"
    ]
    assert ranges == [("30", None), ("10", "30")]


def test_a_charge_from_before_the_read_is_asked_for_by_its_name(server: StandInStripe):
    old = charge(server, "old", 10)
    back = refund(server, "old", old, 12)
    charge(server, "new", 90, TWO)

    async def work(statement: StripeStatement) -> tuple:
        await statement.newest()
        await statement.read_ahead(80)
        return await statement.under(old), await statement.under(back)

    paid, returned = asked(server, work)
    assert paid.payments == (Shown(PROOF_PREFIX + ONE, SETTINGS.payee, 100, is_ours=True),)
    assert returned.transfers == (
        Transferred(SETTINGS.payee, PROOF_PREFIX + ONE, 100, is_from_us=True),
    )


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("pi_nowhere", "the account has no such PaymentIntent"),
        ("re_nowhere", "the account has no such refund"),
        ("../account", "it names nothing at Stripe"),
        ("0x" + "ab" * 32, "it names nothing at Stripe"),
        ("", "it names nothing at Stripe"),
    ],
)
def test_a_reference_that_names_nothing_shows_nothing(server: StandInStripe, reference, why):
    found = asked(server, lambda statement: statement.under(reference))
    assert (found.place, found.payments, found.transfers, found.why) == (None, (), (), why)
    assert "account" not in {verb for verb, _, _ in server.asked}


def test_a_refund_of_a_charge_of_somebody_elses_is_none_of_ours(server: StandInStripe):
    plain = charge(server, "plain", 10, metadata={})
    back = refund(server, "plain", plain, 12)

    async def work(statement: StripeStatement) -> tuple:
        last = await statement.newest()
        return await searched(statement, 0, last), await statement.under(back)

    names, found = asked(server, work)
    assert (names, found.transfers) == ([plain], ())


@pytest.mark.parametrize("proof", [7, None, "", "1" * 63, "é" * 64])
def test_metadata_that_names_no_proof_are_not_ours(server: StandInStripe, proof: object):
    name = charge(server, "odd", 10, metadata={"mpp_proof": proof})
    found = asked(server, lambda statement: statement.under(name))
    assert (found.payments, found.others) == ((), 1)


@pytest.mark.parametrize("status", ["requires_capture", "processing", "canceled", "", None])
def test_what_has_not_succeeded_is_no_money_whatever_was_received(server, status: object):
    name = charge(server, "odd", 10, status=status)
    assert asked(server, lambda statement: statement.under(name)).payments == ()


@pytest.mark.parametrize(
    ("status", "minor", "is_ours"),
    [("succeeded", 100, False), ("succeeded", 99, True), ("pending", 100, True)],
)
def test_a_charge_is_ours_until_all_of_it_has_gone_back(
    server: StandInStripe, status: str, minor: int, is_ours: bool
):
    name = charge(server, "back", 10)
    refund(server, "back", name, 10, minor)
    server.refunded[0]["status"] = status

    async def work(statement: StripeStatement) -> list[bool]:
        await searched(statement, 0, await statement.newest())
        return [shown.is_ours for shown in (await statement.under(name)).payments]

    assert asked(server, work) == [is_ours]


@pytest.mark.parametrize("minor", [True, "100", None, 0])
def test_an_amount_that_is_no_number_is_no_money(server: StandInStripe, minor: object):
    name = charge(server, "odd", 10, amount_received=minor)
    assert asked(server, lambda statement: statement.under(name)).payments == ()


def test_a_payment_is_that_of_the_books_by_proof_amount_mode_and_account(server: StandInStripe):
    shown = Shown(PROOF_PREFIX + ONE, "stripe:test:profile_a/acct_1", 100, is_ours=True)

    async def shows(*booked: Booked) -> list[bool]:
        client = StripeClient(KEY, api_base=server.url, version="v", account=None, settle_s=3)
        statement = StripeStatement("stripe", SETTINGS, client)
        return [statement.shows(shown, one) for one in booked]

    proof = PROOF_PREFIX + ONE
    assert asyncio.run(
        shows(
            Booked(proof, proof, "stripe:test:profile_b/acct_1", 100),
            Booked(proof, proof, "stripe:live:profile_a/acct_1", 100),
            Booked(proof, proof, "stripe:test:profile_a/acct_2", 100),
            Booked(proof, proof, "stripe:test:profile_a", 100),
            Booked(proof, proof, "stripe:test:profile_a/acct_1", 101),
            Booked(PROOF_PREFIX + TWO, proof, "stripe:test:profile_a/acct_1", 100),
        )
    ) == [True, False, False, False, False, False]


def test_a_list_that_goes_round_for_ever_is_given_up():
    """A proxy that answers each page with the first one."""

    class Round(StripeClient):
        async def _read(self, path, parameters):
            return {"data": [{"id": "pi_1"}], "has_more": True}

    async def read() -> list[Any]:
        client = Round(KEY, api_base="http://127.0.0.1:1", version="v", account=None, settle_s=3)
        return [item async for item in client.everything("/v1/payment_intents", {})]

    with pytest.raises(StripeFailed, match="does not go on"):
        asyncio.run(read())
