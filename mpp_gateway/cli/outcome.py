"""What became of a payment that was sent: read from the answer, told in words, with what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mpp_gateway.cli.exits import FAILED, OK, OWED
from mpp_gateway.cli.output import plain
from mpp_gateway.errors import PriceAboveMaximum
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError

CREDENTIAL_VARIABLE = "MPP_CREDENTIAL"
ORIGIN_VARIABLE = "MPP_CREDENTIAL_FOR"
IDEMPOTENCY_VARIABLE = "MPP_IDEMPOTENCY_KEY"
PROBLEM = "application/problem+json"
PAYMENT_REQUIRED = 402

_AGAIN = "run the same command again"
_SAME = f"{_AGAIN}, which presents the same payment and signs no second one"
_ANEW = f"only for a new call, at a new price: {_AGAIN} without {CREDENTIAL_VARIABLE}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the money is, how to go on, and whether that takes the same credential."""

    money: str
    retry: str
    code: int = FAILED
    keeps_credential: bool = False
    is_claim: bool = False
    """That nothing was charged, on the word of the seller alone: the chain knows better."""

    def delivered(self) -> "Outcome":
        """Return the same for a call that was answered all the same."""
        return Outcome(self.money, "not needed", OK)

    def text(self, variables: str) -> str:
        """Return it for people; with `variables`, which hold the credential, where losing that
        would lose the money."""
        shown = f"payment: {self.money}\nretry:   {self.retry}"
        return f"{shown}, with this before it:\n{variables}" if self.keeps_credential else shown


# Until it ends, a signed payment can be submitted by whoever has seen it. As long as that is so, a
# second one is never advised: the seller would be paid twice.
RELEASED = Outcome(
    "released: the seller says that nothing was charged",
    _SAME,
    keeps_credential=True,
    is_claim=True,
)
UNSPENT = Outcome(
    "not made, says the chain; nothing was charged so far", _SAME, keeps_credential=True
)
CREDITED = Outcome(
    "credited; you have paid, and the seller owes you this call",
    f"{_AGAIN}, which pays nothing more",
    OWED,
    keeps_credential=True,
)
REFUNDING = Outcome(
    "refunding; you have paid, and the seller says that it sends the money back",
    f"{_ANEW}; the old payment buys nothing more",
    OWED,
)
UNKNOWN = Outcome(
    "not known; it may have been made, so do not pay again",
    f"{_AGAIN}, which pays once at most",
    OWED,
    keeps_credential=True,
)
BROKEN = Outcome(
    "made, as the receipt says; the answer is not whole",
    f"{_AGAIN}, which pays nothing more and gets the answer where the seller keeps it",
    OWED,
    keeps_credential=True,
)
IN_PROGRESS = Outcome(
    "under way: the seller works for another request with this payment, so do not pay again",
    f"wait, then {_AGAIN}, which pays once at most",
    OWED,
    keeps_credential=True,
)
NOT_KEPT = Outcome(
    "made before: the seller says that it has bought its answer, which is not kept under this"
    " Idempotency-Key",
    f"under the key of the first try, where that was another one; else {_ANEW}",
)
KEY_REUSED = Outcome(
    "made before: the seller says that it has bought the answer to another body under this"
    " Idempotency-Key; nothing more was charged",
    f"with the body of the first try; else {_ANEW}",
)
SPENT = Outcome(
    "made, says the chain; the answer has no receipt: the seller charges for this status, or owes"
    " you the call",
    f"{_AGAIN}, which pays nothing more; a 402 then says that the payment is used up",
    OWED,
    keeps_credential=True,
)
CHARGED = Outcome(
    "made, as the receipt says; the seller charges for this status, or owes you the call",
    f"{_AGAIN}, which pays nothing more",
    OWED,
    keeps_credential=True,
)
SILENT = Outcome(
    "no receipt came with this answer; nothing was kept, unless the seller charges in advance or"
    " for this status",
    f"{_SAME}; --rpc-url asks the chain what became of it",
    OWED,
    keeps_credential=True,
)
_ASKED_WITH_RPC_URL = frozenset({"evm"})
"""Methods of which a node of the buyer's own knows more: another was asked already, or nobody."""
_BY_STATE: Mapping[str, Outcome] = {
    "released": RELEASED,
    "credited": CREDITED,
    "refunding": REFUNDING,
    # Paid, and the gateway could not write down yet what it owes.
    "settled": CREDITED,
}
_BY_SLUG: Mapping[str, Outcome] = {
    "settlement-unknown": UNKNOWN,
    "payment-in-progress": IN_PROGRESS,
    "answer-not-kept": NOT_KEPT,
    "idempotency-key-reused": KEY_REUSED,
    "gateway-fault": UNKNOWN,
    "rail-unavailable": RELEASED,
}


def judge(status: int, media_type: str, body: bytes, *, is_new: bool) -> Outcome | None:
    """Return what an answer without a receipt says of the payment; None if it says nothing.

    `is_new`: the payment was signed for this very call, not kept from an earlier one.
    """
    problem = _problem(body) if media_type == PROBLEM else {}
    named = _BY_STATE.get(str(problem.get("payment")))
    if named is not None:
        return named
    if status == PAYMENT_REQUIRED:
        detail = plain(str(problem.get("detail", "no reason was given")))
        if not is_new:
            # It may have bought its call: to be told to pay again would be a second price for it.
            return Outcome(f"not accepted again: {detail}", _ANEW)
        cure = f"mend that and {_SAME}"
        return Outcome(f"not accepted: {detail}", cure, keeps_credential=True, is_claim=True)
    slug = str(problem.get("type", "")).rpartition(":")[2]
    found = _BY_SLUG.get(slug)
    # What was signed just now has bought nothing before, at least not for this buyer: such words
    # would only have a second payment made.
    return None if is_new and found in {NOT_KEPT, KEY_REUSED} else found


def may_be_too_dear(status: int) -> bool:
    """Tell whether an answer has the status of a price above the buyer's `X-Max-Price`."""
    return status == PriceAboveMaximum.status


def too_dear(body: bytes) -> str:
    """Return the prices of a seller for whom `X-Max-Price` is too low; else nothing."""
    problem = _problem(body)
    if problem.get("type") != PriceAboveMaximum().type_uri:
        return ""
    prices = problem.get("prices")
    each = [p for p in prices if isinstance(p, dict)] if isinstance(prices, list) else []
    return plain(" or ".join(f"{p.get('amount')} {p.get('unit')}" for p in each)) or "asked"


def weigh(said: Outcome | None, *, is_made: bool | None, method: str) -> Outcome:
    """Return what holds of a claim, or of silence, once the chain was asked; None: it was not."""
    if is_made:
        return SPENT
    if is_made is False and said in {None, RELEASED}:
        return UNSPENT
    return said or (SILENT if method in _ASKED_WITH_RPC_URL else replace(SILENT, retry=_SAME))


def _problem(body: bytes) -> Mapping[str, Any]:
    try:
        document = jcs.loads(body)
    except ParseError:
        return {}
    return document if isinstance(document, dict) else {}
