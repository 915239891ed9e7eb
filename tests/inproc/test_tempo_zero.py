"""Tempo, a price of zero: a buyer says who it is, and nothing moves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.anvil import new_key
from tests.support.paid import at_once, receipt_of, refused, wait_until
from tests.support.tempo import TempoShop, pull, push, source_of, tempo_shop, zero

ROUTES = """
      "GET /paid": {charge: "0"}
      "GET /dear": {charge: "0.09"}
      "GET /other": {charge: "0"}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TempoShop]:
    with tempo_shop(tmp_path, routes=ROUTES) as shop:
        yield shop


@pytest.mark.parametrize("version", ["3", "2", "1"])
def test_a_proof_of_any_version_buys_its_call_once(shop: TempoShop, version: str):
    challenge = shop.challenge()
    assert challenge.request_object["amount"] == "0"
    credential = zero(challenge, shop.key, version)

    response = shop.send(credential)

    assert (response[0], receipt_of(response).reference) == (200, challenge.id)
    refused(shop.send(credential), "invalid-challenge")
    assert (shop.balance(), shop.hits, shop.states()) == (0, 1, {"settled": 1})
    assert "eth_sendRawTransaction" not in shop.node.calls


def test_a_proof_in_another_version_is_the_same_proof(shop: TempoShop):
    challenge = shop.challenge()

    assert shop.send(zero(challenge, shop.key, "3"))[0] == 200
    refused(shop.send(zero(challenge, shop.key, "1")), "invalid-challenge")

    assert shop.hits == 1


def test_ten_copies_of_a_proof_run_the_upstream_once(shop: TempoShop):
    credential = zero(shop.challenge(), shop.key)

    answers = at_once([lambda: shop.send(credential)] * 10)

    assert [status for status, *_ in answers].count(200) == 1
    assert shop.hits == 1


def test_one_buyer_may_prove_itself_ten_times_at_once(shop: TempoShop):
    credentials = [zero(shop.challenge(), shop.key) for _ in range(10)]

    answers = at_once([lambda c=c: shop.send(c) for c in credentials])

    assert [status for status, *_ in answers] == [200] * 10


def test_a_proof_buys_nothing_that_costs_something(shop: TempoShop):
    refused(shop.send(zero(shop.challenge("/api/dear"), shop.key), "/api/dear"), "invalid-payload")
    shop.untouched()


def test_a_proof_of_somebody_else_or_for_something_else_is_refused(shop: TempoShop):
    challenge, other = shop.challenge(), shop.challenge()
    good, thief = zero(challenge, shop.key), new_key()
    for bad in (
        replace(good, source=source_of(thief)),
        replace(good, source=source_of(shop.key, 4217)),
        replace(good, source=None),
        replace(good, challenge=other),
        replace(good, payload=zero(other, shop.key).payload),
        replace(good, payload={"type": "proof", "signature": "0x" + "11" * 65}),
    ):
        refused(shop.send(bad), "verification-failed")
    for payload in ({"type": "proof"}, {"type": "proof", "signature": "0x12"}):
        refused(shop.send(replace(good, payload=payload)), "invalid-payload")
    refused(shop.send(good, "/api/other"), "invalid-challenge")
    for paid in (pull(challenge, shop.key), push(challenge, shop.key, "0x" + "1" * 64)):
        refused(shop.send(paid), "invalid-payload")
    shop.untouched()


def test_a_proof_is_as_good_as_before_when_the_upstream_fails(shop: TempoShop):
    credential = zero(shop.challenge(), shop.key)
    shop.keeper.answers("500 No")

    assert shop.send(credential)[0] == 500
    assert shop.states() == {"released": 1}
    shop.keeper.answers("200 OK")

    assert shop.send(credential)[0] == 200
    refused(shop.send(credential), "invalid-challenge")


def test_a_buyer_with_a_call_under_way_may_prove_itself(tmp_path: Path):
    quick = "connect_s: 1, first_byte_s: 5, settle_s: 4"
    with tempo_shop(tmp_path, routes=ROUTES, timeouts=quick) as shop, ThreadPoolExecutor(2) as pool:
        dear = pull(shop.challenge("/api/dear"), shop.key)
        proof = zero(shop.challenge(), shop.key)
        shop.keeper.opened.clear()
        first = pool.submit(shop.send, dear, "/api/dear")
        shop.reaches(verified=1)
        second = pool.submit(shop.send, proof)
        wait_until(lambda: shop.hits == 2 or second.done(), "the second call")
        shop.keeper.opened.set()

        assert [call.result(60)[0] for call in (first, second)] == [200, 200]
        assert shop.balance() == 90_000


def test_a_proof_needs_no_node(shop: TempoShop):
    shop.node.faults["*"] = "500"

    assert shop.send(zero(shop.challenge(), shop.key))[0] == 200
