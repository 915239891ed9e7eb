"""`mpp-gateway ledger reconcile` on a real Tempo chain: every payment is found, and no other."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from mpp_gateway.rails.tempo.tip20 import Movement
from tests.process.test_ledger import asked, change, differences, ledger, on_terminal
from tests.support.anvil import address, anvil, new_key
from tests.support.paid import PRICE, receipt_of
from tests.support.tempo import PURSE, TempoShop, push, signed, tempo_shop, zero

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "GET /proof": {charge: "0"}
      "GET /theirs": {charge: "0.01", recipient: "THEM"}
"""
QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 4"
NOWHERE = "0x" + "ab" * 32


@contextmanager
def selling(folder: Path, **options: Any) -> Iterator[TempoShop]:
    # The chain is that of all tests: nobody else may be paid there.
    routes = ROUTES.replace("THEM", address(new_key()))
    with tempo_shop(folder, routes=routes, timeouts=QUICK, **options) as shop:
        shop.folder = folder
        yield shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TempoShop]:
    with selling(tmp_path) as shop:
        yield shop


def sell(shop: TempoShop, target: str = "/api/paid", **changes: Any) -> str:
    """Sell one call for a signed transaction; return the transaction."""
    answer = shop.send(shop.buy(target, **changes), target)
    assert answer[0] == 200
    return receipt_of(answer).reference


def compared(shop: TempoShop) -> dict[str, Any]:
    found = asked(shop, "reconcile")
    assert (found["agrees"], found["not_compared"]) == (True, [])
    (rail,) = found["compared"]
    return rail


def test_payments_of_every_form_are_found_and_a_proof_of_zero_moves_nothing(shop: TempoShop):
    challenge = shop.challenge()
    shop.send(push(challenge, shop.key, shop.transfer(challenge)))
    sell(shop)
    sell(shop, "/api/theirs")
    shop.send(zero(shop.challenge("/api/proof"), shop.key), "/api/proof")
    assert shop.states() == {"settled": 4}

    rail = compared(shop)

    assert (rail["rail"], rail["exchanges"], rail["found"]) == ("tempo", 4, 4)
    assert (rail["differences"], rail["other_transfers"]) == ([], 0)
    assert 0 <= rail["from_block"] <= rail["to_block"]


def test_a_payment_whose_fee_the_gateway_paid_is_found(tmp_path: Path):
    payer = new_key()
    anvil().fund(address_of(payer), PURSE)
    method = f', sponsor: {{private_key: "0x{payer.hex()}"}}'
    with selling(tmp_path, method=method) as shop:
        sell(shop, fee_token=None, is_sponsored=True)

        assert compared(shop)["found"] == 1


def test_shares_are_counted_with_their_payment_also_after_they_have_changed(tmp_path: Path):
    partner = address_of(new_key())
    share = f', splits: [{{recipient: "0x{partner.hex()}", percent: "2.5"}}]'
    with selling(tmp_path, method=share) as shop:
        tx_hash = sell(shop)
        assert shop.anvil.balance(partner) == PRICE // 40
        assert compared(shop)["found"] == 1

        shop.config = shop.config.replace(share, "")
        assert compared(shop)["found"] == 1

        change(shop, "UPDATE exchanges SET amount_minor = '9800'")
        assert differences(shop) == [("different", tx_hash)]


def test_a_transfer_for_a_challenge_that_was_never_presented_is_extra(shop: TempoShop):
    sell(shop)
    challenge = shop.challenge()
    tx_hash = shop.transfer(challenge)

    assert differences(shop) == [("extra", tx_hash)]
    text = on_terminal(shop, "reconcile", code=1, NO_COLOR="1")
    assert "\nextra  0.01  " in text
    assert "no exchange has this proof" in text
    # Presented after all, it is a sale.
    assert shop.send(push(challenge, shop.key, tx_hash))[0] == 200
    assert differences(shop, code=0) == []


def test_a_thief_who_names_a_transfer_first_does_not_hide_that_it_was_paid(shop: TempoShop):
    """His record is of the same transaction, and for another challenge than its memo says."""
    tx_hash = shop.transfer(shop.challenge())
    stolen = push(shop.challenge(), new_key(), tx_hash)
    assert shop.send(stolen)[0] == 402
    change(shop, "UPDATE exchanges SET state = 'settled', reference = ?", tx_hash)

    assert differences(shop) == [("extra", tx_hash), ("missing", tx_hash)]


def test_money_of_a_released_payment_is_found(shop: TempoShop):
    """The buyer paid, and the books say that nothing was charged."""
    shop.keeper.answers("500 Oops")
    credential = shop.buy()
    shop.send(credential)
    shop.reaches(released=1)

    # The buyer sends it himself: what was released is signed all the same.
    raw = bytes.fromhex(credential.payload["signature"][2:])
    tx_hash = shop.broadcast(TempoTransaction.decode(raw))

    assert differences(shop) == [("unrecorded", tx_hash)]


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE exchanges SET amount_minor = '5'", "different"),
        ("UPDATE exchanges SET payee = substr(payee, 1, length(payee) - 4) || 'abcd'", "different"),
        ("UPDATE exchanges SET proof_id = proof_id || 'x'", "missing"),
    ],
)
def test_a_payment_that_the_chain_has_otherwise_is_told(shop: TempoShop, statement: str, kind: str):
    tx_hash = sell(shop)
    change(shop, statement)

    found = differences(shop)

    # Under another name it is also money of which the books know nothing.
    extra = [("extra", tx_hash)] if kind == "missing" else []
    assert found == [*extra, (kind, tx_hash)]


def test_a_settled_payment_that_no_block_has_is_missing(shop: TempoShop):
    sell(shop)
    change(shop, "UPDATE exchanges SET reference = ?", NOWHERE)

    assert differences(shop) == [("missing", NOWHERE)]


def test_a_price_does_not_count_as_paid_by_the_word_zero(shop: TempoShop):
    """A settled row that names a challenge and no transaction, for money."""
    shop.send(zero(shop.challenge("/api/proof"), shop.key), "/api/proof")
    (row,) = shop.rows()
    change(shop, "UPDATE exchanges SET amount_minor = '10000'")

    assert differences(shop) == [("different", row["reference"])]


def test_transfers_by_no_challenge_are_counted_and_no_fault(shop: TempoShop):
    sell(shop)
    payee = bytes.fromhex(shop.payee[2:])
    shop.anvil.fund(payee, 5)
    noted = Movement(address_of(shop.key), payee, 7, b"an invoice".ljust(32))
    shop.broadcast(signed(shop.key, (noted,)))

    rail = compared(shop)

    assert (rail["found"], rail["other_transfers"]) == (1, 2)


def test_a_node_that_caps_the_range_is_asked_in_smaller_windows(shop: TempoShop):
    sell(shop)
    extra = shop.transfer(shop.challenge())
    shop.node.faults["eth_getLogs"] = "error: block range too large"

    done = ledger(shop, "reconcile")

    assert (done.code, done.err) == (7, "")
    assert "block range too large" in json.loads(done.out)["not_compared"][0]["reason"]
    assert shop.node.calls.count("eth_getLogs") == 3
    shop.node.faults.clear()
    assert differences(shop) == [("extra", extra)]


def test_a_node_that_does_not_answer_is_exit_code_7_and_no_verdict(shop: TempoShop):
    sell(shop)
    shop.node.faults["*"] = "reset"

    done = ledger(shop, "reconcile")

    found = json.loads(done.out)
    assert (done.code, done.err, found["agrees"], found["compared"]) == (7, "", False, [])
    (reason,) = found["not_compared"]
    assert (reason["rail"], reason["exchanges"]) == ("tempo", 1)
    assert reason["reason"].startswith("The node does not answer.")
    assert shop.node.url not in done.out


def test_a_node_of_another_chain_compares_nothing(shop: TempoShop):
    sell(shop)
    shop.node.lies["eth_chainId"] = lambda _: "0x1"

    done = ledger(shop, "reconcile")

    assert done.code == 7
    assert "the node at rpc_url says 1" in done.out
