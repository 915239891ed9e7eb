"""What happens next to an exchange, in words."""

from mpp_gateway.ledger.book import State
from mpp_gateway.ledger.inquiry import Record
from mpp_gateway.protocol.timestamps import format_rfc3339


def next_step(record: Record, now_s: int) -> str:
    """Return who moves next, until when, and what becomes of the money otherwise."""
    due = _until(record.due_s, now_s)
    match record.state:
        case State.CLAIMED | State.VERIFIED:
            return f"its call is under way{due}; otherwise it is released: nothing was charged."
        case State.SETTLING:
            return (
                f"the payment is being made{due}; otherwise it is unknown, and the rail is asked."
            )
        case State.SETTLED if record.due_s is not None:
            return f"paid; its answer is being made{due}. Otherwise the buyer has a credit."
        case State.SETTLED:
            return "nothing: it was paid and handed over."
        case State.RELEASED if record.valid_until_s > now_s:
            return (
                "nothing was charged. The buyer may present the same credential again until its"
                f" challenge expires; the payment can be made until {_at(record.valid_until_s)}."
            )
        case State.RELEASED:
            return "nothing was charged, and nothing can be: the gateway forgets it."
        case State.CREDITED:
            return "the buyer may present the same credential again, and pays nothing more."
        case State.UNKNOWN:
            return "the rail is asked what became of the payment; the buyer should not pay again."
        case State.REFUNDED:
            return "nothing: the money went back to the buyer."
    return "this version does not know the state."


def _until(due_s: int | None, now_s: int) -> str:
    if due_s is None:
        return ""
    if due_s <= now_s:
        return (
            f" (its process should have been done by {_at(due_s)}: a running gateway takes it up)"
        )
    return f" until {_at(due_s)}"


def _at(unix_s: int) -> str:
    try:
        return format_rfc3339(unix_s)
    except ValueError:
        return "ever"
