"""The official x402 facilitator settles MPP payments: the far side is the code of others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.rails.evm.payer import Purse, pay
from tests.peers.shop import ANSWER_S
from tests.peers.x402_shop import (
    PRICE,
    PURSE,
    Buyer,
    Shop,
    official_facilitator,
    open_shop,
    usdc_chain,
)
from tests.support import usdc
from tests.support.client import get
from tests.support.evm import now
from tests.support.paid import receipt_of, refused, wait_until


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("official")
    with (
        usdc_chain() as chain,
        official_facilitator(chain, folder) as official,
        open_shop(chain, folder, official) as shop,
    ):
        yield shop


def buy(shop: Shop, buyer: Buyer, path: str) -> str:
    """Return a credential that is good for `path`."""
    status, fields, _ = get(shop.proxy.port, path)
    assert status == 402
    domain = Eip712Domain(usdc.NAME, usdc.VERSION, usdc.CHAIN_ID, shop.chain.demo.token)
    challenge = Challenge.parse(fields["www-authenticate"])
    return pay(challenge, Purse(domain, PURSE), buyer.key, now()).format()


def send(shop: Shop, credential: str, path: str):
    return get(shop.proxy.port, path, f"Authorization: {credential}")


@pytest.mark.parametrize("path", ["/api/paid", "/api/first"])
def test_a_call_costs_its_exact_price_once(shop: Shop, path: str):
    buyer, takings = shop.buyer(), shop.takings
    credential = buy(shop, buyer, path)

    answer = send(shop, credential, path)

    assert (answer[0], answer[2]) == (200, b'{"ok":true}')
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)
    reference = receipt_of(answer).reference
    mined = node_of(shop, lambda node: node.receipt(reference))
    assert mined["status"] == "0x1"
    refused(send(shop, credential, path), "invalid-challenge")
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)


def test_a_purse_with_too_little_buys_nothing(shop: Shop):
    buyer, takings, calls = shop.buyer(minor=PRICE - 1), shop.takings, len(shop.upstream.seen)

    refused(send(shop, buy(shop, buyer, "/api/paid"), "/api/paid"), "payment-insufficient")

    assert (buyer.balance, shop.takings) == (PRICE - 1, takings)
    assert len(shop.upstream.seen) == calls


def test_what_it_supports_is_read(shop: Shop):
    facilitators = shop.proxy.runtime.serving.rails["base"]._settler.facilitators
    network = f"eip155:{usdc.CHAIN_ID}"

    assert facilitators.offers(2, "exact", network, "eip3009") is True
    assert facilitators.offers(2, "exact", "eip155:8453") is False
    assert facilitators.offers(1, "exact", "base-sepolia") is True
    assert facilitators.offers(2, "upto", network) is True
    assert facilitators.offers(2, "upto", "eip155:8453") is False


def test_a_pending_settlement_is_one_transaction_that_it_answers_for(tmp_path: Path):
    """Without a node of ours the repeated question is all that there is to ask."""
    with (
        usdc_chain() as chain,
        official_facilitator(chain, tmp_path, confirm_s=1) as official,
        open_shop(chain, tmp_path, official, with_rpc=False) as shop,
        ThreadPoolExecutor(1) as pool,
    ):
        buyer = shop.buyer()
        credential = buy(shop, buyer, "/api/paid")
        node_of(shop, lambda node: setattr(node, "automine", False))

        answer = pool.submit(send, shop, credential, "/api/paid")
        wait_until(lambda: official.asked("/settle") >= 2, "it is asked again")
        (pending,) = node_of(shop, lambda node: node.pending())
        node_of(shop, lambda node: node.mine())

        served = answer.result(ANSWER_S)
        assert (served[0], served[2]) == (200, b'{"ok":true}')
        assert receipt_of(served).reference == pending["hash"]
        assert (buyer.balance, shop.takings) == (PURSE - PRICE, PRICE)
        assert node_of(shop, lambda node: node.pending()) == []


def node_of(shop: Shop, work):
    return shop.chain.run(lambda: shop.chain.demo.run(work))
