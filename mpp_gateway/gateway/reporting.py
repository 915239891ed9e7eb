"""One sink is told of everything that happens, each event with the time the request has taken."""

import logging
import time
from collections.abc import Callable

from mpp_gateway.events import Event

log = logging.getLogger(__name__)

type Sink = Callable[[Event], None]


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

    def tell(self, event: Event, began_ms: int) -> None:
        """Tell the sink of `event` in a request that began at `began_ms`."""
        if self.sink is None:
            return
        try:
            self.sink(event.timed(self.ticker() - began_ms))
        except Exception:
            # A sink that fails must not decide about money.
            log.exception("an event sink failed")
