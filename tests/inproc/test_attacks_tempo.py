"""Transactions on Tempo that look like payments and are none: who signs them pays for no work."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol import attribution
from mpp_gateway.rails.jsonrpc import MESSAGE_MAX, RpcRefused
from mpp_gateway.rails.tempo.reading import GAS_MAX
from tests.support.anvil import anvil, new_key
from tests.support.evm import asking, now
from tests.support.paid import Response, refused
from tests.support.tempo import (
    MAX_FEE_WEI,
    PRICE,
    PURSE,
    TempoShop,
    moves,
    pull,
    push,
    signed,
    tempo_shop,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 4"
"""Settled on success: the upstream works before any money has moved."""
SEND, RECEIPT = "eth_sendRawTransaction", "eth_getTransactionReceipt"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TempoShop]:
    with tempo_shop(tmp_path, timeouts=QUICK) as shop:
        yield shop


def test_a_transaction_that_no_block_takes_for_its_fee_never_reaches_the_upstream(shop: TempoShop):
    """Its signer pays nothing, ever, and could have the upstream work all day long."""
    base_fee_wei = MAX_FEE_WEI + 1
    shop.node.lies.update(asking(base_fee_wei))  # it falls from block to block while nobody buys
    fees = [
        {"max_fee": 0, "max_priority_fee": 0},
        {"max_fee": 1},
        {"max_fee": base_fee_wei - 1},
    ]

    for changes in fees:
        refused(shop.send(shop.buy(**changes)), "verification-failed")

    shop.untouched(released=len(fees))
    assert SEND not in shop.node.calls


@pytest.mark.parametrize("gas", [21_000, 100_000, 250_000])
def test_a_transaction_with_too_little_gas_never_reaches_the_upstream(shop: TempoShop, gas: int):
    refused(shop.send(shop.buy(gas_limit=gas)), "verification-failed")

    shop.untouched(released=1)
    assert SEND not in shop.node.calls


@pytest.mark.parametrize("gas", [GAS_MAX + 1, 31_000_000, 2**63])
def test_a_transaction_with_more_gas_than_any_block_has_never_reaches_the_upstream(
    shop: TempoShop, gas: int
):
    """Its signer has the money, keeps it, and could have the upstream work all day long."""
    shop.anvil.fund(address_of(shop.key), 100 * PURSE)

    refused(shop.send(shop.buy(gas_limit=gas)), "verification-failed")

    shop.untouched()
    assert SEND not in shop.node.calls


def test_a_sponsored_transaction_that_no_block_takes_for_its_tip_is_not_signed(tmp_path: Path):
    """Each would have had the upstream work, and kept a fee set aside that others need."""
    sponsor = new_key()
    anvil().fund(address_of(sponsor), PURSE)
    method = f', sponsor: {{private_key: "0x{sponsor.hex()}"}}'
    with tempo_shop(tmp_path, timeouts=QUICK, method=method) as shop:
        left = {"fee_token": None, "is_sponsored": True, "max_priority_fee": MAX_FEE_WEI + 1}

        refused(shop.send(shop.buy(**left)), "verification-failed")

        shop.untouched()
        assert SEND not in shop.node.calls


def test_a_batch_whose_gas_is_enough_for_each_of_its_transfers_buys_nothing(tmp_path: Path):
    """Each of them would succeed alone, and that is all that a node can be asked."""
    partner = new_key()
    share = f', splits: [{{recipient: "0x{address_of(partner).hex()}", percent: "2.5"}}]'
    with tempo_shop(tmp_path, timeouts=QUICK, method=share) as shop:
        refused(shop.send(shop.buy(gas_limit=300_000)), "verification-failed")
        assert (shop.hits, shop.balance(), shop.states()) == (0, 0, {"released": 1})
        assert shop.purse() < PURSE  # the gas is gone all the same

        credential = shop.buy()
        shop.keeper.answers("500 No")
        assert shop.send(credential)[0] == 502
        assert shop.states() == {"released": 1, "credited": 1}
        shop.keeper.answers("200 OK")
        assert shop.send(credential)[0] == 200
        share_minor = PRICE * 25 // 1000
        assert (shop.balance(), shop.anvil.balance(address_of(partner))) == (
            PRICE - share_minor,
            share_minor,
        )


def test_one_share_is_not_counted_for_two_routes_that_pay_different_sellers(tmp_path: Path):
    """Where the share is most of the price, the second call would have cost next to nothing."""
    partner, other = address_of(new_key()), address_of(new_key())
    share = f', splits: [{{recipient: "0x{partner.hex()}", percent: "90"}}]'
    routes = f"""
      "GET /paid": {{charge: "0.01"}}
      "GET /other": {{charge: "0.01", recipient: "0x{other.hex()}"}}
"""
    with tempo_shop(tmp_path, timeouts=QUICK, method=share, routes=routes) as shop:
        challenges = {path: shop.challenge(path) for path in ("/api/paid", "/api/other")}
        (main, shared), (second, _) = (moves(c, shop.key) for c in challenges.values())
        tx_hash = shop.broadcast(signed(shop.key, (main, second, shared)))

        for path, challenge in challenges.items():
            refused(shop.send(push(challenge, shop.key, tx_hash), path), "verification-failed")

        assert shop.hits == 0
        for path in challenges:
            challenge = shop.challenge(path)
            assert shop.send(push(challenge, shop.key, shop.transfer(challenge)), path)[0] == 200


def test_a_share_that_pays_for_a_call_of_the_partners_own_is_no_share(tmp_path: Path):
    """Here it would be the share of one call, and at the partner's gateway the price of another."""
    partner = address_of(new_key())
    share = f', splits: [{{recipient: "0x{partner.hex()}", percent: "90"}}]'
    elsewhere = attribution.memo_of("a challenge of the partner's", "partner.example")
    with tempo_shop(tmp_path, timeouts=QUICK, method=share) as shop:
        for is_sent in (False, True):
            challenge = shop.challenge()
            main, shared = moves(challenge, shop.key)
            transaction = signed(shop.key, (main, replace(shared, memo=elsewhere)))
            payment = pull(challenge, shop.key)
            if is_sent:
                payment = push(challenge, shop.key, shop.broadcast(transaction))
            else:
                raw = {"type": "transaction", "signature": "0x" + transaction.raw.hex()}
                payment = replace(payment, payload=raw)

            refused(shop.send(payment), "verification-failed")

        assert shop.hits == 0


def test_what_a_node_repeats_of_a_signed_transaction_is_told_to_nobody(shop: TempoShop):
    raw = shop.buy().payload["signature"]
    shop.node.faults["eth_chainId"] = f"error: cannot take {raw} now " + "at all " * 1000

    async def ask() -> str:
        with pytest.raises(RpcRefused) as refused_by_node:
            await shop.proxy.runtime.serving.rails["tempo"]._node.chain_id()
        return str(refused_by_node.value)

    said = shop.proxy.call(ask)

    assert said.startswith("cannot take 0x... now at all")
    assert len(said) == MESSAGE_MAX


def test_a_receipt_that_is_none_does_not_release_what_was_paid(shop: TempoShop):
    """Taken for "in no block", it would have the buyer told that nothing was charged."""
    credential = shop.buy()

    def no_receipts() -> None:
        shop.node.faults[RECEIPT] = "shape"

    shop.node.then[SEND] = no_receipts
    refused(shop.send(credential), "settlement-unknown", 503)
    late = hex(now() + 1_000)
    shop.node.lies["eth_getBlockByNumber"] = lambda block: block | {"timestamp": late}

    refused(shop.send(credential), "settlement-unknown", 503)
    assert (shop.balance(), shop.states()) == (PRICE, {"unknown": 1})
    assert "released" not in [after for _, after in shop.journal()]

    shop.node.faults.clear()
    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.states()) == (PRICE, {"settled": 1})


def test_who_has_a_sponsored_transaction_fail_spends_one_fee_of_the_sellers(tmp_path: Path):
    """It keeps its money each time, and the seller would pay for gas all day long."""
    sponsor, partner = new_key(), address_of(new_key())
    anvil().fund(address_of(sponsor), PURSE)
    method = (
        f', sponsor: {{private_key: "0x{sponsor.hex()}"}},'
        f' splits: [{{recipient: "0x{partner.hex()}", percent: "2.5"}}]'
    )
    with tempo_shop(tmp_path, timeouts=QUICK, method=method) as shop:

        def left(gas: int) -> Response:
            changes = {"fee_token": None, "is_sponsored": True, "gas_limit": gas}
            return shop.send(pull(shop.challenge(), shop.key, **changes))

        refused(left(400_000), "verification-failed")  # enough for each transfer, not for both
        spent = PURSE - shop.anvil.balance(address_of(sponsor))
        assert 0 < spent < PRICE

        for _ in range(3):
            document = refused(left(400_000), "verification-failed")
            assert "fee" in document["detail"]
        refused(left(1_000_000), "verification-failed")
        assert PURSE - shop.anvil.balance(address_of(sponsor)) == spent
        assert (shop.hits, shop.balance()) == (0, 0)

        assert shop.send(shop.buy())[0] == 200  # it pays its fee itself
        shop.key = new_key()
        shop.anvil.fund(address_of(shop.key), PRICE)
        assert left(1_000_000)[0] == 200  # and others are sponsored as before


def test_a_sponsored_transaction_that_is_seen_to_have_failed_late_costs_one_fee(tmp_path: Path):
    """Whose failure hides behind a slow node would cost a fee each time."""
    sponsor, partner = new_key(), address_of(new_key())
    anvil().fund(address_of(sponsor), PURSE)
    method = (
        f', sponsor: {{private_key: "0x{sponsor.hex()}"}},'
        f' splits: [{{recipient: "0x{partner.hex()}", percent: "2.5"}}]'
    )
    with tempo_shop(
        tmp_path, timeouts=QUICK.replace("settle_s: 4", "settle_s: 1"), method=method
    ) as shop:
        changes = {"fee_token": None, "is_sponsored": True, "gas_limit": 400_000}
        credential = pull(shop.challenge(), shop.key, **changes)
        shop.node.faults["eth_getTransactionReceipt"] = "null"
        refused(shop.send(credential), "settlement-unknown", 503)
        shop.node.faults.clear()
        refused(shop.send(credential), "verification-failed")
        spent = PURSE - shop.anvil.balance(address_of(sponsor))

        again = shop.send(pull(shop.challenge(), shop.key, **changes))

        assert "fee" in refused(again, "verification-failed")["detail"]
        assert PURSE - shop.anvil.balance(address_of(sponsor)) == spent > 0
