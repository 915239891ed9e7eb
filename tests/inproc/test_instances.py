"""Several methods of one kind, and recipients of their own: every payment ends where it belongs."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpp_gateway.demo.chain import TOKEN_DECIMALS, TOKEN_NAME, TOKEN_VERSION
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.rails.evm.payer import Purse, pay
from tests.support import upstream as upstreams
from tests.support.client import get
from tests.support.evm import address, now, settings_of
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    ChainThread,
    Response,
    chain,
    fresh_key,
    refused,
)
from tests.support.proxy import Proxy, config_text, running
from tests.support.x402 import decoded, encoded, proof, signed

BASE, POLYGON = 84532, 80002


@dataclass
class TwoChains:
    """One gateway that is paid on two chains, by one buyer."""

    proxy: Proxy
    upstream: upstreams.Upstream
    chains: dict[str, ChainThread]
    key: bytes
    payees: dict[str, str]

    def ask(self, target: str, *fields: str) -> Response:
        return get(self.proxy.port, target, *fields)

    def challenges(self, target: str) -> list[Challenge]:
        status, headers, _ = self.ask(target)
        assert status == 402
        return Challenge.parse_all(headers["www-authenticate"].split("\n"))

    def credential(self, target: str, name: str) -> str:
        """Return what pays `target` on one of the chains by MPP."""
        domain = settings_of(self.chains[name].demo).domain
        (asked,) = (
            challenge
            for challenge in self.challenges(target)
            if challenge.request_object["methodDetails"]["chainId"] == domain.chain_id
        )
        return pay(asked, Purse(domain, PURSE_MINOR), self.key, now()).format()

    def entry(self, target: str, name: str) -> dict:
        accepts = decoded(self.ask(target)[1]["payment-required"])["accepts"]
        network = f"eip155:{self.chains[name].demo.chain_id}"
        (found,) = (entry for entry in accepts if entry["network"] == network)
        return found

    def payment(self, entry: dict, **changes) -> str:
        made = proof(signed(entry, self.key, **changes))
        return encoded({"x402Version": 2, "payload": made, "accepted": entry})

    def balance(self, payee: str, name: str) -> int:
        return self.chains[name].balance(self.payees[payee])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[TwoChains]:
    chains = {"base": chain(BASE), "polygon": chain(POLYGON)}
    key, gas_key = fresh_key("payer"), fresh_key("gas")
    payees = {who: address(fresh_key(who)) for who in ("base", "polygon", "route", "service")}
    methods = ""
    for name, thread in chains.items():
        thread.run(thread.demo.mint(address(key), PURSE_MINOR))
        thread.run(thread.demo.fund_gas(address(gas_key)))
        demo = thread.demo
        methods += (
            f'  {name}: {{kind: evm, chain_id: {demo.chain_id}, rpc_url: "{demo.rpc_url}", token:'
            f' {{address: "{demo.token_address}", name: {TOKEN_NAME}, version: "{TOKEN_VERSION}",'
            f' decimals: {TOKEN_DECIMALS}}}, recipient: "{payees[name]}", x402: true, submit:'
            f' {{private_key: "0x{gas_key.hex()}", max_fee_gwei: "100"}}}}\n'
        )
    with ExitStack() as stack:
        up = stack.enter_context(upstreams.upstream())
        routes = (
            '\n      "GET /both": {charge: "0.01"}\n      "GET /one": {charge: "0.01",'
            ' methods: [polygon]}\n      "GET /own": {charge: "0.01", recipient:'
            f' "{payees["route"]}"}}'
        )
        services = (
            f"  api:\n    base_url: {up.url}\n    routes:{routes}\n  partner:\n    base_url:"
            f' {up.url}\n    recipient: "{payees["service"]}"\n    routes: {{"GET /x": {{charge:'
            ' "0.01"}}'
        )
        text = config_text(services, methods, store=tmp_path / "gateway.db")
        proxy = stack.enter_context(running(text))
        yield TwoChains(proxy, up, chains, key, payees)


def test_one_402_offers_each_chain_in_the_order_of_the_file(shop: TwoChains):
    asked = [c.request_object["methodDetails"]["chainId"] for c in shop.challenges("/api/both")]
    accepts = decoded(shop.ask("/api/both")[1]["payment-required"])["accepts"]

    assert asked == [BASE, POLYGON]
    assert [entry["network"] for entry in accepts] == [f"eip155:{BASE}", f"eip155:{POLYGON}"]


@pytest.mark.parametrize("name", ["base", "polygon"])
def test_a_payment_moves_money_on_its_own_chain_alone(shop: TwoChains, name: str):
    other = {"base": "polygon", "polygon": "base"}[name]

    response = shop.ask("/api/both", f"Authorization: {shop.credential('/api/both', name)}")
    assert response[0] == 200
    payment = shop.payment(shop.entry("/api/both", name))
    assert shop.ask("/api/both", f"PAYMENT-SIGNATURE: {payment}")[0] == 200

    assert (shop.balance(name, name), shop.balance(other, other)) == (2 * PRICE, 0)
    assert len(shop.upstream.seen) == 2


def test_a_payment_of_one_chain_shown_as_the_others_buys_nothing(shop: TwoChains):
    base, polygon = shop.entry("/api/both", "base"), shop.entry("/api/both", "polygon")
    made = proof(signed(base | {"payTo": polygon["payTo"]}, shop.key))
    swapped = encoded({"x402Version": 2, "payload": made, "accepted": polygon})

    refused(shop.ask("/api/both", f"PAYMENT-SIGNATURE: {swapped}"), "verification-failed")
    assert not shop.upstream.seen


def test_a_route_that_narrows_its_methods_takes_no_other(shop: TwoChains):
    credential = shop.credential("/api/both", "base")
    payment = shop.payment(shop.entry("/api/both", "base"))

    assert len(shop.challenges("/api/one")) == 1
    refused(shop.ask("/api/one", f"Authorization: {credential}"), "invalid-challenge")
    refused(shop.ask("/api/one", f"PAYMENT-SIGNATURE: {payment}"), "verification-failed")
    assert not shop.upstream.seen


@pytest.mark.parametrize(("target", "payee"), [("/api/own", "route"), ("/partner/x", "service")])
def test_a_recipient_of_its_own_gets_the_money_on_every_chain(
    shop: TwoChains, target: str, payee: str
):
    for name in ("base", "polygon"):
        credential = shop.credential(target, name)
        assert shop.ask(target, f"Authorization: {credential}")[0] == 200
        payment = shop.payment(shop.entry(target, name))
        assert shop.ask(target, f"PAYMENT-SIGNATURE: {payment}")[0] == 200
        assert (shop.balance(payee, name), shop.balance(name, name)) == (2 * PRICE, 0)


def test_a_payment_to_the_usual_recipient_does_not_buy_what_pays_another(shop: TwoChains):
    payment = shop.payment(shop.entry("/api/both", "base"))

    refused(shop.ask("/api/own", f"PAYMENT-SIGNATURE: {payment}"), "verification-failed")
    assert shop.ask("/api/both", f"PAYMENT-SIGNATURE: {payment}")[0] == 200
    assert (shop.balance("route", "base"), shop.balance("base", "base")) == (0, PRICE)
