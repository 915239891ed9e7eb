"""What became of a payment that was sent: read from the answer, told in words, with what to do."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpp_gateway.cli.exits import FAILED, OK, OWED
from mpp_gateway.cli.output import plain

CREDENTIAL_VARIABLE = "MPP_CREDENTIAL"
ORIGIN_VARIABLE = "MPP_CREDENTIAL_FOR"
PROBLEM = "application/problem+json"
PAYMENT_REQUIRED = 402

_AGAIN = "run the same command again"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the money is, how to go on, and whether that takes the same credential."""

    money: str
    retry: str
    code: int = FAILED
    keeps_credential: bool = False

    def delivered(self) -> "Outcome":
        """Return the same for a call that was answered all the same."""
        return Outcome(self.money, "not needed", OK)

    def text(self, credential: str, origin: str) -> str:
        """Return it for people; with the credential, where losing that would lose the money.

        `origin` is where it was presented: it is good there, and nobody else may see it.
        """
        shown = f"payment: {self.money}\nretry:   {self.retry}"
        if not self.keeps_credential:
            return shown
        place = f"{ORIGIN_VARIABLE}={shlex.quote(origin)} \\"
        return f"{shown}, with this before it:\n{place}\n{CREDENTIAL_VARIABLE}='{credential}'"


RELEASED = Outcome("released; nothing was charged", f"{_AGAIN}; it pays anew")
CREDITED = Outcome(
    "credited; you have paid, and the seller owes you this call",
    f"{_AGAIN}, which pays nothing more",
    OWED,
    keeps_credential=True,
)
UNKNOWN = Outcome(
    "not known; it may have been made, so do not pay again",
    f"{_AGAIN}, which pays once at most",
    OWED,
    keeps_credential=True,
)
SPENT = Outcome(
    "made, says the chain; the answer has no receipt: the seller charges for this status, or owes"
    " you the call",
    f"{_AGAIN}, which pays nothing more; a 402 then says that the payment is used up",
    OWED,
    keeps_credential=True,
)
UNSPENT = Outcome("not made, says the chain; nothing was charged", f"{_AGAIN}; it pays anew")
SILENT = Outcome(
    "no receipt came with this answer; nothing was kept, unless the seller charges in advance or"
    " for this status",
    f"{_AGAIN}; with --rpc-url it asks the chain what became of the payment",
)
_BY_SLUG: Mapping[str, Outcome] = {
    "settlement-unknown": UNKNOWN,
    "payment-in-progress": UNKNOWN,
    "gateway-fault": UNKNOWN,
    "rail-unavailable": RELEASED,
}


def judge(status: int, media_type: str, body: bytes, *, is_new: bool) -> Outcome | None:
    """Return what an answer without a receipt says of the payment; None if it says nothing.

    `is_new`: the payment was signed for this very call, not kept from an earlier one.
    """
    problem = _problem(body) if media_type == PROBLEM else {}
    named = {"released": RELEASED, "credited": CREDITED}.get(str(problem.get("payment")))
    if named is not None:
        return named
    if status == PAYMENT_REQUIRED:
        detail = str(problem.get("detail", "no reason was given"))
        if not is_new:
            # It may have bought its call: to be told to pay again would be a second price for it.
            return Outcome(
                f"not accepted again: {plain(detail)}",
                f"only for a new call, at a new price: {_AGAIN} without {CREDENTIAL_VARIABLE}",
            )
        cure = f"mend that and {_AGAIN}"
        return Outcome(f"not accepted: {plain(detail)}", cure)
    slug = str(problem.get("type", "")).rpartition(":")[2]
    return _BY_SLUG.get(slug)


def _problem(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
