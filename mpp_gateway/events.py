"""Everything that happens to a request, as frozen values. Sinks are elsewhere."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. Times are unix seconds, durations milliseconds."""

    request_id: str
    at_s: int
    service: str = ""
    route: str = ""
    method: str = ""
    """Payment method, empty where none was involved."""
    amount_minor: int = 0
    asset: str = ""


class RequestReceived(Event):
    """A request head was read."""


class RouteMatched(Event):
    """The request belongs to a service and a route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """We answered instead of the upstream; `slug` says why."""

    slug: str
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


class PaymentUnknown(Event):
    """Money may have moved; only the rail can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeFinished(Event):
    """The last event of a request."""

    status: int
    duration_ms: int
