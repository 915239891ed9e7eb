"""EVM, `hash`: the buyer has paid before it asks; one transfer buys one call."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.evm import now
from tests.support.evm_buyer import BuyersShop, buyers_shop, later
from tests.support.paid import PRICE, PURSE_MINOR, at_once, fresh_key, receipt_of, refused

NOBODY = "0x" + "11" * 32
CHALLENGE_S = 300
RECEIPT = "eth_getTransactionReceipt"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[BuyersShop]:
    with buyers_shop(tmp_path, "transaction, hash") as shop:
        yield shop


def test_a_transfer_of_the_buyer_pays_and_is_named_in_the_receipt(shop: BuyersShop):
    challenge = shop.challenge()
    tx_hash = shop.transfer(challenge)

    response = shop.send(shop.push(challenge, tx_hash))

    assert (response[0], receipt_of(response).reference) == (200, tx_hash)
    assert (shop.balance(), shop.purse()) == (PRICE, PURSE_MINOR - PRICE)
    assert (shop.hits, shop.states()) == (1, {"settled": 1})
    assert "eth_sendRawTransaction" not in shop.node.calls
    assert not shop.crashes()


def test_a_replayed_hash_buys_one_call_in_whatever_case(shop: BuyersShop):
    challenge = shop.challenge()
    tx_hash = shop.transfer(challenge)

    assert shop.send(shop.push(challenge, tx_hash))[0] == 200
    for again in (tx_hash, "0x" + tx_hash[2:].upper()):
        refused(shop.send(shop.push(challenge, again)), "invalid-challenge")
        refused(shop.send(shop.push(shop.challenge(), again)), "invalid-challenge")

    assert (shop.balance(), shop.hits, len(shop.rows())) == (PRICE, 1, 1)


def test_ten_challenges_for_one_hash_at_once_run_the_upstream_once(shop: BuyersShop):
    challenges = [shop.challenge() for _ in range(10)]
    tx_hash = shop.transfer(challenges[0])

    answers = at_once([lambda c=c: shop.send(shop.push(c, tx_hash)) for c in challenges])

    assert [status for status, *_ in answers].count(200) == 1
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_transaction_shown_as_transaction_and_as_hash_is_one_payment(shop: BuyersShop):
    challenge = shop.challenge()
    transaction = shop.signed(challenge)
    assert shop.send(shop.with_raw(challenge, transaction.raw))[0] == 200

    refused(shop.send(shop.push(challenge, transaction.tx_hash)), "invalid-challenge")
    refused(shop.send(shop.push(shop.challenge(), transaction.tx_hash)), "invalid-challenge")

    assert (shop.balance(), shop.hits, len(shop.rows())) == (PRICE, 1, 1)


def test_a_transfer_pays_for_its_sender_alone(shop: BuyersShop):
    thief, challenge = fresh_key("thief"), shop.challenge()
    tx_hash = shop.transfer(challenge)

    refused(shop.send(shop.push(shop.challenge(), tx_hash, thief)), "verification-failed")
    assert shop.hits == 0

    assert shop.send(shop.push(challenge, tx_hash))[0] == 200


def test_what_was_paid_before_the_price_was_asked_for_buys_nothing(shop: BuyersShop):
    """Else every transfer that the payee ever got would buy a call, once."""
    tx_hash = shop.transfer(shop.challenge())
    later(shop, 60)

    refused(shop.send(shop.push(shop.challenge(), tx_hash)), "verification-failed")
    later(shop, 60 + CHALLENGE_S + 60)
    late = shop.push(shop.challenge(), tx_hash)
    later(shop, 60 + 2 * CHALLENGE_S + 120)
    refused(shop.send(late), "payment-expired")

    assert shop.hits == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_minor": PRICE - 1},
        {"amount_minor": PRICE + 1},
        {"recipient": b"\x42" * 20},
    ],
)
def test_a_transfer_that_is_not_this_payment_buys_nothing(shop: BuyersShop, wrong):
    challenge = shop.challenge()
    credential = shop.push(challenge, shop.transfer(challenge, **wrong))

    refused(shop.send(credential), "verification-failed")
    later(shop, CHALLENGE_S + 60)
    refused(shop.send(credential), "payment-expired")

    assert (shop.hits, shop.states()) == (0, {"released": 1})


def test_a_transaction_that_failed_or_moved_another_token_buys_nothing(shop: BuyersShop):
    for changes in ({"amount_minor": 2 * PURSE_MINOR}, {"to": b"\x43" * 20}):
        challenge = shop.challenge()
        tx_hash = shop.transfer(challenge, **changes)
        refused(shop.send(shop.push(challenge, tx_hash)), "verification-failed")

    assert (shop.hits, shop.balance()) == (0, 0)


def test_a_hash_without_its_payer_is_refused_before_it_is_claimed(shop: BuyersShop):
    good = shop.push(shop.challenge(), NOBODY)

    for source in (None, "", shop.source(chain_id=1), "did:key:z"):
        refused(shop.send(replace(good, source=source)), "verification-failed")
    for tx_hash in (None, 7, "0x12", NOBODY[2:], NOBODY + "0"):
        payload = {"type": "hash", "hash": tx_hash}
        refused(shop.send(replace(good, payload=payload)), "invalid-payload")

    shop.untouched()


def test_a_hash_that_no_block_has_yet_asks_nobody_to_pay_again(shop: BuyersShop):
    challenge = shop.challenge()
    transaction = shop.signed(challenge)
    credential = shop.push(challenge, transaction.tx_hash)

    refused(shop.send(credential), "settlement-unknown", 503)
    shop.broadcast(transaction)

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_hash_that_no_block_will_have_is_refused_in_the_end(shop: BuyersShop):
    credential = shop.push(shop.challenge(), NOBODY)
    late = hex(now() + CHALLENGE_S + 60)
    shop.node.lies["eth_getBlockByNumber"] = lambda block: block | {"timestamp": late}

    refused(shop.send(credential), "verification-failed")

    shop.untouched(released=1)


@pytest.mark.parametrize("fault", ["500", "garbage", "shape", "reset", "error: busy"])
def test_a_node_that_is_down_asks_nobody_to_pay_again(shop: BuyersShop, fault: str):
    challenge = shop.challenge()
    credential = shop.push(challenge, shop.transfer(challenge))

    shop.node.faults[RECEIPT] = fault
    refused(shop.send(credential), "settlement-unknown", 503)
    shop.node.faults.clear()

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_who_has_paid_keeps_a_credit_when_the_upstream_fails(shop: BuyersShop):
    challenge = shop.challenge()
    credential = shop.push(challenge, shop.transfer(challenge))
    shop.keeper.answers("503 Down")

    assert shop.send(credential)[0] == 502
    assert (shop.balance(), shop.states()) == (PRICE, {"credited": 1})
    shop.keeper.answers("200 OK")
    stolen = replace(credential, challenge=shop.challenge())
    refused(shop.send(stolen), "invalid-challenge")

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.states(), shop.hits) == (PRICE, {"settled": 1}, 2)


def test_a_payment_buys_its_own_route_and_no_other(shop: BuyersShop):
    challenge = shop.challenge()
    credential = shop.push(challenge, shop.transfer(challenge))

    refused(shop.send(credential, "/api/dear"), "invalid-challenge")
    refused(shop.send(credential, "/api/paid?more=1"), "invalid-challenge")
    assert shop.send(credential)[0] == 200


@pytest.mark.parametrize("wait_s", [CHALLENGE_S - 20, CHALLENGE_S + 60], ids=["late", "too late"])
def test_who_has_paid_and_comes_late_has_its_call_once(shop: BuyersShop, wait_s: int):
    challenge = shop.challenge()
    credential = shop.push(challenge, shop.transfer(challenge))
    later(shop, wait_s)

    assert shop.send(credential)[0] == 200
    assert shop.send(credential)[0] == 402
    assert (shop.balance(), shop.hits, shop.states()) == (PRICE, 1, {"settled": 1})


def test_depth_is_waited_for_without_asking_for_more_money(tmp_path: Path):
    with buyers_shop(tmp_path, "hash, authorization") as shop:
        shop.stop()
        shop.start(shop.config.replace("credential_types", "confirmations: 3, credential_types"))
        challenge = shop.challenge()
        credential = shop.push(challenge, shop.transfer(challenge))

        refused(shop.send(credential), "settlement-unknown", 503)
        shop.fund(fresh_key("block"))
        shop.fund(fresh_key("block"))

        assert shop.send(credential)[0] == 200
        assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_route_takes_each_type_that_it_lists(tmp_path: Path):
    with buyers_shop(tmp_path, "authorization, transaction") as shop:
        signature = shop.sign(shop.challenge())
        assert shop.send(signature)[0] == 200
        assert shop.send(shop.buy())[0] == 200
        refused(shop.send(shop.push(shop.challenge(), NOBODY)), "invalid-payload")

        assert (shop.balance(), shop.states()) == (2 * PRICE, {"settled": 2})


@pytest.mark.parametrize("wait_s", [CHALLENGE_S - 20, CHALLENGE_S + 2, CHALLENGE_S + 3600])
def test_who_has_paid_and_waits_for_blocks_is_never_asked_to_pay_again(tmp_path: Path, wait_s: int):
    """Blocks may take longer than a challenge lives: money that is seen is waited for."""
    with buyers_shop(tmp_path, "transaction, hash", method_more=", confirmations: 5") as shop:
        challenge = shop.challenge()
        credential = shop.push(challenge, shop.transfer(challenge))
        for _ in range(2):
            later(shop, wait_s)
            refused(shop.send(credential), "settlement-unknown", 503)
        for _ in range(5):
            shop.chain.run(shop.chain.demo.run(lambda node: node.mine_empty()))

        assert shop.send(credential)[0] == 200
        assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_hash_that_was_made_up_is_refused_once_its_time_is_over(shop: BuyersShop):
    challenge = shop.challenge()
    credential = shop.push(challenge, NOBODY)
    refused(shop.send(credential), "settlement-unknown", 503)
    later(shop, CHALLENGE_S + 60)
    refused(shop.send(credential), "settlement-unknown", 503)  # by the chain's clock it is early

    shop.node.lies["eth_getBlockByNumber"] = lambda block: (
        block | {"timestamp": hex(now() + CHALLENGE_S + 60)}
    )
    refused(shop.send(credential), "payment-expired")
    assert shop.hits == 0
