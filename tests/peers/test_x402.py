"""x402 buyers pay a real gateway: both official clients, mppx, and one of version 1.

Settled by our own key, and by the official facilitator: money of a real, small chain moves once.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from tests.peers.shop import ANSWER_S
from tests.peers.x402_shop import (
    OTHER_PRICE,
    PRICE,
    PURSE,
    Shop,
    official_facilitator,
    open_shop,
    usdc_chain,
)
from tests.support import usdc
from tests.support.evm import address

NETWORKS = {"v1": "base-sepolia"}
SETTLERS = ("own-key", "facilitator")
CLIENTS = ("x402", "@x402/fetch", "mppx", "v1")


def pairs(found: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("shop", "client"), list(found), indirect=["shop"])


EVERY = pairs(product(SETTLERS, CLIENTS))
EACH = pairs(zip(SETTLERS * 2, CLIENTS, strict=True))
"""Each client, and each way to settle, without every pair of them: they do not meet."""


@pytest.fixture(scope="module")
def shop(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("x402")
    with ExitStack() as stack:
        chain = stack.enter_context(usdc_chain())
        official = None
        if request.param == "facilitator":
            official = stack.enter_context(official_facilitator(chain, folder))
        yield stack.enter_context(open_shop(chain, folder, official, more="    x402: true\n"))


@EVERY
def test_each_call_pays_its_exact_price_and_a_second_call_pays_again(shop: Shop, client: str):
    buyer, takings, calls = shop.buyer(client), shop.takings, len(shop.upstream.seen)
    paths = ["/api/paid", "/api/other?city=Oslo", "/api/first", "/api/free"]

    answers = buyer.do("pay", *paths)

    assert [(answer["status"], answer["body"]) for answer in answers] == [(200, '{"ok":true}')] * 4
    assert buyer.balance == PURSE - 2 * PRICE - OTHER_PRICE
    assert shop.takings == takings + 2 * PRICE + OTHER_PRICE
    assert len(shop.upstream.seen) == calls + 4
    *receipts, none = [answer["receipt"] for answer in answers]
    assert none is None
    assert len({receipt["transaction"] for receipt in receipts}) == 3
    for receipt in receipts:
        assert receipt["success"] is True
        assert receipt["payer"].lower() == address(buyer.key).lower()
        assert receipt["network"] == NETWORKS.get(client, f"eip155:{usdc.CHAIN_ID}")
        assert _transaction(shop, receipt["transaction"])["status"] == "0x1"


@EACH
def test_a_payment_buys_one_call_however_often_it_is_presented(shop: Shop, client: str):
    """For a dearer route it is too little, and spends nothing; for another call it is used."""
    buyer, takings, calls = shop.buyer(client), shop.takings, len(shop.upstream.seen)

    answers = buyer.do("present", "/api/paid", "/api/other", "/api/paid", "/api/paid", "/api/first")

    assert [answer["status"] for answer in answers] == [402, 200, 402, 402]
    assert [answer["challenges"] for answer in answers] == [1, 0, 1, 1]
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)
    assert len(shop.upstream.seen) == calls + 1


@EACH
def test_a_body_is_sent_again_with_the_payment(shop: Shop, client: str):
    buyer, takings = shop.buyer(client), shop.takings

    (answer,) = buyer.do("pay", "/api/report", method="POST", body='{"city":"Oslo"}')

    assert answer["status"] == 200
    assert shop.upstream.seen[-1].body == b'{"city":"Oslo"}'
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)


@EACH
def test_a_stream_is_paid_and_still_arrives_as_it_is_told(shop: Shop, client: str):
    buyer, takings = shop.buyer(client), shop.takings
    shop.storyteller.released.clear()

    listening = buyer.start("stream", "/api/stream")
    try:
        # The rest is told only after the client has shown the first half: a buffer would hang here.
        first = json.loads(listening.stdout.readline())
        assert (first, shop.takings) == ("data: once\n\n", takings + PRICE)
        shop.storyteller.released.set()
        out, err = listening.communicate(timeout=ANSWER_S)
    finally:
        shop.storyteller.released.set()
        listening.kill()

    assert listening.returncode == 0, err
    *rest, ended = [json.loads(line) for line in out.splitlines()]
    assert "".join(rest) == "data: upon a time\n\n"
    assert ended == {"status": 200, "receipt": True}
    assert buyer.balance == PURSE - PRICE


@EACH
def test_an_upstream_that_fails_costs_nothing(shop: Shop, client: str):
    buyer, takings = shop.buyer(client), shop.takings

    (answer,) = buyer.do("pay", "/api/broken")

    assert (answer["status"], answer["receipt"]) == (500, None)
    assert (buyer.balance, shop.takings) == (PURSE, takings)


@EACH
def test_a_purse_with_too_little_buys_nothing(shop: Shop, client: str):
    buyer, takings, calls = shop.buyer(client, PRICE - 1), shop.takings, len(shop.upstream.seen)

    (answer,) = buyer.do("pay", "/api/paid")

    assert (answer["status"], answer["challenges"]) == (402, 1)
    assert (buyer.balance, shop.takings) == (PRICE - 1, takings)
    assert len(shop.upstream.seen) == calls


def _transaction(shop: Shop, tx_hash: str) -> dict:
    receipt = shop.chain.run(lambda: shop.chain.demo.run(lambda node: node.receipt(tx_hash)))
    assert receipt is not None
    return receipt
