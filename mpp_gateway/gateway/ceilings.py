"""A client's own limit to what a call may cost: what is above it is not offered, and not taken."""

from mpp_gateway.errors import PriceAboveMaximum
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.protocol.ceiling import FIELD, Ceiling
from mpp_gateway.protocol.money import format_short
from mpp_gateway.rails.base import Offer, Presented

PRICES_MAX = 8


def set_ceiling(exchange: Exchange) -> None:
    """Read the client's limit, and refuse at once what no offer of the route is below.

    Errors: `BadRequest` for a limit that cannot be read, `PriceAboveMaximum`.
    """
    exchange.ceiling = Ceiling.of(exchange.head.get_all(FIELD))
    if exchange.ceiling is not None and not any(is_within(exchange, o) for o in exchange.offers):
        raise _too_dear(exchange)


def check_ceiling(exchange: Exchange, presented: Presented) -> None:
    """Refuse a payment above the client's own limit, before anything is claimed or moved."""
    if not is_within(exchange, presented.offer, presented.amount_minor):
        raise _too_dear(exchange)


def is_within(exchange: Exchange, offer: Offer, minor: int | None = None) -> bool:
    """Tell whether an offer, or a payment of `minor` for it, is within the client's limit."""
    if exchange.ceiling is None:
        return True
    method = exchange.snapshot.config.methods[offer.rail]
    asked = offer.amount.minor if minor is None else minor
    return exchange.ceiling.covers(asked, offer.amount.asset.decimals, method.units, method.rates)


def _too_dear(exchange: Exchange) -> PriceAboveMaximum:
    prices = [
        {
            "method": offer.method,
            "intent": offer.intent,
            "amount": format_short(offer.amount.minor, offer.amount.asset.decimals),
            "unit": offer.amount.asset.name,
        }
        for offer in exchange.offers[:PRICES_MAX]
    ]
    return PriceAboveMaximum(
        f"No price of this call is within {FIELD}: {exchange.ceiling}.",
        hint="Nothing was claimed or charged. `prices` has what the call costs.",
        extra={"prices": prices},
    )
