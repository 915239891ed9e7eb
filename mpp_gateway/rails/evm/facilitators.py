"""Several facilitators as one: who is asked to verify, who has to settle, and what comes of it.

Another one may verify. Another one settles only if the question certainly never left for the first.
"""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol.problems import PaymentInsufficient, Problem, VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm.breaker import REST_S, Breaker
from mpp_gateway.rails.evm.facilitator_client import (
    NOT_PROCESSED,
    Answer,
    FacilitatorClient,
    Question,
    Unanswered,
    monotonic_ms,
)
from mpp_gateway.rails.evm.request import Attempt
from mpp_gateway.rails.evm.supported import SPONSORINGS, Supported
from mpp_gateway.rails.waiting import unchecked

log = logging.getLogger(__name__)

VERIFY, SETTLE, SUPPORTED = "/verify", "/settle", "/supported"
REDIRECTED, SERVER_ERROR = 300, 500
LOOK_S = 5
REMEMBERED_MAX = 10_000
PENDING = "settlement_pending"
NO_REASON = "no_reason"
PENDING_WAITS_MS = (250, 500, 1_000, 2_000)
"""Before each repeat of a `/settle` whose transaction is in no block yet."""

_CODE = re.compile(r"[a-z0-9_]{1,80}")
_TX_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_OPEN = ("pending", "nonce", "already", "used", "timeout", "timed_out", "unexpected", "unknown")
"""Words of reasons after which money may have moved, or may still move."""
_DEFINITE = ("invalid_", "insufficient", "unsupported_", "missing_", "network_mismatch",
             "transaction_failed", "asset_not_deployed", "permit2_", "upto_")  # fmt: skip
_UNUSABLE = frozenset({401, 403, 429})
"""Statuses of a facilitator that takes no questions of ours now, whatever its body says."""

type Look = Callable[[str], Awaitable[Attempt | None]]
"""Asks the chain whether a named transaction has paid; None while it does not show that."""


@dataclass(eq=False)
class Place:
    """One facilitator, how it has been doing, and what it says it can do."""

    client: FacilitatorClient
    breaker: Breaker = field(default_factory=Breaker)
    supported: Supported = field(default_factory=Supported)

    def worked(self) -> None:
        """Note an answer."""
        self.breaker.worked()

    def failed(self, why: Unanswered, now_s: int) -> None:
        """Note that none came."""
        if self.breaker.failed(now_s):
            log.warning("facilitator %s is passed over for %d s: %s", self.client.name, REST_S, why)


class Facilitators:
    """The facilitators of one method, in the order of preference."""

    def __init__(self, clients: Sequence[FacilitatorClient], retry_after_s: int = 5) -> None:
        self.places = tuple(Place(client) for client in clients)
        self._retry_after_s = retry_after_s
        self._verified_by: OrderedDict[str, Place] = OrderedDict()

    async def verify(self, proof_id: str, question: Question, within_s: int, now_s: int) -> None:
        """Return if a facilitator says that the payment holds; it is the one that will settle it.

        Errors: `RailUnavailable` if none gives a verdict in `within_s`; a Problem if it does not.
        """
        deadline_ms, reasons = monotonic_ms() + within_s * 1000, []
        for tried, place in enumerate(self._in_order(question, now_s)):
            # One that hangs leaves the others their part of the time.
            share_ms = _left_ms(deadline_ms) // (len(self.places) - tried)
            try:
                answer = await place.client.ask(VERIFY, question, share_ms)
                is_valid = _verdict(place.client.name, answer)
            except Unanswered as error:
                place.failed(error, now_s)
                reasons.append(str(error))
                continue
            place.worked()
            if not is_valid:
                raise _refusal(_reason(answer, "invalidReason"))
            self._remember(proof_id, place)
            return
        raise self._unavailable("; ".join(reasons) or "none of them can settle it")

    async def settle(
        self,
        proof_id: str,
        question: Question,
        within_s: int,
        now_s: int,
        look: Look | None = None,
    ) -> Attempt:
        """Have the payment settled by the facilitator that verified it; raises nothing.

        What is not certain is UNKNOWN, with the transaction if one was named. REFUSED and untried
        is: nothing was processed. `look` is asked about a transaction that is said to be pending.
        """
        deadline_ms = monotonic_ms() + within_s * 1000
        reasons: list[str] = []
        for place in self._to_settle(proof_id, question, now_s):
            try:
                answer = await place.client.ask(SETTLE, question, _left_ms(deadline_ms))
            except Unanswered as error:
                place.failed(error, now_s)
                if not error.left:
                    reasons.append(str(error))
                    continue
                if error.may_be_processed:
                    return Attempt(Settlement.UNKNOWN, detail=str(error))
                return Attempt(Settlement.REFUSED, detail=str(error), is_untried=True)
            if _is_usable(answer) and isinstance(answer.members.get("success"), bool):
                place.worked()
            else:
                place.failed(Unanswered(f"{SETTLE}: HTTP {answer.status}"), now_s)
            attempt = _read_settled(answer, question)
            if not _is_pending(answer, attempt):
                return attempt
            return await self._until_mined(place, question, attempt, deadline_ms, look)
        detail = "; ".join(reasons) or "no facilitator can settle it"
        return Attempt(Settlement.REFUSED, detail=detail, is_untried=True)

    async def poll(self) -> None:
        """Ask each for what it supports; a facilitator need not say.

        Errors: `RailUnavailable` if all are gone: who settles nothing should hear of it.
        """
        problems = await asyncio.gather(*(self._poll(place) for place in self.places))
        if all(problems):
            raise self._unavailable("; ".join(problem for problem in problems if problem))

    def offers(
        self, version: int, scheme: str, network: str, transfer_method: str | None = None
    ) -> bool | None:
        """Tell whether one of them settles such payments; None if none says it, but may."""
        said = [p.supported.offers(version, scheme, network, transfer_method) for p in self.places]
        return True if True in said else None if None in said else False

    def facilitator_address(self, scheme: str, network: str) -> str | None:
        """Return the address that `upto` payments have to name: that of the first which has one."""
        found = (p.supported.facilitator_address(scheme, network) for p in self.places)
        return next((address for address in found if address is not None), None)

    def settlers(self, scheme: str, network: str) -> frozenset[bytes]:
        """Return from which accounts they settle `upto` payments."""
        found = (place.supported.settlers(scheme, network) for place in self.places)
        return frozenset[bytes]().union(*found)

    def sponsorings(self, scheme: str, network: str) -> frozenset[str] | None:
        """Return what the first that settles permits of Permit2 under `scheme` pays for a buyer;
        None while none says that it settles such."""
        for place in self.places:
            if place.supported.settles_permits(scheme, network):
                return place.supported.extensions & SPONSORINGS
        return None

    async def close(self) -> None:
        """Close the connections."""
        for place in self.places:
            await place.client.close()

    # Inside

    def _in_order(self, question: Question, now_s: int) -> Iterator[Place]:
        """Yield whom to ask. Who rests comes last, but comes: better asked than nobody."""
        kind = (question.version, question.requirements["scheme"], question.requirements["network"])
        way = question.transfer_method
        able = [place for place in self.places if place.supported.offers(*kind, way) is not False]
        if question.settler is not None:
            # Any other would say that the payment is bad, which it is not.
            own = question.settler
            able = [p for p in able if own in p.supported.settlers(*kind[1:])]
        resting = []
        for place in able if question.settler is not None else able or self.places:
            if place.breaker.admits(now_s):
                yield place
            else:
                resting.append(place)
        yield from resting

    def _to_settle(self, proof_id: str, question: Question, now_s: int) -> Iterator[Place]:
        first = self._verified_by.get(proof_id)
        if first is not None:
            yield first
        yield from (place for place in self._in_order(question, now_s) if place is not first)

    def _remember(self, proof_id: str, place: Place) -> None:
        self._verified_by[proof_id] = place
        self._verified_by.move_to_end(proof_id)
        if len(self._verified_by) > REMEMBERED_MAX:
            self._verified_by.popitem(last=False)

    async def _until_mined(
        self,
        place: Place,
        question: Question,
        pending: Attempt,
        deadline_ms: int,
        look: Look | None,
    ) -> Attempt:
        """Repeat the same question to the same facilitator, which answers for its transaction.

        From here on only what it says of that very transaction counts. Asked again it may check
        the payment anew, and find it spent or overdrawn by the transaction that is on its way: to
        believe that would make a paid buyer pay again.
        """
        for wait_ms in PENDING_WAITS_MS:
            if look is not None and (seen := await look(pending.reference)) is not None:
                return seen
            if _left_ms(deadline_ms) <= wait_ms:
                break
            await asyncio.sleep(wait_ms / 1000)
            try:
                answer = await place.client.ask(SETTLE, question, _left_ms(deadline_ms))
            except Unanswered:
                continue
            attempt = _read_settled(answer, question)
            if attempt.state is Settlement.SETTLED:
                return attempt
            if _has_failed(answer, attempt, pending.reference):
                return attempt
            if not _is_pending(answer, attempt):
                break
        return pending

    @staticmethod
    async def _poll(place: Place) -> str:
        """Return what is wrong with it, or nothing."""
        try:
            answer = await place.client.look(SUPPORTED, LOOK_S * 1000)
        except Unanswered as error:
            # Any other answer is that of a facilitator without this page.
            return "" if 0 < error.status < SERVER_ERROR else str(error)
        if answer.status >= SERVER_ERROR:
            return f"{place.client.name} {SUPPORTED}: HTTP {answer.status}"
        place.supported = (
            Supported.read(answer.members) if answer.status < REDIRECTED else Supported()
        )
        return ""

    def _unavailable(self, why: str) -> RailUnavailable:
        return unchecked(f"facilitator {why}", self._retry_after_s)


def _left_ms(deadline_ms: int) -> int:
    return max(deadline_ms - monotonic_ms(), 0)


def _is_usable(answer: Answer) -> bool:
    return answer.status < SERVER_ERROR and answer.status not in _UNUSABLE


def _verdict(name: str, answer: Answer) -> bool:
    valid = answer.members.get("isValid")
    if _is_usable(answer) and (valid is False or (valid is True and answer.status < REDIRECTED)):
        return valid
    raise Unanswered(f"{name} {VERIFY}: HTTP {answer.status} without a verdict")


def _read_settled(answer: Answer, question: Question) -> Attempt:
    """Return what an answer of `/settle` means. HTTP 200 with `success: false` is a failure.

    A facilitator that does not know us says nothing about the payment, whatever its words.
    """
    members, status = answer.members, answer.status
    success, tx_hash = members.get("success"), _transaction(answer)
    if success is True and status < REDIRECTED and tx_hash and _is_here(answer, question):
        return Attempt(Settlement.SETTLED, tx_hash)
    if success is not False or status in _UNUSABLE:
        processed = success is True or status not in NOT_PROCESSED
        state = Settlement.UNKNOWN if processed else Settlement.REFUSED
        why = f"/settle answered {status} without a verdict"
        return Attempt(state, tx_hash, why, is_untried=not processed)
    reason = _reason(answer, "errorReason")
    definite = reason.startswith(_DEFINITE) and not any(word in reason for word in _OPEN)
    state = Settlement.REFUSED if definite else Settlement.UNKNOWN
    about = f" of {tx_hash}" if tx_hash else ""
    refusal = _refusal(reason) if definite else None
    return Attempt(state, tx_hash, f"the facilitator says {reason}{about}", refusal=refusal)


def _is_here(answer: Answer, question: Question) -> bool:
    """Tell whether the answer names no other chain: play money there would buy the call here.

    A name that is no CAIP-2 one is an older spelling, or none.
    """
    named = answer.members.get("network")
    is_chain = isinstance(named, str) and named.startswith("eip155:")
    return not is_chain or named == question.requirements["network"]


def _transaction(answer: Answer) -> str:
    named = answer.members.get("transaction")
    return named.lower() if isinstance(named, str) and _TX_HASH.fullmatch(named) else ""


def _is_pending(answer: Answer, attempt: Attempt) -> bool:
    # Without a transaction there is nothing for a repeat to be about: it might send a second one.
    return answer.members.get("errorReason") == PENDING and bool(attempt.reference)


def _has_failed(answer: Answer, attempt: Attempt, tx_hash: str) -> bool:
    """Tell whether the pending transaction itself is said to have failed in a block."""
    reason = answer.members.get("errorReason")
    return attempt.reference == tx_hash and reason == "transaction_failed"


def _reason(answer: Answer, member: str) -> str:
    reason = answer.members.get(member)
    # Only a short code is repeated: a free text might hold the credential or another secret.
    return reason if isinstance(reason, str) and _CODE.fullmatch(reason) else NO_REASON


def _refusal(reason: str) -> Problem:
    """Return what the buyer is told; a program reads the facilitator's own code in `reason`."""
    said = {} if reason == NO_REASON else {"reason": reason}
    if "insufficient" in reason:
        detail = "The payer's balance does not cover the price."
        return PaymentInsufficient(detail, private=reason, extra=said)
    if "nonce" in reason or "used" in reason:
        detail = "This authorization was used already."
        return VerificationFailed(detail, private=reason, extra=said)
    detail = f"The facilitator does not accept the payment: {reason}."
    return VerificationFailed(detail, extra=said)
