"""Attacks on the newer ways to pay by EVM: one movement of money that is shown as two payments."""

from pathlib import Path

import pytest

from mpp_gateway.protocol import permit2
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.rails.evm import abi
from tests.support.evm import address
from tests.support.evm_buyer import buyers_shop
from tests.support.evm_permits import GIVE_UP, PermitShop, permit_shop
from tests.support.paid import PRICE, receipt_of, refused


def test_what_an_authorization_has_paid_is_no_transfer_that_pays_again(tmp_path: Path):
    """Its transaction shows the same transfer as one that the buyer sends itself."""
    with buyers_shop(tmp_path, "authorization, hash") as shop:
        second = shop.challenge()
        paid = shop.send(shop.sign(shop.challenge()))
        assert paid[0] == 200

        refused(shop.send(shop.push(second, receipt_of(paid).reference)), "verification-failed")

        assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_what_a_permit_has_paid_is_no_transfer_that_pays_again(tmp_path: Path):
    with permit_shop(tmp_path, "permit2, hash") as shop:
        second = shop.challenge()
        paid = shop.send(shop.buy())
        assert paid[0] == 200
        source = f"did:pkh:eip155:{shop.chain.demo.chain_id}:{address(shop.key)}"
        named = Credential(second, {"type": "hash", "hash": receipt_of(paid).reference}, source)
        refused(shop.send(named), "verification-failed")

        assert (shop.balance(), shop.hits) == (PRICE, 1)


def give_up(shop: PermitShop, nonce: int) -> None:
    payload = GIVE_UP + abi.uint_word(nonce >> 8) + abi.uint_word(1 << (nonce & 0xFF))
    shop.call(shop.key, permit2.ADDRESS, payload)


@pytest.mark.parametrize("word", ["deadline", "price", "signature"])
def test_a_nonce_that_stands_elsewhere_in_another_payment_pays_for_nothing(
    tmp_path: Path, word: str
):
    """The buyer gives up a nonce that is some other number of a payment it has made."""
    with permit_shop(tmp_path) as shop:
        first = shop.buy()
        assert shop.send(first)[0] == 200
        payload = first.payload
        nonce = {
            "deadline": int(payload["permit"]["deadline"]),
            "price": PRICE,
            "signature": int(payload["signature"][2:66], 16),
        }[word]
        give_up(shop, nonce)

        refused(shop.send(shop.buy(nonce=nonce)), "verification-failed")

        assert (shop.balance(), shop.hits) == (PRICE, 1)
