"""What happens next to an exchange, in words."""

from collections.abc import Mapping

from mpp_gateway.ledger.inquiry import Record
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.timestamps import format_rfc3339

_ALWAYS: Mapping[str, str] = {
    State.UNKNOWN: "a running gateway asks the rail what became of the payment, again and again;"
    " the buyer should not pay a second time.",
    State.REFUNDING: "a running gateway sends the money back to the buyer, once.",
    State.REFUNDED: "nothing: the money went back to the buyer.",
}


def next_step(record: Record, now_s: int, credit_s: int) -> str:
    """Return who moves next, until when, and what becomes of the money otherwise.

    `credit_s` is how long a credit is good for, by the configuration of today.
    """
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
        case State.RELEASED:
            return _released(record, now_s)
        case State.CREDITED:
            return _credited(record.updated_s + credit_s, now_s)
    return _ALWAYS.get(record.state, "this version does not know the state.")


def _released(record: Record, now_s: int) -> str:
    if record.valid_until_s <= now_s:
        return "nothing was charged, and nothing can be: the gateway forgets it."
    return (
        "nothing was charged. The buyer may present the same credential again until its challenge"
        f" expires; the payment can be made until {_at(record.valid_until_s)}."
    )


def _credited(until_s: int, now_s: int) -> str:
    if until_s <= now_s:
        return f"nothing: the credit ended at {_at(until_s)}, and nobody had asked for it."
    return (
        f"the buyer may present the same credential again until {_at(until_s)}, and pays nothing"
        " more."
    )


def _until(due_s: int | None, now_s: int) -> str:
    if due_s is None:
        return ""
    if due_s <= now_s:
        return f" (its process was to be done by {_at(due_s)}: a running gateway takes it up)"
    return f" until {_at(due_s)}"


def _at(unix_s: int) -> str:
    try:
        return format_rfc3339(unix_s)
    except ValueError:
        return "for ever"
