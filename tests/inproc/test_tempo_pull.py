"""Tempo, pull: the gateway checks a signed transaction, and sends it when the call is good."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.attribution import memo_of
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from tests.support.anvil import CHAIN_ID, new_key
from tests.support.evm import now
from tests.support.paid import at_once, receipt_of, refused
from tests.support.tempo import (
    GAS,
    PRICE,
    PURSE,
    TempoShop,
    later,
    moves,
    pull,
    push,
    signed,
    source_of,
    tempo_shop,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 4"
"""Short enough for a transaction of 25 seconds to outlive the call: it is settled on success."""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TempoShop]:
    with tempo_shop(tmp_path, timeouts=QUICK) as shop:
        yield shop


def with_transaction(credential: Credential, shop: TempoShop, moved, **changes) -> Credential:
    raw = signed(shop.key, moved, **changes).raw
    payload = {"type": "transaction", "signature": "0x" + raw.hex()}
    return replace(credential, payload=payload)


def test_a_transaction_pays_its_exact_price_and_names_itself(shop: TempoShop):
    credential = shop.buy()

    response = shop.send(credential)

    assert (response[0], response[2]) == (200, b'{"ok":true}')
    assert (shop.balance(), shop.hits, shop.states()) == (PRICE, 1, {"settled": 1})
    receipt = receipt_of(response)
    assert (receipt.method, receipt.status) == ("tempo", "success")
    assert receipt.extra == {"chainId": CHAIN_ID, "challengeId": credential.challenge.id}
    assert shop.anvil.receipt(receipt.reference)["status"] == "0x1"
    assert not shop.crashes()


def test_a_transaction_shown_as_pull_and_as_push_is_one_payment(shop: TempoShop):
    credential = shop.buy()
    reference = receipt_of(shop.send(credential)).reference

    again = push(credential.challenge, shop.key, "0x" + reference[2:].upper())
    refused(shop.send(again), "invalid-challenge")

    assert (shop.balance(), shop.hits, len(shop.rows())) == (PRICE, 1, 1)


def test_two_transactions_for_one_challenge_buy_one_call(shop: TempoShop):
    challenge = shop.challenge()

    assert shop.send(pull(challenge, shop.key))[0] == 200
    refused(shop.send(pull(challenge, shop.key, gas_limit=GAS + 1)), "invalid-challenge")

    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_transaction_for_another_payment_is_refused_before_it_is_claimed(shop: TempoShop):
    """Wrong amount, recipient, memo, token, chain, nonce, end: V02, V03, V10, V11."""
    challenge = shop.challenge()
    good = pull(challenge, shop.key)
    (main,) = moves(challenge, shop.key)
    stranger = address_of(new_key())
    wrong = "verification-failed"
    cases = {
        "less": ((replace(main, amount_minor=PRICE - 1),), {}, "payment-insufficient"),
        "more": ((replace(main, amount_minor=PRICE + 1),), {}, wrong),
        "to a stranger": ((replace(main, recipient=stranger),), {}, wrong),
        "no memo": ((replace(main, memo=None),), {}, wrong),
        "a memo of nobody": ((replace(main, memo=b"\xab" * 32),), {}, wrong),
        "the memo of another challenge": (
            (replace(main, memo=memo_of("other", challenge.realm)),), {}, wrong),
        "the memo of another realm": (
            (replace(main, memo=memo_of(challenge.id, "evil.example")),), {}, wrong),
        "twice": ((main, main), {}, wrong),
        "with a transfer beside it": ((main, replace(main, recipient=stranger)), {}, wrong),
        "another token": ((main,), {"token": b"\x20\xc0" + b"\1" * 18}, wrong),
        "another chain": ((main,), {"chain_id": 4217}, wrong),
        "a nonce that ten transactions share": ((main,), {"nonce_key": 0}, wrong),
        "no end": ((main,), {"valid_before": None}, wrong),
        "an end in a year": ((main,), {"valid_before": now() + 10**7}, wrong),
        "a beginning to come": ((main,), {"valid_after": now() + 20}, wrong),
    }  # fmt: skip

    for name, (moved, changes, slug) in cases.items():
        answer = shop.send(with_transaction(good, shop, moved, **changes))
        assert refused(answer, slug), name

    shop.untouched()


def test_a_credential_of_somebody_else_or_no_transaction_is_refused(shop: TempoShop):
    good = shop.buy()
    wrong = {
        "verification-failed": [
            replace(good, source=source_of(new_key())),
            replace(good, source=source_of(shop.key, 4217)),
            replace(good, source="did:key:zAbc"),
            replace(good, payload={"type": "transaction", "signature": "0x76c0"}),
        ],
        "invalid-payload": [
            replace(good, payload={"type": "transaction"}),
            replace(good, payload={"type": "transaction", "signature": 5}),
            replace(good, payload={"type": "transaction", "signature": "0x7"}),
            replace(good, payload={"type": ["hash"]}),
            replace(good, payload={"type": "proof", "signature": "0x" + "11" * 65}),
            replace(good, payload={}),
        ],
    }

    for slug, credentials in wrong.items():
        for credential in credentials:
            refused(shop.send(credential), slug)

    shop.untouched()


def test_a_transaction_of_a_cheap_route_buys_no_dear_one(shop: TempoShop):
    refused(shop.send(shop.buy(), "/api/dear"), "invalid-challenge")
    shop.untouched()


def test_a_transaction_that_ran_out_is_refused(shop: TempoShop):
    credential = shop.buy(valid_before=now() - 1)

    refused(shop.send(credential), "verification-failed")

    shop.untouched(released=1)


def test_an_end_that_the_network_does_not_take_buys_nothing(shop: TempoShop):
    """The chain refuses an expiring nonce that is good for longer than 30 seconds."""
    refused(shop.send(shop.buy(valid_before=now() + 200)), "verification-failed")

    shop.untouched(released=1)


def test_an_empty_purse_buys_nothing(shop: TempoShop):
    key = new_key()
    shop.anvil.fund(address_of(key), PRICE)  # enough for the price, and not for the fee
    credential = pull(shop.challenge(), key)

    refused(shop.send(credential), "payment-insufficient")

    shop.untouched(released=1)


def test_a_purse_for_two_calls_does_not_run_three_at_once(tmp_path: Path):
    with tempo_shop(tmp_path, timeouts=QUICK) as shop:
        shop.key = new_key()
        fee_minor = 25_000
        shop.anvil.fund(address_of(shop.key), 2 * PRICE + fee_minor)
        credentials = [shop.buy() for _ in range(3)]
        shop.keeper.opened.clear()
        opener = shop.keeper.opened.set

        def send(credential):
            answer = shop.send(credential)
            if answer[0] == 402:
                opener()
            return answer[0]

        statuses = at_once([lambda c=c: send(c) for c in credentials])

        assert max(statuses) == 402
        assert shop.hits == 2


def test_an_upstream_that_fails_takes_no_money_and_nothing_is_sent(shop: TempoShop):
    shop.keeper.answers("500 No")
    credential = shop.buy()

    assert shop.send(credential)[0] == 500
    assert (shop.balance(), shop.states()) == (0, {"released": 1})
    assert "eth_sendRawTransaction" not in shop.node.calls

    shop.keeper.answers("200 OK")
    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_what_was_signed_is_in_no_store(shop: TempoShop):
    credential = shop.buy()
    shop.send(credential)
    shop.stop()

    kept = b"".join(path.read_bytes() for path in shop.store.parent.iterdir())
    assert bytes.fromhex(credential.payload["signature"][-130:]) not in kept
    assert credential.payload["signature"][-130:].encode() not in kept


def test_a_transaction_too_brief_for_the_upstream_is_settled_first(tmp_path: Path):
    """With the usual time for an upstream no transaction of 25 seconds would ever do."""
    with tempo_shop(tmp_path) as shop:
        shop.keeper.answers("500 No")
        credential = shop.buy()

        status, _, body = shop.send(credential)
        assert status == 502, body
        assert (shop.balance(), shop.states()) == (PRICE, {"credited": 1})

        shop.keeper.answers("200 OK")
        assert shop.send(credential)[0] == 200
        assert (shop.balance(), shop.states(), shop.hits) == (PRICE, {"settled": 1}, 2)
        assert shop.purse() < PURSE - PRICE


def test_a_transaction_that_the_buyer_sends_itself_is_not_paid_twice(shop: TempoShop):
    credential = shop.buy()
    raw = bytes.fromhex(credential.payload["signature"][2:])
    shop.broadcast(TempoTransaction.decode(raw))

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 1)
    assert "eth_sendRawTransaction" not in shop.node.calls


def test_splits_are_paid_in_the_same_transaction(tmp_path: Path):
    partner = new_key()
    share = f', splits: [{{recipient: "0x{address_of(partner).hex()}", percent: "2.5"}}]'
    with tempo_shop(tmp_path, timeouts=QUICK, method=share) as shop:
        challenge = shop.challenge()
        whole = moves(challenge, shop.key)
        assert [move.amount_minor for move in whole] == [9_750, 250]
        good = pull(challenge, shop.key)

        for moved in (whole[:1], (whole[0], replace(whole[1], amount_minor=249)), whole[1:]):
            status, *_ = shop.send(with_transaction(good, shop, moved))
            assert status == 402
        assert shop.send(with_transaction(good, shop, whole[::-1]))[0] == 200

        assert shop.balance() == 9_750
        assert shop.anvil.balance(address_of(partner)) == 250


def test_a_mode_that_is_not_offered_is_refused(tmp_path: Path):
    with tempo_shop(tmp_path, method=", modes: [push]") as shop:
        challenge = shop.challenge()
        assert challenge.request_object["methodDetails"]["supportedModes"] == ["push"]

        refused(shop.send(pull(challenge, shop.key)), "invalid-payload")

        shop.untouched()


def test_a_transaction_for_a_challenge_that_has_expired_is_not_sent(shop: TempoShop):
    credential = shop.buy(valid_before=now() + 900)
    later(shop, 301)

    refused(shop.send(credential), "payment-expired")

    shop.untouched()
    assert "eth_sendRawTransaction" not in shop.node.calls
