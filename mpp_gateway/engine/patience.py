"""How much of what costs us work and its sender nothing is put up with."""

from collections.abc import Callable

REGAINED_PER_S = 10
"""So many frames without a purpose are free again each second: a ping now and then is no flood."""
CRUMB_BYTES = 64
"""The least that a DATA frame should carry, on the average."""
CRUMBS = 8
"""So many frames with nothing in them cost as much as one without a purpose."""


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
