"""Accounts of a key that have delegated to a contract (EIP-7702): its code runs where they pay."""

import asyncio
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.demo.chain import DemoChain
from mpp_gateway.demo.node import Node
from mpp_gateway.protocol import permit2
from mpp_gateway.rails.evm import abi
from tests.support.contracts import deploy, tell
from tests.support.evm_permits import permit_shop
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    ChainThread,
    Paid,
    fresh_key,
    paid_gateway,
    refused,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 5"
KEY = fresh_key("delegated")
DEAR = 7_000
"""Rounds of hashing: some million gas."""


async def _codes() -> dict[bytes, bytes]:
    async with DemoChain() as scratch:

        async def code(name: str) -> bytes:
            place = await deploy(scratch, name)
            return await scratch.run(lambda node: node.code(place))

        return {address_of(KEY): await code("wallet"), permit2.ADDRESS: await code("permit2")}


@functools.cache
def chain() -> ChainThread:
    """Return a chain on which the account of `KEY` has code, and Permit2 is there."""
    begun = functools.partial(Node, contracts=asyncio.run(_codes()))
    with mock.patch("mpp_gateway.demo.chain.Node", begun):
        return ChainThread()


def turn(signature: str, *values: int) -> None:
    payload = abi.selector(signature) + b"".join(map(abi.uint_word, values))
    chain().run(tell(chain().demo, address_of(KEY), payload))


def sells(folder: Path, kind: str) -> AbstractContextManager[Paid]:
    if kind == "permit2":
        return permit_shop(folder, timeouts=QUICK)
    return paid_gateway(folder, timeouts=QUICK, thread=chain())


@pytest.fixture(params=["authorization", "permit2"])
def shop(tmp_path: Path, request) -> Iterator[Paid]:
    with (
        mock.patch("tests.support.evm_permits.permit2_chain", chain),
        sells(tmp_path, request.param) as shop,
    ):
        shop.key = KEY
        token = int.from_bytes(chain().demo.token)
        turn("approve(address,address)", token, int.from_bytes(permit2.ADDRESS))
        chain().run(chain().demo.mint(checksum(address_of(KEY)), PURSE_MINOR))
        turn("setOwner(address)", int.from_bytes(address_of(KEY)))
        turn("setWaste(uint256)", 0)
        yield shop


def test_an_account_that_has_delegated_pays_as_any_other(shop: Paid):
    assert shop.send(shop.buy())[0] == 200
    assert (shop.balance(), shop.states()) == (PRICE, {"settled": 1})


def test_an_account_that_has_delegated_burns_no_gas_of_the_sellers(shop: Paid):
    """It signs as a key does, and is asked as a contract is: a block full of gas for one price."""
    turn("setWaste(uint256)", DEAR)

    refused(shop.send(shop.buy()), "verification-failed")

    shop.untouched(released=1)
    assert "eth_sendRawTransaction" not in shop.node.calls


def test_an_account_that_delegates_while_the_upstream_works_burns_no_gas_of_the_sellers(
    shop: Paid,
):
    credential = shop.buy()

    async def turned() -> None:
        await asyncio.to_thread(turn, "setWaste(uint256)", DEAR)

    shop.keeper.before = turned
    refused(shop.send(credential), "verification-failed")

    assert (shop.balance(), shop.states()) == (0, {"released": 1})
    assert "eth_sendRawTransaction" not in shop.node.calls
