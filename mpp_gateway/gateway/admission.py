"""From a request head to a verdict: the steps, in their order, with no I/O and no clock.

A stage is a generator: it yields effects (`gateway.steps`), is sent what they came to, and returns
its verdict. Whoever drives it owns the clock, the randomness, the store and the rails.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from mpp_gateway import events
from mpp_gateway.errors import (
    GatewayFault,
    IdempotencyKeyReused,
    PaymentInProgress,
    RailUnavailable,
    SettlementUnknown,
    TooManyRequests,
)
from mpp_gateway.gateway import credentials, idempotency, settlement
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.ceilings import check_ceiling, set_ceiling
from mpp_gateway.gateway.exchange import Exchange, event
from mpp_gateway.gateway.free_calls import take_or_refuse
from mpp_gateway.gateway.machine import Clock, Machine, emit, move, perform
from mpp_gateway.gateway.snapshot import Snapshot
from mpp_gateway.gateway.steps import (
    AskRail,
    ClaimProof,
    Effect,
    Hold,
    LookUp,
    NeedBody,
    ReadBody,
    Reply,
    TakeToken,
    Verify,
)
from mpp_gateway.ledger.book import Claim, Claimed, ClaimRequest, Turn
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.cors import is_preflight
from mpp_gateway.protocol.messages import Answer, RequestHead
from mpp_gateway.protocol.problems import (
    InvalidChallenge,
    PaymentExpired,
    PaymentInsufficient,
    PaymentRequired,
    Problem,
    VerificationFailed,
)
from mpp_gateway.protocol.x402_extensions import is_identifier, is_unchallenged
from mpp_gateway.rails.base import (
    Binding,
    Outcome,
    Presented,
    Settlement,
    Verified,
)
from mpp_gateway.rails.payment_scheme import (
    PAYMENT_AUTHORIZATION,
    PaymentScheme,
    credential_tokens,
    paying_head,
    scope_of,
)
from mpp_gateway.routing.table import Match, Preflight

ALREADY_PAID = 1 << 256
IN_PROGRESS_RETRY_S = 1
SECOND_MS = 1000
CLAIM_KEPT_MAX_S = 2 * 3600


@dataclass(slots=True)
class Admission:
    """What the steps of one admission share."""

    exchange: Exchange
    clock: Clock
    only_earlier: Problem | None = None
    """Why no new payment is taken (an old challenge, a rail that cannot): then only an earlier use
    of this one is looked after."""
    found: Outcome | None = None
    """Set when the rail has shown that the money moved, and no record of ours says so yet."""
    was_held: bool = False
    """Whether this very payment was found good here before its money moved."""
    earlier: Answer | ReadBody | None = None
    """What the same request was answered before: nothing more is asked of anybody."""


type AdmissionStep = Callable[[Admission], Generator[Effect, Reply]]


# --- match ---------------------------------------------------------------------------------------


def match(
    head: RequestHead, snapshot: Snapshot, request_id: str, now_s: int, entropy: bytes
) -> Machine[Exchange | Answer]:
    """Find the route of a request. Nothing is read, claimed or charged here."""
    yield from emit(events.RequestReceived(request_id=request_id, at_s=now_s))
    try:
        found = snapshot.table.match(head.method, head.target)
        if isinstance(found, Match) and snapshot.config.cors and is_preflight(head):
            found = snapshot.table.preflight(head.method, head.target)
    except Problem as problem:
        yield from emit(
            events.RequestRefused(
                request_id=request_id, at_s=now_s, slug=problem.slug, status=problem.status
            )
        )
        return problem_answer(problem)
    if isinstance(found, Preflight):
        yield from emit(
            events.GatewayAnswered(
                request_id=request_id, at_s=now_s, service=found.service_id, status=204
            )
        )
        return Answer(204, (("Allow", ", ".join(found.allow)),))
    exchange = Exchange(request_id, head, snapshot, found, now_s, entropy)
    yield from emit(event(events.RouteMatched, exchange, now_s))
    return exchange


# --- admit ---------------------------------------------------------------------------------------


def before_body(exchange: Exchange, now_s: int) -> Machine[Answer | None]:
    """Return the answer to a request whose body need not be read; the others go on to `admit`."""
    refusal = yield from _admit(BEFORE_BODY, exchange, now_s)
    assert not isinstance(refusal, ReadBody)
    return refusal


def admit(exchange: Exchange, now_s: int, entropy: bytes) -> Machine[Answer | ReadBody | None]:
    """Return None when the request may go on to the upstream, or the answer that it gets here.

    After `ReadBody` it is `repeat` that says which.
    """
    exchange.entropy = entropy
    return (yield from _admit(ADMISSION, exchange, now_s))


def repeat(exchange: Exchange, body: bytes, now_s: int) -> Machine[Answer]:
    """Return the answer that a paid request had before, if this one has the same `body`."""
    assert exchange.kept is not None
    clock = Clock(now_s)
    try:
        return (yield from idempotency.repeat(exchange, exchange.kept, body, clock))
    except Problem as problem:
        return (yield from settlement.refused(exchange, problem, clock))


def _admit(
    steps: tuple[AdmissionStep, ...], exchange: Exchange, now_s: int
) -> Machine[Answer | ReadBody | None]:
    admission = Admission(exchange, Clock(now_s))
    try:
        for step in steps:
            yield from step(admission)
            if admission.earlier is not None:
                return admission.earlier
    except Problem as problem:
        yield from settlement.release(exchange, admission.clock, problem.slug)
        return (yield from settlement.refused(exchange, problem, admission.clock))
    return None


def _take_token(admission: Admission) -> Generator[Effect, Reply]:
    """Count a priced request against its client, once, before it has cost anything."""
    exchange = admission.exchange
    if exchange.route.free or exchange.is_counted or not exchange.head.client:
        return
    wait_ms: int = yield from perform(admission.clock, TakeToken(exchange.head.client))
    if wait_ms:
        raise TooManyRequests(
            "Too many requests from this address were not paid.",
            hint="Nothing was claimed or charged: a credential is as good as before.",
            retry_after_s=-(-wait_ms // SECOND_MS),
        )
    exchange.is_counted = True


def _run_modules(admission: Admission) -> Generator[Effect, Reply]:
    """Let the `pre` modules look at the request."""
    for module in admission.exchange.snapshot.slots.pre:
        yield from module(admission.exchange, admission.clock)


def _bind(admission: Admission) -> Generator[Effect, Reply]:
    """Say what a credential for this very request must be bound to."""
    exchange = admission.exchange
    if exchange.route.free:
        return
    exchange.key_digest = idempotency.key_digest(exchange.head)
    body_digest = None
    if exchange.route.digest:
        body = yield from perform(admission.clock, NeedBody())
        if body is None:
            raise GatewayFault(private="the body was not read")
        body_digest = PaymentScheme.body_digest(body)
    exchange.offers = exchange.snapshot.offers_of(exchange.service, exchange.route)
    set_ceiling(exchange)
    exchange.binding = Binding(
        realm=exchange.snapshot.config.realm,
        scope=scope_of(
            exchange.snapshot.store_id,
            exchange.service.id,
            exchange.route.key,
            exchange.head.method,
            exchange.match.upstream_path,
            exchange.match.query,
            body_digest,
        ),
        body_digest=body_digest,
        header=PAYMENT_AUTHORIZATION if exchange.service.requires_auth else None,
    )
    exchange.paying_head = paying_head(exchange.head, exchange.binding.header)
    if exchange.service.requires_auth:
        # Refused while nothing is paid: what cannot be read is not passed on to the upstream.
        credential_tokens(exchange.head)


def _read_credential(admission: Admission) -> Generator[Effect, Reply]:
    """Find the one credential that pays for this request, in the form of some rail of the route."""
    exchange = admission.exchange
    if exchange.binding is None:
        return
    try:
        found = credentials.find(exchange, admission.clock.now_s)
    except PaymentRequired as asked:
        yield from take_or_refuse(exchange, admission.clock, asked)
        return
    check_ceiling(exchange, found.presented)
    exchange.presented, admission.only_earlier = found.presented, found.only_earlier
    exchange.rail = exchange.snapshot.rails[found.presented.rail]
    if exchange.key_digest is None and is_identifier(found.presented.challenge_id):
        exchange.key_digest = found.presented.challenge_id
    yield from ()


def _ask_rail(admission: Admission) -> Generator[Effect, Reply]:
    """See that the rail takes payments now; what was paid before gets its call all the same."""
    presented = admission.exchange.presented
    if presented is None or admission.only_earlier is not None:
        return
    try:
        yield from perform(admission.clock, AskRail(presented.rail))
    except RailUnavailable as problem:
        admission.only_earlier = problem


def _claim(admission: Admission) -> Generator[Effect, Reply]:
    """Bind the proof to this exchange, in the store, before anything else is done with it."""
    exchange, presented = admission.exchange, admission.exchange.presented
    if presented is None:
        return
    claimed = yield from _claimed(admission, presented)
    if claimed.claim is Claim.UNKNOWN:
        yield from _resolve(admission, presented, claimed)
        claimed = yield from _claimed(admission, presented)
    admission.was_held = claimed.was_held
    if claimed.claim is Claim.EXPIRED:
        yield from _find_paid(admission, presented)
        claimed = yield from _claimed(admission, presented)
    turn = Turn(claimed.exchange_id, claimed.attempt)
    exchange.seen_seq = claimed.seq
    match claimed.claim:
        case Claim.FRESH:
            exchange.turn, exchange.state = turn, State.CLAIMED
        case Claim.CREDITED:
            exchange.turn, exchange.state = turn, State.SETTLED
            exchange.paid, exchange.receipt = True, claimed.receipt
            exchange.moved_minor = claimed.paid_minor
        case Claim.DELIVERED if exchange.is_kept:
            admission.earlier = yield from idempotency.recall(exchange, claimed, admission.clock)
        case Claim.SPENT if is_identifier(presented.challenge_id) and not claimed.exchange_id:
            raise IdempotencyKeyReused(
                "Another payment was made under this payment identifier.",
                hint="Send that one again for its answer; nothing was charged for this one.",
            )
        case nothing:
            raise _why_not(nothing, admission.only_earlier)


def _why_not(claim: Claim, only_earlier: Problem | None) -> Problem:
    """Return what to say of a proof that buys nothing, or nothing now."""
    match claim:
        case Claim.LAPSED:
            return PaymentExpired("The time to ask for this paid call again is over.")
        case Claim.REFUNDED:
            return InvalidChallenge("This payment was given back; it buys nothing more.")
        case Claim.UNKNOWN:
            return SettlementUnknown(
                "An earlier use of this payment is not settled yet; do not pay again.",
                retry_after_s=settlement.UNKNOWN_RETRY_S,
            )
        case Claim.IN_PROGRESS:
            return PaymentInProgress(
                "A request with this payment is under way; do not pay again.",
                retry_after_s=IN_PROGRESS_RETRY_S,
            )
    return only_earlier or InvalidChallenge("This payment has been used.")


def _claimed(admission: Admission, presented: Presented) -> Machine[Claimed]:
    assert admission.exchange.binding is not None
    request = ClaimRequest(
        exchange_id=admission.exchange.request_id,
        proof_id=presented.proof_id,
        rail=presented.rail,
        asset=presented.offer.amount.asset.code,
        account=presented.account,
        payee=presented.payee,
        amount_minor=presented.amount_minor,
        scope=admission.exchange.binding.scope,
        valid_until_s=presented.valid_until_s,
        due_s=_claim_ends_s(admission, presented),
        credit_s=admission.exchange.snapshot.config.credit_s,
        challenge_id=presented.challenge_id,
        only_earlier=admission.only_earlier is not None and admission.found is None,
        is_tied=presented.is_tied,
    )
    claimed: Claimed = yield from perform(admission.clock, ClaimProof(request))
    return claimed


def _claim_ends_s(admission: Admission, presented: Presented) -> int:
    """Return when a claim that nobody ends is given up: its proof is dead then, as a rule.

    x402 buyers sign for years; such a claim of a process that died would keep its buyer off for so
    long. A process that is late loses its turn, and can move no money with it.
    """
    now_s = admission.clock.now_s
    ends_s = min(presented.valid_until_s, now_s + CLAIM_KEPT_MAX_S)
    return max(ends_s, admission.exchange.answered_by_s(now_s))


def _resolve(
    admission: Admission, presented: Presented, claimed: Claimed
) -> Generator[Effect, Reply]:
    """Ask the rail what became of an unknown settlement; the buyer is never asked to pay twice."""
    # The same nonce can be signed twice, with different ends. Only after the last of them is an
    # unused one certain to stay unused.
    last_s = max(presented.valid_until_s, claimed.valid_until_s)
    payment = replace(presented.record, valid_until_s=last_s, owed_minor=claimed.owed_minor)
    rail = admission.exchange.rail
    # Nobody but us can have moved it, so nothing is missed: and each question is a search in the
    # rail's books, within a limit that all buyers share.
    is_spaced = rail is not None and rail.capabilities.is_moved_by_us_alone
    asked = LookUp(presented.rail, payment, is_spaced=is_spaced)
    outcome = yield from perform(admission.clock, asked)
    turn, moved = Turn(claimed.exchange_id, claimed.attempt), False
    moved_minor = payment.amount_minor - outcome.change_minor
    if outcome.state is Settlement.SETTLED:
        moved = yield from move(
            turn,
            State.UNKNOWN,
            State.CREDITED,
            admission.clock,
            reference=outcome.reference,
            receipt=outcome.headers,
            amount_minor=moved_minor if outcome.change_minor else None,
        )
    elif outcome.state is Settlement.REFUSED:
        moved = yield from move(turn, State.UNKNOWN, State.RELEASED, admission.clock)
    if not moved:
        return  # somebody else was told first, and has told of it
    exchange, now_s = admission.exchange, admission.clock.now_s
    if outcome.state is Settlement.REFUSED:
        yield from emit(event(events.PaymentReleased, exchange, now_s))
        return
    exchange.moved_minor = moved_minor
    settled = event(events.PaymentSettled, exchange, now_s, reference=outcome.reference)
    yield from emit(settled)
    yield from emit(event(events.PaymentCredited, exchange, now_s))


def _find_paid(admission: Admission, presented: Presented) -> Generator[Effect, Reply]:
    """Ask the rail whether a payment of which we have no record was made; set `found` if it was.

    Somebody may have submitted it (a facilitator sees it before we settle) while its call failed or
    its gateway was down. Without this question the buyer's price would have no owner.
    """
    rail = admission.exchange.rail
    if not _may_have_been_for_us(admission, presented):
        return
    if rail is not None and rail.capabilities.is_moved_by_us_alone:
        # Any made-up proof for an old challenge would cost us searches in the rail's books.
        return
    seen: Outcome = yield from perform(admission.clock, LookUp(presented.rail, presented.record))
    if seen.state is Settlement.SETTLED:
        admission.found = seen
    elif seen.may_be_paid or (presented.is_moved and seen.state is Settlement.UNKNOWN):
        raise SettlementUnknown(
            "The payment may have been made; do not pay again.",
            retry_after_s=settlement.UNKNOWN_RETRY_S,
        )


def _may_have_been_for_us(admission: Admission, presented: Presented) -> bool:
    """Tell whether money that has moved may have moved for a call of this gateway.

    A payment that answers no challenge of ours names neither seller nor call. What was paid to the
    same account elsewhere stands on the chain with its signature, for everybody to copy: it would
    buy here again. So its money must not have moved before it was found good here.
    """
    return admission.was_held or not is_unchallenged(presented.challenge_id)


def _outlives_the_call(admission: Admission) -> Generator[Effect, Reply]:
    """Refuse a proof that would run out before we can settle it: the seller would work for free."""
    exchange, presented = admission.exchange, admission.exchange.presented
    if presented is None or exchange.paid or admission.found is not None:
        return
    if presented.is_moved:
        return  # a refusal would say "nothing was charged" of money that is gone
    assert exchange.rail is not None
    timeouts, capabilities = exchange.route.timeouts, exchange.rail.capabilities
    lives_s = presented.valid_until_s - admission.clock.now_s
    needed_s: float = timeouts.settle_s
    if capabilities.settles_within_s is not None:
        needed_s = min(needed_s, capabilities.settles_within_s)
    if not exchange.settles_before:
        waits_s = timeouts.connect_s + timeouts.first_byte_s
        exchange.is_brief = capabilities.settles_brief_proofs_first and lives_s < needed_s + waits_s
        needed_s += 0 if exchange.is_brief else waits_s
    if lives_s >= needed_s:
        return
    yield from _find_paid(admission, presented)
    if admission.found is None:
        raise VerificationFailed(
            f"The payment must stay valid for {int(needed_s)} seconds or more.",
            hint="Sign a payment that is valid for longer; nothing was charged.",
        )


def _verify_and_hold(admission: Admission) -> Generator[Effect, Reply]:
    """Have the rail check the proof; see that the payer can pay for all that is unsettled."""
    exchange, presented = admission.exchange, admission.exchange.presented
    if presented is None or exchange.paid:
        return
    assert exchange.turn is not None
    spendable_minor: int | None = ALREADY_PAID
    if admission.found is None:
        verified: Verified = yield from perform(admission.clock, Verify(presented))
        admission.was_held |= verified.was_unused
        if verified.paid is not None and not _may_have_been_for_us(admission, presented):
            raise VerificationFailed("This authorization was used already, and not here.")
        admission.found = verified.paid
        if verified.paid is None:
            spendable_minor = verified.spendable_minor
    settled_by_s = exchange.settled_by_s(admission.clock.now_s) if _settles_now(admission) else None
    held = yield from perform(
        admission.clock, Hold(exchange.turn, spendable_minor, exchange.seen_seq, settled_by_s)
    )
    if not held and admission.found is not None:
        raise GatewayFault(private=f"{exchange.turn.exchange_id} was not ours to hold")
    if not held:
        raise PaymentInsufficient(
            "The payer's unsettled calls and this one cost more than it holds.",
            hint="Wait for the calls under way to end; nothing was charged for this one.",
        )
    exchange.state = State.VERIFIED if settled_by_s is None else State.SETTLING
    yield from emit(event(events.PaymentVerified, exchange, admission.clock.now_s))


def _settle_before(admission: Admission) -> Generator[Effect, Reply]:
    """Move the money first where the route or the rail wants it so; a failure gives it back.

    Money that was found to have moved is written down now: an upstream that fails later owes the
    call. Only held, it would be "released", and the buyer told that nothing was charged.
    """
    exchange = admission.exchange
    if exchange.presented is None or exchange.paid:
        return
    if _settles_now(admission):
        yield from settlement.settle(exchange, admission.clock, admission.found)


def _settles_now(admission: Admission) -> bool:
    return admission.found is not None or admission.exchange.settles_before


BEFORE_BODY: tuple[AdmissionStep, ...] = (_take_token,)
"""What is asked before a body is read that the verdict depends on."""

ADMISSION: tuple[AdmissionStep, ...] = (
    _take_token,
    _run_modules,
    _bind,
    _read_credential,
    _ask_rail,
    _claim,
    _outlives_the_call,
    _verify_and_hold,
    _settle_before,
)
"""The order of admission. A new step is a line here."""
