"""Hooks of a service: ask the upstream for metric units, and hide what it is made of."""

from dataclasses import replace

from mpp_gateway.upstream.rewriting import HookContext, RewrittenRequest, RewrittenResponse

HIDDEN = frozenset({"server", "x-powered-by"})


def rewrite_request(request: RewrittenRequest, context: HookContext) -> RewrittenRequest:
    """Put the route's `options: {units: ...}` into the query."""
    units = context.options.get("units", "metric")
    joint = "&" if "?" in request.target else "?"
    return replace(request, target=f"{request.target}{joint}units={units}")


def rewrite_response(response: RewrittenResponse, context: HookContext) -> RewrittenResponse:
    """Drop fields that name the upstream's software, and say which route answered."""
    kept = tuple((n, v) for n, v in response.headers if n.lower() not in HIDDEN)
    return replace(response, headers=(*kept, ("X-Route", context.route)))
