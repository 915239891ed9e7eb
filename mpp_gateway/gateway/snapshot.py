"""One configuration, complete and compiled: a request takes it once and keeps it to its end."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mpp_gateway.config.model import GatewayConfig, Route, Service
from mpp_gateway.gateway.slots import NO_MODULES, Slots
from mpp_gateway.protocol.money import Amount
from mpp_gateway.rails.base import Offer, Rail
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What admission needs to know; immutable."""

    config: GatewayConfig
    table: RouteTable
    rails: Mapping[str, Rail]
    scheme: PaymentScheme
    offers: Mapping[tuple[str, str], tuple[Offer, ...]]
    """By service id and route key, in the order of the configuration; empty for a free route."""
    store_id: str = ""
    slots: Slots = NO_MODULES
    prefixed: bool = True
    """Whether services are mounted under their ids; a single one may stand at the root."""

    def offers_of(self, service: Service, route: Route) -> tuple[Offer, ...]:
        """Return what a call of `route` may be paid with."""
        return self.offers[service.id, route.key]

    def mount_of(self, service: Service) -> str:
        """Return the path under which clients see `service`."""
        return f"{self.config.base_path}/{service.id}" if self.prefixed else ""


def compile_offers(
    config: GatewayConfig, rails: Mapping[str, Rail]
) -> dict[tuple[str, str], tuple[Offer, ...]]:
    """Return the offers of every route. Pure: prices and recipients come from the config alone."""
    offers: dict[tuple[str, str], tuple[Offer, ...]] = {}
    for service in config.services.values():
        for route in service.routes:
            made = (
                rails[price.method_name].offer(
                    Amount(price.amount_minor, price.asset),
                    price.recipient,
                    route.description,
                )
                for price in route.prices
            )
            offers[service.id, route.key] = tuple(
                offer if route.upto else replace(offer, upto=None) for offer in made
            )
    return offers
