"""How often a rail is asked about one payment at the request of whoever shows it."""

from mpp_gateway.gateway.settlement import UNKNOWN_RETRY_S

ASK_AGAIN_S = UNKNOWN_RETRY_S
"""So soon a buyer is told to come back, and so soon its rail is asked again, not sooner."""
KEPT_MAX = 10_000


class Inquiries:
    """Keeps who repeats a credential from having its rail asked each time, in one process.

    What is asked may cost a page-long search in Stripe's lists; the credential costs nothing. Only
    the times are kept, never an answer: an old answer about a later attempt would release what was
    paid.
    """

    def __init__(self) -> None:
        self._asked_s: dict[str, int] = {}

    def may_ask(self, proof_id: str, now_s: int) -> bool:
        """Tell whether a payment may be asked about now, and note that it is."""
        asked_s = self._asked_s.get(proof_id)
        # A clock that was set back keeps nobody waiting.
        if asked_s is not None and asked_s <= now_s < asked_s + ASK_AGAIN_S:
            return False
        self._asked_s.pop(proof_id, None)  # so that the oldest are first
        self._asked_s[proof_id] = now_s
        if len(self._asked_s) > KEPT_MAX:
            del self._asked_s[next(iter(self._asked_s))]
        return True

    def ended(self, proof_id: str) -> None:
        """Forget a payment of which it is known by now what became of it."""
        self._asked_s.pop(proof_id, None)
