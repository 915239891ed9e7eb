"""What Stripe's objects say of the money; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mpp_gateway.protocol.problems import (
    PaymentActionRequired,
    PaymentInsufficient,
    Problem,
    VerificationFailed,
)
from mpp_gateway.rails.base import Settlement

FUNDS = frozenset({"insufficient_funds", "withdrawal_count_limit_exceeded"})
ACTION = frozenset({"authentication_required", "authentication_not_handled"})
FAILED = frozenset({"canceled", "requires_payment_method", "requires_confirmation"})
PAID_BACK = frozenset({"succeeded"})
ON_ITS_WAY = frozenset({"pending", "requires_action"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Where the money of one PaymentIntent is."""

    state: Settlement
    intent_id: str = ""
    detail: str = ""
    is_held: bool = False
    """Authorized and not captured: the payer cannot spend it, and has it."""
    needs_action: bool = False
    may_be_paid: bool = False


def read_intent(intent: Mapping[str, Any], amount_minor: int, currency: str) -> Finding:
    """Return what a PaymentIntent shows of a payment of `amount_minor`."""
    intent_id, status = str(intent.get("id", "")), intent.get("status")
    asked = intent.get("amount"), intent.get("currency")
    # One that has failed moves nothing, whatever it was about: taken for an open one, it would
    # keep open for ever what became of another charge of its token.
    if asked != (amount_minor, currency) and status not in FAILED:
        return Finding(
            Settlement.UNKNOWN, intent_id, "it is about another amount", may_be_paid=True
        )
    match status:
        case "succeeded" if intent.get("amount_received") == amount_minor:
            return Finding(Settlement.SETTLED, intent_id)
        case "requires_capture":
            return Finding(Settlement.UNKNOWN, intent_id, "held, not captured", is_held=True)
        case "requires_action":
            # Only who has the intent's client secret can act on it, and nobody is given that.
            return Finding(Settlement.REFUSED, intent_id, "action required", needs_action=True)
        case failed if failed in FAILED:
            return Finding(Settlement.REFUSED, intent_id, f"the PaymentIntent is {status}")
    return Finding(
        Settlement.UNKNOWN, intent_id, "the PaymentIntent is under way", may_be_paid=True
    )


def refusal_of(code: str) -> Problem:
    """Return what to tell the buyer of a charge that was declined; codes are Stripe's."""
    if code in ACTION:
        return action_required()
    if code in FUNDS:
        return PaymentInsufficient(f"The payment was declined ({code}); nothing was charged.")
    return VerificationFailed(
        f"The payment was declined ({code}); nothing was charged.",
        hint="Take a new challenge and mint a new shared payment token.",
    )


def action_required() -> Problem:
    """Return what to tell the buyer of a charge that its bank wants to be confirmed."""
    return PaymentActionRequired(
        "The payer's bank asks for a confirmation; nothing was charged.",
        hint="Mint a shared payment token that needs no further action.",
    )


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What was given back of one PaymentIntent."""

    back_minor: int
    waiting_minor: int
    reference: str
    tries: int
    """How many refunds were begun and came to nothing."""


def read_refunds(refunds: Iterable[Mapping[str, Any]]) -> GivenBack:
    """Add up the refunds of a PaymentIntent, whoever made them."""
    back, waiting, tries, reference = 0, 0, 0, ""
    for refund in refunds:
        minor, status = refund.get("amount"), refund.get("status")
        if not isinstance(minor, int) or isinstance(minor, bool):
            continue
        if status in PAID_BACK or status in ON_ITS_WAY:
            reference = str(refund.get("id", ""))
        if status in PAID_BACK:
            back += minor
        elif status in ON_ITS_WAY:
            waiting += minor
        else:
            tries += 1
    return GivenBack(back, waiting, reference, tries)
