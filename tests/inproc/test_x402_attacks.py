"""What x402 adds for a thief: a payment that names neither its seller nor its call."""

import json
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.x402 import OFFER_CHARS_MAX
from mpp_gateway.rails.evm import abi
from tests.support.evm import address, now
from tests.support.facilitator import submit
from tests.support.h2client import H2Client
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    at_once,
    fresh_key,
    refused,
    wait_until,
)
from tests.support.stores import SqlitePlace
from tests.support.x402 import (
    X402Buyer,
    as_x402,
    decoded,
    encoded,
    proof,
    settled,
    signed,
    x402_gateway,
)


@pytest.fixture
def buyer(tmp_path: Path):
    with x402_gateway(tmp_path) as buyer:
        yield buyer
        assert not buyer.paid.crashes()


def submitted(buyer: X402Buyer, payment: str) -> str:
    """Let a stranger submit the payment that he has seen; return the transaction."""
    made = decoded(payment)["payload"]
    seen = Authorization.from_payload(made["authorization"] | {"signature": made["signature"]})
    chain, key = buyer.paid.chain, fresh_key("stranger")
    chain.run(chain.demo.fund_gas(address(key)))
    return chain.run(submit(chain.demo, abi.transfer_with_authorization(seen), key))


def identified(payment: str, name: str) -> str:
    extensions = {"payment-identifier": {"info": {"required": False, "id": name}}}
    return encoded(decoded(payment) | {"extensions": extensions})


# Copied from the chain


@pytest.mark.parametrize("facilitator", [False, True], ids=["own key", "facilitator"])
@pytest.mark.parametrize("lives_s", [300, 40, 0], ids=["for long", "briefly", "no more"])
def test_a_payment_made_elsewhere_buys_nothing_here(tmp_path: Path, facilitator, lives_s: int):
    """Its signature stands on the chain, for every place that sells to the same account."""
    with x402_gateway(tmp_path, facilitator=facilitator) as buyer:
        payment = buyer.v2(valid_before=now() + (lives_s or 3))
        submitted(buyer, payment)
        if not lives_s:
            ends = int(decoded(payment)["payload"]["authorization"]["validBefore"])
            wait_until(lambda: now() > ends, "the end of the authorization")

        for text in (payment, identified(payment, "pay_0123456789abcdef"), payment):
            assert buyer.send(text)[0] == 402

        assert (buyer.paid.hits, buyer.paid.balance()) == (0, PRICE)
        assert set(buyer.paid.states()) <= {"released"}


def test_a_payment_to_another_store_of_the_same_seller_buys_nothing_here(tmp_path: Path):
    """An MPP credential names its store; as x402 the same signature names nothing."""
    (tmp_path / "other").mkdir()
    with x402_gateway(tmp_path / "other", pays_itself=True) as other:
        payment = other.v2()
        assert other.send(payment)[0] == 200
        other.paid.stop()
        fresh = SqlitePlace(tmp_path / "new.db")
        other.paid.start(other.paid.config.replace(str(other.paid.store), str(fresh.path)))

        assert other.send(payment)[0] == 402
        assert (other.paid.hits, other.paid.balance()) == (1, PRICE)


def test_a_payment_that_was_found_good_and_then_submitted_by_a_stranger_is_served(
    buyer: X402Buyer,
):
    payment = buyer.v2()
    buyer.paid.keeper.answers("500 Oops")
    assert buyer.send(payment)[0] == 500
    buyer.paid.keeper.answers("200 OK")
    tx_hash = submitted(buyer, payment)

    response = buyer.send(payment)

    assert (response[0], settled(response)["transaction"]) == (200, tx_hash)
    assert buyer.send(payment)[0] == 402
    assert (buyer.paid.balance(), buyer.paid.hits) == (PRICE, 2)


def test_a_payment_that_a_stranger_submits_while_it_is_looked_at_is_served(buyer: X402Buyer):
    credential = buyer.paid.buy()
    buyer.paid.node.then["eth_call authorizationState"] = lambda: buyer.paid.submit(credential)

    assert buyer.send(as_x402(credential))[0] == 200
    assert (buyer.paid.balance(), buyer.paid.states()) == (PRICE, {"settled": 1})


@pytest.mark.parametrize("step", ["/verify", "/settle"])
def test_a_facilitator_that_takes_the_money_unasked_leaves_the_call_to_its_buyer(
    tmp_path: Path, step: str
):
    with x402_gateway(tmp_path, facilitator=True) as buyer:
        payment = buyer.v2()
        stand_in = buyer.paid.facilitator
        stand_in.faults[step] = "takes" if step == "/verify" else "lost"
        answers = [buyer.send(payment)]
        stand_in.faults.clear()
        answers += [buyer.send(payment)] if answers[0][0] != 200 else []

        assert answers[-1][0] == 200
        assert (buyer.paid.balance(), buyer.paid.hits >= 1) == (PRICE, True)


@pytest.mark.parametrize("with_rpc", [True, False], ids=["node", "no node"])
@pytest.mark.parametrize("lie", ["the transaction of another payment", "another chain"])
def test_a_facilitator_that_names_what_did_not_pay_leaves_it_open(
    tmp_path: Path, monkeypatch, with_rpc: bool, lie: str
):
    with x402_gateway(tmp_path, facilitator=True, with_rpc=with_rpc) as buyer:
        first = settled(buyer.send(buyer.v2()))
        said = first if with_rpc or lie == "another chain" else {"transaction": ""}
        network = "eip155:1" if lie == "another chain" else first["network"]
        told = {"success": True, "payer": "", "transaction": said["transaction"]}
        stand_in = buyer.paid.facilitator
        stand_in.fault = "lie"
        monkeypatch.setattr(
            stand_in, "_success", lambda _: web.json_response(told | {"network": network})
        )

        refused(buyer.send(buyer.v2()), "settlement-unknown", 503)
        assert buyer.paid.balance() == PRICE


# Signed for ever


@pytest.mark.parametrize("ends", [2**63, 2**256 - 1])
def test_a_payment_that_is_good_for_ever_is_settled_like_any_other(buyer: X402Buyer, ends: int):
    """No column holds its end: the nonce could not be leased, and it was unknown until 2242."""
    response = buyer.send(buyer.v2(valid_before=ends))

    assert (response[0], buyer.paid.balance()) == (200, PRICE)
    assert buyer.paid.states() == {"settled": 1}


def test_penniless_signatures_for_ever_do_not_stay_in_the_store(buyer: X402Buyer):
    payment = buyer.v2(key=fresh_key("penniless"), valid_before=2**256 - 1)
    for _ in range(2):
        refused(buyer.send(payment), "payment-insufficient")

    (row,) = buyer.paid.rows()
    assert row["forget_s"] < now() + 3 * 3600


# Twice at once


def test_one_signature_in_three_forms_at_once_over_two_protocols_buys_one_call(tmp_path: Path):
    with x402_gateway(tmp_path) as buyer:
        credential = buyer.paid.buy()
        members = {k: v for k, v in credential.payload.items() if k not in ("type", "signature")}
        made = {"signature": credential.payload["signature"], "authorization": members}
        (entry,) = buyer.required()["accepts"]
        v2 = encoded({"x402Version": 2, "payload": made, "accepted": entry})
        named = identified(v2, "pay_0123456789abcdef")
        v1 = {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": made}
        fields = [
            ("authorization", credential.format()),
            ("payment-signature", v2),
            ("payment-signature", named),
            ("x-payment", encoded(v1)),
        ]

        def by_h1(field: tuple[str, str]) -> int:
            return buyer.paid.ask("/api/paid", f"{field[0]}: {field[1]}")[0]

        def by_h2(field: tuple[str, str]) -> int:
            with H2Client(buyer.paid.port) as client:
                return client.response(client.request("GET", "/api/paid", [field])).status

        calls = [lambda f=f, by=by: by(f) for f in fields for by in (by_h1, by_h2)]
        statuses = Counter(at_once(calls))

        assert statuses.pop(200) == 1
        assert set(statuses) <= {402, 409}
        assert (buyer.paid.hits, buyer.paid.balance()) == (1, PRICE)


def test_a_payment_spent_under_an_id_is_not_bought_again_under_another_or_none(buyer: X402Buyer):
    payment = buyer.v2()
    assert buyer.send(identified(payment, "pay_0123456789abcdef"))[0] == 200

    assert buyer.send(payment)[0] == 402
    refused(buyer.send(identified(payment, "pay_fedcba9876543210")), "answer-not-kept", 409)
    assert (buyer.paid.hits, buyer.paid.balance()) == (1, PRICE)


OTHER_TOKEN = "0x" + "cd" * 20


def test_a_payment_in_one_token_never_pays_in_another_of_the_same_chain(tmp_path: Path):
    """Version 1 names no token; the signature does, and only that of the right one holds."""
    with x402_gateway(tmp_path, facilitator=True, with_rpc=False) as buyer:
        paid = buyer.paid
        paid.stop()
        (line,) = (text for text in paid.config.split("\n") if text.startswith("  evm: "))
        token = paid.chain.demo.token_address
        other = line.replace("  evm: {", "  other: {kind: evm, ").replace(token, OTHER_TOKEN)
        paid.start(paid.config.replace(line, f"{other}\n{line}"))
        first, second = buyer.required()["accepts"]
        assert (first["asset"], second["asset"]) == (checksum_of(OTHER_TOKEN), checksum_of(token))
        v1 = {"x402Version": 1, "scheme": "exact", "network": "base-sepolia"}
        in_second = proof(signed(second, paid.key))

        swapped = encoded({"x402Version": 2, "payload": in_second, "accepted": first})
        refused(buyer.send(swapped), "verification-failed")
        stranger = proof(signed(second | {"asset": "0x" + "ef" * 20}, paid.key))
        refused(buyer.send_v1(encoded(v1 | {"payload": stranger})), "verification-failed")
        paid.untouched()
        assert buyer.send_v1(encoded(v1 | {"payload": in_second}))[0] == 200
        assert [row["asset"].rpartition(":")[2] for row in paid.rows()] == [token.lower()]
        assert buyer.send(swapped)[0] == 402
        assert (paid.balance(), paid.hits) == (PRICE, 1)


def checksum_of(text: str) -> str:
    return checksum(bytes.fromhex(text[2:]))


# What a 402 may weigh


@pytest.mark.parametrize("target", ["/api/item/" + "a" * 7_000, "/api/paid?q=" + "a" * 7_000])
def test_a_long_address_does_not_come_back_in_a_field_that_nobody_can_read(
    buyer: X402Buyer, target: str
):
    _, headers, _ = buyer.paid.ask(target)

    assert len(headers["payment-required"]) <= OFFER_CHARS_MAX
    assert buyer.send(buyer.v2(target), target)[0] == 200


def test_a_payer_that_is_refused_is_named_in_the_spelling_of_a_settlement(buyer: X402Buyer):
    key = fresh_key("penniless")
    response = buyer.send(buyer.v2(key=key))

    assert settled(response)["payer"] == checksum(bytes.fromhex(address(key)[2:]))


# What the buyer's words can do


WORDS = {
    "amount is a number": {"amount": PRICE},
    "amount has a zero in front": {"amount": "0" + str(PRICE)},
    "amount in other digits": {"amount": "\u0661\u0660\u0660\u0660\u0660"},
    "no amount": {"amount": None},
    "nested amount": {"amount": {"$gt": "0"}},
    "network in other letters": {"network": "EIP155:84532"},
    "network with a zero": {"network": "eip155:084532"},
    "network in other digits": {"network": "eip155:\u0668\u0664\u0665\u0663\u0662"},
    "scheme in other letters": {"scheme": "EXACT"},
}


@pytest.mark.parametrize("what", WORDS)
def test_an_offer_in_odd_words_is_taken_by_nobody(buyer: X402Buyer, what: str):
    document = decoded(buyer.v2())
    document["accepted"] |= WORDS[what]
    assert buyer.send(encoded(document))[0] in (400, 402)
    buyer.paid.untouched()


ODD = {"asset": (1, [], None, "0x", "x" * 3000), "payTo": (1, [], None, "0x", "\u0660" * 42)}


@pytest.mark.parametrize("member", ODD)
def test_addresses_that_are_none_are_a_400(buyer: X402Buyer, member: str):
    document = decoded(buyer.v2())
    for value in ODD[member]:
        odd = document | {"accepted": document["accepted"] | {member: value}}
        refused(buyer.send(encoded(odd)), "malformed-payment", 400)
    buyer.paid.untouched()


def test_a_member_that_is_there_twice_is_a_400(buyer: X402Buyer):
    import base64

    text = json.dumps(decoded(buyer.v2()))
    doubled = text.replace('"scheme": "exact"', '"scheme": "exact", "scheme": "exact"', 1)
    assert doubled != text
    refused(buyer.send(base64.b64encode(doubled.encode()).decode()), "malformed-payment", 400)
    buyer.paid.untouched()


def test_base64_of_either_alphabet_with_and_without_padding_is_one_payment(buyer: X402Buyer):
    first = buyer.v2()
    assert buyer.send(first.rstrip("=").replace("+", "-").replace("/", "_"))[0] == 200
    assert buyer.send(first)[0] == 402
    assert (buyer.paid.hits, buyer.paid.balance()) == (1, PRICE)


def test_a_payment_of_one_character_too_many_or_in_a_list_is_a_400(buyer: X402Buyer):
    payment = buyer.v2()
    for text in (payment + ", " + payment, payment + "A" * (16 * 1024 + 1 - len(payment))):
        assert buyer.send(text)[0] in (400, 431)
    buyer.paid.untouched()


N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_a_signature_in_a_form_that_the_token_refuses_buys_nothing(buyer: X402Buyer):
    document = decoded(buyer.v2())
    text = document["payload"]["signature"][2:]
    r, s, v = text[:64], int(text[64:128], 16), int(text[128:], 16)
    forms = {
        "high s": f"{r}{N - s:064x}{55 - v:02x}",
        "64 bytes": text[:128],
        "zero r": "0" * 64 + text[64:],
        "zero s": r + "0" * 64 + text[128:],
        "r beyond the group": "f" * 64 + text[64:],
        "v 29": text[:128] + "1d",
    }
    for form in forms.values():
        document["payload"]["signature"] = "0x" + form
        assert buyer.send(encoded(document))[0] in (400, 402)
    buyer.paid.untouched()


# Money back, streams, and a configuration that changes


REFUNDS = '\n      "GET /back": {charge: "0.01", settle: before, on_failure: refund}'


def test_what_failed_after_it_was_paid_by_x402_is_paid_back_to_its_payer_once(tmp_path: Path):
    with x402_gateway(tmp_path, routes=REFUNDS, pays_itself=True) as buyer:
        payment = buyer.v2("/api/back")
        buyer.paid.keeper.answers("500 Oops")
        assert buyer.send(payment, "/api/back")[0] == 502
        buyer.paid.reaches(refunded=1)
        buyer.paid.keeper.answers("200 OK")

        assert buyer.send(payment, "/api/back")[0] == 402
        assert (buyer.paid.purse(), buyer.paid.balance()) == (PURSE_MINOR, 0)
