"""Official x402 buyers pay by use, through the official facilitator: the scheme `upto`.

Permit2 and the scheme's proxy are stand-ins of our own; signatures and calls are those of others.
"""

from collections.abc import Iterator

import pytest

from tests.peers.x402_shop import (
    PURSE,
    USED,
    Shop,
    allowed,
    official_facilitator,
    open_shop,
    usdc_chain,
)
from tests.support.upto import runtimes

pytestmark = pytest.mark.parametrize("client", ["x402", "@x402/fetch"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("upto")
    with (
        usdc_chain(runtimes()) as chain,
        official_facilitator(chain, folder) as official,
        open_shop(chain, folder, official, more="    x402: true\n", by_use=True) as shop,
    ):
        yield shop


def test_an_official_buyer_signs_for_the_most_and_pays_what_was_used(shop: Shop, client: str):
    buyer, takings = allowed(shop, client), shop.takings

    (answer,) = buyer.do("pay", "/api/used")

    assert (answer["status"], answer["body"]) == (200, '{"ok":true}')
    assert (answer["receipt"]["success"], answer["receipt"]["amount"]) == (True, str(USED))
    assert (buyer.balance, shop.takings) == (PURSE - USED, takings + USED)


def test_one_permit_of_an_official_buyer_buys_one_call(shop: Shop, client: str):
    buyer, takings, calls = allowed(shop, client), shop.takings, len(shop.upstream.seen)

    answers = buyer.do("present", *["/api/used"] * 4)

    assert [answer["status"] for answer in answers] == [200, 402, 402]
    assert (buyer.balance, shop.takings) == (PURSE - USED, takings + USED)
    assert len(shop.upstream.seen) == calls + 1


def test_without_an_allowance_nothing_moves(shop: Shop, client: str):
    buyer, takings, calls = shop.buyer(client), shop.takings, len(shop.upstream.seen)

    (answer,) = buyer.do("pay", "/api/used")

    assert answer["status"] == 402
    assert (buyer.balance, shop.takings) == (PURSE, takings)
    assert len(shop.upstream.seen) == calls
