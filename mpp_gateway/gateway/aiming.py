"""Aims an admitted request at its upstream: where it goes comes from the configuration alone."""

import contextlib

from mpp_gateway import events
from mpp_gateway.gateway import idempotency
from mpp_gateway.gateway.exchange import Exchange, event
from mpp_gateway.gateway.machine import Machine, emit
from mpp_gateway.gateway.steps import Deadlines, Forward
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.credential import payment_tokens
from mpp_gateway.protocol.messages import Headers
from mpp_gateway.protocol.problems import MalformedCredential
from mpp_gateway.upstream.hygiene import preventing_fields, request_headers, revalidating_fields
from mpp_gateway.upstream.rewriting import HookContext, RewrittenRequest, rewrite_request

NOT_MODIFIED = 304
PRECONDITION_FAILED = 412


def forward(exchange: Exchange, now_s: int) -> Machine[Forward]:
    """Aim an admitted request; the one verdict that lets it out of the gateway."""
    aimed = aim(exchange)
    exchange.was_paid_ahead = exchange.state is State.SETTLED
    yield from emit(event(events.RequestForwarded, exchange, now_s))
    return aimed


def _answer_s(exchange: Exchange) -> float | None:
    """Return how long the payment was found to live, at the least; the sweeper counts on it too."""
    if exchange.turn is None:
        return None
    return exchange.route.timeouts.connect_s + exchange.route.timeouts.first_byte_s


def _own_auth(exchange: Exchange) -> Headers:
    """Return the client's word to an upstream that knows its callers itself."""
    if not exchange.service.requires_auth:
        return ()
    fields = tuple((n, v) for n, v in exchange.head.headers if n.lower() == "authorization")
    # A payment in the wrong field buys nothing here; the upstream could spend it elsewhere. What
    # cannot be read may hold one.
    with contextlib.suppress(MalformedCredential):
        return () if payment_tokens([value for _, value in fields]) else fields
    return ()


def aim(exchange: Exchange) -> Forward:
    """Return the request for the upstream. Where it goes comes from the configuration alone."""
    service, route = exchange.service, exchange.route
    secrets = service.secret_headers(route)
    replaced = {name.lower() for name, _ in secrets}
    steering = service.strip_headers | replaced
    if not (route.free or route.is_delivered(NOT_MODIFIED)):
        # A 304 is not charged: one payment could ask "is it new?" until its challenge ends.
        steering |= revalidating_fields(exchange.head.method)
    if not (route.free or route.is_delivered(PRECONDITION_FAILED)):
        # Nor is a 412, by which one could ask "is it that one yet?".
        steering |= preventing_fields(exchange.head.method, exchange.head.headers)
    own_key: Headers = ()
    if (key := idempotency.upstream_key(exchange)) is not None:
        own_key = ((idempotency.FIELD, key),)
        steering |= {idempotency.FIELD.lower()}
    headers = (*request_headers(exchange.head.headers, steering), *_own_auth(exchange), *own_key)
    rewritten = rewrite_request(
        service.rewrite_request,
        RewrittenRequest(exchange.head.method, exchange.match.upstream_target, headers),
        HookContext(
            request_id=exchange.request_id,
            service=service.id,
            route=route.key,
            params=exchange.match.params,
            options=route.options,
        ),
    )
    base, timeouts = service.base_url, route.timeouts
    return Forward(
        scheme=base.scheme,
        host=base.host,
        port=base.port,
        method=rewritten.method,
        target=rewritten.target,
        headers=(
            ("Host", base.authority),
            *((n, v) for n, v in rewritten.headers if n.lower() not in replaced),
        ),
        deadlines=Deadlines(
            timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s, _answer_s(exchange)
        ),
        steering=frozenset(steering),
        outlives_client=exchange.turn is not None,
        secrets=secrets,
    )
