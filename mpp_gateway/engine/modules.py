"""Runs the stream modules of a snapshot on a body; what goes wrong in one cuts the answer."""

import logging

from mpp_gateway.engine.gate import Gate
from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.gateway.exchange import Exchange

log = logging.getLogger(__name__)


def has_stream_modules(gate: Gate) -> bool:
    """Whether bodies of this request pass through modules, and so may change their length."""
    return isinstance(gate.exchange, Exchange) and bool(gate.exchange.snapshot.slots.stream)


def keeps_length(gate: Gate) -> bool:
    """Whether the answer is as long as the upstream said, and no receipt follows it."""
    ends_with_receipt = isinstance(gate.exchange, Exchange) and gate.exchange.settles_at_end
    return not has_stream_modules(gate) and not ends_with_receipt


def through(gate: Gate, data: bytes) -> bytes | None:
    """Return what the modules make of a piece of a body, or None if one of them failed.

    mitmproxy calls nobody when a stream callable raises: the client would wait for ever, and the
    money would have no owner.
    """
    reach(FailPoint.BODY_PIECE)
    if not has_stream_modules(gate):
        return data
    try:
        for module in gate.exchange.snapshot.slots.stream:
            data = module(gate.exchange, data)
    except Exception:
        log.exception("a stream module failed; the answer is cut")
        return None
    return data
