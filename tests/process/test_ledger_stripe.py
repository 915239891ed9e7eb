"""`mpp-gateway ledger reconcile` on Stripe's lists: every charge is found, and no other."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpp_gateway.rails.stripe.request import proof_id_of
from tests.process.test_ledger import asked, change, differences, ledger, on_terminal
from tests.support.stripe_server import CONNECTED, StandInStripe, stand_in_stripe
from tests.support.stripe_shop import PRICE, StripeShop, stripe_shop

ROUTES = """
      "GET /paid": {charge: "1.00"}
      "GET /credit": {charge: "1.00", on_failure: credit}
"""


@contextmanager
def selling(server: StandInStripe, folder: Path, **options: Any) -> Iterator[StripeShop]:
    with stripe_shop(server, folder, routes=ROUTES, **options) as shop:
        shop.folder = folder
        yield shop


@pytest.fixture
def server() -> Iterator[StandInStripe]:
    with stand_in_stripe() as server:
        yield server


@pytest.fixture
def shop(server: StandInStripe, tmp_path: Path) -> Iterator[StripeShop]:
    with selling(server, tmp_path) as shop:
        yield shop


def sell(shop: StripeShop, target: str = "/api/paid") -> dict[str, Any]:
    """Sell one call; return its PaymentIntent."""
    credential, spt = shop.buy(target)
    assert shop.send(credential, target)[0] == 200
    (intent,) = shop.server.of(spt)
    return intent


def give_back(shop: StripeShop) -> dict[str, Any]:
    """Charge a call that fails, so that it is refunded; return its PaymentIntent."""
    shop.keeper.answers("500 Oops")
    credential, spt = shop.buy()
    shop.send(credential)
    shop.keeper.answers("200 OK", body=b"served")
    shop.reaches(spt, "refunded")
    (intent,) = shop.server.of(spt)
    return intent


def by_hand(shop: StripeShop, intent: dict[str, Any], minor: int) -> str:
    """Refund a charge in the dashboard; return the refund."""
    refund = {
        "id": f"re_hand{len(shop.server.refunded)}",
        "object": "refund",
        "payment_intent": intent["id"],
        "amount": minor,
        "created": intent["created"],
        "status": "succeeded",
    }
    shop.server.refunded.append(refund)
    return refund["id"]


def plain(shop: StripeShop, number: int, created_s: int, **changes: Any) -> None:
    """Let the account be paid by something else than the gateway."""
    intent = {
        "id": f"pi_plain{number}",
        "object": "payment_intent",
        "amount": 700,
        "amount_received": 700,
        "currency": "usd",
        "created": created_s,
        "metadata": {},
        "status": "succeeded",
        "_token": "",
        "_account": None,
    }
    shop.server.intents[intent["id"]] = intent | changes


def compared(shop: StripeShop) -> dict[str, Any]:
    found = asked(shop, "reconcile")
    assert (found["agrees"], found["not_compared"]) == (True, [])
    (rail,) = found["compared"]
    return rail


def test_charges_credits_and_refunds_are_found_in_the_lists_and_the_search_is_not_asked(shop):
    sell(shop)
    sell(shop)
    give_back(shop)
    shop.keeper.answers("500 Oops")
    shop.send(shop.buy("/api/credit")[0], "/api/credit")
    assert shop.states() == {"settled": 2, "refunded": 1, "credited": 1}
    shop.server.asked.clear()

    rail = compared(shop)

    assert (rail["rail"], rail["exchanges"], rail["found"]) == ("stripe", 4, 4)
    assert (rail["refunds_found"], rail["other_transfers"], rail["differences"]) == (1, 0, [])
    assert (rail["from_block"], rail["to_block"]) == (None, None)
    assert rail["from_at"] < rail["to_at"]
    assert shop.server.calls("search") == []
    # Read by pages, not one by one.
    assert {verb for verb, _, _ in shop.server.asked} == {"list", "refunds"}
    text = on_terminal(shop, "reconcile", NO_COLOR="1")
    assert f"from {rail['from_at']} to {rail['to_at']}" in text
    assert "the books and the networks agree" in text


def test_many_pages_are_read_to_their_end(shop: StripeShop):
    """The oldest of all is ours, behind three pages of another business."""
    first = sell(shop)
    for number in range(320):
        plain(shop, number, first["created"])
    change(shop, "DELETE FROM exchanges")
    last = sell(shop)
    shop.server.asked.clear()

    done = ledger(shop, "reconcile")

    (rail,) = json.loads(done.out)["compared"]
    assert [(d["kind"], d["reference"]) for d in rail["differences"]] == [("extra", first["id"])]
    assert (done.code, rail["found"], rail["other_transfers"]) == (1, 1, 320)
    pages = [given for given, _ in shop.server.calls("list") if given["limit"] == "100"]
    assert [page.get("starting_after") for page in pages][:2] == [last["id"], "pi_plain220"]
    assert len(pages) == 4


def test_a_charge_that_the_books_do_not_know_is_extra_until_it_is_given_back(shop: StripeShop):
    lost = sell(shop)
    sell(shop)
    change(shop, "DELETE FROM exchanges WHERE reference = ?", lost["id"])

    assert differences(shop) == [("extra", lost["id"])]
    text = on_terminal(shop, "reconcile", code=1, NO_COLOR="1")
    assert "\nextra  1.00  " in text
    by_hand(shop, lost, PRICE)
    assert differences(shop, code=0) == []


def test_a_charge_of_a_released_payment_is_found(shop: StripeShop):
    """The buyer was told that nothing was charged."""
    sell(shop)
    intent = sell(shop)
    change(shop, "UPDATE exchanges SET state = 'released' WHERE reference = ?", intent["id"])

    assert differences(shop) == [("unrecorded", intent["id"])]


def test_a_charge_that_the_account_does_not_have_is_missing(shop: StripeShop):
    intent = sell(shop)
    del shop.server.intents[intent["id"]]

    assert differences(shop) == [("missing", intent["id"])]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": "processing", "amount_received": 0}, "the PaymentIntent is processing"),
        ({"status": "canceled", "amount_received": 0}, "the PaymentIntent is canceled"),
        ({"metadata": {}}, "the PaymentIntent does not have our metadata"),
        ({"currency": "eur"}, "it is in eur"),
    ],
)
def test_a_charge_that_did_not_become_a_payment_is_missing(shop, changes: dict, why: str):
    intent = sell(shop)
    intent |= changes

    done = ledger(shop, "reconcile")

    (found,) = json.loads(done.out)["compared"][0]["differences"]
    assert (done.code, found["kind"], found["reference"]) == (1, "missing", intent["id"])
    assert found["text"] == f"the books say settled, but {why}"


def test_a_charge_of_another_amount_is_different(shop: StripeShop):
    intent = sell(shop)
    intent |= {"amount": 99, "amount_received": 99}

    assert differences(shop) == [("different", intent["id"])]
    text = on_terminal(shop, "reconcile", code=1, NO_COLOR="1")
    assert "the books say settled, but it paid 99 to stripe:test:" in text


def test_two_exchanges_cannot_show_the_same_charge(shop: StripeShop):
    first, second = sell(shop)["id"], sell(shop)["id"]
    change(shop, "UPDATE exchanges SET reference = ? WHERE reference = ?", first, second)

    assert differences(shop) == [("missing", first)]


def test_a_refund_that_stripe_does_not_have_or_that_failed_is_told(shop: StripeShop):
    give_back(shop)
    (refund,) = shop.server.refunded
    refund["status"] = "failed"
    assert differences(shop) == [("refund", refund["id"])]
    refund["status"] = "succeeded"
    assert differences(shop, code=0) == []
    refund["amount"] = PRICE - 1
    assert differences(shop) == [("refund", refund["id"])]
    shop.server.refunded.clear()
    assert differences(shop) == [("refund", refund["id"])]


def test_a_refund_by_hand_that_the_books_do_not_have_is_told(shop: StripeShop):
    intent = sell(shop)
    refund = by_hand(shop, intent, 40)

    assert differences(shop) == [("overpaid", refund)]
    text = on_terminal(shop, "reconcile", code=1, NO_COLOR="1")
    assert "\noverpaid  0.40  " in text


def test_a_refund_in_parts_gives_the_whole_back(shop: StripeShop):
    """A part by hand before; the gateway has given back what was left."""
    give_back(shop)
    (rest,) = shop.server.refunded
    (intent,) = shop.server.intents.values()
    rest["amount"] = 60
    shop.server.refunded.clear()
    by_hand(shop, intent, 40)
    shop.server.refunded.append(rest)
    change(shop, "UPDATE exchanges SET refund = ?", "re_hand0")

    assert compared(shop)["refunds_found"] == 1


def test_a_refund_that_is_on_its_way_is_no_difference(shop: StripeShop):
    shop.server.refunds_wait = True
    shop.keeper.answers("500 Oops")
    credential, spt = shop.buy()
    shop.send(credential)
    shop.reaches(spt, "refunding")

    found = asked(shop, "reconcile")

    assert (found["agrees"], found["refunds_waiting"]) == (True, 1)
    assert found["compared"][0]["under_way"] == 1


def test_what_is_held_and_not_captured_is_no_money_that_came(server, tmp_path: Path):
    with selling(server, tmp_path, method="capture: manual") as shop:
        sell(shop)
        shop.keeper.answers("404 Not Found")
        credential, spt = shop.buy()
        shop.send(credential)
        (held,) = server.of(spt)
        assert held["status"] == "requires_capture"

        assert compared(shop)["found"] == 1


def test_a_connected_account_is_read_and_no_other(server, tmp_path: Path):
    method = f"connect: {{stripe_account: {CONNECTED}}}"
    with selling(server, tmp_path, method=method) as shop:
        intent = sell(shop)
        lost = sell(shop)
        change(shop, "DELETE FROM exchanges WHERE reference = ?", lost["id"])
        assert intent["_account"] == CONNECTED
        server.asked.clear()

        assert differences(shop) == [("extra", lost["id"])]

        assert {fields.get("stripe-account") for _, _, fields in server.asked} == {CONNECTED}
        # The books of one account are not found in another.
        shop.config = shop.config.replace(f", {method}", "")
        assert differences(shop) == [("missing", intent["id"])]


def test_a_payment_of_another_profile_of_the_same_account_is_found(shop: StripeShop):
    sell(shop)
    shop.config = shop.config.replace("profile_standin", "profile_another")

    assert compared(shop)["found"] == 1


def test_charges_in_another_currency_are_another_methods(shop: StripeShop):
    intent = sell(shop)
    plain(shop, 1, intent["created"], currency="eur")
    proof = proof_id_of("spt_other").rpartition(":")[2]
    plain(shop, 2, intent["created"], currency="eur", metadata={"mpp_proof": proof})

    assert compared(shop)["other_transfers"] == 0


@pytest.mark.parametrize("fault", ["reset", "garbage", "409", "429"])
def test_an_account_that_cannot_be_read_is_exit_code_7_and_no_verdict(shop, fault: str):
    sell(shop)
    shop.server.faults["list"] = fault

    done = ledger(shop, "reconcile")

    found = json.loads(done.out)
    assert (done.code, done.err, found["agrees"], found["compared"]) == (7, "", False, [])
    (reason,) = found["not_compared"]
    assert (reason["rail"], reason["exchanges"]) == ("stripe", 1)
    assert reason["reason"].startswith("Stripe does not answer.")


def test_one_bad_answer_does_not_end_a_long_read(shop: StripeShop):
    sell(shop)
    shop.server.once["list"] = "429,reset"
    shop.server.once["refunds"] = "garbage"

    assert compared(shop)["found"] == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [("401", "Stripe does not accept secret_key"), ("403", "secret_key may not read")],
)
def test_a_key_that_may_not_read_is_told(shop: StripeShop, status: str, words: str):
    sell(shop)
    shop.server.faults["list"] = status

    done = ledger(shop, "reconcile")

    assert done.code == 7
    assert words in json.loads(done.out)["not_compared"][0]["reason"]
