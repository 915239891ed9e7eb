"""Calls that a client has without paying: counted before they go on, and never given back."""

from mpp_gateway.errors import NotReady
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.machine import Clock, Machine, perform
from mpp_gateway.gateway.steps import TakeFreeCall
from mpp_gateway.ledger.free_calls import FreeCall
from mpp_gateway.protocol.messages import Headers
from mpp_gateway.protocol.problems import PaymentRequired

REMAINING = "X-Free-Remaining"
RESET = "X-Free-Reset"
THIS_MACHINE = "localhost"
"""Limits do not count this machine; what is given away is counted for it too."""


def take_or_refuse(exchange: Exchange, clock: Clock, refusal: PaymentRequired) -> Machine[None]:
    """Let a request without a payment through if its client has a free call; else raise `refusal`.

    A store that cannot count gives nothing away: then there is a price.
    """
    free = exchange.route.free_calls
    if free is None:
        raise refusal
    until_s = clock.now_s - clock.now_s % free.per_s + free.per_s
    client = exchange.head.client or THIS_MACHINE
    call = FreeCall(free.scope, client, free.count, free.total, until_s)
    try:
        left: int | None = yield from perform(clock, TakeFreeCall(call))
    except NotReady:
        raise refusal from None
    exchange.free_reset_s = max(0, until_s - clock.now_s)
    exchange.free_left = 0 if left is None else left
    if left is None:
        raise refusal
    exchange.is_given = True
    exchange.key_digest = None  # an answer that nobody has paid for is kept for nobody


def free_fields(exchange: Exchange) -> Headers:
    """Return what the client is told of its free calls; nothing where there are none."""
    if exchange.free_left is None:
        return ()
    return ((REMAINING, str(exchange.free_left)), (RESET, str(exchange.free_reset_s)))
