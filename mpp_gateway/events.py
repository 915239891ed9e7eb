"""Everything that happens to a request, as frozen values. Sinks are elsewhere."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. Times are unix seconds, durations milliseconds."""

    request_id: str
    at_s: int
    duration_ms: int = 0
    """Since the request's head was received; filled in when the sink is told."""
    service: str = ""
    route: str = ""
    method: str = ""
    """Payment method: of the credential, else of the first offer; empty where there is none."""
    amount_minor: int = 0
    """What the call costs by `method`. That it was paid is said by `PaymentSettled` alone."""
    asset: str = ""

    def timed(self, duration_ms: int) -> Self:
        """Return this event with its duration. For the one who tells of it, before anybody else."""
        # In place: to copy a frozen event takes longer than all the rest of telling it.
        object.__setattr__(self, "duration_ms", duration_ms)
        return self


class RequestReceived(Event):
    """A request head was read."""


class RouteMatched(Event):
    """The request belongs to a service and a route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAnswered(Event):
    """We answered for ourselves: a document (`route` is its path), our health, or a preflight."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """We answered instead of the upstream; `slug` says why."""

    slug: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRepeated(Event):
    """A paid answer was given once more under its `Idempotency-Key`; no money moved for it."""

    status: int


class PaymentRequired(Event):
    """A 402 with offers went out."""


class PaymentVerified(Event):
    """A credential holds and its proof belongs to this exchange."""


class RequestForwarded(Event):
    """The upstream got the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAnswered(Event):
    """The upstream's final head came."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFailed(Event):
    """The upstream gave no usable answer."""

    slug: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentSettled(Event):
    """The money is the payee's."""

    reference: str


class PaymentReleased(Event):
    """Nothing moved, and the proof may be presented again."""


class PaymentCredited(Event):
    """The money moved and the call was not delivered: the same credential is good once more."""


class RefundOwed(Event):
    """The money moved, the call was not delivered, and the rail is asked to give it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRefunded(Event):
    """The buyer has its money back."""

    reference: str


class PaymentUnknown(Event):
    """Money may have moved; only the rail can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeFinished(Event):
    """The last event of a request."""

    status: int
