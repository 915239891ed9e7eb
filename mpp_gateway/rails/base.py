"""What a payment rail promises the gateway; only a rail's own package knows its wire forms."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.protocol.x402 import Terms


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a rail can do with money, so that the gateway picks an order that loses none."""

    settles_at: Literal["before", "headers", "end"]
    can_verify_without_moving_money: bool
    gives_change: bool = False
    can_refund: bool = False
    on_failure: Literal["credit", "refund"] = "credit"
    """What a paid call becomes that was not delivered, where its route does not say."""
    settles_within_s: int | None = None
    """How long a proof must still be good for to be settled, where that is less than `settle_s`."""
    settles_brief_proofs_first: bool = False
    """Whether a proof that ends before the upstream's time is up is settled first, not refused:
    for a network on which no proof lives for longer."""
    is_moved_by_us_alone: bool = False
    """Whether nobody but us can move a proof's money: then what we have not settled is not paid."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay for one call of one route, fixed when the configuration is loaded."""

    rail: str
    """Name of the rail instance in the configuration (`base`, `tempo`, …)."""
    method: str
    """Payment method on the wire (`evm`)."""
    intent: str
    amount: Amount
    request: Mapping[str, Any]
    """The method's request object; its JCS form is what a challenge carries."""
    request_encoded: str
    """base64url without padding of the JCS bytes of `request`, computed once."""
    description: str | None = None
    x402: Terms | None = None
    """The same price as x402 says it; None where such buyers cannot pay it."""
    upto: Callable[[], Terms | None] | None = field(default=None, repr=False, compare=False)
    """Where the price is the most of a sale by use: says what x402 buyers are asked for now, None
    while nobody would settle it."""
    permit2: Callable[[], Terms | None] | None = field(default=None, repr=False, compare=False)
    """As `upto`, for x402 buyers who sign for this very price by a permit of Permit2."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a credential must have been issued for. One value for one request."""

    realm: str
    scope: str
    """Service, route key, method and query, as one short digest: see `rails.payment_scheme`."""
    body_digest: str | None = None
    header: str | None = None
    """Field that carries the credential where the client's `Authorization` is the upstream's; None:
    `Authorization`. A rail is shown the head with the credential there in any case."""


@dataclass(frozen=True, slots=True)
class Presented:
    """A credential that is well formed, ours, unexpired and for this route; proof unchecked."""

    rail: str
    offer: Offer
    proof_id: str
    """Canonical id of the proof. One proof pays one exchange, ever (architecture 4.2)."""
    account: str
    """Canonical id of the purse that pays, for instance `eip155:8453/erc20:0x…/0x…`."""
    payee: str
    """Canonical id of the purse that is paid, in the form of `account`."""
    amount_minor: int
    valid_until_s: int
    """Unix time after which the rail can no longer settle this proof."""
    challenge_id: str | None = None
    """What else is used up with it: the challenge that it answers, or the buyer's own id for an
    x402 payment, which answers none."""
    evidence: Any = field(default=None, repr=False)
    settles_first: bool = False
    """Whether nobody can tell, without moving its money, that it will pay: then the upstream is not
    asked before."""
    gives_change: bool = False
    """Whether less may be moved than was presented, though its rail gives no change otherwise."""
    is_moved: bool = False
    """Whether its buyer says that it has moved the money itself: there is nothing to settle in
    time, and what is not seen so far may be there later."""
    is_tied: bool = False
    """Whether it counts for the challenge alone that it was first shown with: for a proof that
    anybody can see, and that does not say itself for which challenge it is."""

    @property
    def record(self) -> PaymentRecord:
        """What is written down of it."""
        return PaymentRecord(
            self.proof_id,
            self.account,
            self.payee,
            self.amount_minor,
            self.valid_until_s,
            self.challenge_id,
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """The proof holds. `spendable_minor` is what the account holds, or None if unknown."""

    spendable_minor: int | None
    paid: "Outcome | None" = None
    """Set where the rail shows that this very proof has moved the money already, by whoever's hand:
    a settlement that needs no more doing."""
    was_unused: bool = False
    """Set with `paid` where it moved after the rail had seen that it had not."""


class Settlement(enum.Enum):
    """Where the money is after an attempt to settle, or after a look at the rail."""

    SETTLED = "settled"
    REFUSED = "refused"
    """Certain: nothing moved, and nothing will."""
    UNKNOWN = "unknown"
    """Money may have moved. Only the rail can tell; the buyer is never asked to pay again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What settling did. `headers` (the receipt) go on the 2xx answer and nowhere else."""

    state: Settlement
    reference: str = ""
    headers: Headers = ()
    detail: str = ""
    change_minor: int = 0
    may_be_paid: bool = False
    """UNKNOWN, and the proof was used or that could not be asked now: not merely unused so far."""
    is_untried: bool = False
    """REFUSED, and not for a fault of the proof: the rail could not be asked to move it."""
    refusal: Problem | None = None
    """REFUSED: what to tell the buyer, where the rail knows better than "could not be settled"."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction that was written down for a proof before it was sent. What was signed is not
    in it: whoever has that can move money."""

    reference: str
    at_s: int
    detail: str


class RailMisconfigured(Exception):
    """What the configuration says is not what the rail says; a person has to mend it."""


class Rail(Protocol):
    """One configured way to be paid. Methods that do I/O are coroutines and never block the loop.

    Errors: a bad credential raises `protocol.problems.Problem`; a rail that cannot be reached
    raises `errors.RailUnavailable`. Anything else that escapes is a fault and refuses the request.
    """

    name: str
    kind: str
    capabilities: Capabilities

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        """Return the offer for a call at `price`; pure, called while the snapshot is built."""
        ...

    def challenge(self, offer: Offer, binding: Binding, now_s: int, entropy: bytes) -> Headers:
        """Return the header fields that carry `offer` in a 402."""
        ...

    def read(
        self, head: RequestHead, offers: tuple[Offer, ...], binding: Binding, now_s: int
    ) -> Presented | None:
        """Return the credential meant for this rail, None if there is none, raise if it is bad."""
        ...

    async def ready(self, now_s: int) -> None:
        """Return if new payments can be taken now; raise `errors.RailUnavailable` if not.

        Asked before a proof is claimed, and cheap: what is known is not asked again.
        """
        ...

    async def verify(self, presented: Presented, now_s: int) -> Verified:
        """Check the proof without moving money; raise a Problem when it does not hold."""
        ...

    async def settle(self, presented: Presented, amount_minor: int, now_s: int) -> Outcome:
        """Move the money. Never raises for an outcome it cannot know: that is UNKNOWN."""
        ...

    async def look_up(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Ask the rail what became of an earlier attempt; moves nothing."""
        ...

    async def refund(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Give a settled payment back, all of it; called only where `capabilities.can_refund`.

        Called until it is SETTLED, also after a crash: however often, it pays back once. REFUSED is
        nothing sent and worth another try; UNKNOWN may have been sent.
        """
        ...

    @property
    def withheld_for(self) -> str:
        """Why no offers should be made now, in words without a secret; empty while they may be.

        The rail logs it when that changes: it is the first to know, and knows the numbers.
        """
        ...

    async def self_check(self) -> None:
        """Compare the configuration with the rail itself, at start.

        Errors: `RailMisconfigured` names what to mend, `errors.RailUnavailable` passes by itself.
        """
        ...

    async def maintain(self, now_s: int) -> int:
        """Push what is stuck, at start and now and then; return how much is still open."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
