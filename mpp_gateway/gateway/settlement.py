"""What happens to the money once the upstream has spoken, or has failed to."""

import re

from mpp_gateway import events
from mpp_gateway.errors import (
    GatewayFault,
    PaymentInProgress,
    RailUnavailable,
    SettlementUnknown,
    UpstreamFailed,
    UpstreamRefused,
)
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.exchange import Exchange, event
from mpp_gateway.gateway.free_calls import free_fields
from mpp_gateway.gateway.machine import Clock, Machine, emit, give_up, move, perform
from mpp_gateway.gateway.refusals import refusal
from mpp_gateway.gateway.steps import (
    Attend,
    Deliver,
    GiveBackTokens,
    MarkDelivered,
    RenewTurn,
    Settle,
)
from mpp_gateway.ledger.book import Turn
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.messages import Answer, Headers
from mpp_gateway.protocol.problems import (
    PaymentInsufficient,
    PaymentRequired,
    Problem,
    VerificationFailed,
)
from mpp_gateway.protocol.timestamps import format_rfc3339
from mpp_gateway.protocol.x402_permits import used_minor, without_overrides
from mpp_gateway.rails.base import Outcome, Presented, Settlement
from mpp_gateway.upstream.hygiene import response_headers
from mpp_gateway.upstream.redirects import rewrite_location
from mpp_gateway.upstream.rewriting import HookContext, RewrittenResponse, rewrite_response

UNKNOWN_RETRY_S = 5
SERVER_ERROR = 500
PAID_TOKENS = 2
"""What a paid call gives back: its own token, and that of the 402 which it answers."""
TAKEN_OVER_RETRY_S = 1

_DIRECTIVE = re.compile(r'(?:[^",]|"(?:\\.|[^"\\])*"?)+')
_SHARED = frozenset({"public", "s-maxage", "private"})


def settle(exchange: Exchange, clock: Clock, found: Outcome | None = None) -> Machine[None]:
    """Move the money of a verified exchange; the intention is written down before it moves.

    With `found` the rail has shown that it moved already: then that is written down and nothing
    is asked of the rail.
    Errors: `VerificationFailed` when nothing moved, `SettlementUnknown` when only the rail knows.
    """
    turn, presented = exchange.turn, exchange.presented
    assert turn is not None
    assert presented is not None
    if exchange.state is not State.SETTLING:  # written with the hold, where nothing is in between
        yield from _begin(exchange, turn, presented, clock)
    outcome = found
    if outcome is None:
        timeout_s = exchange.route.timeouts.settle_s
        asked = Settle(presented, turn, exchange.owed_minor, timeout_s)
        outcome = yield from perform(clock, asked)
    match outcome.state:
        case Settlement.SETTLED:
            exchange.moved_minor = presented.amount_minor - outcome.change_minor
            told = event(events.PaymentSettled, exchange, clock.now_s, reference=outcome.reference)
            settled = move(
                turn,
                State.SETTLING,
                State.SETTLED,
                clock,
                reference=outcome.reference,
                receipt=outcome.headers,
                detail=f"change {outcome.change_minor}" if outcome.change_minor else "",
                due_s=exchange.answered_by_s(clock.now_s),
                amount_minor=exchange.moved_minor if outcome.change_minor else None,
            )
            if not (yield from _recorded(settled)):
                # A restart took the exchange over, or the store is gone: whoever looks at it next
                # sees a payment that was not used. Served here too, it would buy two calls.
                yield from _recorded(
                    # Only we have heard that it is paid: a rail that cannot be asked would leave
                    # the buyer without call and money.
                    give_up(
                        turn,
                        State.CREDITED,
                        clock,
                        reference=outcome.reference,
                        receipt=outcome.headers,
                        detail="settled, and not recorded in time",
                        amount_minor=exchange.moved_minor,
                        told=(told, event(events.PaymentCredited, exchange, clock.now_s)),
                    )
                )
                raise _unknown(exchange)
            exchange.state, exchange.receipt = State.SETTLED, outcome.headers
            yield from emit(told)
        case Settlement.REFUSED:
            released = (event(events.PaymentReleased, exchange, clock.now_s),)
            yield from give_up(turn, State.RELEASED, clock, detail=outcome.detail, told=released)
            exchange.state = State.RELEASED
            raise _refusal_of(outcome)
        case Settlement.UNKNOWN:
            # Told with the move: by now the late answer of the rail may have been written down.
            lost = (event(events.PaymentUnknown, exchange, clock.now_s),)
            yield from _recorded(
                give_up(turn, State.UNKNOWN, clock, detail=outcome.detail, told=lost)
            )
            raise _unknown(exchange)


def _begin(exchange: Exchange, turn: Turn, presented: Presented, clock: Clock) -> Machine[None]:
    """Write down that the rail is about to be asked, and for how much."""
    # After a crash this record is what tells the restart to ask the rail. Without it the money
    # could have moved with nobody left who knows.
    due_s, owed_minor = exchange.settled_by_s(clock.now_s), exchange.owed_minor
    # And what for: of a permit that has moved less than the most, whoever asks later could not
    # tell whether that was the price or a trifle which its payer has had moved.
    owed = owed_minor if owed_minor < presented.amount_minor else None
    began = move(turn, State.VERIFIED, State.SETTLING, clock, due_s=due_s, owed_minor=owed)
    if not (yield from began):
        raise GatewayFault(private=f"{turn.exchange_id} was not ours to settle")
    exchange.state = State.SETTLING


def _refusal_of(outcome: Outcome) -> Problem:
    """Return why nothing was charged. Only a payment that is no good may be asked for anew.

    With a challenge, a node that is down would have the buyer sign a second payment while the first
    is good: whoever has seen it can still submit it, and the buyer would pay twice.
    """
    if outcome.refusal is not None:
        return outcome.refusal
    if not outcome.is_untried:
        return VerificationFailed("The payment could not be settled; nothing was charged.")
    return RailUnavailable(
        "The payment could not be moved now; nothing was charged.",
        hint="Present the same credential again after the time given.",
        private=outcome.detail,
        retry_after_s=UNKNOWN_RETRY_S,
    )


def _recorded(moving: Machine[bool]) -> Machine[bool]:
    """Return whether the move was ours and is written down; a store that is gone is a no."""
    try:
        return (yield from moving)
    except Problem:
        return False


def _unknown(exchange: Exchange) -> SettlementUnknown:
    exchange.state = State.UNKNOWN
    return SettlementUnknown(
        "The payment may have been made; do not pay again.",
        hint="Present the same credential again after the time given.",
        retry_after_s=UNKNOWN_RETRY_S,
    )


def _is_by_use(exchange: Exchange) -> bool:
    """Tell whether what was used is settled: as a credit it would buy a dearer call for that."""
    return (
        exchange.state is State.SETTLED
        and exchange.presented is not None
        and exchange.presented.gives_change
    )


GIVEN_UP: dict[State, tuple[State, type[events.Event]]] = {
    State.CLAIMED: (State.RELEASED, events.PaymentReleased),
    State.VERIFIED: (State.RELEASED, events.PaymentReleased),
    State.SETTLED: (State.CREDITED, events.PaymentCredited),
}


def release(
    exchange: Exchange, clock: Clock, detail: str, *, may_refund: bool = True
) -> Machine[None]:
    """Give up a proof that was claimed and not used; money that moved is owed to the buyer.

    Raises nothing: what cannot be written down now is when the store takes it, or by the sweeper.
    """
    if exchange.turn is None or exchange.state not in GIVEN_UP:
        return
    after, kind = GIVEN_UP[exchange.state]
    # A client that hangs up, or asks for what the upstream refuses, would have the seller pay for
    # two transfers as often as it likes, and work for nothing: it has a credit.
    may_refund = may_refund and not exchange.client_left and exchange.on_failure == "refund"
    if exchange.state is State.SETTLED and may_refund:
        after, kind = State.REFUNDING, events.RefundOwed
    told = (event(kind, exchange, clock.now_s),)
    if (yield from _recorded(give_up(exchange.turn, after, clock, detail=detail, told=told))):
        exchange.state = after


def refused(exchange: Exchange, problem: Problem, clock: Clock) -> Machine[Answer]:
    """Refuse a matched request; return the answer as the modules let it go."""
    refusing = yield from _refused(exchange, problem, clock)
    answer = exchange.snapshot.slots.posted(exchange, refusing)
    assert isinstance(answer, Answer)
    return answer


def _refused(exchange: Exchange, problem: Problem, clock: Clock) -> Machine[Answer]:
    if exchange.state in OWED:
        _say_where_the_money_is(exchange, problem, clock.now_s)
    answer, stated = refusal(exchange, problem, clock.now_s)
    if isinstance(stated, PaymentRequired):
        yield from emit(event(events.PaymentRequired, exchange, clock.now_s))
    else:
        yield from emit(
            event(
                events.RequestRefused,
                exchange,
                clock.now_s,
                slug=stated.slug,
                status=stated.status,
            )
        )
    return answer


def deliver(
    exchange: Exchange, status: int, headers: Headers, now_s: int
) -> Machine[Deliver | Answer]:
    """Settle on an answer that the buyer paid for; say what may go to the client.

    Nothing of the upstream's answer is sent before this returns `Deliver`.
    """
    verdict = yield from _deliver(exchange, status, headers, now_s)
    return exchange.snapshot.slots.posted(exchange, verdict)


def _deliver(
    exchange: Exchange, status: int, headers: Headers, now_s: int
) -> Machine[Deliver | Answer]:
    clock = Clock(now_s)
    yield from emit(event(events.UpstreamAnswered, exchange, now_s, status=status))
    if status == VerificationFailed.status:
        # The upstream wants money of the seller. A 402 from us must carry an offer of ours, and
        # the buyer can mend nothing here.
        problem = UpstreamRefused("The upstream asks the gateway itself for payment.")
        return (yield from _fail(exchange, problem, clock))
    rewritten = _rewritten(exchange, status, headers)
    if exchange.route.upto:
        exchange.used_minor = used_minor(rewritten.headers)
        rewritten = Deliver(rewritten.status, without_overrides(rewritten.headers))
    if exchange.turn is None:
        # A shared cache that kept what one client had for nothing would serve it to all.
        told = free_fields(exchange)
        return (
            Deliver(rewritten.status, (*_private(rewritten.headers), *told)) if told else rewritten
        )
    if not exchange.route.is_delivered(status):
        if exchange.state is State.SETTLED and status >= SERVER_ERROR:
            # Nobody learns from its body what became of the money.
            failed = UpstreamFailed(f"The upstream answered {status}.")
            return (yield from _fail(exchange, failed, clock))
        yield from release(exchange, clock, f"upstream answered {status}", may_refund=False)
        return Deliver(rewritten.status, (*rewritten.headers, _outcome(exchange, clock.now_s)))
    if exchange.settles_at_end and exchange.state is State.VERIFIED:
        return Deliver(rewritten.status, _private(rewritten.headers))
    try:
        if exchange.state is State.SETTLED:
            yield from _covered(exchange, clock)
            yield from _still_ours(exchange, clock)
        else:
            yield from settle(exchange, clock)
    except Problem as problem:
        return (yield from _refused(exchange, problem, clock))
    yield from _delivering(exchange, clock)
    headers = _private(rewritten.headers)
    if not 200 <= rewritten.status < 300:
        return Deliver(rewritten.status, headers)
    return Deliver(rewritten.status, (*headers, *exchange.receipt))


def _covered(exchange: Exchange, clock: Clock) -> Machine[None]:
    """Refuse to deliver what has used more than the credit of a sale by use is over.

    What a trifle has paid for would buy the dearest call of the route: the same request may use
    more the next time, by a field that no payment is bound to. The credit stays.
    """
    moved_minor = exchange.moved_minor
    if not _is_by_use(exchange) or moved_minor is None or exchange.owed_minor <= moved_minor:
        return
    yield from release(exchange, clock, "it used more than was paid", may_refund=False)
    raise PaymentInsufficient("This call used more than its credit is over.")


def _still_ours(exchange: Exchange, clock: Clock) -> Machine[None]:
    """Refuse to deliver what was paid ahead and then taken over, by a clock that jumped for one.

    Whoever took it over made it a credit: delivered here too, one payment would buy two calls. The
    question takes the turn anew, so that no sweep comes between it and the note of the delivery.
    """
    assert exchange.turn is not None
    renewing = RenewTurn(exchange.turn, exchange.answered_by_s(clock.now_s))
    if not (yield from perform(clock, renewing)):
        raise PaymentInProgress(
            "This payment was taken up elsewhere; do not pay again.",
            hint="Present the same credential again after the time given.",
            retry_after_s=TAKEN_OVER_RETRY_S,
        )


def fail(exchange: Exchange, problem: Problem, now_s: int) -> Machine[Deliver | Answer]:
    """Give the money back for an upstream that gave nothing, and say so."""
    answer = yield from _fail(exchange, problem, Clock(now_s))
    return exchange.snapshot.slots.posted(exchange, answer)


def _fail(exchange: Exchange, problem: Problem, clock: Clock) -> Machine[Answer]:
    slug, status = problem.slug, problem.status
    if status < SERVER_ERROR:  # the client's own doing, such as an upload that takes too long
        refused = event(events.RequestRefused, exchange, clock.now_s, slug=slug, status=status)
        yield from emit(refused)
    elif not isinstance(problem, UpstreamFailed):  # that it answered has been told
        yield from emit(event(events.UpstreamFailed, exchange, clock.now_s, slug=slug))
    # A refund costs the seller a fee: whoever stalls its uploads could have it paid at will.
    yield from release(exchange, clock, problem.slug, may_refund=status >= SERVER_ERROR)
    if exchange.turn is not None:
        _say_where_the_money_is(exchange, problem, clock.now_s)
    return problem_answer(problem)


def fault(exchange: Exchange, now_s: int) -> Machine[Answer]:
    """Refuse a request for a fault of ours, and say what became of its money."""
    clock, problem = Clock(now_s), GatewayFault()
    slug, status = problem.slug, problem.status
    yield from emit(event(events.RequestRefused, exchange, clock.now_s, slug=slug, status=status))
    yield from release(exchange, clock, slug)
    if exchange.turn is not None:
        _say_where_the_money_is(exchange, problem, clock.now_s)
    return problem_answer(problem)


HINTS: dict[State, str] = {
    State.RELEASED: "Nothing was charged; the same credential may be presented again.",
    State.CREDITED: "You have paid; present the same credential again for the same request.",
    State.REFUNDING: "You have paid and are given the money back; a new try is a new payment.",
    # The store did not take the note; its sweep makes a credit of it.
    State.SETTLED: "You have paid; present the same credential again, in some minutes.",
}
OWED = frozenset({State.CREDITED, State.REFUNDING})


def _say_where_the_money_is(exchange: Exchange, problem: Problem, now_s: int) -> None:
    if exchange.state not in HINTS:
        return
    more = {"payment": exchange.state.value}
    if exchange.state is State.CREDITED:
        more["creditedUntil"] = format_rfc3339(_credited_until_s(exchange, now_s))
    problem.extra = {**problem.extra, **more}
    problem.hint = HINTS[exchange.state]


def _credited_until_s(exchange: Exchange, now_s: int) -> int:
    return now_s + exchange.snapshot.config.credit_s


OUTCOME_FIELD = "Payment-Outcome"


def _outcome(exchange: Exchange, now_s: int) -> tuple[str, str]:
    """Return the field that says, on the upstream's own answer, what became of the money."""
    state = exchange.state.value if exchange.state else ""
    if exchange.state is State.CREDITED:
        # A Date of RFC 9651, in unix seconds.
        return OUTCOME_FIELD, f"{state};until=@{_credited_until_s(exchange, now_s)}"
    return OUTCOME_FIELD, state


def finish(
    exchange: Exchange,
    status: int,
    delivered: bool,
    abandoned: bool,
    now_s: int,
) -> Machine[None]:
    """Close the books on a request, however it ended. Idempotent.

    `abandoned`: the client left while the upstream worked for it.
    """
    if exchange.finished:
        return
    exchange.finished = True
    clock = Clock(now_s)
    has_had_it = exchange.was_paid_ahead or _is_by_use(exchange)
    if abandoned and not delivered and has_had_it and exchange.turn is not None:
        # A credit here would run the upstream again and again for one payment: ask, hang up, ask.
        yield from _delivered(exchange, clock)
    elif not delivered:
        yield from release(exchange, clock, "not delivered", may_refund=not abandoned)
    elif exchange.settles_at_end and exchange.state is State.VERIFIED:
        yield from _settle_at_end(exchange, clock)
    elif exchange.state is State.SETTLED and not exchange.is_marked:
        yield from _delivered(exchange, clock)
    yield from emit(event(events.ExchangeFinished, exchange, clock.now_s, status=status))


def _settle_at_end(exchange: Exchange, clock: Clock) -> Machine[None]:
    """Settle what was delivered, now that its amount is known; the hold covers it."""
    try:
        yield from settle(exchange, clock)
    except Problem:
        # The answer is out already: a rail that settles at the end lets the seller bear this.
        return
    yield from _delivered(exchange, clock)


def _delivered(exchange: Exchange, clock: Clock) -> Machine[None]:
    """Note that the buyer has paid and has had its call; who pays is not slowed down."""
    assert exchange.turn is not None
    exchange.is_marked = True
    yield from perform(clock, MarkDelivered(exchange.turn))
    yield from _uncount(exchange, clock)


def _delivering(exchange: Exchange, clock: Clock) -> Machine[None]:
    """Stay in charge while the answer goes out.

    Noted as delivered before its last byte, a process that dies has left a buyer who has paid and
    has nothing: as it is, the next start finds a credit.
    """
    assert exchange.turn is not None
    yield from perform(clock, Attend(exchange.turn))
    if not exchange.client_left:
        yield from _uncount(exchange, clock)


def _uncount(exchange: Exchange, clock: Clock) -> Machine[None]:
    if exchange.is_counted:
        exchange.is_counted = False
        yield from perform(clock, GiveBackTokens(exchange.head.client, PAID_TOKENS))


def _rewritten(exchange: Exchange, status: int, headers: Headers) -> Deliver:
    service = exchange.service
    mount = exchange.snapshot.mount_of(service)
    kept = tuple(
        (name, rewrite_location(value, service.base_url, mount))
        if name.lower() in {"location", "content-location"}
        else (name, value)
        for name, value in response_headers(headers)
    )
    context = HookContext(
        request_id=exchange.request_id,
        service=service.id,
        route=exchange.route.key,
        params=exchange.match.params,
        options=exchange.route.options,
    )
    rewritten = rewrite_response(service.rewrite_response, RewrittenResponse(status, kept), context)
    return Deliver(rewritten.status, response_headers(rewritten.headers))


def _private(headers: Headers) -> Headers:
    """Return `headers` with a Cache-Control that no shared cache may store (RFC 9111)."""
    given = [
        directive.strip()
        for name, value in headers
        if name.lower() == "cache-control"
        for directive in _DIRECTIVE.findall(value)
    ]
    kept = [d for d in given if d and d.split("=")[0].strip().lower() not in _SHARED]
    others = tuple((n, v) for n, v in headers if not _steers_caches(n.lower()))
    # A shared cache that kept a paid answer would serve it to others for nothing.
    return (*others, ("Cache-Control", ", ".join(["private", *kept])))


def _steers_caches(name: str) -> bool:
    # Some caches obey a field of their own before Cache-Control (RFC 9213, and nginx's).
    return name.endswith("cache-control") or name in {"surrogate-control", "x-accel-expires"}
