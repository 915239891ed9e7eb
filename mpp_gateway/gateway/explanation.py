"""What would happen to a request, and why: the routing rules walked without a request."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mpp_gateway.config.methods import Method
from mpp_gateway.config.model import GatewayConfig, Price, Route
from mpp_gateway.protocol.money import format_minor
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.routing.table import Match, Preflight, RouteTable


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer that a request without a credential gets, and the reasons in order."""

    request: str
    status: int
    """What the client sees first: 402 on a paid route, 200 standing for the upstream's answer."""
    service: str = ""
    route: str = ""
    upstream: str = ""
    offers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """Return the explanation for people."""
        lines = [f"{self.request} -> {self.status}"]
        named = {"service": self.service, "route": self.route, "upstream": self.upstream}
        lines += [f"  {name + ':':<10}{value}" for name, value in named.items() if value]
        lines += [f"  {'offer:':<10}{offer}" for offer in self.offers]
        lines += [f"  - {reason}" for reason in self.reasons]
        return "\n".join(lines)


def explain(config: GatewayConfig, method: str, target: str) -> Explanation:
    """Return what the gateway would do with `method` and `target`; calls nobody."""
    request = f"{method} {target}"
    try:
        found = RouteTable.build(config).match(method, target)
    except Problem as problem:
        allow = getattr(problem, "allow", None)
        more = (f"It takes {', '.join(allow)}.",) if allow else ()
        return Explanation(request, problem.status, reasons=(problem.detail, *more))
    if isinstance(found, Preflight):
        allowed = ", ".join(found.allow)
        return Explanation(
            request, 204, reasons=(f"The gateway answers OPTIONS itself, free: {allowed}.",)
        )
    return _explain_match(config, request, method, found)


def _explain_match(config: GatewayConfig, request: str, method: str, found: Match) -> Explanation:
    route, service = found.route, found.service
    reasons = [f"`{route.key}` is the first route of `{service.id}` that matches."]
    if method == "HEAD" and route.method == "GET":
        reasons.append("HEAD follows the route of GET, at the same price.")
    if route.free:
        reasons.append("The route is free: forwarded with the service's own credentials.")
    else:
        if (free := route.free_calls) is not None:
            reasons.append(
                f"The first {free.count} calls of each client a {free.per} are free, up to"
                f" {free.total} for all clients; counted for `{free.scope or 'everything'}`."
            )
        if route.digest:
            reasons.append("The request body is read first: it is paid for with the call (digest).")
            reasons.append("Without a credential: 402 with these offers.")
        else:
            reasons.append("Without a credential: 402 with these offers, before the body is read.")
        reasons.extend(_when_it_settles(config, route))
    return Explanation(
        request,
        200 if route.free else 402,
        service.id,
        route.key,
        # Not its parts: what came from the environment may have a key in it.
        f"{service.base_url}{found.upstream_target.removeprefix(service.base_url.path)}",
        tuple(_offer(price) for price in route.prices),
        tuple(reasons),
    )


def _when_it_settles(config: GatewayConfig, route: Route) -> Iterator[str]:
    prices = {price.method_name: price for price in route.prices}
    first = {
        name
        for name, price in prices.items()
        if route.settle == "before" or config.methods[name].settles_first(price.amount_minor)
    }
    later = [name for name in prices if name not in first]
    if not later:
        yield "The payment settles before the upstream is called."
    else:
        charged = ["2xx", *map(str, sorted(route.charge_on))]
        answered = " or ".join([", ".join(charged[:-1]), charged[-1]] if charged[1:] else charged)
        who = f"By {', '.join(later)}: the payment" if first else "The payment"
        yield f"{who} settles when the upstream has answered {answered}; else nothing is charged."
    for name, price in prices.items():
        method = config.methods[name]
        if name in first:
            yield f"By {name}: it settles before, and {_owed(route, method)}."
        elif sooner := method.sooner(price.amount_minor, route.waits_s):
            yield (
                f"By {name}, otherwise: {sooner}, settles before the upstream is called, and is a"
                " credit if that fails."
            )


def _owed(route: Route, method: Method) -> str:
    is_refund = method.refunds if route.on_failure is None else route.on_failure == "refund"
    if not is_refund:
        return "is a credit if the upstream fails"
    return "is given back if the upstream fails, a credit if it answers 3xx or 4xx"


def _offer(price: Price) -> str:
    amount = format_minor(price.amount_minor, price.asset.decimals)
    return f"{amount} by {price.method_name} ({price.intent}, {price.asset.code})"
