"""A wallet for Tempo without a node: what it can still tell, and what it says it cannot."""

import asyncio

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.tempo_networks import PATH_USD
from mpp_gateway.rails.tempo.payer import Asked, proof, pull, transaction
from mpp_gateway.rails.tempo.wallet import TempoWallet
from mpp_gateway.rails.wallet import NotAnswered, PaymentDeclined
from tests.support.process import free_port

KEY = b"\x11" * 32
NOW_S = 1_900_000_000
PAYEE = "0x" + "22" * 20


def challenge_of(amount: str = "1000", expires: str | None = None, **details) -> Challenge:
    request = {
        "amount": amount,
        "currency": "0x" + PATH_USD.hex(),
        "recipient": PAYEE,
        "methodDetails": {"chainId": 42431, **details},
    }
    return Challenge("x", "shop", "tempo", "charge", jcs.encode_object(request), expires=expires)


def paid(challenge: Challenge) -> Credential:
    asked = Asked.read(challenge.request_object)
    unsigned = transaction(asked, challenge, address_of(KEY), PATH_USD, NOW_S + 25)
    return pull(challenge, unsigned, KEY)


@pytest.fixture
def wallet() -> TempoWallet:
    """A wallet whose node is not there."""
    return TempoWallet(KEY, f"http://127.0.0.1:{free_port()}")


def test_what_only_the_seller_can_name_is_looked_for_nowhere(wallet: TempoWallet):
    """Its hash holds the seller's signature too, so "in no block" would be said of any of them."""
    zero = challenge_of("0")

    assert asyncio.run(wallet.is_made(paid(challenge_of(feePayer=True)))) is None
    assert asyncio.run(wallet.is_made(proof(zero, 42431, KEY))) is None


def test_a_silent_node_is_no_proof_that_a_payment_was_not_made(wallet: TempoWallet):
    with pytest.raises(NotAnswered, match="the node of chain 42431: eth_chainId"):
        asyncio.run(wallet.is_made(paid(challenge_of())))


@pytest.mark.parametrize("expires", ["2030-03-17T17:46:40Z", "2030-03-17T17:46:47Z"])
def test_a_challenge_that_ends_before_a_block_could_have_it_is_not_signed(wallet, expires):
    deal = wallet.read(challenge_of(expires=expires))

    with pytest.raises(PaymentDeclined, match="expire"):
        asyncio.run(wallet.sign(deal, NOW_S))


def test_no_text_of_a_wallet_has_its_key():
    assert KEY.hex() not in repr(TempoWallet(KEY))
    assert repr(KEY)[2:-1] not in repr(TempoWallet(KEY))


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": "none"},
        {"splits": ["x"]},
        {"splits": [{"amount": "0", "recipient": PAYEE}]},
        {"splits": [{"amount": "600", "recipient": PAYEE}] * 2},
        {"splits": [{"amount": "1", "recipient": PAYEE}] * 11},
        {"splits": [{"amount": "1", "recipient": "0x22"}]},
        {"splits": [{"amount": "1", "recipient": PAYEE, "memo": "0x11"}]},
        {"chainId": True},
        {"chainId": "42431"},
        {"chainId": 0},
    ],
)
def test_terms_that_do_not_add_up_are_read_by_no_wallet(wallet: TempoWallet, changes):
    assert wallet.read(challenge_of(**changes)) is None


def test_the_first_transfer_has_what_the_shares_leave_and_names_the_challenge():
    shares = [{"amount": "100", "recipient": PAYEE}, {"amount": "1", "recipient": PAYEE}]
    challenge = challenge_of(splits=shares)

    asked = Asked.read(challenge.request_object)

    amounts = [int.from_bytes(call.data[36:68]) for call in asked.calls(b"\1" * 20, challenge)]
    assert amounts == [899, 100, 1]
    assert sum(amounts) == asked.amount_minor
