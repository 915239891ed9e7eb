"""A circuit breaker: what has failed several times is passed over for a while."""

FAILURES_MAX = 3
REST_S = 30


class Breaker:
    """Counts failures one behind the other; time is an argument, in unix seconds.

    After a rest a single trial is let through. It ends the rest, or begins the next one.
    """

    def __init__(self, failures_max: int = FAILURES_MAX, rest_s: int = REST_S) -> None:
        self._failures_max = failures_max
        self._rest_s = rest_s
        self._failures = 0
        self._rests_until_s = 0

    def admits(self, now_s: int) -> bool:
        """Tell whether to ask now. After a rest the answer is a trial: True once, then False.

        A trial that never tells how it went makes room for another when the time of a rest is over.
        """
        if self._failures < self._failures_max:
            return True
        if now_s < self._rests_until_s:
            return False
        self._rests_until_s = now_s + self._rest_s
        return True

    def worked(self) -> None:
        """End the rest: an answer came."""
        self._failures = 0

    def failed(self, now_s: int) -> bool:
        """Count a failure; return True if a rest begins with it."""
        self._failures += 1
        if self._failures < self._failures_max:
            return False
        self._rests_until_s = now_s + self._rest_s
        return self._failures == self._failures_max
