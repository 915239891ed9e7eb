"""Tempo, pull: a node that is down, slow, or loses answers. At most one price ever moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from tests.support.evm import now
from tests.support.paid import refused
from tests.support.tempo import PRICE, PURSE, TempoShop, moves, push, signed, tempo_shop

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 1"
SEND, RECEIPT = "eth_sendRawTransaction", "eth_getTransactionReceipt"
OVER_S = 1_000


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TempoShop]:
    with tempo_shop(tmp_path, timeouts=QUICK) as shop:
        yield shop


def let_time_pass(shop: TempoShop) -> None:
    """Let the node's blocks be of a time when no transaction of this test is good any more."""
    late = hex(now() + OVER_S)
    shop.node.lies["eth_getBlockByNumber"] = lambda block: block | {"timestamp": late}


UNSENT = ["reset", "swallow", "error: insufficient funds"]


@pytest.mark.parametrize("fault", UNSENT)
def test_what_may_have_been_sent_is_open_until_it_can_be_in_no_block(shop: TempoShop, fault):
    credential = shop.buy()
    shop.node.faults[SEND] = fault

    refused(shop.send(credential), "settlement-unknown", 503)
    refused(shop.send(credential), "settlement-unknown", 503)
    assert (shop.balance(), shop.states()) == (0, {"unknown": 1})

    let_time_pass(shop)
    refused(shop.send(credential), "settlement-unknown", 503)  # it is tried again, as before
    assert [after for _, after in shop.journal()].count("released") == 1
    assert shop.balance() == 0


def test_a_payment_whose_block_could_not_be_asked_for_is_found_and_not_made_twice(
    shop: TempoShop,
):
    credential = shop.buy()

    def no_receipts() -> None:
        shop.node.faults[RECEIPT] = "500"

    shop.node.then[SEND] = no_receipts
    refused(shop.send(credential), "settlement-unknown", 503)
    assert (shop.balance(), shop.states()) == (PRICE, {"unknown": 1})

    shop.node.faults.clear()
    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.states()) == (PRICE, {"settled": 1})
    assert shop.node.calls.count(SEND) == 1


def test_an_open_payment_is_ended_after_a_restart_with_no_buyer_at_hand(shop: TempoShop):
    credential = shop.buy()

    def no_receipts() -> None:
        shop.node.faults[RECEIPT] = "500"

    shop.node.then[SEND] = no_receipts
    refused(shop.send(credential), "settlement-unknown", 503)
    shop.stop()
    shop.node.faults.clear()
    shop.start()

    shop.reaches(credited=1)
    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_a_signature_that_was_released_is_never_sent(shop: TempoShop):
    shop.node.faults[SEND] = "swallow"
    refused(shop.send(shop.buy()), "settlement-unknown", 503)
    shop.stop()
    shop.node.faults.clear()
    let_time_pass(shop)
    shop.start()

    shop.reaches(released=1)
    assert shop.node.calls.count(SEND) == 1
    assert shop.balance() == 0


def test_money_that_is_gone_when_it_is_sent_buys_nothing(shop: TempoShop):
    credential, elsewhere = shop.buy(), shop.challenge("/api/dear")

    async def spend() -> None:
        # What is left covers a fee, and not the price.
        moved = moves(elsewhere, shop.key, recipient=b"\x77" * 20, amount_minor=PURSE - 11_000)
        shop.broadcast(signed(shop.key, moved, gas_limit=400_000))

    shop.keeper.before = spend
    answer = shop.send(credential)

    assert answer[0] in {402, 503}, answer
    assert shop.balance() == 0
    assert b'{"ok":true}' not in answer[2]


def test_a_buyer_that_paid_and_lost_its_answer_may_show_the_hash(shop: TempoShop):
    """A pull that was made and not served is the same payment when it is shown as a push."""
    credential = shop.buy()
    shop.keeper.answers("200 OK")
    shop.node.faults[SEND] = "reset"
    refused(shop.send(credential), "settlement-unknown", 503)
    raw = bytes.fromhex(credential.payload["signature"][2:])
    tx_hash = shop.broadcast(TempoTransaction.decode(raw))
    shop.node.faults.clear()

    assert shop.send(push(credential.challenge, shop.key, tx_hash))[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 2)
    refused(shop.send(credential), "invalid-challenge")
