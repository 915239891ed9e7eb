"""Tokens through a real gateway and a stand-in of Stripe's: who has the money, and the word."""

import json
import logging
from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader, FlowWriter

from mpp_gateway.addons.inspection import payment_parts
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.stripe import client
from mpp_gateway.rails.stripe.request import proof_id_of
from mpp_gateway.rails.stripe.seller import LATE_S
from tests.support.evm import now
from tests.support.paid import receipt_of, refused, slug_of, wait_until
from tests.support.stripe_server import StandInStripe, stand_in_stripe
from tests.support.stripe_shop import PRICE, StripeShop, stripe_shop

SPENT = "invalid-challenge"


@pytest.fixture(scope="module")
def server():
    with stand_in_stripe() as server:
        yield server


@pytest.fixture(scope="module")
def running_shop(server, tmp_path_factory):
    with stripe_shop(server, tmp_path_factory.mktemp("stripe"), method="external_id: o-1") as shop:
        yield shop


@pytest.fixture
def shop(running_shop):
    running_shop.calm()
    yield running_shop
    running_shop.calm()


def buy(shop: StripeShop, target: str = "/api/paid", **token):
    spt = shop.server.mint(PRICE, **token)
    return shop.credential(shop.challenge(target), spt, externalId="o-1"), spt


def test_a_call_is_charged_once_and_has_a_receipt(shop: StripeShop):
    credential, spt = buy(shop)
    hits = shop.hits

    answer = shop.send(credential)

    assert (answer[0], answer[2], shop.hits) == (200, b"served", hits + 1)
    receipt: Receipt = receipt_of(answer)
    (intent,) = shop.server.of(spt)
    assert (receipt.method, receipt.reference, receipt.status) == (
        "stripe",
        intent["id"],
        "success",
    )
    assert receipt.extra["externalId"] == "o-1"
    assert receipt.extra["challengeId"] == credential.challenge.id
    assert shop.server.sums(spt) == {"charged": PRICE}
    assert shop.row(spt)["state"] == "settled"


def test_the_charge_is_made_with_the_parameters_of_the_draft(shop: StripeShop):
    credential, spt = buy(shop)
    shop.send(credential)

    given, fields = shop.server.calls("create")[-1]
    assert (
        given.items()
        >= {
            "amount": "100",
            "currency": "usd",
            "confirm": "true",
            "shared_payment_granted_token": spt,
            "automatic_payment_methods[enabled]": "true",
            "automatic_payment_methods[allow_redirects]": "never",
            "metadata[challenge_id]": credential.challenge.id,
            "metadata[mpp_challenge_id]": credential.challenge.id,
            "metadata[mpp_proof]": proof_id_of(spt).rpartition(":")[2],
        }.items()
    )
    assert fields["idempotency-key"] == f"mpp_{credential.challenge.id}_{spt}"
    assert fields["stripe-version"] == "2026-07-29.preview"
    assert "x-stripe-client-telemetry" not in fields


def test_a_token_that_has_paid_buys_nothing_with_another_challenge(shop: StripeShop):
    """V08: one token, many challenges."""
    spt = shop.server.mint(10 * PRICE)
    first, second = (shop.credential(shop.challenge(), spt, externalId="o-1") for _ in range(2))
    assert shop.send(first)[0] == 200
    hits = shop.hits

    refused(shop.send(second), SPENT)

    assert (shop.hits, shop.server.sums(spt)) == (hits, {"charged": PRICE})


def test_a_challenge_that_was_paid_takes_no_second_token(shop: StripeShop):
    challenge = shop.challenge()
    tokens = [shop.server.mint(PRICE) for _ in range(2)]
    first, second = (shop.credential(challenge, spt, externalId="o-1") for spt in tokens)
    assert shop.send(first)[0] == 200

    refused(shop.send(second), SPENT)

    assert shop.server.sums(tokens[1]) == {}


def test_a_credential_of_the_cheap_route_does_not_buy_the_dear_one(shop: StripeShop):
    credential, spt = buy(shop)

    refused(shop.send(credential, "/api/dear"), SPENT)
    refused(shop.send(credential, "/api/paid?more=1"), SPENT)

    assert (shop.server.of(spt), shop.row(spt)["state"]) == ([], "none")


@pytest.mark.parametrize(
    ("token", "slug"),
    [
        ({"amount_minor": PRICE - 1}, "verification-failed"),
        ({"currency": "eur"}, "verification-failed"),
        ({"network_id": "profile_other"}, "verification-failed"),
        ({"expires_s": 1}, "verification-failed"),
        ({"payment_method": "pm_card_declined"}, "verification-failed"),
        ({"payment_method": "pm_card_insufficient"}, "payment-insufficient"),
        ({"payment_method": "pm_card_action"}, "payment-action-required"),
    ],
    ids=str,
)
def test_a_token_that_stripe_refuses_is_a_402_and_charges_nothing(shop: StripeShop, token, slug):
    amount = token.pop("amount_minor", PRICE)
    spt = shop.server.mint(amount, **token)
    credential = shop.credential(shop.challenge(), spt, externalId="o-1")
    hits = shop.hits

    document = refused(shop.send(credential), slug)
    # Stripe keeps its answer for the key: the same credential is refused again.
    refused(shop.send(credential), slug)

    assert shop.hits == hits
    assert "charged" not in shop.server.sums(spt)
    assert shop.row(spt)["state"] == "released"
    assert spt not in json.dumps(document)
    assert all(i["status"] in {"canceled", "requires_payment_method"} for i in shop.server.of(spt))


def test_a_declined_token_may_be_tried_with_a_new_challenge(shop: StripeShop):
    spt = shop.server.mint(PRICE, payment_method="pm_card_declined")
    refused(
        shop.send(shop.credential(shop.challenge(), spt, externalId="o-1")), "verification-failed"
    )
    shop.server.tokens[spt].payment_method = "pm_card_visa"

    answer = shop.send(shop.credential(shop.challenge(), spt, externalId="o-1"))

    assert (answer[0], shop.server.sums(spt)) == (200, {"charged": PRICE})


@pytest.mark.parametrize("payload", [{}, {"externalId": "another"}])
def test_a_credential_without_the_external_id_charges_nothing(shop: StripeShop, payload):
    spt = shop.server.mint(PRICE)

    refused(shop.send(shop.credential(shop.challenge(), spt, **payload)), SPENT)

    assert (shop.server.of(spt), shop.row(spt)["state"]) == ([], "none")


@pytest.mark.parametrize("status", ["500 no", "503 no"])
def test_an_upstream_that_fails_has_its_charge_refunded_once(shop: StripeShop, status):
    credential, spt = buy(shop)
    shop.keeper.answers(status)

    document = refused(shop.send(credential), "upstream-failed", 502)

    assert document["payment"] == "refunding"
    shop.reaches(spt, "refunded")
    shop.resolve()
    assert shop.server.sums(spt) == {"charged": PRICE, "refunded": PRICE}
    assert shop.row(spt)["refund"].startswith("re_")
    refused(shop.send(credential), SPENT)


def test_a_refund_whose_reply_is_lost_is_made_once(shop: StripeShop):
    credential, spt = buy(shop)
    shop.keeper.answers("500 no")
    shop.server.once["refund"] = "lost"

    shop.send(credential)
    wait_until(lambda: "refunded" in shop.server.sums(spt), "the refund is made")
    shop.resolve()

    shop.reaches(spt, "refunded")
    assert shop.server.sums(spt) == {"charged": PRICE, "refunded": PRICE}


def test_a_refund_that_the_seller_made_by_hand_is_not_made_again(shop: StripeShop):
    credential, spt = buy(shop)
    shop.keeper.answers("500 no")
    shop.server.faults["refunds"] = "429"
    shop.send(credential)
    (intent,) = shop.server.of(spt)
    shop.server._refund({"payment_intent": intent["id"]})
    shop.server.calm()

    shop.resolve()

    shop.reaches(spt, "refunded")
    assert shop.server.sums(spt) == {"charged": PRICE, "refunded": PRICE}


def test_a_refund_that_waits_is_owed_until_it_is_paid(shop: StripeShop):
    credential, spt = buy(shop)
    shop.keeper.answers("500 no")
    shop.server.refunds_wait = True
    shop.send(credential)
    wait_until(lambda: "refunded" in shop.server.sums(spt), "the refund is begun")
    shop.resolve()
    assert shop.row(spt)["state"] == "refunding"

    for refund in shop.server.refunded:
        refund["status"] = "succeeded"
    shop.resolve()

    shop.reaches(spt, "refunded")
    assert shop.server.sums(spt)["refunded"] == PRICE


def test_a_route_may_owe_the_call_instead_of_the_money(shop: StripeShop):
    credential, spt = buy(shop, "/api/credit")
    shop.keeper.answers("500 no")
    assert refused(shop.send(credential, "/api/credit"), "upstream-failed", 502)["payment"] == (
        "credited"
    )
    shop.keeper.answers("200 OK", body=b"served")

    assert shop.send(credential, "/api/credit")[2] == b"served"

    assert shop.server.sums(spt) == {"charged": PRICE}


UNTRIED = ("released", 503, "rail-unavailable", "200")
DONE = ("settled", 200, "", "402 invalid-challenge")
CASES = [
    ("429", *UNTRIED, {}),
    ("409", *DONE, {"charged": PRICE}),
    ("reset", *DONE, {"charged": PRICE}),
    ("lost", *DONE, {"charged": PRICE}),
    ("garbage", *DONE, {"charged": PRICE}),
    ("500", "unknown", 503, "settlement-unknown", "503 settlement-unknown", {}),
]


@pytest.mark.parametrize(("fault", "state", "status", "slug", "again", "sums"), CASES)
def test_a_fault_of_stripes_moves_at_most_one_price(
    shop: StripeShop, fault, state, status, slug, again, sums
):
    credential, spt = buy(shop)
    hits = shop.hits
    shop.server.once["create"] = fault

    answer = shop.send(credential)

    assert answer[0] == status
    assert slug in ("", slug_of(answer) if status != 200 else "")
    assert ("www-authenticate" in answer[1]) is (status == 402)
    assert (shop.row(spt)["state"], shop.server.sums(spt)) == (state, sums)
    second = shop.send(credential)
    word = f"{second[0]} {'' if second[0] == 200 else slug_of(second)}".strip()
    assert word == again
    assert shop.hits - hits == (status == 200) + (second[0] == 200)
    assert shop.server.sums(spt).get("charged", 0) <= PRICE


@pytest.mark.parametrize("then", ["429", "401", "409", "reset"])
def test_a_call_that_is_turned_away_after_a_lost_reply_is_not_taken_for_untried(
    shop: StripeShop, then
):
    """The charge was made before: told "nothing was charged", the buyer would pay once more."""
    credential, spt = buy(shop)
    shop.server.once["create"] = f"lost,{then}"

    assert shop.send(credential)[0] == 200
    assert (shop.server.sums(spt), shop.row(spt)["state"]) == ({"charged": PRICE}, "settled")


def test_a_charge_is_found_on_whatever_page_of_the_list_it_stands(shop: StripeShop, monkeypatch):
    credential, spt = buy(shop)
    shop.send(credential)
    for _ in range(3):
        shop.send(buy(shop)[0])
    monkeypatch.setattr(client, "PAGE", 2)
    shop.server.indexed.clear()
    row = shop.row(spt)
    record = PaymentRecord(
        row["proof_id"], row["account"], row["payee"], PRICE, row["valid_until_s"], "c"
    )

    found = shop.call(lambda: shop.rail.look_up(record, now()))

    assert found.reference == shop.server.of(spt)[0]["id"]
    monkeypatch.setattr(client, "PAGES_MAX", 1)
    found = shop.call(lambda: shop.rail.look_up(record, now() + 10 * LATE_S))
    assert (found.state.value, found.may_be_paid) == ("unknown", True)


def test_a_charge_whose_outcome_is_lost_is_found_by_its_metadata(shop: StripeShop):
    """As after a crash: only the record is left, and not the token."""
    credential, spt = buy(shop)
    shop.server.faults["create"] = "garbage"
    shop.server.faults["search"] = shop.server.faults["list"] = "429"
    shop.rail._client._attempt_ms, kept = 1, shop.rail._client._attempt_ms
    refused(shop.send(credential), "settlement-unknown", 503)
    shop.rail._client._attempt_ms = kept
    assert shop.row(spt)["state"] == "unknown"
    shop.server.calm()

    shop.resolve()

    shop.reaches(spt, "credited")
    answer = shop.send(credential)
    assert (answer[0], receipt_of(answer).reference) == (200, shop.server.of(spt)[0]["id"])
    assert shop.server.sums(spt) == {"charged": PRICE}


def test_that_there_is_no_charge_is_believed_only_after_a_while(shop: StripeShop):
    """The search lags, and a request may be on its way: "not found" is no "nothing moved"."""
    credential, spt = buy(shop)
    shop.server.once["create"] = "500"
    shop.send(credential)
    (question,) = [
        q
        for q in shop.call(
            lambda: shop.proxy.runtime.serving.exchanges.questions("stripe", (0, ""), 100)
        )
        if q.payment.proof_id == proof_id_of(spt)
    ]
    ends = question.payment.valid_until_s

    soon = shop.call(lambda: shop.rail.look_up(question.payment, ends + LATE_S))
    late = shop.call(lambda: shop.rail.look_up(question.payment, ends + LATE_S + 1))

    assert (soon.state.value, soon.may_be_paid, late.state.value) == ("unknown", False, "refused")


def test_a_token_with_a_charge_is_found_under_whatever_challenge_it_is_shown(shop: StripeShop):
    """Looked for under the newer challenge alone, a charge would pass for none."""
    credential, spt = buy(shop)
    assert shop.send(credential)[0] == 200
    (intent,) = shop.server.of(spt)
    (row,) = [shop.row(spt)]
    record = PaymentRecord(
        row["proof_id"], row["account"], row["payee"], PRICE, row["valid_until_s"], "another"
    )

    found = shop.call(lambda: shop.rail.look_up(record, now()))

    assert (found.state.value, found.reference) == ("settled", intent["id"])


def test_a_payment_to_another_account_is_neither_found_nor_refunded(shop: StripeShop):
    credential, spt = buy(shop)
    shop.send(credential)
    row = shop.row(spt)
    record = PaymentRecord(
        row["proof_id"], row["account"], "stripe:live:profile_standin", PRICE, 1, "c",
        row["reference"],
    )  # fmt: skip

    assert shop.call(lambda: shop.rail.look_up(record, now())).state.value == "unknown"
    assert shop.call(lambda: shop.rail.refund(record, now())).state.value == "refused"
    assert shop.server.sums(spt) == {"charged": PRICE}


def test_a_charge_that_stripe_has_made_before_buys_nothing(shop: StripeShop):
    """The store was put back from a backup, and has forgotten what was sold."""
    credential, spt = buy(shop)
    assert shop.send(credential)[0] == 200
    key = f"mpp_{credential.challenge.id}_{spt}"
    assert key in shop.server._kept
    hits, other = shop.hits, shop.server.mint(PRICE)
    forgotten = shop.credential(shop.challenge(), other, externalId="o-1")
    given, reply = shop.server._kept[key]
    new_key = f"mpp_{forgotten.challenge.id}_{other}"
    valid = str(shop.call(lambda: _expires(forgotten)))
    shop.server._kept[new_key] = (
        given
        | {
            "shared_payment_granted_token": other,
            "metadata[challenge_id]": forgotten.challenge.id,
            "metadata[mpp_challenge_id]": forgotten.challenge.id,
            "metadata[mpp_proof]": proof_id_of(other).rpartition(":")[2],
            "metadata[mpp_valid_until]": valid,
        },
        reply,
    )

    document = refused(shop.send(forgotten), "verification-failed")

    assert "processed already" in document["detail"]
    assert (shop.hits, shop.server.sums(other)) == (hits, {})


def _expires(credential) -> int:
    return parse_rfc3339(credential.challenge.expires)


def test_a_key_that_stripe_does_not_take_withholds_the_offers(shop: StripeShop):
    credential, spt = buy(shop)
    shop.server.faults["create"] = shop.server.faults["account"] = "401"
    refused(shop.send(credential), "rail-unavailable", 503)

    assert slug_of(shop.ask()) == "rail-unavailable"
    assert shop.call(lambda: shop.rail.withheld_for) == "Stripe does not accept the secret key"

    shop.server.calm()
    shop.call(lambda: shop.rail.maintain(now()))
    assert shop.send(credential)[0] == 200
    assert shop.server.sums(spt) == {"charged": PRICE}


def test_no_token_is_in_store_log_event_or_flow(server: StandInStripe, tmp_path: Path):
    """Not for a good call, nor for one that is declined, lost, malformed, or asked for as free."""
    saved = tmp_path / "flows"
    logging.getLogger("stripe").setLevel(logging.DEBUG)
    with stripe_shop(server, tmp_path) as shop:
        shop.proxy.call(lambda: shop.proxy.master.addons.add(_Saver(saved)))
        tokens = []
        for method, fault in [("pm_card_visa", ""), ("pm_card_declined", ""), ("gone", "lost")]:
            spt = server.mint(PRICE, payment_method=method)
            if fault:
                server.once["create"] = fault
            credential, _ = shop.buy(spt=spt)
            shop.send(credential)
            shop.send(credential, "/api/free")
            tokens.append(spt)
        unknown = "spt_marked_and_unknown"
        refused(shop.send(shop.buy(spt=unknown)[0]), "verification-failed")
        shop.send(credential.format()[:-3])
        tokens.append(unknown)
        log = "\n".join(shop.proxy.log)
        shop.stop()
    seen = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with saved.open("rb") as file:
        flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]
    assert len(flows) > len(tokens)
    shown = log + repr([flow.request.headers for flow in flows])
    shown += repr([payment_parts(flow.request) for flow in flows])
    assert "spt_hidden" in shown
    for spt in tokens:
        assert spt not in shown
        for name, content in seen.items():
            assert spt.encode() not in content, name
    assert not [line for line in log.split("\n") if "sk_test" in line]


class _Saver:
    def __init__(self, path: Path) -> None:
        self.path = path

    def _save(self, flow) -> None:
        with self.path.open("ab") as file:
            FlowWriter(file).add(flow)

    def response(self, flow) -> None:
        self._save(flow)


def test_connect_terms_reach_stripe_and_come_back_with_a_refund(server, tmp_path):
    method = (
        "connect: {transfer_destination: acct_seller, application_fee_minor: 9,"
        " on_behalf_of: acct_seller, transfer_group: g1}"
    )
    with stripe_shop(server, tmp_path, method=method) as shop:
        shop.keeper.answers("500 no")
        credential, spt = shop.buy()
        shop.send(credential)
        shop.reaches(spt, "refunded")

    given = server.calls("create")[-1][0]
    assert given["transfer_data[destination]"] == "acct_seller"
    assert (given["application_fee_amount"], given["on_behalf_of"]) == ("9", "acct_seller")
    back = server.calls("refund")[-1][0]
    assert (back["reverse_transfer"], back["refund_application_fee"]) == ("true", "true")


def test_a_charge_on_a_connected_account_is_made_there(server, tmp_path):
    with stripe_shop(server, tmp_path, method="connect: {stripe_account: acct_connected}") as shop:
        credential, spt = shop.buy()
        assert shop.send(credential)[0] == 200

    assert server.of(spt)[0]["_account"] == "acct_connected"
