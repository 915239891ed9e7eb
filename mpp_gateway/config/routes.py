"""From one entry of `routes` to a route with its prices, timeouts and fields to inject."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mpp_gateway.config.context import Context, merge_timeouts
from mpp_gateway.config.credentials import check_headers, fields_for, form_auth
from mpp_gateway.config.document import Path
from mpp_gateway.config.model import NOTHING, FreeAllowance, Price, Route, Timeouts
from mpp_gateway.config.patterns import parse_route_key
from mpp_gateway.config.presets import Preset
from mpp_gateway.config.prices import resolve_prices
from mpp_gateway.config.report import check, show
from mpp_gateway.config.settings import RouteSettings, ServiceSettings

PRICE_KEYS = ("charge", "units", "offers")
WITHOUT_BODY = frozenset({"GET", "HEAD"})
PAID_KEYS = (
    *PRICE_KEYS,
    "methods",
    "recipient",
    "upto",
    "settle",
    "on_failure",
    "digest",
    "charge_on",
    "free_calls",
)
"""Keys without effect on a free route."""
BODILESS_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What a route inherits from its service."""

    service: ServiceSettings
    preset: Preset | None
    timeouts: Timeouts
    has_hooks: bool


def resolve_route(
    context: Context, facts: RouteFacts, bare: Route, value: Any, path: Path
) -> Route | None:
    """Return the route of a key whose pattern has been read; None when its value is unusable."""
    if isinstance(value, str):
        if value != "free":
            context.document.add(path, _what_a_route_is(), show(context.document, path))
            return None
        value = {"free": True}
    elif not isinstance(value, Mapping):
        context.document.add(path, _what_a_route_is(), show(context.document, path))
        return None
    settings = check(RouteSettings, value, context.document, path)
    if settings is None:
        return None
    is_free = bool(settings.free)
    _check_keys(context, facts, bare, settings, path)
    prices = () if is_free else resolve_prices(context, facts.service, settings, path)
    route = replace(
        bare,
        free=is_free,
        prices=prices,
        upto=bool(settings.upto),
        settle=settings.settle or "on_success",
        on_failure=settings.on_failure,
        digest=bool(settings.digest),
        free_calls=None if is_free else _free_calls(context, facts.service, settings, path),
        title=settings.title or _known_title(facts.preset, bare),
        description=settings.description,
        docs_llms_url=settings.docs_llms_url,
        timeouts=merge_timeouts(facts.timeouts, settings.timeouts),
        body_limit_bytes=_body_limit(context, settings),
        charge_on=frozenset(settings.charge_on or ()),
        options=_frozen(settings.options) if settings.options else NOTHING,
        injected=fields_for(facts.service, settings, facts.preset),
    )
    _check_deadlines(context, route, path)
    _check_told_apart(context, settings, prices, path)
    _check_refund(context, route, path)
    _check_upto(context, route, path)
    return route


def _free_calls(
    context: Context, service: ServiceSettings, route: RouteSettings, path: Path
) -> FreeAllowance | None:
    """Return the free calls that are nearest to a route: its own, its service's, the root's."""
    levels = ((context.root.free_calls, ()), (service.free_calls, path[1:2]))
    given, scope = None, ""
    for settings, names in (*levels, (route.free_calls, (path[1], path[-1]))):
        if settings is not None:
            given, scope = settings, " ".join(map(str, names))
    if given is None or not given.count:
        return None
    return FreeAllowance(given.count, given.per, given.total, scope)


def _what_a_route_is() -> str:
    return '`free` or a price such as {charge: "0.05"}'


def _body_limit(context: Context, settings: RouteSettings) -> int:
    limit = settings.body_limit_bytes
    return context.root.limits.request_body_bytes if limit is None else limit


def _check_keys(
    context: Context, facts: RouteFacts, route: Route, settings: RouteSettings, path: Path
) -> None:
    """Refuse keys that have no effect together: one of them was meant to have one."""
    document = context.document
    auth = form_auth(settings.auth) if settings.auth is not None else ()
    check_headers(context, settings.headers, auth, (*path, "headers"))
    if document.has(*path, "options") and not facts.has_hooks:
        message = "has no effect: the service has no `rewrite_request` or `rewrite_response`"
        document.add((*path, "options"), message)
    if settings.free:
        for key in PAID_KEYS:
            if document.has(*path, key):
                document.add((*path, key), "has no effect on a free route")
        return
    given = [key for key in PRICE_KEYS if document.has(*path, key)]
    if not given and not document.has(*path, "free"):
        document.add(path, f"a route is {_what_a_route_is()}: it needs a price")
    for key in given[1:]:
        document.add((*path, key), f"has no effect beside `{given[0]}`: one kind of price a route")
    if "offers" in given and document.has(*path, "methods"):
        document.add((*path, "methods"), "has no effect beside `offers`, which name their methods")
    if route.method == "OPTIONS":
        document.add(path, "OPTIONS cannot be paid for: write `free`, or leave it to the gateway")
    if settings.digest and route.method in BODILESS_METHODS:
        document.add((*path, "digest"), f"has no effect: {route.method} requests have no body")


def _check_deadlines(context: Context, route: Route, path: Path) -> None:
    """Refuse a route on which no payment could be admitted.

    A payment is admitted only if it can still be settled when the upstream has taken all its time;
    otherwise a slow answer would be delivered for nothing.
    """
    if route.free or route.settle == "before":
        return
    times = route.timeouts
    total_s = times.connect_s + times.first_byte_s + times.settle_s
    if total_s < context.root.challenge_ttl_s:
        return
    document = context.document
    places = ((*path, "timeouts"), (*path[:2], "timeouts"), ("timeouts",), ("challenge_ttl_s",))
    where = next((place for place in places if document.has(*place)), path)
    if document.is_sound(*where) and document.is_sound("challenge_ttl_s"):
        sum_of = "connect_s + first_byte_s + settle_s"
        ttl_s = context.root.challenge_ttl_s
        document.add(
            where, f"{sum_of} is {total_s:g} and must be less than challenge_ttl_s, {ttl_s}"
        )


def _check_told_apart(
    context: Context, settings: RouteSettings, prices: tuple[Price, ...], path: Path
) -> None:
    """Refuse two methods on one route of which nobody could say which one a buyer has paid with."""
    seen: dict[tuple[str, ...], str] = {}
    for price in prices:
        method = context.methods[price.method_name]
        traits = () if method is None else method.told_apart_by
        first = seen.setdefault(traits, price.method_name)
        if not traits or first == price.method_name:
            continue
        key = next(key for key in ("offers", "methods", *PRICE_KEYS) if getattr(settings, key))
        cure = "offer one of them" if key == "offers" else "name one of them in its `methods`"
        message = (
            f"`{first}` and `{price.method_name}` cannot be told apart on one route: both are"
            f" {', '.join(traits)}; {cure}"
        )
        context.document.add((*path, key), message)


def _check_refund(context: Context, route: Route, path: Path) -> None:
    """Refuse to promise a refund that could not be made."""
    if route.on_failure != "refund":
        return
    for price in route.prices:
        method = context.methods[price.method_name]
        if method is not None and not method.can_refund(price.recipient):
            message = (
                f"`refund` needs a method whose `submit.private_key` is the key of the recipient;"
                f" with `{price.method_name}` leave it at `credit`"
            )
            context.document.add((*path, "on_failure"), message)


def _check_upto(context: Context, route: Route, path: Path) -> None:
    """Refuse a sale by use that no method could make, or that is paid before it is known."""
    if not route.upto or not route.prices:
        return
    methods = [context.methods[price.method_name] for price in route.prices]
    if all(method is not None and not method.sells_by_use for method in methods):
        message = "`upto` needs a method with `x402: true`, `rpc_url` and `submit.facilitator`"
        context.document.add((*path, "upto"), message)
    if not route.digest and route.method not in WITHOUT_BODY:
        # What a small body has paid for would buy the answer to a large one.
        message = "`upto` needs `digest: true` where the request may have a body"
        context.document.add((*path, "upto"), message)
    if route.settle == "before":
        message = "`upto` cannot be settled before the upstream has said what was used"
        context.document.add((*path, "upto"), message)


def _known_title(preset: Preset | None, route: Route) -> str | None:
    if preset is None:
        return None
    pattern = parse_route_key(route.key)[2]
    for key, title in preset.routes.items():
        method, _, known = parse_route_key(key)
        if method == route.method and pattern.covers(known) and known.covers(pattern):
            return title
    return None


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(inner) for key, inner in value.items()})
    if isinstance(value, tuple):
        return tuple(_frozen(inner) for inner in value)
    return value
