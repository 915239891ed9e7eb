"""A 402 tells whoever reads its body what the call costs."""

import json
from dataclasses import replace
from types import MappingProxyType

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.gateway import admission
from mpp_gateway.gateway.snapshot import Snapshot, compile_offers
from mpp_gateway.gateway.steps import Reply
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable
from tests.support.machine import ENTROPY, NOW_S, driven
from tests.support.proxy import SECRET, config_text
from tests.support.toy_rail import ToyRail

METHOD = """  {name}:
    kind: evm
    chain_id: {chain_id}
    token: {{address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: {token}, decimals: 6}}
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {{facilitator: "http://127.0.0.1:9"}}
"""
SERVICE = """  api:
    base_url: http://127.0.0.1:9
    routes:
      "GET /paid":
        offers: [{offers}]
"""


class Withheld(ToyRail):
    """Takes no money now."""

    withheld_for = "No gas."


def told(_) -> Reply:
    return Reply(None, NOW_S)


def detail(
    tmp_path, *offered: tuple[str, str, str], withheld: str = "", has_tokens: bool = True
) -> str:
    """Return what the 402 says, offered by methods of a name, a token and a price."""
    methods = "".join(
        METHOD.format(name=name, token=token, chain_id=90_001 + number)
        for number, (name, token, _) in enumerate(offered)
    )
    offers = ", ".join(f'{{method: {name}, amount: "{price}"}}' for name, _, price in offered)
    service = SERVICE.format(offers=offers)
    config = load_text(config_text(service, methods, store=tmp_path / "x.db"), "x.yaml", {})
    rails = {name: (Withheld if name == withheld else ToyRail)(name) for name in config.methods}
    scheme = PaymentScheme(ChallengeKeys.from_secrets([SECRET]))
    snapshot = Snapshot(
        config if has_tokens else replace(config, methods={}),
        RouteTable.build(config),
        MappingProxyType(rails),
        scheme,
        compile_offers(config, rails),
    )
    head = RequestHead("GET", "/api/paid", ())
    exchange, _ = driven(admission.match(head, snapshot, "r1", NOW_S, ENTROPY), told)
    answer, _ = driven(admission.admit(exchange, NOW_S, ENTROPY), told)
    assert answer.status == 402
    return json.loads(answer.body)["detail"]


@pytest.mark.parametrize(
    ("offered", "costs"),
    [
        ([("a", "USDC", "0.01")], "0.01 USDC"),
        ([("a", "USDC", "0.01"), ("b", "USDC", "0.01")], "0.01 USDC"),
        ([("a", "USDC", "1.5"), ("b", "EURC", "0.000002")], "1.50 USDC or 0.000002 EURC"),
        ([(c, c.upper() * 2, "1") for c in "abcd"], "1.00 AA or 1.00 BB or 1.00 CC"),
    ],
)
def test_the_402_names_the_price_for_whoever_reads_it(tmp_path, offered, costs):
    said = detail(tmp_path, *offered)

    assert said == f"This call costs {costs}; the challenge says how to pay."


def test_a_price_needs_no_settings_of_a_token(tmp_path):
    """A card or a voucher has none; what a price is counted in comes with the offer."""
    said = detail(tmp_path, ("a", "USDC", "0.01"), has_tokens=False)

    assert said == "This call costs 0.01 USDC; the challenge says how to pay."


def test_a_price_that_cannot_be_paid_now_is_not_named(tmp_path):
    said = detail(tmp_path, ("a", "USDC", "0.01"), ("b", "EURC", "0.02"), withheld="a")

    assert said == "This call costs 0.02 EURC; the challenge says how to pay."
