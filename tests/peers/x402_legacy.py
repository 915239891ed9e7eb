"""One purchase with the legacy x402-fetch, as ./scripts/pay-with-legacy-x402 runs it."""

import sys
import tempfile
from pathlib import Path

from tests.peers.shop import new_key
from tests.peers.x402_shop import COMMANDS, OTHER_PRICE, PRICE, PURSE, Buyer, open_shop, usdc_chain
from tests.support.evm import address


def main() -> None:
    COMMANDS["legacy"] = ("node", sys.argv[1])
    with (
        tempfile.TemporaryDirectory() as folder,
        usdc_chain() as chain,
        open_shop(chain, Path(folder), None, more="    x402: true\n") as shop,
    ):
        buyer = Buyer("legacy", new_key(), shop)
        chain.run(lambda: chain.demo.mint(address(buyer.key), PURSE))
        answers = buyer.do("pay", "/api/paid", "/api/other", "/api/free")
        assert [answer["status"] for answer in answers] == [200] * 3, answers
        assert buyer.balance == PURSE - PRICE - OTHER_PRICE
        assert shop.takings == PRICE + OTHER_PRICE
        for answer in answers[:2]:
            print(f"paid: {answer['receipt']['transaction']} on {answer['receipt']['network']}")


main()
