"""The official x402 buyers pay a price by Permit2, through the official facilitator.

Left alone they take the first offer, which is EIP-3009; here they are told to take no such.
Permit2 and the scheme's proxy are stand-ins of our own.
"""

from pathlib import Path

import pytest

from tests.peers.x402_shop import PRICE, PURSE, allowed, official_facilitator, open_shop, usdc_chain
from tests.support.upto import runtimes

MORE = "    x402: true\n    x402_permit2: true\n"


@pytest.mark.parametrize("client", ["x402", "@x402/fetch"])
def test_an_official_buyer_pays_the_price_by_permit(tmp_path: Path, client: str):
    with (
        usdc_chain(runtimes()) as chain,
        official_facilitator(chain, tmp_path) as official,
        open_shop(chain, tmp_path, official, more=MORE) as shop,
    ):
        buyer, poor = allowed(shop, client), shop.buyer(client)

        (answer,) = buyer.do("permit", "/api/paid")
        (refused,) = poor.do("permit", "/api/paid")

        assert (answer["status"], answer["receipt"]["success"]) == (200, True)
        assert (buyer.balance, shop.takings) == (PURSE - PRICE, PRICE)
        assert (refused["status"], poor.balance) == (402, PURSE)
