"""Manual capture: held before the upstream is asked, captured on a 2xx, let go of otherwise."""

import pytest

from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.rails.stripe import client
from mpp_gateway.rails.stripe.seller import GRACE_S
from tests.support.evm import now
from tests.support.paid import at_once, receipt_of, refused
from tests.support.stripe_server import stand_in_stripe
from tests.support.stripe_shop import PRICE, StripeShop, stripe_shop

HELD = {"held": PRICE}
CAPTURED = {"held": PRICE, "charged": PRICE}
LET_GO = {"held": PRICE, "let go": PRICE}


@pytest.fixture(scope="module")
def server():
    with stand_in_stripe() as server:
        yield server


@pytest.fixture(scope="module")
def running_shop(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripe")
    with stripe_shop(server, folder, method="capture: manual") as shop:
        yield shop


@pytest.fixture
def shop(running_shop):
    running_shop.calm()
    yield running_shop
    running_shop.calm()


def sweep(shop: StripeShop, spt: str, later_s: int) -> None:
    """Have the gateway look after its holds, so long after the end of the token's challenge."""
    shop.server.index()
    shop.rail._swept_s = 0
    ends_s = int(shop.server.of(spt)[0]["metadata"]["mpp_valid_until"])
    shop.call(lambda: shop.rail.maintain(ends_s + later_s))


def test_a_payment_is_held_before_the_upstream_is_asked_and_captured_after(shop: StripeShop):
    credential, spt = shop.buy()
    seen = []

    async def before() -> None:
        seen.append(shop.server.sums(spt))

    shop.keeper.before = before

    answer = shop.send(credential)

    assert (answer[0], seen) == (200, [HELD])
    assert receipt_of(answer).reference == shop.server.of(spt)[0]["id"]
    assert (shop.server.sums(spt), shop.row(spt)["state"]) == (CAPTURED, "settled")


@pytest.mark.parametrize("status", ["500 no", "404 no", "302 no"])
def test_nothing_is_captured_for_an_upstream_that_fails(shop: StripeShop, status):
    credential, spt = shop.buy()
    shop.keeper.answers(status)

    answer = shop.send(credential)

    assert answer[0] == int(status[:3])
    assert answer[1]["payment-outcome"] == "released"
    assert (shop.server.sums(spt), shop.row(spt)["state"]) == (HELD, "released")


def test_a_released_credential_is_captured_by_its_first_hold(shop: StripeShop):
    credential, spt = shop.buy()
    shop.keeper.answers("500 no")
    shop.send(credential)
    shop.keeper.answers("200 OK", body=b"served")

    assert shop.send(credential)[0] == 200

    assert shop.server.sums(spt) == CAPTURED
    refused(shop.send(credential), "invalid-challenge")
    assert shop.server.sums(spt) == CAPTURED


def test_what_is_released_is_let_go_of_when_its_challenge_has_ended(shop: StripeShop):
    credential, spt = shop.buy()
    shop.keeper.answers("500 no")
    shop.send(credential)

    sweep(shop, spt, GRACE_S)
    assert shop.server.sums(spt) == HELD
    sweep(shop, spt, GRACE_S + 1)

    assert shop.server.sums(spt) == LET_GO
    shop.keeper.answers("200 OK", body=b"served")
    hits = shop.hits
    refused(shop.send(credential), "verification-failed")
    assert (shop.hits, shop.server.sums(spt)) == (hits, LET_GO)


def test_every_hold_that_has_ended_is_let_go_of_however_many_there_are(
    shop: StripeShop, monkeypatch
):
    monkeypatch.setattr(client, "PAGE", 2)
    shop.keeper.answers("500 no")
    tokens = []
    for _ in range(5):
        credential, spt = shop.buy()
        shop.send(credential)
        tokens.append(spt)

    sweep(shop, tokens[-1], GRACE_S + 10)

    assert [shop.server.sums(spt) for spt in tokens] == [LET_GO] * 5


def test_what_is_captured_is_not_let_go_of(shop: StripeShop):
    credential, spt = shop.buy()
    shop.send(credential)

    sweep(shop, spt, 10**6)

    assert shop.server.sums(spt) == CAPTURED


@pytest.mark.parametrize(
    ("payment_method", "slug"),
    [
        ("pm_card_declined", "verification-failed"),
        ("pm_card_insufficient", "payment-insufficient"),
        ("pm_card_action", "payment-action-required"),
    ],
)
def test_who_cannot_pay_never_reaches_the_upstream(shop: StripeShop, payment_method, slug):
    spt = shop.server.mint(PRICE, payment_method=payment_method)
    credential, hits = shop.buy(spt=spt)[0], shop.hits

    refused(shop.send(credential), slug)

    assert (shop.hits, shop.server.sums(spt)) == (hits, {})
    assert shop.row(spt)["state"] == "released"


def test_ten_copies_at_once_capture_once(shop: StripeShop):
    credential, spt = shop.buy()
    hits = shop.hits

    answers = at_once([lambda: shop.send(credential)] * 10)

    assert [answer[0] for answer in answers].count(200) == 1
    assert (shop.hits, shop.server.sums(spt)) == (hits + 1, CAPTURED)


@pytest.mark.parametrize("fault", ["lost", "garbage", "409", "reset"])
@pytest.mark.parametrize("verb", ["create", "capture"])
def test_a_lost_word_of_stripes_is_asked_for_again(shop: StripeShop, verb, fault):
    credential, spt = shop.buy()
    shop.server.once[verb] = fault

    assert shop.send(credential)[0] == 200

    assert shop.server.sums(spt) == CAPTURED


@pytest.mark.parametrize("fault", ["429", "500"])
def test_who_cannot_be_asked_to_hold_gets_nothing_and_pays_nothing(shop: StripeShop, fault):
    credential, spt = shop.buy()
    shop.server.once["create"] = fault
    hits = shop.hits

    refused(shop.send(credential), "rail-unavailable", 503)

    assert (shop.hits, shop.server.sums(spt)) == (hits, {})


def test_a_capture_that_is_turned_away_leaves_the_credential_good(shop: StripeShop):
    credential, spt = shop.buy()
    shop.server.once["capture"] = "429"

    refused(shop.send(credential), "rail-unavailable", 503)
    assert (shop.server.sums(spt), shop.row(spt)["state"]) == (HELD, "released")

    assert shop.send(credential)[0] == 200
    assert shop.server.sums(spt) == CAPTURED


def test_a_capture_that_is_refused_charges_nothing_and_delivers_nothing(shop: StripeShop):
    credential, spt = shop.buy()
    shop.server.once["capture"] = "402"

    answer = shop.send(credential)

    refused(answer, "verification-failed")
    assert b"served" not in answer[2]
    assert (shop.server.sums(spt), shop.row(spt)["state"]) == (HELD, "released")


def test_an_unknown_capture_is_settled_or_let_go_and_the_buyer_is_told(shop: StripeShop):
    credential, spt = shop.buy()
    shop.server.once["capture"] = "500"

    refused(shop.send(credential), "settlement-unknown", 503)
    shop.resolve()
    assert shop.row(spt)["state"] == "unknown"
    sweep(shop, spt, GRACE_S + 1)
    shop.resolve()

    shop.reaches(spt, "released")
    assert shop.server.sums(spt) == LET_GO


def test_a_hold_that_somebody_cancels_is_not_delivered_for(shop: StripeShop):
    credential, spt = shop.buy()

    async def before() -> None:
        shop.keeper.before = None
        shop.server._cancel(shop.server.of(spt)[0])

    shop.keeper.before = before

    answer = shop.send(credential)

    refused(answer, "verification-failed")
    assert b"served" not in answer[2]
    assert shop.server.sums(spt) == LET_GO


def test_a_hold_of_another_software_is_left_alone(shop: StripeShop):
    credential, spt = shop.buy()
    shop.keeper.answers("500 no")
    shop.send(credential)
    shop.server.of(spt)[0]["metadata"]["mpp_sdk"] = "another"

    sweep(shop, spt, 10**6)

    assert shop.server.sums(spt) == HELD


def test_a_held_payment_is_not_a_settled_one(shop: StripeShop):
    credential, spt = shop.buy()
    shop.keeper.answers("500 no")
    shop.send(credential)
    row = shop.row(spt)
    record = PaymentRecord(
        row["proof_id"], row["account"], row["payee"], PRICE, row["valid_until_s"], "c"
    )

    found = shop.call(lambda: shop.rail.look_up(record, now()))

    assert (found.state.value, found.may_be_paid) == ("unknown", False)


@pytest.mark.parametrize("method", ["capture: automatic", "capture: manual"])
def test_a_stripe_that_is_slow_is_asked_again_and_charges_once(server, tmp_path, method):
    with stripe_shop(server, tmp_path, method=method, settle_s=3) as shop:
        credential, spt = shop.buy()
        server.once["create"] = "late"

        assert shop.send(credential)[0] == 200

        assert server.sums(spt)["charged"] == PRICE


def test_a_stripe_that_never_answers_leaves_the_outcome_open(server, tmp_path):
    with stripe_shop(server, tmp_path, settle_s=1) as shop:
        credential, spt = shop.buy()
        hits = shop.hits
        server.faults["create"] = "late"

        refused(shop.send(credential), "settlement-unknown", 503)
        assert (shop.hits, shop.row(spt)["state"]) == (hits, "unknown")
        server.calm()

        assert shop.send(credential)[0] == 200
        assert server.sums(spt) == {"charged": PRICE}


def test_an_expired_credential_charges_nothing(server, tmp_path):
    with stripe_shop(server, tmp_path) as shop:
        credential, spt = shop.buy()
        executor = shop.proxy.runtime.serving.executor
        executor.clock = lambda: now() + 301

        refused(shop.send(credential), "payment-expired")

        assert (server.of(spt), shop.row(spt)["state"], shop.hits) == ([], "none", 0)
