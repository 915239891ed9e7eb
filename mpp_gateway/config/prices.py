"""From what a route asks for to integer prices, one for each way to pay."""

from dataclasses import dataclass

from mpp_gateway.config.context import Context
from mpp_gateway.config.document import Path
from mpp_gateway.config.methods import Method
from mpp_gateway.config.model import Price
from mpp_gateway.config.report import did_you_mean
from mpp_gateway.config.settings import OfferSettings, RouteSettings, ServiceSettings
from mpp_gateway.protocol.money import convert_minor, parse_minor

AMOUNT_BITS_MAX = 256
"""A price must fit the integers of the chains (uint256)."""


@dataclass(frozen=True, slots=True)
class _Recipient:
    """An override of who is paid, and where it was written."""

    text: str
    path: Path


def resolve_prices(
    context: Context, service: ServiceSettings, route: RouteSettings, path: Path
) -> tuple[Price, ...]:
    """Return the prices of a paid route, in the order of its offers or methods."""
    withheld = len(context.withheld)
    prices = _resolved(context, service, route, path)
    if not prices and len(context.withheld) > withheld and context.document.is_sound(*path):
        key = next(key for key in ("offers", "units", "charge") if getattr(route, key) is not None)
        context.fail((*path, key), f"a higher price: {context.withheld[withheld].message}")
    return prices


def _resolved(
    context: Context, service: ServiceSettings, route: RouteSettings, path: Path
) -> tuple[Price, ...]:
    service_path = path[:2]
    recipient = _recipient(service.recipient, (*service_path, "recipient"))
    recipient = _recipient(route.recipient, (*path, "recipient")) or recipient
    if route.offers is not None:
        return _from_offers(context, service, route.offers, recipient, path)
    names = _names(context, service, route, path)
    if route.units is not None:
        return _from_units(context, names, route.units, recipient, path)
    if route.charge is not None:
        return _from_charge(context, names, route, recipient, path)
    return ()


def _recipient(text: str | None, path: Path) -> _Recipient | None:
    return None if text is None else _Recipient(text, path)


def check_names(context: Context, names: tuple[str, ...] | None, path: Path) -> None:
    """Refuse names that no method has, and names that stand twice."""
    for index, name in enumerate(names or ()):
        if name not in context.methods:
            context.fail(
                (*path, index), f"a name from `methods`; {did_you_mean(name, context.methods)}"
            )
        elif name in (names or ())[:index]:
            context.fail((*path, index), "each method once")


def _names(
    context: Context, service: ServiceSettings, route: RouteSettings, path: Path
) -> tuple[str, ...]:
    """Return the methods that are in force on a route."""
    allowed = tuple(context.methods) if service.methods is None else service.methods
    if route.methods is None:
        return tuple(name for name in allowed if name in context.methods)
    check_names(context, route.methods, (*path, "methods"))
    for index, name in enumerate(route.methods):
        if name in context.methods and name not in allowed:
            context.fail((*path, "methods", index), "one of the methods of the service")
    return tuple(name for name in route.methods if name in allowed and name in context.methods)


def _from_charge(
    context: Context,
    names: tuple[str, ...],
    route: RouteSettings,
    recipient: _Recipient | None,
    path: Path,
) -> tuple[Price, ...]:
    currency = context.root.currency
    prices: list[Price] = []
    is_certain = context.document.is_sound("currency") and context.document.is_sound("methods")
    withheld = len(context.withheld)
    for name in names:
        method = context.methods[name]
        if method is None:
            continue
        if currency in method.units or currency in method.rates:
            text, where = route.charge or "", (*path, "charge")
            price = _priced(context, name, method, text, recipient, where)
            prices += [] if price is None else [price]
        elif route.methods is not None and is_certain:
            where = (*path, "methods", route.methods.index(name))
            context.fail(where, f"a method whose `units` or `rates` contain {currency}")
    charge_path = (*path, "charge")
    is_certain = is_certain and len(context.withheld) == withheld
    if not prices and is_certain and context.document.is_sound(*path):
        context.fail(
            charge_path, f"a price in a unit that some method takes: none takes {currency}"
        )
    return tuple(prices)


def _from_units(
    context: Context,
    names: tuple[str, ...],
    units: int,
    recipient: _Recipient | None,
    path: Path,
) -> tuple[Price, ...]:
    where = (*path, "units")
    if len(names) != 1:
        if context.document.is_sound("methods") and context.document.is_sound(*path):
            context.fail(where, "`units` with exactly one method in force: narrow `methods`")
        return ()
    method = context.methods[names[0]]
    if method is None:
        return ()
    price = _in_units(context, names[0], method, units, recipient, where)
    return () if price is None else (price,)


def _from_offers(
    context: Context,
    service: ServiceSettings,
    offers: tuple[OfferSettings, ...],
    recipient: _Recipient | None,
    path: Path,
) -> tuple[Price, ...]:
    prices: list[Price] = []
    seen: set[tuple[str, str]] = set()
    for index, offer in enumerate(offers):
        where = (*path, "offers", index)
        if offer.method not in context.methods:
            known = did_you_mean(offer.method, context.methods)
            context.fail((*where, "method"), f"a name from `methods`; {known}")
            continue
        if service.methods is not None and offer.method not in service.methods:
            context.fail((*where, "method"), "one of the methods of the service")
        if (offer.method, offer.intent) in seen:
            context.fail((*where, "method"), "each method and intent once")
        seen.add((offer.method, offer.intent))
        price = _from_offer(context, offer, recipient, where)
        prices += [] if price is None else [price]
    return tuple(prices)


def _from_offer(
    context: Context, offer: OfferSettings, recipient: _Recipient | None, path: Path
) -> Price | None:
    method = context.methods[offer.method]
    if method is None:
        return None
    recipient = _recipient(offer.recipient, (*path, "recipient")) or recipient
    if offer.units is not None:
        where = (*path, "units")
        return _in_units(context, offer.method, method, offer.units, recipient, where)
    where = (*path, "amount")
    currency = context.root.currency
    if currency not in method.units and currency not in method.rates:
        if context.document.is_sound("currency"):
            context.fail(
                where,
                f"`units`, since {offer.method} does not take {currency} at par and has no"
                " `rates` for it",
            )
        return None
    return _priced(context, offer.method, method, offer.amount or "", recipient, where)


def _priced(
    context: Context,
    name: str,
    method: Method,
    text: str,
    recipient: _Recipient | None,
    path: Path,
) -> Price | None:
    rate = method.rates.get(context.root.currency)
    if rate is not None:
        minor = convert_minor(text, rate, method.asset.decimals)
        return _in_units(context, name, method, minor, recipient, path)
    try:
        minor = parse_minor(text, method.asset.decimals)
    except ValueError:
        decimals = method.asset.decimals
        context.fail(path, f"at most {decimals} decimals, which is what the token of {name} has")
        return None
    return _in_units(context, name, method, minor, recipient, path)


def _in_units(
    context: Context,
    name: str,
    method: Method,
    minor: int,
    recipient: _Recipient | None,
    path: Path,
) -> Price | None:
    if minor == 0 and not method.takes_zero:
        context.fail(path, "a price above zero; a free route is written `free`")
        return None
    if minor.bit_length() > AMOUNT_BITS_MAX:
        context.fail(path, "a price that fits the token's integers")
        return None
    if expected := method.flaw(minor):
        context.fail(path, expected)
        return None
    if why := method.withheld(minor):
        context.withhold(path, f"{name} is not offered: {why}")
        return None
    paid_to = None
    if recipient is not None:
        try:
            paid_to = method.recipient_from(recipient.text)
        except ValueError as error:
            if context.document.is_sound(*recipient.path):
                context.fail(recipient.path, str(error))
    return Price(name, "charge", minor, method.asset, paid_to)
