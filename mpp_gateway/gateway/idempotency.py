"""`Idempotency-Key`: a paid call whose answer was lost is answered again, and not run again.

The key counts together with the proof of payment and the request (draft-httpauth-payment section
11.3): under the same key another body is refused, and another payment is another call.
"""

import contextlib
import hashlib

from mpp_gateway import events
from mpp_gateway.errors import AnswerNotKept, IdempotencyKeyReused
from mpp_gateway.gateway.exchange import Exchange, event
from mpp_gateway.gateway.machine import Clock, Machine, emit, perform
from mpp_gateway.gateway.steps import FindAnswer, KeepAnswer, NeedBody, ReadBody
from mpp_gateway.ledger.answers import KeptAnswer
from mpp_gateway.ledger.book import Claimed
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.messages import Answer, Headers, RequestHead
from mpp_gateway.protocol.problems import BadRequest, Problem

FIELD = "Idempotency-Key"
KEY_MAX = 255
REPLAYED = ("Idempotent-Replayed", "true")
FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "trailer"})


def key_digest(head: RequestHead) -> str | None:
    """Return the SHA-256 of the request's key in hex, or None without one.

    Errors: `BadRequest` for several keys, an empty or an overlong one.
    """
    keys = head.get_all(FIELD)
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= KEY_MAX:
        raise BadRequest(f"Send one {FIELD} of 1 to {KEY_MAX} characters.")
    return hashlib.sha256(keys[0].encode("latin-1", "replace")).hexdigest()


def recall(exchange: Exchange, claimed: Claimed, clock: Clock) -> Machine[Answer | ReadBody]:
    """Answer again what was paid for and given; `ReadBody` where the body decides, unread as yet.

    Errors: `AnswerNotKept`, `IdempotencyKeyReused`.
    """
    assert exchange.key_digest is not None
    asked = FindAnswer(claimed.exchange_id, exchange.key_digest)
    kept: KeptAnswer | None = yield from perform(clock, asked)
    if kept is None:
        raise AnswerNotKept(
            "This payment has bought its answer, and the answer is not kept.",
            hint="Do not pay again for this call; the receipt shows that it was paid.",
            extra={"receipt": next((value for _, value in claimed.receipt), "")},
        )
    body: bytes | None = yield from perform(clock, NeedBody())
    if body is not None:
        return (yield from repeat(exchange, kept, body, clock))
    announced = exchange.head.get("content-length") or ""
    if announced.isdecimal() and int(announced) > _body_limit_bytes(exchange):
        raise _reused()  # what was kept was asked for with a shorter one
    exchange.kept = kept
    return ReadBody(_body_limit_bytes(exchange))


def repeat(exchange: Exchange, kept: KeptAnswer, body: bytes, clock: Clock) -> Machine[Answer]:
    """Return the kept answer to a request with this `body`. Errors: `IdempotencyKeyReused`."""
    if _digest(body) != kept.request_digest:
        raise _reused()
    status = kept.status
    yield from emit(event(events.AnswerRepeated, exchange, clock.now_s, status=status))
    return Answer(status, (*kept.headers, REPLAYED), kept.body)


def keep(exchange: Exchange, request_digest: str, answer: Answer, clock: Clock) -> Machine[bool]:
    """Keep a paid answer that is there whole; False where it is not kept."""
    if exchange.state is not State.SETTLED:
        return False
    assert exchange.turn is not None
    assert exchange.key_digest is not None
    kept = KeptAnswer(
        exchange_id=exchange.turn.exchange_id,
        key_digest=exchange.key_digest,
        request_digest=request_digest,
        status=answer.status,
        headers=_repeatable(exchange, answer),
        body=answer.body,
        until_s=clock.now_s + exchange.snapshot.config.idempotency.keep_s,
    )
    with contextlib.suppress(Problem):
        exchange.is_marked = yield from perform(clock, KeepAnswer(kept, exchange.turn))
    return exchange.is_marked


def upstream_key(exchange: Exchange) -> str | None:
    """Return the key that the upstream is shown: the same for each try of one payment.

    All buyers share the seller's account there: under the client's own key one of them could be
    given, or spoil, what another one asked for.
    """
    if exchange.key_digest is None or exchange.turn is None:
        return None
    text = f"{exchange.turn.exchange_id} {exchange.key_digest}"
    return hashlib.sha256(text.encode()).hexdigest()


def _repeatable(exchange: Exchange, answer: Answer) -> Headers:
    """Drop what frames the message; add a receipt that followed the body."""
    dropped = FRAMING - ({"content-length"} if exchange.head.method == "HEAD" else set())
    fields = tuple((n, v) for n, v in answer.headers if n.lower() not in dropped)
    if not 200 <= answer.status < 300:
        return fields
    given = {name.lower() for name, _ in fields}
    return (*fields, *((n, v) for n, v in exchange.receipt if n.lower() not in given))


def _body_limit_bytes(exchange: Exchange) -> int:
    return exchange.snapshot.config.idempotency.answer_bytes


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _reused() -> Problem:
    return IdempotencyKeyReused(
        "Under this key and with this payment another request was answered.",
        hint="Use a key of its own for each request, and a payment of its own.",
    )
