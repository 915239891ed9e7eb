"""From the services of the file to services with nothing left to look up."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mpp_gateway.config.context import Context, merge_timeouts, read_base_url
from mpp_gateway.config.credentials import check_own_auth, check_service_auth
from mpp_gateway.config.document import Path, format_path
from mpp_gateway.config.hooks import find_function
from mpp_gateway.config.model import BaseUrl, Route, Service
from mpp_gateway.config.patterns import COMMON, REGISTERED, Pattern, parse_route_key
from mpp_gateway.config.presets import PRESETS, Preset
from mpp_gateway.config.prices import check_names
from mpp_gateway.config.report import check, did_you_mean, is_hidden
from mpp_gateway.config.routes import RouteFacts, resolve_route
from mpp_gateway.config.settings import ServiceSettings
from mpp_gateway.errors import Mistake

SERVICE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
RESERVED_IDS = frozenset(
    {
        ".well-known", "admin", "all", "all.md", "discover", "discover.md", "favicon.ico",
        "healthz", "livez", "llms.txt", "metrics", "openapi.json", "readyz", "robots.txt",
    }
)  # fmt: skip
"""Paths that the gateway serves itself, now or later."""

_UNUSABLE = BaseUrl("https", "invalid", 443)
"""Stands for an address that is wrong or missing; a mistake has been noted, nothing will run."""


def resolve_services(context: Context) -> tuple[dict[str, Service], tuple[Mistake, ...]]:
    """Return the services by id, and what may not be meant in them."""
    services: dict[str, Service] = {}
    warnings: list[Mistake] = []
    entries = context.root.services
    if not entries and context.document.is_sound("services"):
        context.document.add(("services",), "at least one service is needed")
    for name, value in entries.items():
        path: Path = ("services", name)
        _check_id(context, name, path)
        settings = check(ServiceSettings, value, context.document, path)
        if settings is not None:
            services[name] = _service(context, name, settings, warnings)
    return services, tuple(warnings)


def _check_id(context: Context, name: str, path: Path) -> None:
    if name in RESERVED_IDS:
        context.document.add(path, f"`{name}` is reserved: the gateway serves /{name} itself")
    elif not SERVICE_ID.match(name):
        message = "a service id has small letters, digits, '.', '_' and '-', up to 64 characters"
        context.document.add(path, message)


def _service(
    context: Context, name: str, settings: ServiceSettings, warnings: list[Mistake]
) -> Service:
    path: Path = ("services", name)
    preset = _preset(context, settings, path)
    check_service_auth(context, settings, preset, path)
    check_names(context, settings.methods, (*path, "methods"))
    facts = RouteFacts(
        service=settings,
        preset=preset,
        timeouts=merge_timeouts(context.timeouts, settings.timeouts),
        has_hooks=context.document.has(*path, "rewrite_request")
        or context.document.has(*path, "rewrite_response"),
    )
    routes = _routes(context, settings.routes, facts, path, warnings)
    if settings.requires_auth:
        check_own_auth(context, routes, path)
    return Service(
        id=name,
        base_url=_base_url(context, settings, preset, path),
        routes=routes,
        preset=preset.name if preset else None,
        title=settings.title or (preset.title if preset else None),
        description=settings.description,
        categories=_first(settings.categories, preset.categories if preset else ()),
        docs_llms_url=settings.docs_llms_url or (preset.docs_llms_url if preset else None),
        strip_headers=_stripped(preset, routes),
        requires_auth=settings.requires_auth,
        rewrite_request=_hook(context, settings.rewrite_request, (*path, "rewrite_request")),
        rewrite_response=_hook(context, settings.rewrite_response, (*path, "rewrite_response")),
    )


def _first(given: tuple[str, ...] | None, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    return otherwise if given is None else given


def _preset(context: Context, settings: ServiceSettings, path: Path) -> Preset | None:
    if settings.preset is None:
        return None
    preset = PRESETS.get(settings.preset)
    if preset is None:
        hint = did_you_mean(settings.preset, PRESETS)
        context.fail((*path, "preset"), f"a known service; {hint}")
    return preset


def _base_url(
    context: Context, settings: ServiceSettings, preset: Preset | None, path: Path
) -> BaseUrl:
    if settings.base_url is not None:
        where = (*path, "base_url")
        context.check_clear_text(settings.base_url, where)
        return read_base_url(settings.base_url, is_hidden=is_hidden(context.document, where))
    if preset is not None:
        return read_base_url(preset.base_url)
    if not context.document.has(*path, "preset") and not context.document.has(*path, "base_url"):
        context.document.add(path, "`base_url` is missing, or a `preset` that knows it")
    return _UNUSABLE


def _hook(context: Context, text: str | None, path: Path) -> Callable[..., Any] | None:
    if text is None:
        return None
    try:
        return find_function(text)
    except ValueError as error:
        context.fail(path, str(error))
        return None


def _stripped(preset: Preset | None, routes: tuple[Route, ...]) -> frozenset[str]:
    # A client's own field beside ours would leave the choice of account to the upstream.
    names = {name.lower() for route in routes for name, _ in route.injected}
    if preset is not None:
        names |= preset.steering_headers | {preset.auth_header.lower()}
    return frozenset(names)


def _routes(
    context: Context,
    entries: Mapping[str, Any],
    facts: RouteFacts,
    path: Path,
    warnings: list[Mistake],
) -> tuple[Route, ...]:
    document = context.document
    if not entries and document.is_sound(*path, "routes"):
        document.add((*path, "routes"), "at least one route is needed")
    routes: list[Route] = []
    patterns: list[Pattern] = []
    for key, value in entries.items():
        where = (*path, "routes", key)
        try:
            method, text, pattern = parse_route_key(key)
        except ValueError as error:
            document.add(where, str(error), f"{key!r}")
            continue
        route = resolve_route(context, facts, Route(key, method, text, free=True), value, where)
        if route is None:
            continue
        _check_reachable(context, route, pattern, routes, patterns, where)
        for message in _doubts(facts.preset, method, pattern):
            line = document.line(where)
            warnings.append(Mistake(document.file, line, format_path(where), message))
        routes.append(route)
        patterns.append(pattern)
    if context.root.strict_pricing:
        for route, why in _unpriced(routes, patterns):
            where = (*path, "routes", route.key)
            line = document.line(where)
            warnings.append(Mistake(document.file, line, format_path(where), why))
    return tuple(routes)


def _unpriced(routes: list[Route], patterns: list[Pattern]) -> Iterator[tuple[Route, str]]:
    """Say which free routes let nobody through under `strict_pricing`, or not everybody."""
    for place, (route, pattern) in enumerate(zip(routes, patterns, strict=True)):
        if not route.free:
            continue
        if route.method is None or pattern.open_ended:
            yield route, "refused by `strict_pricing`: name the method, and each path without `*`"
            continue
        for other, priced in zip(routes[place + 1 :], patterns[place + 1 :], strict=True):
            is_rival = not other.free and other.method in (None, route.method)
            if is_rival and pattern.meets(priced) and not priced.covers(pattern):
                yield route, f'refused by `strict_pricing` where "{other.key}" has a price for it'


def _doubts(preset: Preset | None, method: str | None, pattern: Pattern) -> Iterator[str]:
    """Say what is allowed in a route and perhaps not meant."""
    if method is not None and method not in REGISTERED:
        near = difflib.get_close_matches(method, COMMON, n=1)
        near = near or difflib.get_close_matches(method, sorted(REGISTERED), n=1, cutoff=0.8)
        meant = f"; did you mean `{near[0]}`?" if near else ", and few clients send it"
        yield f"{method} is no registered HTTP method{meant}"
    if preset is not None and not _is_known(preset, method, pattern):
        yield f"this is no route that the preset {preset.name} knows"


def _check_reachable(
    context: Context,
    route: Route,
    pattern: Pattern,
    earlier: list[Route],
    patterns: list[Pattern],
    path: Path,
) -> None:
    """Refuse a route that an earlier one hides: a price that nobody would ever be asked for."""
    for other, wider in zip(earlier, patterns, strict=True):
        takes_method = other.method in (None, route.method)
        if route.method == "OPTIONS" and other.method is None and not other.free:
            continue  # a paid route never takes OPTIONS
        if takes_method and wider.covers(pattern):
            context.document.add(path, f'never reached: "{other.key}" above takes all its requests')
            return


def _is_known(preset: Preset, method: str | None, pattern: Pattern) -> bool:
    for key in preset.routes:
        known_method, _, known = parse_route_key(key)
        if method in (None, known_method) and pattern.covers(known):
            return True
    return False
