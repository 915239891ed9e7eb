"""Other ways to pay beside the usual one, and the official clients: they find the one they know."""

import contextlib

import pytest

from tests.peers.shop import METHOD, PRICE, PURSE, Chain, open_shop

EVERY_TYPE = METHOD + "    credential_types: [permit2, transaction, authorization, hash]\n"
OTHER_TYPES = METHOD.replace("demo:", "own-gas:") + "    credential_types: [transaction, hash]\n"


@pytest.mark.parametrize("client", ["mppx", "pympp"])
@pytest.mark.parametrize(
    "methods", [EVERY_TYPE, METHOD + OTHER_TYPES], ids=["one offer", "two offers"]
)
def test_a_client_pays_with_the_type_that_it_knows(chain: Chain, tmp_path, client, methods):
    with open_shop(chain, tmp_path, "addons", "own-key", methods) as shop:
        buyer = shop.buyer(client)

        answers = buyer.do("pay", shop.url + "/api/paid", shop.url + "/api/paid")

        assert [answer["status"] for answer in answers] == [200, 200]
        assert (buyer.balance, shop.takings) == (PURSE - 2 * PRICE, 2 * PRICE)
        assert {answer["receipt"]["method"] for answer in answers} == {"evm"}


@pytest.mark.parametrize("client", ["mppx", "pympp"])
def test_a_client_that_knows_none_of_the_types_pays_nothing(chain: Chain, tmp_path, client):
    with open_shop(chain, tmp_path, "addons", "own-key", OTHER_TYPES) as shop:
        buyer = shop.buyer(client)

        # mppx says so and ends; pympp signs an authorization all the same, and is refused.
        with contextlib.suppress(AssertionError):
            buyer.do("pay", shop.url + "/api/paid")

        assert (buyer.balance, shop.takings, shop.upstream.seen) == (PURSE, 0, [])
