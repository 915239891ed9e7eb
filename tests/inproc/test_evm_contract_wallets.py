"""Smart contract wallets: their contract says what they have signed (ERC-1271), at bounded cost."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.rails.evm import abi
from tests.support.contracts import deploy, tell
from tests.support.evm import settings_of
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Paid,
    at_once,
    fresh_key,
    paid_gateway,
    receipt_of,
    refused,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 5"
TAIL = b"what only this wallet can read"


class Wallet:
    """A wallet contract of its own, with a purse and an owner."""

    def __init__(self, shop: Paid, minor: int = PURSE_MINOR) -> None:
        self.shop, self.owner = shop, fresh_key("owner")
        chain = shop.chain
        self.address = chain.run(deploy(chain.demo, "wallet"))
        self.tell("setOwner(address)", int.from_bytes(address_of(self.owner)))
        chain.run(chain.demo.mint(checksum(self.address), minor))

    def tell(self, signature: str, value: int) -> None:
        payload = abi.selector(signature) + abi.uint_word(value)
        self.shop.chain.run(tell(self.shop.chain.demo, self.address, payload))

    def turn(self, signature: str, value: int):
        """Return `tell` for the loop of the upstream."""

        async def told() -> None:
            await asyncio.to_thread(self.tell, signature, value)

        return told

    def buy(self, target: str = "/api/paid", *, tail: bytes = TAIL, **changes) -> Credential:
        """Sign as the wallet's owner for the wallet; `changes` are of the authorization."""
        honest = self.shop.buy(target)
        unsigned = replace(Authorization.from_payload(honest.payload), sender=self.address)
        unsigned = replace(unsigned, **changes)
        domain = settings_of(self.shop.chain.demo).domain
        signature = sign(eip3009.digest(unsigned, domain), self.owner) + tail
        payload = replace(unsigned, signature=signature).to_payload()
        return replace(honest, payload=payload, source=None)

    def purse(self) -> int:
        return self.shop.chain.balance(checksum(self.address))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Paid]:
    with paid_gateway(tmp_path, timeouts=QUICK) as shop:
        shop.stop()
        shop.start(shop.config.replace(", submit: {", ", contract_wallets: true, submit: {"))
        yield shop


@pytest.fixture
def wallet(shop: Paid) -> Wallet:
    return Wallet(shop)


@pytest.mark.parametrize("tail", [b"", TAIL], ids=["65 bytes", "longer"])
def test_a_wallet_pays_its_exact_price(shop: Paid, wallet: Wallet, tail):
    credential = wallet.buy(tail=tail)

    response = shop.send(credential)

    assert response[0] == 200
    assert (shop.balance(), wallet.purse()) == (PRICE, PURSE_MINOR - PRICE)
    assert (shop.hits, shop.states()) == (1, {"settled": 1})
    assert shop.chain.transaction(receipt_of(response).reference)["status"] == "0x1"
    assert not shop.crashes()


def test_ten_copies_and_another_spelling_of_the_signature_buy_one_call(shop: Paid, wallet: Wallet):
    credential = wallet.buy()
    longer = credential.payload["signature"] + "00"
    other = replace(credential, payload=credential.payload | {"signature": longer})

    answers = at_once([lambda: shop.send(credential)] * 5 + [lambda: shop.send(other)] * 5)

    assert [status for status, *_ in answers].count(200) == 1
    refused(shop.send(other), "invalid-challenge")
    assert (shop.balance(), shop.hits, len(shop.rows())) == (PRICE, 1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipient": b"\x42" * 20},
        {"value": PRICE + 1},
        {"nonce": b"\x07" * 32},
        {"valid_after": 2**40},
    ],
)
def test_what_a_wallet_signs_must_be_this_payment(shop: Paid, wallet: Wallet, changes):
    refused(shop.send(wallet.buy(**changes)), "verification-failed")

    shop.untouched()


def test_a_signature_of_somebody_else_is_refused_by_the_wallet(shop: Paid, wallet: Wallet):
    wallet.owner = fresh_key("thief")

    refused(shop.send(wallet.buy()), "verification-failed")

    shop.untouched(released=1)


def test_an_account_without_code_has_no_wallet_to_vouch_for_it(shop: Paid, wallet: Wallet):
    for sender in (address_of(shop.key), b"\x42" * 20):
        refused(shop.send(wallet.buy(sender=sender)), "verification-failed")

    shop.untouched(released=2)


def test_a_wallet_that_is_not_deployed_is_told_to_be(shop: Paid, wallet: Wallet):
    problem = refused(shop.send(wallet.buy(tail=bytes.fromhex("6492" * 16))), "verification-failed")

    assert "ERC-6492" in problem["detail"]
    shop.untouched()


def test_a_wallet_without_the_money_is_refused(shop: Paid):
    refused(shop.send(Wallet(shop, minor=PRICE - 1).buy()), "payment-insufficient")

    shop.untouched(released=1)


def test_a_wallet_that_burns_gas_is_refused_before_the_seller_works(shop: Paid, wallet: Wallet):
    wallet.tell("setWaste(uint256)", 3_000)

    refused(shop.send(wallet.buy()), "verification-failed")

    shop.untouched(released=1)


def test_a_wallet_that_begins_to_burn_gas_while_the_upstream_works_pays_and_burns_nothing(
    shop: Paid, wallet: Wallet
):
    credential = wallet.buy()

    shop.keeper.before = wallet.turn("setWaste(uint256)", 3_000)
    answer = shop.send(credential)

    refused(answer, "verification-failed")
    assert (shop.balance(), shop.hits, shop.states()) == (0, 1, {"released": 1})
    assert "eth_sendRawTransaction" not in shop.node.calls


def test_a_wallet_whose_owner_changes_while_the_upstream_works_gets_no_answer(
    shop: Paid, wallet: Wallet
):
    credential = wallet.buy()

    shop.keeper.before = wallet.turn("setOwner(address)", 1)
    refused(shop.send(credential), "verification-failed")

    assert (shop.balance(), shop.states()) == (0, {"released": 1})


def test_a_wallet_that_fails_in_its_block_burns_gas_of_the_seller_once(shop: Paid, wallet: Wallet):
    """It says yes whenever it is asked, and no in a block: its money stays, and so does its art."""
    turned = wallet.turn("setOwner(address)", 1)
    shop.node.then["eth_estimateGas"] = turned
    refused(shop.send(wallet.buy()), "verification-failed")
    assert shop.node.calls.count("eth_sendRawTransaction") == 1
    wallet.tell("setOwner(address)", int.from_bytes(address_of(wallet.owner)))

    shop.node.then["eth_estimateGas"] = turned
    document = refused(shop.send(wallet.buy()), "verification-failed")

    assert "gas was lost" in document["detail"]
    assert shop.node.calls.count("eth_sendRawTransaction") == 1
    assert (shop.balance(), shop.hits, shop.states()) == (0, 1, {"released": 2})
    shop.node.then.clear()
    assert shop.send(shop.buy())[0] == 200  # others pay as before
    assert shop.send(Wallet(shop).buy())[0] == 200


@pytest.mark.parametrize("asked", ["eth_getCode", "eth_call isValidSignature"])
@pytest.mark.parametrize("fault", ["500", "reset", "error: busy", "hang"])
def test_a_node_that_cannot_say_takes_no_money(shop: Paid, wallet: Wallet, asked, fault):
    credential = wallet.buy()

    shop.node.faults[asked] = fault
    refused(shop.send(credential), "rail-unavailable", 503)
    assert (shop.balance(), shop.hits, shop.states()) == (0, 0, {"released": 1})
    shop.node.faults.clear()

    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_a_lost_reply_charges_a_wallet_once(shop: Paid, wallet: Wallet):
    credential = wallet.buy()
    shop.node.faults["eth_sendRawTransaction"] = "lost"

    assert shop.send(credential)[0] == 200
    assert (shop.balance(), wallet.purse()) == (PRICE, PURSE_MINOR - PRICE)


def test_an_upstream_that_fails_leaves_the_money_in_the_wallet(shop: Paid, wallet: Wallet):
    credential = wallet.buy()
    shop.keeper.answers("503 Down")

    assert shop.send(credential)[0] == 503
    assert (shop.balance(), shop.states()) == (0, {"released": 1})
    shop.keeper.answers("200 OK")

    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_a_wallet_is_refused_unseen_where_wallets_are_not_taken(tmp_path: Path):
    with paid_gateway(tmp_path, timeouts=QUICK) as shop:
        for tail in (b"", TAIL):
            refused(shop.send(Wallet(shop).buy(tail=tail)), "verification-failed")

        shop.untouched()
        assert "eth_getCode" not in shop.node.calls[-2:]
