"""Tempo, with the fee paid by the seller: what is sponsored, and what would drain the account."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol import rlp
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.tempo_transaction import (
    FEE_PAYER_TYPE,
    TYPE,
    Call,
    TempoTransaction,
    Unsigned,
)
from mpp_gateway.rails.tempo.sponsoring import GAS_MAX, MAX_FEE_MAX, TIP_MAX, WINDOW_MAX_S
from tests.support.anvil import CHAIN_ID, PATH_USD, anvil, new_key
from tests.support.evm import now
from tests.support.paid import PRICE, Response, at_once, refused, wait_until
from tests.support.tempo import (
    GAS,
    MAX_FEE_WEI,
    PURSE,
    TempoShop,
    moves,
    pull,
    push,
    signed,
    source_of,
    tempo_shop,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 4"
FEE_MAX = GAS * MAX_FEE_WEI // 10**12
LEFT = {"fee_token": None, "is_sponsored": True}
"""How a buyer leaves the fee to the seller."""


@dataclass
class Seller:
    """A gateway that pays fees, and the account it pays them from."""

    shop: TempoShop
    key: bytes

    def credential(self, **changes) -> Credential:
        return pull(self.shop.challenge(), self.shop.key, **LEFT | changes)

    def send_raw(self, raw: bytes, like: Credential) -> Response:
        payload = {"type": "transaction", "signature": "0x" + raw.hex()}
        return self.shop.send(Credential(like.challenge, payload, like.source))

    def fees_paid(self) -> int:
        return PURSE - self.shop.anvil.balance(address_of(self.key))


@contextmanager
def selling(tmp_path: Path, more: str = "", funds: int = PURSE) -> Iterator[Seller]:
    key = new_key()
    if funds:
        anvil().fund(address_of(key), funds)
    method = f', sponsor: {{private_key: "0x{key.hex()}"{more}}}'
    with tempo_shop(tmp_path, method=method, timeouts=QUICK) as shop:
        yield Seller(shop, key)
        assert not shop.crashes()


@pytest.fixture
def seller(tmp_path: Path) -> Iterator[Seller]:
    with selling(tmp_path) as seller:
        yield seller


def fields_of(credential: Credential) -> list:
    items = rlp.decode(bytes.fromhex(credential.payload["signature"][4:]))
    assert isinstance(items, list)
    return items


def raw_of(items: list, kind: int = TYPE) -> bytes:
    return bytes((kind,)) + rlp.encode(items)


def test_a_buyer_without_money_for_the_fee_pays_the_exact_price(seller: Seller):
    shop, poor = seller.shop, new_key()
    shop.anvil.fund(address_of(poor), PRICE)
    challenge = shop.challenge()
    assert challenge.request_object["methodDetails"] == {
        "chainId": CHAIN_ID,
        "feePayer": True,
        "supportedModes": ["pull"],
    }

    response = shop.send(pull(challenge, poor, **LEFT))

    assert (response[0], shop.balance(), shop.hits) == (200, PRICE, 1)
    assert shop.anvil.balance(address_of(poor)) == 0
    assert 0 < seller.fees_paid() <= FEE_MAX


def test_a_transaction_marked_for_a_fee_payer_is_the_same_one(seller: Seller):
    credential = seller.credential()
    items = fields_of(credential)
    items[11] = address_of(seller.shop.key)

    assert seller.send_raw(raw_of(items, FEE_PAYER_TYPE), credential)[0] == 200
    refused(seller.shop.send(credential), "invalid-challenge")
    assert seller.shop.balance() == PRICE


def test_a_fee_payer_that_is_told_another_sender_signs_nothing(seller: Seller):
    credential = seller.credential()
    for named in (address_of(new_key()), b"", b"\1" * 19, []):
        items = fields_of(credential)
        items[11] = named
        refused(seller.send_raw(raw_of(items, FEE_PAYER_TYPE), credential), "verification-failed")
    seller.shop.untouched()


def test_a_buyer_may_still_pay_its_own_fee(seller: Seller):
    assert seller.shop.send(seller.shop.buy())[0] == 200
    assert (seller.shop.balance(), seller.fees_paid()) == (PRICE, 0)


def test_ten_copies_at_once_cost_one_fee(seller: Seller):
    credential = seller.credential()

    answers = at_once([lambda: seller.shop.send(credential)] * 10)

    assert [status for status, *_ in answers].count(200) == 1
    assert (seller.shop.balance(), seller.shop.hits) == (PRICE, 1)
    assert seller.fees_paid() <= FEE_MAX


DRAINS = {
    "gas": {"gas_limit": GAS_MAX + 1, "max_fee": MAX_FEE_WEI // 10},
    "the price of gas": {"max_fee": MAX_FEE_MAX + 1, "gas_limit": GAS // 10},
    "the tip": {"max_priority_fee": TIP_MAX + 1},
    "the fee": {"max_fee": MAX_FEE_WEI * 2, "gas_limit": GAS_MAX},
    "the time": {"valid_before": 2**40},
    "no end": {"valid_before": None},
    "an ordinary nonce": {"nonce_key": 0},
    "another chain": {"chain_id": 1},
}


@pytest.mark.parametrize("what", DRAINS)
def test_what_would_drain_the_sponsor_is_not_signed(seller: Seller, what: str):
    refused(seller.shop.send(seller.credential(**DRAINS[what])), "verification-failed")
    seller.shop.untouched()
    assert seller.fees_paid() == 0


def test_a_transaction_that_would_keep_its_fee_set_aside_for_long_is_not_signed(seller: Seller):
    long = seller.credential(valid_before=now() + WINDOW_MAX_S + 60)
    refused(seller.shop.send(long), "verification-failed")
    seller.shop.untouched()


def test_what_is_not_exactly_the_payment_is_not_sponsored(seller: Seller):
    shop = seller.shop
    challenge = shop.challenge()
    moved = moves(challenge, shop.key)
    twice = signed(shop.key, (*moved, *moved), **LEFT).raw
    plain = signed(shop.key, moves(challenge, shop.key, memo=None), **LEFT).raw
    foreign = signed(shop.key, moves(shop.challenge(), shop.key), **LEFT).raw
    like = Credential(challenge, {}, source_of(shop.key))

    for raw in (twice, plain, foreign):
        refused(seller.send_raw(raw, like), "verification-failed")
    shop.untouched()
    assert seller.fees_paid() == 0


FIELDS = {
    "a token of the buyer's choice": (10, PATH_USD),
    "an access list": (5, [[PATH_USD, [b"\0" * 32]]]),
    "authorizations": (12, [[b"\1"]]),
    "another marker": (11, b"\1"),
}


@pytest.mark.parametrize("what", FIELDS)
def test_a_field_that_the_sponsor_would_pay_for_is_refused(seller: Seller, what: str):
    credential = seller.credential()
    items, (place, value) = fields_of(credential), FIELDS[what]
    items[place] = value
    refused(seller.send_raw(raw_of(items), credential), "verification-failed")
    seller.shop.untouched()


def test_a_transaction_that_somebody_else_has_cosigned_is_refused(seller: Seller):
    shop = seller.shop
    challenge = shop.challenge()
    transaction = signed(shop.key, moves(challenge, shop.key), **LEFT)
    like = Credential(challenge, {}, source_of(shop.key))
    raw = transaction.cosigned(PATH_USD, new_key()).raw
    refused(seller.send_raw(raw, like), "verification-failed")
    shop.untouched()


def test_a_hash_is_no_payment_where_the_fee_is_sponsored(seller: Seller):
    shop = seller.shop
    challenge = shop.challenge()
    tx_hash = shop.broadcast(signed(shop.key, moves(challenge, shop.key)))
    refused(shop.send(push(challenge, shop.key, tx_hash)), "invalid-payload")
    assert shop.hits == 0


def test_without_a_sponsor_nobody_pays_a_fee_that_is_left_open(tmp_path: Path):
    with tempo_shop(tmp_path, timeouts=QUICK) as shop:
        assert "feePayer" not in shop.challenge().request_object["methodDetails"]
        refused(shop.send(pull(shop.challenge(), shop.key, **LEFT)), "verification-failed")
        shop.untouched()


def test_a_sponsor_without_money_makes_no_offers_until_it_has_some(tmp_path: Path):
    with selling(tmp_path, funds=0) as seller:
        shop = seller.shop
        refused(shop.ask(), "rail-unavailable", 503)
        shop.anvil.fund(address_of(seller.key), PURSE)
        (rail,) = shop.proxy.runtime.serving.rails.values()
        shop.proxy.call(lambda: rail.maintain(now()))
        wait_until(lambda: shop.ask()[0] == 402, "an offer")
        assert shop.send(seller.credential())[0] == 200


def test_fees_on_their_way_are_bounded_and_freed_by_a_block(tmp_path: Path):
    with selling(tmp_path, ', max_fee: "0.03", max_in_flight: "0.03"') as seller:
        shop = seller.shop
        one, two = seller.credential(), seller.credential()
        shop.node.faults["eth_getTransactionReceipt"] = "null"
        refused(shop.send(one), "settlement-unknown", 503)
        # The first may be in a block, and cost its fee, until its end.
        response = shop.send(two)
        refused(response, "rail-unavailable", 503)
        assert (shop.hits, int(response[1]["retry-after"]) > 0) == (1, True)
        shop.node.faults.clear()
        wait_until(lambda: shop.send(one)[0] == 200, "the first call")
        assert shop.balance() == PRICE


def test_the_cosigned_bytes_are_the_same_every_time_and_show_no_key():
    unsigned = Unsigned(
        CHAIN_ID, 1, 1, GAS, (Call(PATH_USD, 0, b"\1"),), 2**256 - 1, 0, is_sponsored=True
    )
    sender, sponsor = b"\x11" * 32, b"\x22" * 32
    transaction = TempoTransaction.decode(unsigned.signed(sign(unsigned.digest, sender)))

    once, again = transaction.cosigned(PATH_USD, sponsor), transaction.cosigned(PATH_USD, sponsor)

    assert once == again
    assert once.tx_hash != transaction.tx_hash
    assert sponsor.hex() not in repr(once)
