"""x402 buyers of both versions, at a real gateway and on a real chain: what they pay and get."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.demo.chain import TOKEN_NAME, TOKEN_VERSION
from mpp_gateway.protocol.challenge import Challenge
from tests.support.evm import address, now, settings_of
from tests.support.paid import (
    DEAR,
    PRICE,
    PURSE_MINOR,
    Response,
    at_once,
    fresh_key,
    own_chain,
    paid_gateway,
    refused,
    slug_of,
    wait_until,
)
from tests.support.x402 import (
    X402Buyer,
    decoded,
    encoded,
    proof,
    settled,
    signed,
    x402_gateway,
)


@pytest.fixture
def buyer(tmp_path: Path) -> Iterator[X402Buyer]:
    with x402_gateway(tmp_path) as buyer:
        yield buyer
        assert not buyer.paid.crashes()


def turned_down(response: Response, slug: str, status: int = 402) -> dict:
    """Assert that the answer is this refusal, and that no settlement is claimed in it."""
    assert "x-payment-response" not in response[1] or not settled(response)["success"]
    return refused(response, slug, status)


def changed(payment: str, **members) -> str:
    return encoded(decoded(payment) | members)


def with_accepted(payment: str, **members) -> str:
    accepted = decoded(payment)["accepted"] | members
    return changed(payment, accepted=accepted)


# What is offered


def test_one_402_carries_a_challenge_and_both_versions_of_x402(buyer: X402Buyer):
    status, headers, body = buyer.paid.ask("/api/paid?q=1")

    assert (status, Challenge.parse(headers["www-authenticate"]).method) == (402, "evm")
    v2, v1 = decoded(headers["payment-required"]), json.loads(body)
    demo = buyer.paid.chain.demo
    (entry,) = v2["accepts"]
    assert entry == {
        "scheme": "exact",
        "network": "eip155:84532",
        "asset": checksum(bytes.fromhex(demo.token_address[2:])),
        "amount": str(PRICE),
        "payTo": buyer.paid.payee,
        "maxTimeoutSeconds": 5 + 60 + 30 + 30,
        "extra": {"name": TOKEN_NAME, "version": TOKEN_VERSION},
    }
    assert v2["resource"]["url"].endswith("/api/paid?q=1")
    assert v2["resource"]["url"].startswith("http://")
    (old,) = v1["accepts"]
    assert (v1["x402Version"], old["network"], old["maxAmountRequired"]) == (
        1,
        "base-sepolia",
        str(PRICE),
    )
    assert old["resource"] == v2["resource"]["url"]
    assert "outputSchema" not in old
    assert (v1["type"], v1["status"]) == ("https://paymentauth.org/problems/payment-required", 402)
    assert v1["error"] == v2["error"] == "payment_required"


def test_a_chain_without_a_name_in_version_1_is_offered_in_version_2_alone(tmp_path: Path):
    with own_chain() as thread, x402_gateway(tmp_path, thread=thread) as buyer:
        assert "x402Version" not in buyer.v1_required()
        payment = buyer.v2()
        assert buyer.send(payment)[0] == 200
        answered = buyer.send(buyer.v2())
        assert settled(answered)["network"] == f"eip155:{thread.demo.chain_id}"
        assert "x-payment-response" not in answered[1]


def test_without_the_setting_nothing_is_said_and_nothing_taken_by_x402(tmp_path: Path):
    with x402_gateway(tmp_path) as other:
        payment = other.v2()
    with paid_gateway(tmp_path) as paid:
        status, headers, body = paid.ask()
        assert status == 402
        assert "payment-required" not in headers
        assert "accepts" not in json.loads(body)
        answered = paid.ask("/api/paid", f"PAYMENT-SIGNATURE: {payment}")
        refused(answered, "method-unsupported", 400)
        paid.untouched()


def test_accept_payment_chooses_between_the_wire_forms(buyer: X402Buyer):
    _, only_x402, _ = buyer.paid.ask("/api/paid", "Accept-Payment: x402/exact")
    _, only_mpp, body = buyer.paid.ask("/api/paid", "Accept-Payment: evm/charge")

    assert "www-authenticate" not in only_x402
    assert "payment-required" in only_x402
    assert "payment-required" not in only_mpp
    assert "accepts" not in json.loads(body)


# What is paid


def test_a_payment_of_version_2_moves_its_exact_price_and_says_so(buyer: X402Buyer):
    response = buyer.send(buyer.v2())

    assert (response[0], response[2]) == (200, b'{"ok":true}')
    paid = buyer.paid
    assert (paid.balance(), paid.purse(), paid.hits) == (PRICE, PURSE_MINOR - PRICE, 1)
    assert paid.states() == {"settled": 1}
    said = settled(response)
    assert said["success"] is True
    assert (said["network"], said["payer"]) == ("eip155:84532", address(paid.key))
    assert paid.chain.transaction(said["transaction"])["status"] == "0x1"
    assert "payment-receipt" not in response[1]
    assert response[1]["cache-control"] == "private"


def test_a_payment_of_version_1_moves_its_exact_price_and_says_so(buyer: X402Buyer):
    response = buyer.send_v1(buyer.v1())

    assert (response[0], buyer.paid.balance(), buyer.paid.hits) == (200, PRICE, 1)
    said = settled(response, "x-payment-response")
    assert (said["success"], said["network"]) == (True, "base-sepolia")


def test_obols_buyer_says_version_2_in_the_field_of_version_1(buyer: X402Buyer):
    assert buyer.send_v1(buyer.v2(valid_before=2**32 - 1))[0] == 200
    assert buyer.paid.balance() == PRICE


def test_the_upstream_sees_neither_the_payment_nor_an_offer(buyer: X402Buyer):
    assert buyer.send(buyer.v2())[0] == 200
    (seen,) = buyer.paid.upstream.seen
    names = {name.lower() for name, _ in seen.headers}
    assert names.isdisjoint({"payment-signature", "x-payment", "authorization-payment"})


def test_an_upstream_cannot_forge_what_x402_buyers_are_told(buyer: X402Buyer):
    forged = encoded({"success": True, "transaction": "0x" + "ab" * 32, "network": "x"})
    buyer.paid.keeper.answers(
        "200 OK", f"PAYMENT-RESPONSE: {forged}", f"PAYMENT-REQUIRED: {forged}"
    )

    response = buyer.send(buyer.v2())

    assert settled(response)["transaction"] != "0x" + "ab" * 32
    assert "payment-required" not in response[1]


def test_a_credit_of_a_route_that_binds_the_body_buys_no_other_body(tmp_path: Path):
    routes = '\n      "POST /bound": {charge: "0.01", digest: true, settle: before}'
    with x402_gateway(tmp_path, routes=routes) as buyer:
        one, two = {"method": "POST", "body": b"one"}, {"method": "POST", "body": b"two"}
        (entry,) = buyer.required("/api/bound", **one)["accepts"]
        made = {"payload": proof(signed(entry, buyer.paid.key)), "accepted": entry}
        payment = encoded({"x402Version": 2} | made)
        buyer.paid.keeper.answers("503 Busy")
        assert buyer.send(payment, "/api/bound", **one)[0] == 502
        buyer.paid.keeper.answers("200 OK")

        refused(buyer.send(payment, "/api/bound", **two), "invalid-challenge")
        assert buyer.send(payment, "/api/bound", **one)[0] == 200
        assert buyer.paid.balance() == PRICE


def test_a_settlement_that_comes_first_leaves_a_credit_when_the_upstream_fails(buyer: X402Buyer):
    payment = buyer.v2("/api/first")
    buyer.paid.keeper.answers("500 Oops")
    failed = buyer.send(payment, "/api/first")
    assert (failed[0], slug_of(failed)) == (502, "upstream-failed")
    assert buyer.paid.balance() == PRICE
    assert "payment-response" not in failed[1]
    buyer.paid.keeper.answers("200 OK")

    # Of the same price, and not what was paid for.
    refused(buyer.send(payment, "/api/first2"), "invalid-challenge")
    again = buyer.send(payment, "/api/first")

    assert (again[0], buyer.paid.balance()) == (200, PRICE)
    assert settled(again)["success"] is True


# What buys nothing


def test_one_authorization_buys_once_in_whichever_form_and_version_it_comes(buyer: X402Buyer):
    credential = buyer.paid.buy()
    members = dict(credential.payload)
    signature = members.pop("signature")
    members.pop("type")
    (entry,) = buyer.required()["accepts"]
    made = {"signature": signature, "authorization": members}
    as_v2 = encoded({"x402Version": 2, "payload": made, "accepted": entry})
    as_v1 = {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": made}

    assert buyer.paid.send(credential)[0] == 200
    refused(buyer.send(as_v2), "invalid-challenge")
    refused(buyer.send_v1(encoded(as_v1)), "invalid-challenge")
    assert (buyer.paid.balance(), buyer.paid.hits) == (PRICE, 1)


def test_a_signature_in_its_other_form_is_the_same_payment(buyer: X402Buyer):
    payment = buyer.v2()
    document = decoded(payment)
    signature = document["payload"]["signature"]
    v = int(signature[-2:], 16)
    document["payload"]["signature"] = signature[:-2] + f"{v - 27 if v >= 27 else v + 27:02x}"
    document["payload"]["authorization"]["from"] = document["payload"]["authorization"][
        "from"
    ].lower()

    assert buyer.send(payment)[0] == 200
    refused(buyer.send(encoded(document)), "invalid-challenge")
    assert buyer.paid.balance() == PRICE


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({"value": PRICE - 1}, "payment-insufficient"),
        ({"value": PRICE + 1}, "verification-failed"),
        ({"recipient": b"\x11" * 20}, "verification-failed"),
        ({"valid_after": 2**40}, "verification-failed"),
    ],
    ids=["too little", "too much", "somebody else", "not yet"],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_payment_on_other_terms_is_refused_with_fresh_offers(
    buyer: X402Buyer, change, slug: str, version: int
):
    make, send = (buyer.v1, buyer.send_v1) if version == 1 else (buyer.v2, buyer.send)
    response = send(make(**change))

    turned_down(response, slug)
    assert decoded(response[1]["payment-required"])["error"] == slug.replace("-", "_")
    buyer.paid.untouched()


def test_a_payment_for_the_cheap_route_does_not_buy_the_dear_one(buyer: X402Buyer):
    turned_down(buyer.send(buyer.v2("/api/paid"), "/api/dear"), "payment-insufficient")
    buyer.paid.untouched()
    assert buyer.send(buyer.v2("/api/dear"), "/api/dear")[0] == 200
    assert buyer.paid.balance() == DEAR


@pytest.mark.parametrize(
    "members",
    [
        {"amount": "1"},
        {"payTo": "0x" + "22" * 20},
        {"asset": "0x" + "22" * 20},
        {"network": "eip155:1"},
        {"scheme": "upto"},
        {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"},
    ],
    ids=lambda members: next(iter(members)),
)
def test_terms_of_the_buyers_own_making_are_not_taken(buyer: X402Buyer, members):
    turned_down(buyer.send(with_accepted(buyer.v2(), **members)), "verification-failed")
    buyer.paid.untouched()


def test_a_signature_by_another_key_or_for_another_chain_is_refused(buyer: X402Buyer):
    document = decoded(buyer.v2())
    stranger = decoded(buyer.v2(key=fresh_key("stranger")))
    document["payload"]["signature"] = stranger["payload"]["signature"]
    turned_down(buyer.send(encoded(document)), "verification-failed")
    elsewhere = replace(settings_of(buyer.paid.chain.demo).domain, chain_id=1)
    turned_down(buyer.send(buyer.v2(domain=elsewhere)), "verification-failed")
    buyer.paid.untouched()


def test_an_expired_payment_is_refused_and_leaves_no_row(buyer: X402Buyer):
    response = buyer.send(buyer.v2(valid_before=now() - 1))

    turned_down(response, "payment-expired")
    buyer.paid.untouched()


def test_a_payment_that_ends_before_the_upstreams_time_is_up_is_refused(buyer: X402Buyer):
    turned_down(buyer.send(buyer.v2(valid_before=now() + 30)), "verification-failed")
    assert (buyer.paid.hits, buyer.paid.balance()) == (0, 0)


def test_a_payer_without_money_is_refused_and_told_that_nothing_moved(buyer: X402Buyer):
    response = buyer.send(buyer.v2(key=fresh_key("penniless")))

    refused(response, "payment-insufficient")
    said = settled(response)
    assert (said["success"], said["transaction"]) == (False, "")
    assert (buyer.paid.hits, buyer.paid.balance()) == (0, 0)


RUBBISH = {
    "not base64": "%%%",
    "not JSON": encoded([])[:-3] + "!",
    "a list": encoded([]),
    "no version": encoded({"payload": {}}),
    "version three": encoded({"x402Version": 3, "payload": {}}),
    "a true version": encoded({"x402Version": True, "scheme": "exact", "network": "base"}),
    "accepted is text": encoded({"x402Version": 2, "accepted": "x", "payload": {}}),
    "no payload": encoded(
        {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": 1}
    ),
    "no authorization": encoded(
        {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": {}}
    ),
    "deep": encoded({"x402Version": 2}).replace("=", "") + "A" * 17_000,
    "empty": "",
}


@pytest.mark.parametrize("what", RUBBISH)
def test_a_malformed_payment_is_a_400_that_says_so(buyer: X402Buyer, what: str):
    for send in (buyer.send, buyer.send_v1):
        refused(send(RUBBISH[what]), "malformed-payment", 400)
    buyer.paid.untouched()


def test_a_malformed_authorization_is_a_400(buyer: X402Buyer):
    document = decoded(buyer.v2())
    good = document["payload"]["authorization"]
    for member in good:
        for value in (None, 1, "", "-1", "0x", "1" * 90, {}, "\u0663"):
            document["payload"]["authorization"] = good | {member: value}
            refused(buyer.send(encoded(document)), "malformed-payment", 400)
    buyer.paid.untouched()


def test_two_payments_in_one_request_are_refused_whatever_they_are(buyer: X402Buyer):
    v2, v1, credential = buyer.v2(), buyer.v1(), buyer.paid.buy()

    both = buyer.send(v2, "/api/paid", f"X-PAYMENT: {v1}")
    twice = buyer.send(v2, "/api/paid", f"PAYMENT-SIGNATURE: {v2}")
    mixed = buyer.paid.send(credential, "/api/paid", f"PAYMENT-SIGNATURE: {v2}")

    for response in (both, twice, mixed):
        refused(response, "ambiguous-credentials", 400)
    buyer.paid.untouched()


def test_a_signature_that_may_be_a_wallets_buys_nothing_by_version_1(tmp_path: Path):
    """It names no token: of two on one chain the first would keep it from the other."""
    with x402_gateway(tmp_path, method_more=", contract_wallets: true") as buyer:
        document = decoded(buyer.v1())
        made = document["payload"]["signature"]
        document["payload"]["signature"] = made[:10] + "00" * 4 + made[18:]
        refused(buyer.send_v1(encoded(document)), "verification-failed")
        buyer.paid.untouched()


# What became of it elsewhere


def test_a_reply_that_is_lost_leaves_one_payment_and_one_call(tmp_path: Path):
    with x402_gateway(tmp_path, timeouts="settle_s: 3") as buyer:
        payment = buyer.v2()
        node = buyer.paid.node
        node.faults["eth_sendRawTransaction"] = "lost"
        node.faults["eth_getTransactionReceipt"] = "500"
        unclear = buyer.send(payment)
        refused(unclear, "settlement-unknown", 503)
        assert "payment-required" not in unclear[1]
        node.faults.clear()

        def served() -> bool:
            return buyer.send(payment)[0] == 200

        wait_until(served, "the paid call was never given")
        refused(buyer.send(payment), "invalid-challenge")
        assert buyer.paid.balance() == PRICE


def test_a_node_that_is_down_refuses_without_asking_for_money(buyer: X402Buyer):
    payment = buyer.v2()
    buyer.paid.node.faults["*"] = "500"
    response = buyer.send(payment)
    refused(response, "rail-unavailable", 503)
    assert int(response[1]["retry-after"]) > 0
    assert "payment-required" not in response[1]
    buyer.paid.node.faults.clear()
    assert (buyer.paid.hits, buyer.paid.balance()) == (0, 0)
    assert buyer.send(payment)[0] == 200


def test_the_upstreams_own_authorization_goes_on_beside_an_x402_payment(tmp_path: Path):
    with x402_gateway(tmp_path, auth="requires_auth: true") as buyer:
        response = buyer.send(buyer.v2(), "/api/paid", "Authorization: Bearer of-the-client")
        assert response[0] == 200
        (seen,) = buyer.paid.upstream.seen
        assert ("authorization", "Bearer of-the-client") in [
            (name.lower(), value) for name, value in seen.headers
        ]


@pytest.mark.parametrize("fault", ["500", "reset", "garbage", "401"])
def test_a_facilitator_that_is_down_is_a_503_and_never_a_new_402(tmp_path: Path, fault: str):
    with x402_gateway(tmp_path, facilitator=True) as buyer:
        payment = buyer.v2()
        stand_in = buyer.paid.facilitator
        stand_in.fault = fault
        response = buyer.send(payment)
        refused(response, "rail-unavailable", 503)
        assert "payment-required" not in response[1]
        assert "retry-after" in response[1]
        stand_in.fault = ""
        assert buyer.send(payment)[0] == 200
        assert buyer.paid.balance() == PRICE


def test_a_facilitator_is_shown_our_own_terms_and_never_the_buyers(tmp_path: Path):
    with x402_gateway(tmp_path, facilitator=True) as buyer:
        payment = with_accepted(buyer.v2(), maxTimeoutSeconds=1, extra={"name": "Evil Coin"})
        assert buyer.send(payment)[0] == 200
        for _, asked in buyer.paid.facilitator.asked:
            required = asked["paymentRequirements"]
            assert required["extra"]["name"] == TOKEN_NAME
            assert required["payTo"] == buyer.paid.payee
            assert asked["paymentPayload"]["accepted"] == required


# Extensions


IDENTIFIER = "payment-identifier"


def identified(buyer: X402Buyer, name: object, target: str = "/api/paid", **changes) -> str:
    """Return a payment under the buyer's own id for it."""
    extensions = buyer.required(target)["extensions"]
    extensions[IDENTIFIER]["info"]["id"] = name
    return changed(buyer.v2(target, **changes), extensions=extensions)


def test_one_id_pays_once_however_often_it_is_signed_anew(buyer: X402Buyer):
    name = "pay_0123456789abcdef"
    first, second = identified(buyer, name), identified(buyer, name)
    answered = buyer.send(first)
    assert answered[0] == 200

    refused(buyer.send(second), "idempotency-key-reused", 409)
    again = buyer.send(first)

    assert (again[0], again[2], again[1]["idempotent-replayed"]) == (200, answered[2], "true")
    assert settled(again) == settled(answered)
    assert (buyer.paid.balance(), buyer.paid.hits) == (PRICE, 1)


def test_ten_payments_at_once_under_one_id_are_one_payment(buyer: X402Buyer):
    made = [identified(buyer, "pay_0123456789abcdef") for _ in range(10)]

    answers = at_once([lambda text=text: buyer.send(text) for text in made])

    assert sorted(status for status, *_ in answers) == [200, *[409] * 9]
    assert (buyer.paid.balance(), buyer.paid.hits) == (PRICE, 1)


def test_an_id_that_somebody_else_uses_too_spoils_nothing(buyer: X402Buyer):
    other = fresh_key("other buyer")
    chain = buyer.paid.chain
    chain.run(chain.demo.mint(address(other), PURSE_MINOR))

    for key in (buyer.paid.key, other):
        assert buyer.send(identified(buyer, "pay_0123456789abcdef", key=key))[0] == 200
    assert buyer.paid.balance() == 2 * PRICE


def test_an_id_whose_payment_came_to_nothing_can_be_used_again(buyer: X402Buyer):
    name = "pay_0123456789abcdef"
    buyer.paid.keeper.answers("500 Oops")
    assert buyer.send(identified(buyer, name))[0] == 500
    buyer.paid.keeper.answers("200 OK")

    assert buyer.send(identified(buyer, name))[0] == 200
    assert buyer.paid.balance() == PRICE


@pytest.mark.parametrize("name", ["short", "x" * 129, "sixteen letters!", 16, ["a" * 20], True])
def test_an_id_that_is_none_is_a_400(buyer: X402Buyer, name):
    refused(buyer.send(identified(buyer, name)), "malformed-payment", 400)
    buyer.paid.untouched()


def test_a_catalogue_learns_how_the_call_is_made(buyer: X402Buyer):
    listing = buyer.required("/api/item/7?x=1")["extensions"]["bazaar"]

    assert listing["routeTemplate"] == "/api/item/:id"
    assert listing["info"]["input"] == {
        "type": "http",
        "method": "GET",
        "pathParams": {"id": "7"},
    }
    posted = buyer.required("/api/paid", method="POST", body=b"x")["extensions"]["bazaar"]
    assert posted["info"]["input"] == {
        "type": "http",
        "method": "POST",
        "bodyType": "json",
        "body": {},
    }
    assert "routeTemplate" not in posted
