"""How much of what costs us work and its sender nothing is put up with."""

from collections.abc import Callable, Sequence

import h2.events
from hyperframe.frame import DataFrame, Frame, PingFrame, RstStreamFrame, WindowUpdateFrame

REGAINED_PER_S = 10
"""So many frames without a purpose are free again each second: a ping now and then is no flood."""
CRUMB_BYTES = 64
"""The least that a DATA frame should carry, on the average."""
CRUMBS = 8
"""So many frames with nothing in them cost as much as one without a purpose."""
REPLY_BYTES = 512
"""For each so many bytes of an answer its reader may send one frame that replies to them."""
REPLIES = 3
"""So often also for each piece of an answer, however small: two windows and a ping that
measures."""
REPLIES_MOST = 8192
"""So many may be saved up: a reader that comes late to 4 MiB, one window for each KiB of them."""
REPLYING = WindowUpdateFrame | PingFrame | RstStreamFrame
"""Sent by an honest client for what it gets; resets where it has given the answer up already."""
USEFUL = (
    h2.events.RequestReceived
    | h2.events.TrailersReceived
    | h2.events.StreamEnded
    | h2.events.ConnectionTerminated
)
"""A request has few of these, a connection the last."""


class Patience:
    """Starts full, runs out with what is lost, and comes back with time and for good reasons."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._left = float(most)
        self._clock = clock
        self._at_s = clock()

    def regain(self, amount: float) -> None:
        """Have so much more of it, and never more than at first."""
        self._left = min(self._most, self._left + amount)

    def lose(self, amount: float = 1) -> bool:
        """Have so much less of it; True when it has run out."""
        now_s = self._clock()
        regained = int((now_s - self._at_s) * REGAINED_PER_S)
        if regained:
            self._at_s += regained / REGAINED_PER_S
            self.regain(regained)
        self._left -= amount
        return self._left < 0

    def receive_data(self, size: int) -> bool:
        """Take in a DATA frame of `size` bytes; True when there were too many crumbs for the time.

        What big frames carry beyond the least pays for the crumbs between them, the ends of what
        was cut into frames.
        """
        worth = (size - CRUMB_BYTES) / (CRUMB_BYTES * CRUMBS)
        if worth < 0:
            return self.lose(-worth)
        self.regain(worth)
        return False


class FramePatience:
    """Judges each frame of an HTTP/2 client by what it is good for."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._control = Patience(most, clock)
        # Data must not pay for resets, which cost us far more.
        self._data = Patience(most, clock)
        self._replies = 0.0

    def answered(self) -> None:
        """Take note of an answer that the client has waited for to its end."""
        self._control.regain(1)
        self._data.regain(1)

    def sent(self, size: int) -> None:
        """Take note of a piece of an answer.

        As our upstream cut it: a client that opens its window by one byte at a time makes us send
        frames of one byte, and must not live on them.
        """
        self._replies = min(REPLIES_MOST, self._replies + REPLIES + size / REPLY_BYTES)

    def receive(self, frame: Frame, events: Sequence[h2.events.Event]) -> bool:
        """Take in a frame and what came of it; True when there were too many of no use.

        The frame counts, not the events: most frames on a closed stream give none.
        """
        if any(isinstance(event, USEFUL) for event in events):
            return False
        if isinstance(frame, DataFrame) and frame.data:
            return self._data.receive_data(len(frame.data))
        # A window that is opened too wide is a reset, and has the price of one.
        is_reset = any(isinstance(event, h2.events.StreamReset) for event in events)
        is_reply = isinstance(frame, REPLYING) and not is_reset
        if is_reply and self._replies >= 1:
            self._replies -= 1
            return False
        return self._control.lose()
