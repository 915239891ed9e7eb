"""How long a client may take for an answer that waits for it."""

from mitmproxy.connection import Connection

from mpp_gateway.engine import backpressure
from mpp_gateway.engine.limits import Limits


class DownloadClock:
    """A grace, and time regained for each byte: whoever takes crumbs must not be served for ever.

    The grace is never more than it was at first: what was taken quickly pays for no long pause.
    """

    def __init__(self, now_s: float, limits: Limits) -> None:
        self._grace_s = limits.unread_s
        self._s_per_byte = 1 / limits.download_bytes_per_s
        self.deadline_s = now_s + self._grace_s
        """When the client has taken too long."""

    def taken(self, size: int, now_s: float) -> None:
        """Give the time that `size` bytes are worth."""
        regained_s = self.deadline_s + size * self._s_per_byte
        self.deadline_s = max(self.deadline_s, min(regained_s, now_s + self._grace_s))


class SocketClock:
    """The same for what the client's socket does not take, over all that is sent to it.

    Runs from the first look at which something waits until one at which nothing does: whoever
    empties a socket's buffer is not slow.
    """

    def __init__(self, client: Connection, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._clock: DownloadClock | None = None
        self._taken_bytes = 0

    def deadline_s(self, now_s: float) -> float | None:
        """Look, and return when the client has taken too long; None while nothing waits for it."""
        if not backpressure.unsent_bytes(self._client):
            self._clock = None
            return None
        before, self._taken_bytes = self._taken_bytes, backpressure.taken_bytes(self._client)
        if self._clock is None:
            self._clock = DownloadClock(now_s, self._limits)
        else:
            self._clock.taken(self._taken_bytes - before, now_s)
        return self._clock.deadline_s
