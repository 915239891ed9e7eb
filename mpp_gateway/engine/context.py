"""What the streams of one process share."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

from mitmproxy.connection import Connection
from mitmproxy.proxy.layers.http._events import HttpEvent

from mpp_gateway.engine.departure import Departures
from mpp_gateway.engine.limits import Limits
from mpp_gateway.protocol.cors import Cors


@dataclass
class DeadlineReached(HttpEvent):
    """The layer's clock has passed some deadline of a stream."""

    now_s: float


class Engine:
    """Limits, the clock, and the counts that go across connections."""

    def __init__(
        self, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or Limits()
        self.clock = clock
        self.used: WeakSet[Connection] = WeakSet()
        """Upstream connections that have served a request: only these can be stale."""
        self.requires_tls = False
        """Whether clear text is turned away: a challenge must not travel in it (draft, 1.12)."""
        self.cors: Cors | None = None
        """Which pages of other sites may call; None: that is between them and the upstream."""
        self.departures = Departures(clock)
        self._unpaid_bodies: Counter[str] = Counter()
        """By client; who is not counted has the empty name."""

    def admit_body(self, client: str) -> bool:
        """Count one more buffered unpaid body; False when there are as many as may be.

        One client with slow uploads cannot have all places.
        """
        own = self._unpaid_bodies[client] if client else 0
        if (
            self._unpaid_bodies.total() >= self.limits.unpaid_bodies
            or own >= self.limits.unpaid_bodies_per_client
        ):
            return False
        self._unpaid_bodies[client] += 1
        return True

    def release_body(self, client: str) -> None:
        """Give a place back."""
        self._unpaid_bodies[client] -= 1
        if not self._unpaid_bodies[client]:
            del self._unpaid_bodies[client]
