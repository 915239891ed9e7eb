"""What admission and settlement ask of their host, and what they tell it: frozen data, no calls."""

from dataclasses import dataclass, field
from typing import Any

from mpp_gateway.events import Event
from mpp_gateway.ledger.answers import KeptAnswer
from mpp_gateway.ledger.book import ClaimRequest, PaymentRecord, Turn
from mpp_gateway.ledger.free_calls import FreeCall
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.messages import Answer, Headers
from mpp_gateway.rails.base import Presented


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the engine waits for the upstream, each in seconds."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    answer_s: float | None = None
    """From the verdict to the upstream's head, uploads included; None where nothing runs out."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this to the upstream. `secrets` are added to the bytes on the wire and nowhere else."""

    scheme: str
    host: str
    port: int
    method: str
    target: str
    headers: Headers
    deadlines: Deadlines
    steering: frozenset[str] = frozenset()
    """Names that no trailer field may have: our own fields', and what the service strips."""
    outlives_client: bool = False
    """The call was paid for: the upstream's answer is waited for even when nobody reads it."""
    secrets: Headers = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the upstream's answer to the client under these fields."""

    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class ReadBody:
    """The answer depends on the request body: read at most `limit_bytes` of it, and ask again."""

    limit_bytes: int


# Effects: what the executor performs between two steps of the machine.


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the sink; whoever does so adds how long the request has taken."""

    event: Event


@dataclass(frozen=True, slots=True)
class NeedBody:
    """Ask for the request's body. Result: it, or None where nobody has read it."""


@dataclass(frozen=True, slots=True)
class ClaimProof:
    """Bind the proof to this exchange in the store. Result: `ledger.book.Claimed`."""

    request: ClaimRequest


@dataclass(frozen=True, slots=True)
class AskRail:
    """Ask whether the rail takes new payments now. Result: None or a Problem."""

    rail: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Have the rail check the proof. Result: `rails.base.Verified` or a Problem."""

    presented: Presented


@dataclass(frozen=True, slots=True)
class Hold:
    """Set the price aside in the store. Result: whether the payer's money covers it.

    With `settled_by_s` it is to be settled at once, and until then: one write says both.
    """

    turn: Turn
    spendable_minor: int | None
    seen_seq: int
    settled_by_s: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Write down where the exchange stands now. Result: False if it was not this turn's to move."""

    turn: Turn
    before: State
    after: State
    reference: str | None = None
    receipt: Headers | None = None
    detail: str = ""
    due_s: int | None = None
    """When we are done with it, or gone; None leaves what was said before."""
    amount_minor: int | None = None
    """What was used of what was held; None for all of it."""
    owed_minor: int | None = None
    """What the rail is asked to move, where that is less than was held."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Write down where the money of a request that ends is known to be, from whatever was written.

    Result: False if it was not this turn's any more. While the store refuses, the executor goes on
    trying, and the one who asks gets a Problem soon.
    """

    turn: Turn
    after: State
    reference: str | None = None
    receipt: Headers | None = None
    detail: str = ""
    amount_minor: int | None = None
    """What was used of what was held; None: all of it."""
    told: tuple[Event, ...] = ()
    """What the sink is told once it is written down, however late that is."""


@dataclass(frozen=True, slots=True)
class RenewTurn:
    """Stay in charge of a paid call until `due_s`. Result: False if it is not ours any more."""

    turn: Turn
    due_s: int


@dataclass(frozen=True, slots=True)
class MarkDelivered:
    """Note in the store, without waiting for it, that a paid answer was handed over."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Attend:
    """Stay in charge of a paid call while its answer goes out, until that has an end."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Settle:
    """Have the rail move the money. Result: `rails.base.Outcome`."""

    presented: Presented
    turn: Turn
    amount_minor: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the rail what became of an earlier attempt. Result: `rails.base.Outcome`."""

    rail: str
    payment: PaymentRecord
    is_spaced: bool = False
    """Whether it is asked only every so often: UNKNOWN in between."""


@dataclass(frozen=True, slots=True)
class FindAnswer:
    """Look for a kept answer. Result: `ledger.answers.KeptAnswer` or None."""

    exchange_id: str
    key_digest: str


@dataclass(frozen=True, slots=True)
class KeepAnswer:
    """Keep an answer that `turn` has paid for: with that it is handed over. Result: False for want
    of room."""

    answer: KeptAnswer
    turn: Turn


@dataclass(frozen=True, slots=True)
class TakeToken:
    """Count a request against its client. Result: milliseconds to wait; 0 when it may go on."""

    client: str


@dataclass(frozen=True, slots=True)
class TakeFreeCall:
    """Count a call that is not paid. Result: how many its client has left, None if it had none."""

    call: FreeCall


@dataclass(frozen=True, slots=True)
class GiveBackTokens:
    """Stop counting requests of a client, as many as there are tokens."""

    client: str
    tokens: int


type Effect = (
    Emit
    | AskRail
    | ClaimProof
    | Verify
    | Hold
    | Move
    | GiveUp
    | RenewTurn
    | MarkDelivered
    | Attend
    | Settle
    | LookUp
    | FindAnswer
    | KeepAnswer
    | TakeToken
    | TakeFreeCall
    | GiveBackTokens
    | NeedBody
)
type Step = Effect | Answer | Forward | Deliver | ReadBody


@dataclass(frozen=True, slots=True)
class Reply:
    """What an effect came to, and when. A Problem is raised into the machine instead."""

    value: Any
    now_s: int
