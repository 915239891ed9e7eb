"""One sink is told of everything that happens, each event with the time the request has taken."""

import logging
import time
from collections.abc import Callable, Iterable

from mpp_gateway import events
from mpp_gateway.events import Event
from mpp_gateway.ledger.states import State

log = logging.getLogger(__name__)

type Sink = Callable[[Event], None]

LATE: dict[State, type[Event]] = {
    State.RELEASED: events.PaymentReleased,
    State.UNKNOWN: events.PaymentUnknown,
    State.CREDITED: events.PaymentCredited,
    State.REFUNDING: events.RefundOwed,
}


def late_events(
    exchange_id: str,
    after: State,
    at_s: int,
    asset: str,
    amount_minor: int,
    *,
    reference: str = "",
    was_paid: bool = True,
) -> tuple[Event, ...]:
    """Return what is to be told of a move that no request waits for; it has no route.

    `reference` is of the payment or of the refund. Where the move itself shows that the money
    came, `was_paid` is false before it.
    """

    def told(kind: Callable[..., Event], **more: str) -> Event:
        return kind(
            request_id=exchange_id, at_s=at_s, asset=asset, amount_minor=amount_minor, **more
        )

    if after is State.REFUNDED:
        return (told(events.PaymentRefunded, reference=reference),)
    if was_paid or after is not State.CREDITED:
        return (told(LATE[after]),)
    return told(events.PaymentSettled, reference=reference), told(LATE[after])


def uptime_ms() -> int:
    """Return milliseconds by a clock that never goes back, whatever is done to the wall clock."""
    return time.monotonic_ns() // 1_000_000


class Reporter:
    """Stamps events and hands them to `sink`. Without one not even the clock is read."""

    def __init__(self, sink: Sink | None = None, ticker: Callable[[], int] = uptime_ms) -> None:
        self.sink = sink
        self.ticker = ticker

    def begin(self) -> int:
        """Return the moment from which the durations of a request count: its head is here."""
        return 0 if self.sink is None else self.ticker()

    def tell_late(self, late: Iterable[Event]) -> None:
        """Tell the sink of what no request waits for: such events have no duration."""
        for event in late:
            self.tell(event, self.begin())

    def tell(self, event: Event, began_ms: int) -> None:
        """Tell the sink of `event` in a request that began at `began_ms`."""
        if self.sink is None:
            return
        try:
            self.sink(event.timed(self.ticker() - began_ms))
        except Exception:
            # A sink that fails must not decide about money.
            log.exception("an event sink failed")
