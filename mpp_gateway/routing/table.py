"""Which service and route is this request for? Decided on the raw target, without side effects."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mpp_gateway.config.model import GatewayConfig, Route, Service
from mpp_gateway.config.patterns import METHOD, NEVER_ROUTED, Pattern, parse_pattern
from mpp_gateway.errors import BadTarget, MethodNotAllowed, NotFound, Unpriced
from mpp_gateway.routing.pattern import compile_exact, compile_lenient, lenient_form
from mpp_gateway.routing.target import ASTERISK, parse_target

ORDINARY_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""What `Allow` says of a route without a method."""

_PLAIN = re.compile(r"(?:/[a-z0-9._~!$&'()*+,=:@-]+)+\Z")  # no two servers disagree on these


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request, and the target to ask the upstream for."""

    service: Service
    route: Route
    upstream_path: str
    """The base URL's path and the client's, byte for byte."""
    query: str | None
    params: Mapping[str, str]
    """Values of the `:name` segments, undecoded."""

    @property
    def upstream_target(self) -> str:
        """The request target for the upstream, in origin-form."""
        return self.upstream_path if self.query is None else f"{self.upstream_path}?{self.query}"


@dataclass(frozen=True, slots=True)
class Preflight:
    """An OPTIONS request on a known path, which the gateway answers itself with 204 and `Allow`."""

    allow: tuple[str, ...]
    service_id: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One route, compiled."""

    route: Route
    pattern: Pattern
    exact: re.Pattern[str]
    lenient: re.Pattern[str]
    is_literal: bool

    @classmethod
    def of(cls, route: Route) -> "_Entry":
        pattern = parse_pattern(route.pattern)
        exact, lenient = compile_exact(pattern), compile_lenient(pattern)
        return cls(route, pattern, exact, lenient, pattern.is_literal)


@dataclass(frozen=True, slots=True)
class _Mounted:
    """The routes of one service, indexed so that a literal path costs one look-up."""

    service: Service
    entries: tuple[_Entry, ...]
    open: tuple[_Entry, ...] = field(init=False)
    """The entries that more than one path matches."""
    literal: Mapping[str, tuple[_Entry, ...]] = field(init=False)
    """Each path that some route spells out, with every entry that matches it."""
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        literals = {entry.route.pattern for entry in self.entries if entry.is_literal}
        known = {path: _matching(self.entries, path) for path in literals}
        patterns = "".join(entry.route.pattern for entry in self.entries)
        object.__setattr__(self, "open", tuple(e for e in self.entries if not e.is_literal))
        object.__setattr__(self, "literal", known)
        object.__setattr__(self, "is_plain", patterns == patterns.lower() and "%" not in patterns)

    def candidates(self, path: str) -> tuple[_Entry, ...]:
        """Return the entries that match the raw path, in the order of the configuration."""
        known = self.literal.get(path)
        return _matching(self.open, path) if known is None else known


def _matching(entries: Iterable[_Entry], path: str) -> tuple[_Entry, ...]:
    return tuple(entry for entry in entries if entry.exact.match(path))


class RouteTable:
    """An immutable index of routes: build it once per configuration, match it once per request."""

    def __init__(
        self,
        mounts: Mapping[str, _Mounted],
        base_path: str,
        single: _Mounted | None,
        *,
        is_strict: bool = False,
    ) -> None:
        self._is_strict = is_strict
        self._mounts = mounts
        self._base_path = base_path
        self._single = single

    @classmethod
    def build(cls, config: GatewayConfig) -> "RouteTable":
        """Mount each service of the configuration at `{base_path}/{id}`."""
        mounts = {name: _mounted(service) for name, service in config.services.items()}
        return cls(mounts, config.base_path, None, is_strict=config.strict_pricing)

    @classmethod
    def single(cls, service: Service) -> "RouteTable":
        """Mount one service at `/`, without a prefix."""
        return cls({}, "", _mounted(service))

    def match(self, method: str, raw_target: str) -> Match | Preflight:
        """Find the route of a request; the method is case-sensitive (RFC 9110 section 9.1).

        Errors: BadTarget, NotFound, MethodNotAllowed, Unpriced.
        """
        if METHOD.fullmatch(method) is None:
            # Upstreams that fold its case would serve `post` of a paid route as the free `/*`.
            raise BadTarget("Write the method in capital letters.")
        target = parse_target(method, raw_target)
        if target.path == ASTERISK:
            return Preflight(tuple(sorted(ORDINARY_METHODS)))
        mounted, path = self._locate(target.path)
        candidates = mounted.candidates(path)
        if not candidates:
            raise NotFound("No route of this service has this path.")
        entry = _choose(method, candidates)
        if entry is None:
            allow = _allowed(candidates)
            if method == "OPTIONS":
                return Preflight(allow, mounted.service.id)
            raise MethodNotAllowed(allow, "This path does not take this method.")
        if self._is_strict:
            _refuse_unpriced(method, path, entry, mounted)
        _refuse_second_reading(method, path, entry, mounted)
        found = entry.exact.match(path)
        return Match(
            service=mounted.service,
            route=entry.route,
            upstream_path=mounted.service.base_url.path + path,
            query=target.query,
            params=found.groupdict() if found and not entry.is_literal else {},
        )

    def preflight(self, method: str, raw_target: str) -> Preflight:
        """Return what may be done with a path that `match` has found."""
        mounted, path = self._locate(parse_target(method, raw_target).path)
        return Preflight(_allowed(mounted.candidates(path)), mounted.service.id)

    def _locate(self, path: str) -> tuple[_Mounted, str]:
        """Return the service that a raw path belongs to, and the path within it."""
        if self._single is not None:
            return self._single, path
        base = self._base_path
        if base:
            if not path.startswith(base + "/"):
                raise NotFound("Nothing is served here.")
            path = path[len(base) :]
        name, slash, _ = path[1:].partition("/")
        mounted = self._mounts.get(name)
        if mounted is None or not slash:
            raise NotFound("No service has this name.")
        return mounted, path[1 + len(name) :]


def _mounted(service: Service) -> _Mounted:
    return _Mounted(service, tuple(_Entry.of(route) for route in service.routes))


def _choose(method: str, candidates: tuple[_Entry, ...]) -> _Entry | None:
    """Pick the route of a method: the first that takes it, in the order of the configuration."""
    if method in NEVER_ROUTED:
        # TRACE has the upstream echo the request, and with it the secret that we add.
        return None
    first = next((e for e in candidates if e.route.method in (None, method)), None)
    if method == "OPTIONS":
        return _choose_options(first, candidates)
    if method != "HEAD" or (first is not None and first.route.method == "HEAD"):
        return first
    # HEAD costs what GET costs: else the head of a paid answer would be free.
    return next((e for e in candidates if e.route.method in (None, "GET")), None)


def _choose_options(first: _Entry | None, candidates: tuple[_Entry, ...]) -> _Entry | None:
    """Pick a free route for OPTIONS, or none: a preflight has no way to carry a payment."""
    if first is None or first.route.free:
        return first
    named = (e for e in candidates if e.route.method == "OPTIONS" and e.route.free)
    return next(named, None)


def _refuse_unpriced(method: str, path: str, entry: _Entry, mounted: _Mounted) -> None:
    """Refuse what is free by a rule that is wider than a name, or beside a price.

    A free route within a priced one is an exception that somebody has written down. One that takes
    what a route of its own has a price for is an accident, however its path is spelled.
    """
    if not entry.route.free:
        return
    if is_broad(entry.route):
        raise Unpriced("No price is set for this call, and no free route names it.")
    if entry.is_literal or method == "OPTIONS":
        return
    taken, form = {None, "GET" if method == "HEAD" else method}, lenient_form(path)
    if not entry.lenient.match(form):
        raise Unpriced("The path can be read as one that no route names: write it plainly.")
    for other in mounted.entries:
        if (
            not other.route.free
            and other.route.method in taken
            and other.lenient.match(form)
            and not other.pattern.covers(entry.pattern)
        ):
            raise Unpriced("A free route takes this call, for which another one has a price.")


def is_broad(route: Route) -> bool:
    """Tell whether a route takes more than one method, or any path below its own."""
    return route.method is None or route.pattern.endswith("/*")


def _allowed(candidates: Iterable[_Entry]) -> tuple[str, ...]:
    allow = {"OPTIONS"}
    for entry in candidates:
        if entry.route.method is None:
            allow |= ORDINARY_METHODS
        else:
            allow.add(entry.route.method)
    if "GET" in allow:
        allow.add("HEAD")
    return tuple(sorted(allow))


def _refuse_second_reading(method: str, path: str, entry: _Entry, mounted: _Mounted) -> None:
    """Refuse a path that a forgiving upstream could read as another route, one that is paid.

    With `POST /v1/chat: {charge: …}` and `/*: free`, the path `/v1/%63hat` matches the free route
    only. Without this check an upstream that decodes it would serve the paid one for nothing.
    """
    if entry.is_literal or (mounted.is_plain and _PLAIN.match(path)):
        return
    form = lenient_form(path)
    other = _choose(method, tuple(e for e in mounted.entries if e.lenient.match(form)))
    if other is not None and other is not entry and not other.route.free:
        raise BadTarget("The path can be read as another route of this service: write it plainly.")
