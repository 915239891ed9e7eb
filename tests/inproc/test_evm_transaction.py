"""EVM, `transaction`: the gateway checks a signed transfer, and sends it when the call is good."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol import rlp
from mpp_gateway.protocol.evm_transaction import SignedTransaction
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.reading import GAS_MAX
from tests.support.evm import address
from tests.support.evm_buyer import BuyersShop, buyers_shop, later
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    at_once,
    fresh_key,
    receipt_of,
    refused,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 2"
SEND, RECEIPT = "eth_sendRawTransaction", "eth_getTransactionReceipt"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[BuyersShop]:
    with buyers_shop(tmp_path, "transaction", timeouts=QUICK) as shop:
        yield shop


def test_a_transaction_pays_its_exact_price_and_names_itself(shop: BuyersShop):
    challenge = shop.challenge()
    transaction = shop.signed(challenge)

    response = shop.send(shop.with_raw(challenge, transaction.raw))

    assert (response[0], response[2]) == (200, b'{"ok":true}')
    assert (shop.balance(), shop.purse()) == (PRICE, PURSE_MINOR - PRICE)
    assert (shop.hits, shop.states()) == (1, {"settled": 1})
    receipt = receipt_of(response)
    assert (receipt.method, receipt.reference) == ("evm", transaction.tx_hash)
    assert receipt.extra == {"chainId": shop.chain.demo.chain_id, "challengeId": challenge.id}
    assert challenge.request_object["methodDetails"]["credentialTypes"] == ["transaction"]
    assert not shop.crashes()


def test_a_replayed_transaction_buys_one_call_however_it_is_written(shop: BuyersShop):
    credential = shop.buy()
    text = credential.payload["signature"]
    shouted = replace(
        credential, payload=credential.payload | {"signature": "0x" + text[2:].upper()}
    )

    assert shop.send(credential)[0] == 200
    refused(shop.send(credential), "invalid-challenge")
    refused(shop.send(shouted), "invalid-challenge")

    assert (shop.balance(), shop.hits, len(shop.rows())) == (PRICE, 1, 1)


def test_ten_copies_at_once_run_the_upstream_once(shop: BuyersShop):
    credential = shop.buy()

    answers = at_once([lambda: shop.send(credential)] * 10)

    assert [status for status, *_ in answers].count(200) == 1
    assert (shop.balance(), shop.hits) == (PRICE, 1)
    assert shop.node.calls.count(SEND) == 1


def test_one_transaction_pays_for_one_challenge(shop: BuyersShop):
    """A plain transfer names no challenge: V10."""
    first, second = shop.challenge(), shop.challenge()
    raw = shop.signed(first).raw

    assert shop.send(shop.with_raw(first, raw))[0] == 200
    refused(shop.send(shop.with_raw(second, raw)), "invalid-challenge")

    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_ten_transactions_of_one_nonce_have_the_seller_work_once(shop: BuyersShop):
    """Only one of them is ever mined: the others would be calls of the upstream for nothing."""
    nonce = shop.nonce()
    credentials = [
        shop.pull(shop.challenge(), nonce=nonce, gas_limit=100_000 + n) for n in range(10)
    ]
    shop.keeper.opened.clear()

    def opened_late():
        try:
            return shop.send(credentials[0])
        finally:
            shop.keeper.opened.set()

    def others(credential):
        def send():
            answer = shop.send(credential)
            if answer[0] != 200:
                shop.keeper.opened.set()
            return answer

        return send

    answers = at_once([opened_late, *map(others, credentials[1:])])

    assert [status for status, *_ in answers].count(200) == 1
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_transaction_for_another_payment_is_refused_before_it_is_claimed(shop: BuyersShop):
    """Wrong amount, recipient, token, chain, call: V02, V03."""
    challenge = shop.challenge()
    payee = bytes.fromhex(shop.payee[2:])
    wrong = "verification-failed"
    dirty = b"\x01" + abi.transfer(payee, PRICE)[5:]
    cases = {
        "less": ({"amount_minor": PRICE - 1}, "payment-insufficient"),
        "more": ({"amount_minor": PRICE + 1}, wrong),
        "to a stranger": ({"recipient": b"\x42" * 20}, wrong),
        "another token": ({"to": b"\x43" * 20}, wrong),
        "another chain": ({"chain_id": 1}, wrong),
        "with money of the chain": ({"value": 1}, wrong),
        "another function": ({"data": abi.mint(payee, PRICE)}, wrong),
        "more data": ({"data": abi.transfer(payee, PRICE) + b"\0"}, wrong),
        "an unclean address": ({"data": abi.TRANSFER + dirty}, wrong),
        "no call": ({"data": b""}, wrong),
    }

    for name, (changes, slug) in cases.items():
        assert refused(shop.send(shop.pull(challenge, **changes)), slug), name

    shop.untouched()


def test_what_is_no_transaction_of_its_source_is_refused(shop: BuyersShop):
    good = shop.buy()
    raw = bytes.fromhex(good.payload["signature"][2:])
    fields = rlp.decode(raw[1:])
    assert isinstance(fields, list)

    def written(*items, kind=2):
        return "0x" + (bytes((kind,)) + rlp.encode(list(items))).hex()

    wrong = {
        "verification-failed": [
            replace(good, source=shop.source(fresh_key("stranger"))),
            replace(good, source=shop.source(chain_id=1)),
            replace(good, source="did:key:zAbc"),
            *(
                replace(good, payload={"type": "transaction", "signature": text})
                for text in (
                    "0x02c0",
                    written(*fields, kind=1),
                    written(*fields[:8], [[b"\1" * 20, []]], *fields[9:]),
                    written(*fields[:9], b"\2", *fields[10:]),
                    written(*fields[:10], b"\0" + fields[10], fields[11]),
                    "0x" + raw.hex() + "00",
                )
            ),
        ],
        "invalid-payload": [
            replace(good, payload=payload)
            for payload in (
                {"type": "transaction"},
                {"type": "transaction", "signature": 5},
                {"type": "transaction", "signature": "0x7"},
                {"type": "hash", "hash": "0x" + "11" * 32},
                {"type": "authorization"},
                {"type": ["transaction"]},
                {},
            )
        ],
    }

    for slug, credentials in wrong.items():
        for credential in credentials:
            refused(shop.send(credential), slug)

    shop.untouched()


@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        ({"nonce": 7}, "verification-failed"),
        ({"max_fee": 1, "max_priority_fee": 1}, "verification-failed"),
        ({"gas_limit": 30_000}, "verification-failed"),
        ({"max_fee": 10**20}, "payment-insufficient"),
    ],
)
def test_a_transaction_that_no_block_would_take_is_refused(shop: BuyersShop, changes, slug):
    refused(shop.send(shop.buy(**changes)), slug)

    shop.untouched(released=1)


@pytest.mark.parametrize(
    "changes", [{"gas_limit": GAS_MAX + 1}, {"gas_limit": 70_000_000}, {"max_priority_fee": 10**13}]
)
def test_what_no_block_has_room_for_never_reaches_the_upstream(shop: BuyersShop, changes):
    """Its signer has the money, keeps it, and could have the upstream work again and again."""
    refused(shop.send(shop.buy(**changes)), "verification-failed")

    shop.untouched()
    assert SEND not in shop.node.calls


def test_a_payer_without_the_money_is_refused(shop: BuyersShop):
    credential = shop.buy()
    challenge = shop.challenge()
    shop.transfer(challenge, recipient=b"\x77" * 20, amount_minor=PURSE_MINOR)

    refused(shop.send(shop.pull(challenge)), "payment-insufficient")
    refused(shop.send(credential), "verification-failed")  # its nonce is used

    assert (shop.hits, shop.balance()) == (0, 0)


def test_a_transaction_of_a_cheap_route_buys_no_dear_one(shop: BuyersShop):
    refused(shop.send(shop.buy(), "/api/dear"), "invalid-challenge")
    shop.untouched()


def test_a_transaction_of_an_expired_challenge_is_refused(shop: BuyersShop):
    credential = shop.buy()
    later(shop, 400)

    refused(shop.send(credential), "payment-expired")

    shop.untouched()


def test_what_stands_in_a_block_proves_nothing_about_who_shows_it(shop: BuyersShop):
    """Every block has signed transactions for anybody to copy, before and after the expiry."""
    challenge = shop.challenge()
    transaction = shop.signed(challenge)
    shop.broadcast(transaction)
    credential = shop.with_raw(challenge, transaction.raw)

    refused(shop.send(credential), "verification-failed")
    later(shop, 400)
    refused(shop.send(credential), "payment-expired")

    assert shop.hits == 0


def test_an_upstream_that_fails_leaves_the_money_and_the_credential_with_the_buyer(
    shop: BuyersShop,
):
    credential = shop.buy()
    shop.keeper.answers("503 Down")

    assert shop.send(credential)[0] == 503
    assert (shop.balance(), shop.states()) == (0, {"released": 1})
    assert SEND not in shop.node.calls
    shop.keeper.answers("200 OK")

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.states()) == (PRICE, {"settled": 1})


def test_a_credit_is_for_the_challenge_that_was_paid(shop: BuyersShop):
    """Whoever copies a mined transaction must not have the call that its buyer is owed."""
    challenge = shop.challenge("/api/first")
    transaction = shop.signed(challenge)
    credential = shop.with_raw(challenge, transaction.raw)
    shop.keeper.answers("503 Down")
    assert shop.send(credential, "/api/first")[0] == 502
    assert (shop.balance(), shop.states()) == (PRICE, {"credited": 1})
    shop.keeper.answers("200 OK")

    stolen = shop.with_raw(shop.challenge("/api/first"), transaction.raw)
    refused(shop.send(replace(stolen, source=None), "/api/first"), "invalid-challenge")
    assert shop.states() == {"credited": 1}

    assert shop.send(credential, "/api/first")[0] == 200
    assert (shop.balance(), shop.states()) == (PRICE, {"settled": 1})


@pytest.mark.parametrize("asked", [RECEIPT, "eth_call", "eth_getTransactionCount"])
@pytest.mark.parametrize("fault", ["500", "reset", "garbage", "error: busy"])
def test_a_node_that_is_down_takes_no_money_and_asks_for_none(shop: BuyersShop, asked, fault):
    credential = shop.buy()

    shop.node.faults[asked] = fault
    refused(shop.send(credential), "rail-unavailable", 503)
    assert (shop.balance(), shop.hits, shop.states()) == (0, 0, {"released": 1})
    shop.node.faults.clear()

    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


@pytest.mark.parametrize("fault", ["reset", "swallow", "error: insufficient funds"])
def test_what_may_have_been_sent_is_open_until_the_chain_shows_it(shop: BuyersShop, fault):
    challenge = shop.challenge()
    transaction = shop.signed(challenge)
    credential = shop.with_raw(challenge, transaction.raw)
    shop.node.faults[SEND] = fault

    refused(shop.send(credential), "settlement-unknown", 503)
    refused(shop.send(credential), "settlement-unknown", 503)
    assert (shop.balance(), shop.states(), shop.hits) == (0, {"unknown": 1}, 1)
    shop.node.faults.clear()
    shop.broadcast(transaction)

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.states()) == (PRICE, {"settled": 1})


def test_a_payment_whose_block_could_not_be_asked_for_is_found_after_a_restart(shop: BuyersShop):
    credential = shop.buy()

    def no_receipts() -> None:
        shop.node.faults[RECEIPT] = "500"

    shop.node.then[SEND] = no_receipts
    refused(shop.send(credential), "settlement-unknown", 503)
    assert (shop.balance(), shop.states()) == (PRICE, {"unknown": 1})
    shop.stop()
    shop.node.faults.clear()
    shop.start()

    shop.reaches(credited=1)
    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.node.calls.count(SEND)) == (PRICE, 1)


def test_a_transaction_that_its_payer_has_replaced_is_known_to_have_paid_nothing(shop: BuyersShop):
    challenge = shop.challenge()
    transaction = shop.signed(challenge)
    credential = shop.with_raw(challenge, transaction.raw)
    shop.node.faults[SEND] = "swallow"
    refused(shop.send(credential), "settlement-unknown", 503)
    shop.node.faults.clear()

    shop.transfer(challenge, recipient=b"\x99" * 20, nonce=transaction.unsigned.nonce)
    refused(shop.send(credential), "settlement-unknown", 503)  # a reorganisation may undo that
    for _ in range(32):
        shop.fund(fresh_key("block"))

    refused(shop.send(credential), "verification-failed")
    assert (shop.balance(), shop.states()) == (0, {"released": 1})


def test_gas_that_is_ours_to_pay_is_no_concern_of_a_buyer_that_pays_its_own(tmp_path: Path):
    with buyers_shop(
        tmp_path, "transaction", timeouts=QUICK, submit_more=', max_fee_gwei: "0.000000001"'
    ) as shop:
        assert shop.send(shop.buy())[0] == 200
        assert shop.balance() == PRICE


def test_a_transaction_has_one_hash_and_one_sender(shop: BuyersShop):
    transaction = shop.signed(shop.challenge())

    again = SignedTransaction.decode(transaction.raw)

    assert again == transaction
    assert again.sender == address_of(shop.key)
    assert address(shop.key).lower() == "0x" + again.sender.hex()
    assert transaction.raw.hex() not in repr(transaction)
