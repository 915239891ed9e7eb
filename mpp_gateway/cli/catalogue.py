"""What a configuration sells, as rows: for the banner, for `check`, for people and programs."""

import sys
from dataclasses import asdict, dataclass
from typing import Any

from mpp_gateway.cli.output import say, styled, table
from mpp_gateway.config.model import GatewayConfig, Price, Route, Service
from mpp_gateway.protocol.money import format_short


@dataclass(frozen=True, slots=True)
class Row:
    """One route and what a call of it costs."""

    service: str
    route: str
    price: str
    methods: str
    settle: str


def rows(config: GatewayConfig) -> list[Row]:
    """Return every route of every service in the order of the file."""
    return [
        Row(
            service=service.id,
            route=_mounted(config, service, route),
            price=_price(route),
            methods=", ".join(dict.fromkeys(price.method_name for price in route.prices)) or "-",
            settle=_settles(config, route),
        )
        for service in config.services.values()
        for route in service.routes
    ]


def catalogue(config: GatewayConfig, stream: Any = None) -> str:
    """Return the rows as a table for `stream`, stdout by default."""
    cells = [(r.service, r.route, r.price, r.methods, r.settle) for r in rows(config)]
    return table(("service", "route", "price", "paid by", "settles"), cells, stream)


def warn(config: GatewayConfig) -> None:
    """Tell of what is no mistake and may not be meant."""
    for warning in config.warnings:
        say(styled(f"warning: {warning}", "yellow", sys.stderr))


def as_json(config: GatewayConfig) -> dict[str, Any]:
    """Return the rows for a program."""
    return {
        "realm": config.realm,
        "routes": [asdict(row) for row in rows(config)],
        "warnings": [str(warning) for warning in config.warnings],
    }


def _mounted(config: GatewayConfig, service: Service, route: Route) -> str:
    path = f"{config.base_path}/{service.id}{route.pattern}"
    return f"{route.method or '*'} {path}"


def _settles(config: GatewayConfig, route: Route) -> str:
    """Return what holds for every way to pay, and after it by which ways it is otherwise."""
    if route.free:
        return "-"
    by_method = {price.method_name: _moves(config, route, price) for price in route.prices}
    moves = dict.fromkeys(by_method.values())
    if len(moves) == 1:
        return next(iter(moves))
    names = {when: [name for name, w in by_method.items() if w == when] for when in moves}
    others = [f"{when} ({', '.join(names[when])})" for when in moves if when != route.settle]
    return "; ".join([route.settle, *others] if route.settle in moves else others)


def _moves(config: GatewayConfig, route: Route, price: Price) -> str:
    method = config.methods[price.method_name]
    # A rail that can check nothing without moving money settles first, whatever the route says.
    if route.settle == "before" or method.settles_first(price.amount_minor):
        return "before"
    return "may be before" if method.sooner(price.amount_minor, route.waits_s) else route.settle


def _price(route: Route) -> str:
    if route.free:
        return "free"
    return " or ".join(dict.fromkeys(_amount(price) for price in route.prices))


def _amount(price: Price) -> str:
    return f"{format_short(price.amount_minor, price.asset.decimals)} ({price.method_name})"
