"""`X-Max-Price`: a client says the most that it pays, and is never asked for more."""

import json

import pytest

from mpp_gateway.protocol.challenge import Challenge
from tests.support.paid import DEAR, PRICE, paid_gateway, refused

AT = "X-Max-Price: 0.09 usd"
BELOW = "X-Max-Price: 0.089999 usd"


def test_a_price_within_the_limit_is_offered_and_paid(tmp_path):
    with paid_gateway(tmp_path) as paid:
        credential = paid.sign(paid.challenge("/api/dear", AT))
        assert paid.send(credential, "/api/dear", AT)[0] == 200
        assert paid.balance() == DEAR
        assert "x-max-price" not in {n.lower() for n, _ in paid.upstream.seen[0].headers}


@pytest.mark.parametrize("limit", [BELOW, "X-Max-Price: 0.05", "X-Max-Price: 5000 eur"])
def test_a_price_above_the_limit_is_refused_at_once_and_without_a_challenge(tmp_path, limit):
    with paid_gateway(tmp_path) as paid:
        problem = refused(paid.ask("/api/dear", limit), "price-above-maximum", 412)
        assert problem["prices"][0]["amount"] == "0.09"
        paid.untouched()


@pytest.mark.parametrize("limit", ["cheap", "0.09 usd, 1 usd", "-1", "0.09usd"])
def test_a_limit_that_cannot_be_read_is_refused_before_money_moves(tmp_path, limit):
    with paid_gateway(tmp_path) as paid:
        credential = paid.buy("/api/dear")
        answer = paid.send(credential, "/api/dear", f"X-Max-Price: {limit}")
        refused(answer, "bad-request", 400)
        paid.untouched()


def test_a_payment_above_the_payers_own_limit_moves_nothing_and_stays_good(tmp_path):
    with paid_gateway(tmp_path) as paid:
        for target in ("/api/dear", "/api/first"):
            credential = paid.buy(target)
            limit = "X-Max-Price: 0.001 usd"
            refused(paid.send(credential, target, limit), "price-above-maximum", 412)
        paid.untouched()
        assert paid.send(credential, "/api/first")[0] == 200
        assert paid.balance() == PRICE


def test_a_limit_of_the_client_is_no_price_of_the_route(tmp_path):
    """A buyer who names a lower limit, or zero, does not get the call for less."""
    with paid_gateway(tmp_path) as paid:
        cheap = paid.buy("/api/paid")
        refused(paid.send(cheap, "/api/dear", "X-Max-Price: 0.01"), "price-above-maximum", 412)
        refused(paid.ask("/api/dear", "X-Max-Price: 0"), "price-above-maximum", 412)
        assert paid.hits == 0


def test_free_routes_take_no_notice(tmp_path):
    with paid_gateway(tmp_path) as paid:
        assert paid.ask("/api/free", "X-Max-Price: nonsense")[0] == 200


OFFERS = """
      "GET /paid":
        offers:
          - {method: evm, amount: "0.01"}
          - {method: tempo, amount: "0.04"}"""
TEMPO = (
    '  tempo: {chain_id: 42431, rpc_url: "http://127.0.0.1:1", currency:'
    ' "0x20C0000000000000000000000000000000000000", recipient:'
    ' "0x00000000000000000000000000000000000000AA"}\n'
)


def test_offers_above_the_limit_are_left_out_and_the_others_stay(tmp_path):
    routes = '\n      "GET /paid": {charge: "0.01"}'
    with paid_gateway(tmp_path, routes=routes) as paid:
        paid.stop()
        with_tempo = paid.config.replace("methods:\n", f"methods:\n{TEMPO}", 1)
        paid.start(with_tempo.replace(routes, OFFERS))
        seen = {}
        for limit in ("0.05 usd", "0.04", "0.039 usd", "0.01", "0.009"):
            status, fields, body = paid.ask("/api/paid", f"X-Max-Price: {limit}")
            found = fields.get("www-authenticate", "").split("\n")
            methods = [c.method for c in Challenge.parse_all(found)]
            seen[limit] = (status, methods)
        assert json.loads(body)["title"] == "Price above maximum"
    assert seen == {
        "0.05 usd": (402, ["evm", "tempo"]),
        "0.04": (402, ["evm", "tempo"]),
        "0.039 usd": (402, ["evm"]),
        "0.01": (402, ["evm"]),
        "0.009": (412, []),
    }


def test_a_payment_above_the_limit_is_refused_though_another_offer_is_below_it(tmp_path):
    routes = '\n      "GET /paid": {charge: "0.01"}'
    offers = OFFERS.replace("0.01", "0.05").replace('"0.04"', '"0.01"')
    with paid_gateway(tmp_path, routes=routes) as paid:
        paid.stop()
        with_tempo = paid.config.replace("methods:\n", f"methods:\n{TEMPO}", 1)
        paid.start(with_tempo.replace(routes, offers))
        _, fields, _ = paid.ask("/api/paid")
        dear, _ = Challenge.parse_all(fields["www-authenticate"].split("\n"))
        credential = paid.sign(dear)
        answer = paid.send(credential, "/api/paid", "X-Max-Price: 0.02 usd")
        refused(answer, "price-above-maximum", 412)
        paid.untouched()
        assert paid.send(credential, "/api/paid", "X-Max-Price: 0.05 usd")[0] == 200
