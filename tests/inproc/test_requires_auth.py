"""An upstream that knows its callers itself: their `Authorization` is its, the payment is not."""

from dataclasses import replace

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.errors import ConfigError
from tests.support.paid import PRICE, paid_gateway, refused
from tests.support.proxy import config_text
from tests.support.x402 import x402_gateway

OWN = "Authorization: Bearer the-caller"


@pytest.fixture
def gateway(tmp_path):
    with paid_gateway(tmp_path, auth="requires_auth: true") as paid:
        yield paid


def pays(credential) -> str:
    return f"Payment-Authorization: {credential.format()}"


def test_a_caller_pays_beside_its_own_authorization(gateway):
    challenge = gateway.challenge("/api/paid", OWN)
    assert challenge.header == "Payment-Authorization"
    status, fields, _ = gateway.ask("/api/paid", OWN, pays(gateway.sign(challenge)))
    assert (status, "payment-receipt" in fields) == (200, True)
    (seen,) = gateway.upstream.seen
    assert [v for n, v in seen.headers if n.lower() == "authorization"] == ["Bearer the-caller"]
    # Whoever is upstream could spend a credential that is not spent here.
    assert seen.get("payment-authorization") is None
    assert gateway.balance() == PRICE


def test_a_payment_may_come_with_no_authorization_at_all(gateway):
    assert gateway.ask("/api/paid", pays(gateway.buy()))[0] == 200
    assert gateway.upstream.seen[0].get("authorization") is None


def test_a_payment_in_the_callers_own_field_buys_nothing_and_goes_nowhere(gateway):
    credential = gateway.buy()
    refused(gateway.send(credential), "payment-required")
    gateway.untouched()
    assert gateway.send(credential, "/api/free")[0] == 200
    assert gateway.upstream.seen[0].get("authorization") is None


def test_one_payment_in_both_fields_pays_once(gateway):
    credential = gateway.buy()
    both = pays(credential), f"Authorization: {credential.format()}"
    assert gateway.ask("/api/paid", *both)[0] == 200
    refused(gateway.ask("/api/paid", *both), "invalid-challenge")
    assert (gateway.hits, gateway.balance()) == (1, PRICE)
    assert gateway.upstream.seen[0].get("authorization") is None


def test_a_challenge_without_its_field_is_not_ours(gateway):
    credential = gateway.buy()
    stripped = replace(credential, challenge=replace(credential.challenge, header=None))
    refused(gateway.ask("/api/paid", pays(stripped)), "invalid-challenge")
    gateway.untouched()


def test_two_payments_in_the_field_are_ambiguous(gateway):
    one, other = gateway.buy(), gateway.buy()
    refused(gateway.ask("/api/paid", pays(one), pays(other)), "ambiguous-credentials", 400)
    gateway.untouched()


def test_elsewhere_the_other_field_is_none_for_payments(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        assert gateway.challenge("/api/paid", OWN).header is None
        refused(gateway.ask("/api/paid", pays(gateway.buy())), "payment-required")
        gateway.untouched()


@pytest.mark.parametrize("auth", ["", "auth: {header: {name: X-Key, value: k}}"])
def test_elsewhere_a_callers_authorization_stays_outside(tmp_path, auth):
    """No key of ours is in its place here, which would hide that it has passed."""
    with x402_gateway(tmp_path, auth=auth) as buyer:
        gateway = buyer.paid
        assert gateway.ask("/api/free", OWN)[0] == 200
        assert gateway.ask("/api/free", OWN.upper())[0] == 200
        assert buyer.send(buyer.v2(), "/api/paid", OWN)[0] == 200

        assert gateway.hits == 3
        assert [seen.get("authorization") for seen in gateway.upstream.seen] == [None] * 3


def test_a_key_of_ours_in_the_callers_field_is_a_mistake(tmp_path):
    services = """  api:
    base_url: https://api.example.com
    requires_auth: true
    auth: {bearer: marked-secret}
    routes: {"GET /x": free}"""
    text = config_text(services, store=tmp_path / "x.db")
    with pytest.raises(ConfigError, match="the client's `Authorization` would be replaced"):
        load_text(text, "x.yaml", {})
    load_text(text.replace("bearer: marked-secret", "header: {name: X-Key, value: k}"), "x", {})
