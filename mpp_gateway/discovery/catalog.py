"""What the documents may say, taken from the live snapshot: no upstream address and no secret."""

from collections.abc import Mapping
from dataclasses import dataclass

from mpp_gateway.config.methods import Method
from mpp_gateway.config.model import FreeAllowance, GatewayConfig, Route, Service
from mpp_gateway.discovery.site import Site
from mpp_gateway.gateway.snapshot import Snapshot
from mpp_gateway.protocol.money import Amount, Asset, format_short
from mpp_gateway.rails.base import Offer

DEFAULT_TITLE = "Payment gateway"


@dataclass(frozen=True, slots=True)
class Payment:
    """One way to pay for a call, as a challenge will offer it."""

    intent: str
    method: str
    amount_minor: int
    decimals: int
    currency: str
    chain_id: int | None
    """None where the money is on no chain."""
    token: str
    price: str
    """A plain decimal, for instance `0.01`."""
    unit: str
    """What the price was written in: a currency such as `usd`, or else the token's name."""
    x402: bool = False
    """Whether x402 buyers can pay it too."""

    @property
    def words(self) -> str:
        """The whole price for people, for instance `0.01 usd by evm (chain 8453, USD Coin)`."""
        where = "" if self.chain_id is None else f" (chain {self.chain_id}, {self.token})"
        also = " or x402" if self.x402 else ""
        return f"{self.price} {self.unit} by {self.method}{also}{where}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One route as clients see it."""

    service: str
    method: str | None
    """None: any method."""
    pattern: str
    """Within the service."""
    path: str
    """From the origin on, with `:name` and `*` as in the configuration."""
    payments: tuple[Payment, ...]
    free: bool
    title: str | None
    description: str | None
    docs_llms_url: str | None
    free_calls: FreeAllowance | None = None
    """What each client has without paying."""


@dataclass(frozen=True, slots=True)
class Shop:
    """One service as clients see it."""

    id: str
    mount: str
    entries: tuple[Entry, ...]
    title: str | None
    description: str | None
    categories: tuple[str, ...]
    docs_llms_url: str | None


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is for sale, in the order of the configuration."""

    site: Site
    title: str
    description: str | None
    categories: tuple[str, ...]
    docs_llms_url: str | None
    shops: tuple[Shop, ...]


def compile_catalog(snapshot: Snapshot, site: Site) -> Catalog:
    """Return what a snapshot sells. Prices are those of the offers that its 402 answers make."""
    config = snapshot.config
    return Catalog(
        site=site,
        title=config.title or DEFAULT_TITLE,
        description=config.description,
        categories=config.categories,
        docs_llms_url=config.docs_llms_url,
        shops=tuple(_shop(snapshot, service) for service in config.services.values()),
    )


def _shop(snapshot: Snapshot, service: Service) -> Shop:
    mount = snapshot.mount_of(service)
    return Shop(
        id=service.id,
        mount=mount,
        entries=tuple(_entry(snapshot, service, route, mount) for route in service.routes),
        title=service.title,
        description=service.description,
        categories=service.categories,
        docs_llms_url=service.docs_llms_url,
    )


def _entry(snapshot: Snapshot, service: Service, route: Route, mount: str) -> Entry:
    offers = snapshot.offers_of(service, route)
    return Entry(
        service=service.id,
        method=route.method,
        pattern=route.pattern,
        path=mount + route.pattern,
        payments=tuple(_payment(offer, snapshot.config) for offer in offers),
        free=route.free,
        title=route.title,
        description=route.description,
        docs_llms_url=route.docs_llms_url,
        free_calls=route.free_calls,
    )


def _payment(offer: Offer, config: GatewayConfig) -> Payment:
    method = config.methods[offer.rail]
    return Payment(
        intent=offer.intent,
        method=offer.method,
        amount_minor=offer.amount.minor,
        decimals=offer.amount.asset.decimals,
        currency=_currency(offer.request, offer.amount),
        chain_id=method.chain_id,
        token=offer.amount.asset.name,
        price=format_short(offer.amount.minor, offer.amount.asset.decimals),
        unit=_unit(method, config.currency, offer.amount.asset),
        x402=offer.x402 is not None,
    )


def _currency(request: Mapping[str, object], amount: Amount) -> str:
    """Return the currency as the method's own challenges spell it."""
    spelled = request.get("currency")
    return spelled if isinstance(spelled, str) else amount.asset.code


def _unit(method: Method, currency: str, asset: Asset) -> str:
    """Return the unit that the price was written in, or what the method counts in."""
    if currency in method.units:
        return currency
    return method.units[0] if method.units else asset.name
