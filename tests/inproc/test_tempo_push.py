"""Tempo, push: the buyer has paid before it asks; nobody else may say that it was for him."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.attribution import memo_of
from tests.support.anvil import PATH_USD, new_key
from tests.support.paid import receipt_of, refused
from tests.support.tempo import (
    PRICE,
    PURSE,
    TempoShop,
    later,
    moves,
    push,
    signed,
    source_of,
    tempo_shop,
)

CHALLENGE_S = 300
NOBODY = "0x" + "11" * 32


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TempoShop]:
    with tempo_shop(tmp_path) as shop:
        yield shop


def test_a_transfer_of_the_buyer_pays_and_is_named_in_the_receipt(shop: TempoShop):
    challenge = shop.challenge()
    tx_hash = shop.transfer(challenge)

    response = shop.send(push(challenge, shop.key, tx_hash))

    assert (response[0], receipt_of(response).reference) == (200, tx_hash)
    assert (shop.balance(), shop.hits, shop.states()) == (PRICE, 1, {"settled": 1})
    assert "eth_sendRawTransaction" not in shop.node.calls
    assert not shop.crashes()


def test_a_replayed_hash_buys_one_call_in_whatever_case(shop: TempoShop):
    challenge = shop.challenge()
    tx_hash = shop.transfer(challenge)

    assert shop.send(push(challenge, shop.key, tx_hash))[0] == 200
    for again in (tx_hash, "0x" + tx_hash[2:].upper()):
        refused(shop.send(push(challenge, shop.key, again)), "invalid-challenge")

    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_strangers_transfer_pays_for_nobody_else_and_still_pays_for_him(shop: TempoShop):
    """Whoever watches the chain sees every hash, and names it first, under any name (V11)."""
    thief, own = new_key(), shop.challenge()
    tx_hash = shop.transfer(own)

    for source in (source_of(thief), source_of(shop.key)):
        stolen = replace(push(shop.challenge(), thief, tx_hash), source=source)
        refused(shop.send(stolen), "verification-failed")
    assert shop.hits == 0

    assert shop.send(push(own, shop.key, tx_hash))[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_an_old_payment_of_the_buyer_pays_for_no_new_call(shop: TempoShop):
    first = shop.challenge()
    tx_hash = shop.transfer(first)
    assert shop.send(push(first, shop.key, tx_hash))[0] == 200

    refused(shop.send(push(shop.challenge(), shop.key, tx_hash)), "verification-failed")

    assert shop.hits == 1


def test_one_transaction_does_not_pay_for_two_challenges(shop: TempoShop):
    two = [shop.challenge(), shop.challenge()]
    both = (*moves(two[0], shop.key), *moves(two[1], shop.key))
    tx_hash = shop.broadcast(signed(shop.key, both))

    for challenge in two:
        refused(shop.send(push(challenge, shop.key, tx_hash)), "verification-failed")

    assert shop.hits == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_minor": PRICE - 1},
        {"amount_minor": PRICE + 1},
        {"recipient": b"\x42" * 20},
        {"memo": None},
        {"memo": b"\xab" * 32},
        {"memo": memo_of("other", "127.0.0.1")},
        {"memo": "another realm"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_transfer_that_is_not_this_payment_buys_nothing(shop: TempoShop, wrong):
    challenge = shop.challenge()
    if wrong == {"memo": "another realm"}:
        wrong = {"memo": memo_of(challenge.id, "evil.example")}

    refused(
        shop.send(push(challenge, shop.key, shop.transfer(challenge, **wrong))),
        "verification-failed",
    )

    assert (shop.hits, shop.states()) == (0, {"released": 1})


def test_a_transaction_that_failed_buys_nothing(shop: TempoShop):
    challenge = shop.challenge()
    tx_hash = shop.broadcast(signed(shop.key, moves(challenge, shop.key, amount_minor=2 * PURSE)))
    assert shop.anvil.receipt(tx_hash)["status"] == "0x0"

    refused(shop.send(push(challenge, shop.key, tx_hash)), "verification-failed")

    shop.untouched(released=1)


def test_a_hash_without_its_payer_is_refused_before_it_is_claimed(shop: TempoShop):
    good = push(shop.challenge(), shop.key, NOBODY)

    for source in (None, "", source_of(shop.key, 4217), "did:key:z"):
        refused(shop.send(replace(good, source=source)), "verification-failed")
    for tx_hash in (None, 7, "0x12", NOBODY[2:], NOBODY + "0"):
        payload = {"type": "hash", "hash": tx_hash}
        refused(shop.send(replace(good, payload=payload)), "invalid-payload")

    shop.untouched()


def test_a_hash_that_no_block_has_yet_asks_nobody_to_pay_again(shop: TempoShop):
    challenge = shop.challenge()
    transaction = signed(shop.key, moves(challenge, shop.key))
    credential = push(challenge, shop.key, transaction.tx_hash)

    refused(shop.send(credential), "settlement-unknown", 503)
    shop.broadcast(transaction)

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_payment_buys_its_own_route_and_no_other(shop: TempoShop):
    challenge = shop.challenge()
    credential = push(challenge, shop.key, shop.transfer(challenge))

    refused(shop.send(credential, "/api/dear"), "invalid-challenge")
    refused(shop.send(credential, "/api/paid?more=1"), "invalid-challenge")
    assert shop.send(credential)[0] == 200


def test_the_money_is_pathusd_and_what_the_payee_has_is_what_was_paid(shop: TempoShop):
    challenge = shop.challenge("/api/dear")

    assert challenge.request_object["currency"].lower() == "0x" + PATH_USD.hex()
    assert shop.send(push(challenge, shop.key, shop.transfer(challenge)), "/api/dear")[0] == 200
    assert shop.balance() == 90_000
    assert shop.anvil.balance(address_of(shop.key)) < PURSE - 90_000


def test_a_hash_is_refused_where_only_pull_is_offered(tmp_path: Path):
    with tempo_shop(tmp_path, method=", modes: [pull]") as shop:
        challenge = shop.challenge()

        refused(shop.send(push(challenge, shop.key, NOBODY)), "invalid-payload")

        shop.untouched()


@pytest.mark.parametrize("wait_s", [CHALLENGE_S - 20, CHALLENGE_S + 60], ids=["late", "too late"])
def test_who_has_paid_and_comes_late_has_its_call_once(shop: TempoShop, wait_s: int):
    challenge = shop.challenge()
    credential = push(challenge, shop.key, shop.transfer(challenge))
    later(shop, wait_s)

    assert shop.send(credential)[0] == 200
    assert shop.send(credential)[0] == 402
    assert (shop.balance(), shop.hits, shop.states()) == (PRICE, 1, {"settled": 1})


@pytest.mark.parametrize(
    ("wrong", "slug", "status"),
    [
        ({"memo": b"\xab" * 32}, "payment-expired", 402),
        ({"memo": memo_of("other", "127.0.0.1")}, "payment-expired", 402),
        ({"recipient": b"\x42" * 20}, "payment-expired", 402),
        ({"amount_minor": PRICE - 1}, "settlement-unknown", 503),
    ],
)
def test_what_is_no_payment_is_none_after_the_end_either(shop: TempoShop, wrong, slug, status):
    challenge = shop.challenge()
    credential = push(challenge, shop.key, shop.transfer(challenge, **wrong))
    later(shop, CHALLENGE_S + 60)

    refused(shop.send(credential), slug, status)

    assert shop.hits == 0


def test_a_strangers_transfer_is_nobody_elses_after_the_end_either(shop: TempoShop):
    own, thief = shop.challenge(), new_key()
    tx_hash = shop.transfer(own)
    stolen = push(shop.challenge(), thief, tx_hash)
    later(shop, CHALLENGE_S + 60)

    for source in (source_of(thief), source_of(shop.key)):
        refused(shop.send(replace(stolen, source=source)), "payment-expired")

    assert shop.send(push(own, shop.key, tx_hash))[0] == 200
    assert shop.hits == 1


@pytest.mark.parametrize("wait_s", [CHALLENGE_S - 2, CHALLENGE_S + 2], ids=["late", "too late"])
def test_who_has_paid_and_is_not_seen_yet_is_not_asked_to_pay_again(shop: TempoShop, wait_s: int):
    challenge = shop.challenge()
    credential = push(challenge, shop.key, shop.transfer(challenge))
    shop.node.faults["eth_getTransactionReceipt"] = "null"
    later(shop, wait_s)

    for _ in range(2):
        refused(shop.send(credential), "settlement-unknown", 503)
    shop.node.faults.clear()

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 1)
