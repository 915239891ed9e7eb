"""The official clients pay a real gateway: money of a real, small chain moves exactly once."""

import pytest

from tests.peers.shop import OTHER_PRICE, PRICE, PURSE, Shop

pytestmark = pytest.mark.parametrize("client", ["mppx", "pympp"])


def test_each_call_pays_its_exact_price_and_a_second_call_pays_again(shop: Shop, client: str):
    buyer, takings, calls = shop.buyer(client), shop.takings, len(shop.upstream.seen)
    asked = len(shop.facilitator.asked) if shop.facilitator else 0
    paths = ["/api/paid", "/api/other?city=Oslo", "/api/paid", "/api/free"]

    answers = buyer.do("pay", *[shop.url + path for path in paths])

    assert [(answer["status"], answer["body"]) for answer in answers] == [(200, '{"ok":true}')] * 4
    assert buyer.balance == PURSE - 2 * PRICE - OTHER_PRICE
    assert shop.takings == takings + 2 * PRICE + OTHER_PRICE
    assert len(shop.upstream.seen) == calls + 4
    *receipts, none = [answer["receipt"] for answer in answers]
    assert none is None
    assert len({receipt["challengeId"] for receipt in receipts}) == 3
    assert len({receipt["reference"] for receipt in receipts}) == 3
    for receipt in receipts:
        assert (receipt["method"], receipt["status"]) == ("evm", "success")
        assert receipt["chainId"] == shop.chain.demo.chain_id
        assert _transaction(shop, receipt["reference"])["status"] == "0x1"
    if shop.facilitator:
        asked_for = [path for path, _ in shop.facilitator.asked[asked:]]
        assert asked_for.count("/settle") == 3


def test_a_credential_buys_its_own_route_once_and_no_other(shop: Shop, client: str):
    """Not a dearer one, not another query, not the same call again; a refusal spends nothing."""
    buyer, takings, calls = shop.buyer(client), shop.takings, len(shop.upstream.seen)
    paid, other = shop.url + "/api/paid", shop.url + "/api/other"

    answers = buyer.do("present", paid, other, paid + "?more=1", paid, paid, other)

    assert [answer["status"] for answer in answers] == [402, 402, 200, 402, 402]
    assert [answer["challenges"] for answer in answers] == [1, 1, 0, 1, 1]
    assert [answer["receipt"] is None for answer in answers] == [True, True, False, True, True]
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)
    assert len(shop.upstream.seen) == calls + 1


def test_a_body_is_paid_for_where_the_challenge_binds_it(shop: Shop, client: str):
    buyer, takings = shop.buyer(client), shop.takings

    (answer,) = buyer.do("pay", shop.url + "/api/report", method="POST", body='{"city":"Oslo"}')

    assert answer["status"] == 200
    assert shop.upstream.seen[-1].body == b'{"city":"Oslo"}'
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)


def test_a_route_that_settles_first_is_paid_once(shop: Shop, client: str):
    buyer, takings = shop.buyer(client), shop.takings

    (answer,) = buyer.do("pay", shop.url + "/api/first")

    assert answer["status"] == 200
    assert answer["receipt"]["status"] == "success"
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)


def test_a_caller_pays_beside_its_own_authorization(shop: Shop, client: str):
    buyer, takings = shop.buyer(client), shop.takings

    (answer,) = buyer.do("pay", shop.url + "/own/paid", authorization="Bearer the-caller")

    assert answer["status"] == 200
    seen = shop.upstream.seen[-1]
    assert (seen.get("authorization"), seen.get("payment-authorization")) == (
        "Bearer the-caller",
        None,
    )
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)


def _transaction(shop: Shop, tx_hash: str) -> dict:
    receipt = shop.chain.run(lambda: shop.chain.demo.run(lambda node: node.receipt(tx_hash)))
    assert receipt is not None
    return receipt
