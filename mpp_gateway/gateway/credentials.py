"""Which payment a request carries, in whatever wire form, and which offer it takes up."""

from dataclasses import dataclass

from mpp_gateway.errors import AmbiguousCredentials
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.refusals import price_of
from mpp_gateway.protocol import x402
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import (
    InvalidChallenge,
    MethodUnsupported,
    PaymentExpired,
    PaymentRequired,
    Problem,
    VerificationFailed,
)
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.base import Offer, Presented
from mpp_gateway.rails.payment_scheme import credential_tokens


@dataclass(frozen=True, slots=True)
class Found:
    """The payment, and why it may only buy what it has paid for before; None: it is good."""

    presented: Presented
    only_earlier: Problem | None = None


def find(exchange: Exchange, now_s: int) -> Found:
    """Return the one payment that the request carries, read by the rail that it is for.

    Errors: the rail's Problem; `AmbiguousCredentials` for several; `PaymentRequired` for none;
    `InvalidChallenge`, `VerificationFailed` or `MethodUnsupported` for one that no rail took.
    """
    head = exchange.paying_head or exchange.head
    tokens, payments = credential_tokens(head), x402.payments(head)
    is_sold_so = any(offer.x402 is not None for offer in exchange.offers)
    if len(tokens) + (len(payments) if is_sold_so else 0) > 1:
        # Two payments for one call: one of them would be taken, and the buyer not know which.
        raise AmbiguousCredentials("Send one payment credential per request.")
    first: Problem | None = None
    for name in dict.fromkeys(offer.rail for offer in exchange.offers):
        offers = tuple(offer for offer in exchange.offers if offer.rail == name)
        try:
            found = _read(exchange, offers, now_s)
        except Problem as problem:
            # A payment of x402 version 1 names no token: another rail may know its signature.
            first = first or problem
            continue
        if found is not None:
            return found
    if first is None and not tokens and payments:
        if is_sold_so:
            raise VerificationFailed("The payment takes up none of this route's offers.")
        raise MethodUnsupported("This route does not take x402 payments.")
    raise first or _untaken(exchange, tokens)


def _read(exchange: Exchange, offers: tuple[Offer, ...], now_s: int) -> Found | None:
    """Read the payment; of an expired one, what it was while it could be settled."""
    head, binding = exchange.paying_head, exchange.binding
    assert head is not None
    assert binding is not None
    rail = exchange.snapshot.rails[offers[0].rail]
    only_earlier: Problem | None = None
    try:
        presented = rail.read(head, offers, binding, now_s)
    except PaymentExpired as expired:
        # Its money may have moved while it was good. Without a look at the store this answer would
        # ask a buyer who has paid to pay again.
        only_earlier, at_s = expired, expired.at_s
        if at_s is None:
            expires = Credential.parse(credential_tokens(head)[0]).challenge.expires
            assert expires is not None
            at_s = parse_rfc3339(expires)
        try:
            presented = rail.read(head, offers, binding, at_s - 1)
        except Problem:
            raise expired from None
    return None if presented is None else Found(presented, only_earlier)


def _untaken(exchange: Exchange, tokens: list[str]) -> Problem:
    """Return why no rail of the route took the request's credential, or that there is none."""
    if not tokens:
        costs = f"This call costs {price_of(exchange)}"
        return PaymentRequired(f"{costs}; the challenge says how to pay.")
    challenge = Credential.parse(tokens[0]).challenge
    if any((o.method, o.intent) == (challenge.method, challenge.intent) for o in exchange.offers):
        return InvalidChallenge("The challenge is not one that this route offers.")
    return MethodUnsupported("This route does not take this payment method.")
