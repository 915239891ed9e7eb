"""One request on its way through the gateway: what is known of it, and where its money is."""

import math
from dataclasses import dataclass
from typing import Any

from mpp_gateway import events
from mpp_gateway.config.model import Route, Service
from mpp_gateway.gateway.snapshot import Snapshot
from mpp_gateway.ledger.answers import KeptAnswer
from mpp_gateway.ledger.book import Turn
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.ceiling import Ceiling
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.rails.base import Binding, Offer, Presented, Rail
from mpp_gateway.routing.table import Match

GRACE_S = 60
"""How long after its own deadlines a process may still be at a call, before others take it up."""


@dataclass(slots=True)
class Exchange:
    """Mutable, owned by one stream. `state` mirrors the store; the store is the truth."""

    request_id: str
    head: RequestHead
    snapshot: Snapshot
    match: Match
    started_s: int
    entropy: bytes = b""
    """32 random bytes of this request; what it is told at random comes from them."""
    paying_head: RequestHead | None = None
    """The head as rails read it; None while no price is asked."""
    offers: tuple[Offer, ...] = ()
    ceiling: Ceiling | None = None
    """The most that the client pays for this request, if it has said so."""
    binding: Binding | None = None
    presented: Presented | None = None
    rail: Rail | None = None
    turn: Turn | None = None
    """Our attempt at an exchange in the store; None while no proof is claimed."""
    state: State | None = None
    seen_seq: int = 0
    """The journal's last entry when the proof was claimed: what settles later is not yet in the
    balance that `verify` reads."""
    paid: bool = False
    """The money moved in an earlier attempt that was not delivered: settle nothing now."""
    used_minor: int | None = None
    """What a stream module counted, or the upstream has said; None: the whole price."""
    moved_minor: int | None = None
    """What has moved for it, in this attempt or an earlier one; None while nothing has."""
    was_paid_ahead: bool = False
    """The money had moved before the upstream was asked: a client who leaves then has had it."""
    is_brief: bool = False
    """The proof ends before the upstream's time is up, so it is settled before the upstream is
    asked."""
    is_counted: bool = False
    """A token of the client was taken for this request, and not given back."""
    free_left: int | None = None
    """How many free calls the client has left; None where nobody was asked for one."""
    is_given: bool = False
    """One of them was taken for this request."""
    free_reset_s: int = 0
    """In how many seconds it has all of them again."""
    key_digest: str | None = None
    """Of the `Idempotency-Key` that the request came with."""
    client_left: bool = False
    """Nobody is there for the answer: it is delivered when it is kept for whoever comes back."""
    is_marked: bool = False
    """That the answer was handed over is written down, or about to be."""
    kept: KeptAnswer | None = None
    """What was answered under that key before, if the body of this request is the same."""
    receipt: Headers = ()
    finished: bool = False
    """Every step that touches money has been taken; nothing may follow."""

    @property
    def service(self) -> Service:
        """The service this request is for."""
        return self.match.service

    def settled_by_s(self, now_s: int) -> int:
        """Return until when a settlement that begins now is ours to follow."""
        return now_s + math.ceil(self.route.timeouts.settle_s) + GRACE_S

    def answered_by_s(self, now_s: int) -> int:
        """Return until when a call that goes on now is ours; it may have to settle before its end.

        Written into the store: of two configurations on it, one may wait for an upstream longer
        than the other, which must not give away a call that is under way.
        """
        timeouts = self.route.timeouts
        waits_s = math.ceil(timeouts.connect_s + timeouts.first_byte_s)
        return self.settled_by_s(now_s) + waits_s

    @property
    def is_kept(self) -> bool:
        """Whether the answer is kept for a buyer who asks again under the same key."""
        return self.key_digest is not None and self.snapshot.config.idempotency.keep_s > 0

    @property
    def settles_before(self) -> bool:
        """Whether the money moves before the upstream is asked: for its proof, route or rail."""
        assert self.rail is not None
        assert self.presented is not None
        capabilities = self.rail.capabilities
        return (
            self.is_brief
            or self.presented.settles_first
            or self.route.settle == "before"
            or capabilities.settles_at == "before"
            or not capabilities.can_verify_without_moving_money
        )

    @property
    def settles_at_end(self) -> bool:
        """Whether the amount is known, and settled, only when the answer is complete."""
        return self.rail is not None and self.rail.capabilities.settles_at == "end"

    @property
    def on_failure(self) -> str:
        """What a paid call becomes that is not delivered: the route's word, or its rail's."""
        if self.route.on_failure is not None or self.rail is None:
            return self.route.on_failure or "credit"
        return self.rail.capabilities.on_failure

    @property
    def owed_minor(self) -> int:
        """What this exchange settles: never more than was presented, less only with change."""
        assert self.rail is not None
        assert self.presented is not None
        most_minor = self.presented.amount_minor
        gives_change = self.rail.capabilities.gives_change or self.presented.gives_change
        if self.used_minor is None or not gives_change:
            return most_minor
        return min(self.used_minor, most_minor)

    @property
    def route(self) -> Route:
        """The route this request takes."""
        return self.match.route


def event[E: events.Event](kind: type[E], exchange: Exchange, at_s: int, **more: Any) -> E:
    """Return an event of `kind` about `exchange`."""
    presented = exchange.presented
    offer = presented.offer if presented else next(iter(exchange.offers), None)
    minor = exchange.moved_minor
    if minor is None:
        minor = presented.amount_minor if presented else offer.amount.minor if offer else 0
    return kind(
        request_id=exchange.request_id,
        at_s=at_s,
        service=exchange.service.id,
        route=exchange.route.key,
        method=offer.method if offer else "",
        amount_minor=minor,
        asset=offer.amount.asset.code if offer else "",
        **more,
    )
