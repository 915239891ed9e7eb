"""Snapshots for the documents: a real configuration, real offers, no network and no store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mpp_gateway.config import GatewayConfig, load_text
from mpp_gateway.config.methods import Method
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.discovery.catalog import Catalog, compile_catalog
from mpp_gateway.discovery.documents import Documents
from mpp_gateway.discovery.site import Site
from mpp_gateway.gateway.snapshot import Snapshot, compile_offers
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.rails.base import Offer, Rail
from mpp_gateway.rails.evm.request import EvmSettings, build_offer
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable

ROOT = Path(__file__).parents[3]
ACME = ROOT / "tests" / "golden" / "discovery" / "acme.yaml"
METHODS = """
methods:
  evm:
    chain_id: 8453
    token:
      address: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
      name: USDC
      version: "2"
      decimals: 6
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {facilitator: https://facilitator.example}
"""


@dataclass(frozen=True)
class OfferingRail:
    """As much of the evm rail as a document needs."""

    name: str
    settings: EvmSettings

    @classmethod
    def of(cls, name: str, method: Method) -> "OfferingRail":
        token, recipient = parse_address(method.token.address), parse_address(method.recipient)
        settings = EvmSettings(
            method.chain_id,
            token,
            method.token.name,
            method.token.version,
            method.token.decimals,
            recipient,
        )
        return cls(name, settings)

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        return build_offer(self.name, self.settings, price, recipient, description)


def rewrite(request: Any, context: Any) -> Any:
    """A hook, so that a route may have options."""
    return request


def snapshot_of(config: GatewayConfig) -> Snapshot:
    rails = {name: cast("Rail", OfferingRail.of(name, m)) for name, m in config.methods.items()}
    keys = ChallengeKeys.from_secrets([key.get_secret_value() for key in config.secret_keys])
    return Snapshot(
        config=config,
        table=RouteTable.build(config),
        rails=rails,
        scheme=PaymentScheme(keys, config.challenge_ttl_s),
        offers=compile_offers(config, rails),
    )


def config_of(routes: str, *, root: str = "", service: str = "") -> GatewayConfig:
    """Return a configuration with one service `shop`; each argument is lines of YAML."""
    lines = [f"      {line.strip()}" for line in routes.strip().split("\n")]
    text = "\n".join(
        [
            "secret_key: 0123456789abcdef0123456789abcdef",
            root,
            METHODS,
            "services:\n  shop:\n    base_url: https://upstream.example",
            service,
            "    routes:",
            *lines,
        ]
    )
    return load_text(text, "test.yaml", {})


def catalog_of(config: GatewayConfig, mount: str = "") -> Catalog:
    return compile_catalog(snapshot_of(config), Site.of(config, mount))


def documents_of(config: GatewayConfig, mount: str = "") -> Documents:
    return Documents(config, snapshot_of(config), mount)


def acme() -> GatewayConfig:
    return load_text(ACME.read_text(), "acme.yaml", {})


def head(target: str, method: str = "GET", **fields: str) -> RequestHead:
    """Return a request head; `if_none_match="…"` stands for the field `If-None-Match`."""
    headers = tuple((name.replace("_", "-"), value) for name, value in fields.items())
    return RequestHead(method, target, headers)
