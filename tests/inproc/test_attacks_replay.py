"""One payment buys one call: replays, copies, and credentials carried to another request."""

from collections import Counter
from dataclasses import replace

import pytest

from mpp_gateway.protocol.challenge import Challenge
from tests.support.evm import address
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    at_once,
    fresh_key,
    paid_gateway,
    receipt_of,
    refused,
    resigned,
)

OTHER_SERVICE = """
  other:
    base_url: http://127.0.0.1:1
    auth: {bearer: another-secret}
    routes: {"GET /paid": {charge: "0.01"}}
"""


def test_a_settled_payment_is_refused_the_second_time_with_a_fresh_challenge(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        first = gateway.challenge()
        credential = gateway.sign(first)
        assert gateway.send(credential)[0] == 200
        again = gateway.send(credential)
        refused(again, "invalid-challenge")
        fresh = Challenge.parse(again[1]["www-authenticate"])
        assert fresh.id != first.id
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


def test_a_settled_payment_is_refused_when_its_text_is_written_otherwise(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        assert gateway.send(credential)[0] == 200
        payload = dict(credential.payload)
        upper = {k: "0x" + v[2:].upper() if v.startswith("0x") else v for k, v in payload.items()}
        lower = {k: v.lower() if v.startswith("0x") else v for k, v in payload.items()}
        padded = payload | {"value": "000" + payload["value"]}
        for other in (upper, lower, padded):
            refused(gateway.send(replace(credential, payload=other)), "invalid-challenge")
        text = credential.format().replace("Payment ", "payment   ") + "=="
        assert gateway.send(text)[0] == 402
        assert (gateway.hits, gateway.balance()) == (1, PRICE)


def test_a_second_signature_under_the_same_nonce_is_no_second_payment(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        assert gateway.send(credential)[0] == 200
        longer = int(credential.payload["validBefore"]) + 60
        refused(gateway.send(gateway.resign(credential, valid_before=longer)), "invalid-challenge")
        assert (gateway.hits, gateway.balance()) == (1, PRICE)


def test_twenty_copies_at_once_reach_the_upstream_once_and_are_charged_once(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        answers = at_once([lambda: gateway.send(credential)] * 20)
        statuses = Counter(answer[0] for answer in answers)
        assert statuses.pop(200) == 1
        assert set(statuses) <= {409, 402}
        for answer in answers:
            if answer[0] == 402:
                refused(answer, "invalid-challenge")
            if answer[0] == 409:
                refused(answer, "payment-in-progress", 409)
                assert answer[1]["retry-after"]
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})
        assert gateway.purse() == PURSE_MINOR - PRICE


def test_one_challenge_is_paid_once_though_its_nonce_has_two_forms(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        challenge = gateway.challenge()
        assert gateway.send(gateway.sign(challenge, nonce_form="packed"))[0] == 200
        refused(gateway.send(gateway.sign(challenge, nonce_form="json")), "invalid-challenge")
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


def test_one_challenge_is_paid_once_though_two_buyers_show_it(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        challenge, other = gateway.challenge(), fresh_key("other")
        gateway.chain.run(gateway.chain.demo.mint(address(other), PURSE_MINOR))
        assert gateway.send(gateway.sign(challenge))[0] == 200
        refused(gateway.send(gateway.sign(challenge, key=other)), "invalid-challenge")
        assert (gateway.hits, gateway.balance()) == (1, PRICE)


def test_a_challenge_that_a_penniless_stranger_showed_first_can_still_be_paid(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        challenge = gateway.challenge()
        stranger = gateway.sign(challenge, key=fresh_key("stranger"))
        refused(gateway.send(stranger), "payment-insufficient")
        assert gateway.send(gateway.sign(challenge))[0] == 200
        refused(gateway.send(stranger), "invalid-challenge")
        assert (gateway.hits, gateway.balance()) == (1, PRICE)
        assert gateway.states() == {"settled": 1, "released": 1}


@pytest.mark.parametrize(
    ("bought", "shown"),
    [
        (("GET", "/api/paid"), ("GET", "/api/dear")),
        (("GET", "/api/paid"), ("POST", "/api/paid")),
        (("POST", "/api/paid"), ("GET", "/api/paid")),
        (("GET", "/api/paid"), ("HEAD", "/api/paid")),
        (("HEAD", "/api/paid"), ("GET", "/api/paid")),
        (("GET", "/api/paid?a=1"), ("GET", "/api/paid?a=2")),
        (("GET", "/api/paid?a=1"), ("GET", "/api/paid")),
        (("GET", "/api/paid"), ("GET", "/api/paid?")),
        (("GET", "/api/paid?"), ("GET", "/api/paid")),
        (("GET", "/api/item/1"), ("GET", "/api/item/2")),
        (("GET", "/api/paid"), ("GET", "/other/paid")),
        (("GET", "/api/first"), ("GET", "/api/first2")),
    ],
    ids=" ".join,
)
def test_a_credential_of_one_request_buys_no_other(tmp_path, bought, shown):
    with paid_gateway(tmp_path, services=OTHER_SERVICE) as gateway:
        method, target = bought
        status, headers, _ = gateway.ask(target, method=method)
        assert status == 402
        credential = gateway.sign(Challenge.parse(headers["www-authenticate"]))
        method, target = shown
        answer = gateway.send(credential, target, method=method)
        if method == "HEAD":
            assert answer[0] == 402
            assert "www-authenticate" in answer[1]
        else:
            refused(answer, "invalid-challenge")
        gateway.untouched()


def test_a_body_that_was_not_paid_for_is_refused_on_a_route_that_binds_it(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy("/api/bound", method="POST", body=b"cheap")
        for body in (b"dear", b"", b"cheap "):
            answer = gateway.send(credential, "/api/bound", method="POST", body=body)
            refused(answer, "invalid-challenge")
        gateway.untouched()
        answer = gateway.send(credential, "/api/bound", method="POST", body=b"cheap")
        assert (answer[0], gateway.upstream.seen[0].body) == (200, b"cheap")
        assert gateway.balance() == PRICE


def test_a_challenge_without_a_digest_buys_nothing_on_a_route_that_binds_the_body(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        bound = gateway.challenge("/api/bound", method="POST", body=b"x")
        loose = gateway.challenge("/api/paid", method="POST", body=b"x")
        assert bound.digest
        assert not loose.digest
        for challenge in (replace(bound, digest=None), replace(loose, digest=bound.digest), loose):
            credential = gateway.sign(challenge)
            answer = gateway.send(credential, "/api/bound", method="POST", body=b"x")
            refused(answer, "invalid-challenge")
        gateway.untouched()


def test_a_signature_for_another_challenge_pays_for_none(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        first, second = gateway.buy(), gateway.challenge()
        refused(gateway.send(replace(first, challenge=second)), "verification-failed")
        gateway.untouched()


def test_the_receipt_of_a_payment_names_its_own_transaction(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        receipts = [receipt_of(gateway.send(gateway.buy())) for _ in range(3)]
        assert len({receipt.reference for receipt in receipts}) == 3
        assert gateway.balance() == 3 * PRICE


def test_a_resigned_copy_pays_only_what_its_own_key_has(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential, thief = gateway.buy(), fresh_key("thief")
        stolen = resigned(gateway.chain.demo, credential, thief)
        refused(gateway.send(stolen), "verification-failed")
        gateway.untouched()
