"""What went wrong at an upstream, as its client is told: never with an address in it."""

from mpp_gateway import errors
from mpp_gateway.protocol.problems import Problem

# How our connection to an upstream ended, as the stream is told.
SWITCHED_PROTOCOLS = "upstream switched protocols unasked"
HEAD_TOO_LARGE = "upstream head too large"
HEAD_CUT = "upstream head cut short"
CLOSED = "upstream closed the connection"


def of_connecting(error: str, timed_out: bool) -> Problem:
    """Return the problem of a connection that was not made. `error` is mitmproxy's own text."""
    if timed_out:
        return errors.UpstreamTimedOut("The upstream could not be reached in time.")
    # The text names the upstream's address: it never leaves this function.
    if any(word in error.lower() for word in ("tls", "certificate", "handshake", "ssl")):
        return errors.UpstreamTlsFailed("No secure connection to the upstream.")
    return errors.UpstreamRefused("The upstream cannot be reached.")


def of_answering(message: str) -> Problem:
    """Return the problem of a connection that gave no usable answer."""
    if message == SWITCHED_PROTOCOLS:
        return errors.UpstreamSwitchedProtocols("The upstream switched protocols unasked.")
    if message in {CLOSED, HEAD_CUT}:
        return errors.UpstreamCut("The upstream closed the connection without an answer.")
    return errors.UpstreamMalformed("The upstream's answer does not parse.")
