"""How a proof is bound to one exchange: claimed for the first time, again, or given back.

All functions run inside one transaction of the store; `exchanges.Exchanges` says what is asked.
"""

import json
from typing import Any

from mpp_gateway.ledger.book import Claim, Claimed, ClaimRequest, Turn, is_about
from mpp_gateway.ledger.moves import Change, first_line, move, take_up
from mpp_gateway.ledger.sql import Connection
from mpp_gateway.ledger.states import State


def claim(db: Connection, request: ClaimRequest, owner: str, now_s: int) -> Claimed:
    """Bind the proof to one exchange, or say what became of it."""
    if not request.only_earlier and _insert(db, request, owner, now_s):
        seq = first_line(db, request, now_s)
        return Claimed(Claim.FRESH, request.exchange_id, seq=seq)
    row = db.execute(
        "SELECT id, state, scope, attempt, reference, receipt, valid_until_s, due_s, updated_s,"
        " challenge_id, asset, account, payee, amount_minor, owed_minor FROM exchanges"
        " WHERE proof_id = ?",
        (request.proof_id,),
    ).fetchone()
    if row is None:
        return Claimed(Claim.EXPIRED if request.only_earlier else Claim.SPENT, "")
    return _claim_again(db, request, row, owner, now_s)


def _claim_again(
    db: Connection, request: ClaimRequest, row: tuple[Any, ...], owner: str, now_s: int
) -> Claimed:
    (exchange_id, state, scope, attempt, reference, receipt, *times), money = row[:9], row[10:]
    valid_until_s, due_s, updated_s = times
    challenge_id = row[9]
    turn = Turn(exchange_id, attempt)
    last_s = max(valid_until_s, request.valid_until_s)
    headers = tuple((name, value) for name, value in json.loads(receipt))
    # A released row has no challenge any more: it was not paid, and nothing is owed for it.
    is_for_another = challenge_id is not None and challenge_id != request.challenge_id
    if scope != request.scope or (request.is_tied and is_for_another):
        return Claimed(Claim.SPENT, exchange_id)
    # An earlier version did not write down who was paid; without it no refund finds its way.
    db.execute(
        "UPDATE exchanges SET payee = ? WHERE id = ? AND payee = ''", (request.payee, exchange_id)
    )
    if state in (State.REFUNDING, State.REFUNDED):
        return Claimed(Claim.REFUNDED, exchange_id)
    if state == State.SETTLED and due_s is None:
        return Claimed(Claim.DELIVERED, exchange_id, attempt, reference, headers)
    if state == State.RELEASED:
        if _is_taken(db, request, exchange_id):
            return Claimed(Claim.SPENT, exchange_id)
        was_held = _was_held(db, exchange_id)
        if request.only_earlier:
            return Claimed(Claim.EXPIRED, exchange_id, was_held=was_held)
        _take_terms(db, request, exchange_id, last_s)
        _reopen(db, turn, State.RELEASED, State.CLAIMED, request, owner, now_s)
        seq = _last_seq(db)
        return Claimed(Claim.FRESH, exchange_id, attempt + 1, seq=seq, was_held=was_held)
    if state == State.CREDITED and updated_s + request.credit_s <= now_s:
        return Claimed(Claim.LAPSED, exchange_id)
    if state == State.CREDITED:
        # The credit is spent by this very move: of ten parallel copies one gets the call.
        _reopen(db, turn, State.CREDITED, State.SETTLED, request, owner, now_s)
        minor = int(money[3])
        return Claimed(
            Claim.CREDITED, exchange_id, attempt + 1, reference, headers, paid_minor=minor
        )
    # A proof can be shown for other money than was asked to move: of that, the rail's answer would
    # say nothing.
    asset, account, payee, minor, owed_text = money
    is_open = state == State.UNKNOWN and is_about(request, asset, account, payee, int(minor))
    claim = Claim.UNKNOWN if is_open else Claim.IN_PROGRESS
    owed_minor = owed(owed_text) if is_open else None
    return Claimed(claim, exchange_id, attempt, valid_until_s=last_s, owed_minor=owed_minor)


def _take_terms(db: Connection, request: ClaimRequest, exchange_id: str, last_s: int) -> None:
    """Have a released exchange be about what its proof is shown for now, and by whom it is paid.

    The challenge may be somebody else's by now, the price another, and a token is charged where it
    is shown: asked about the terms of the first time, no rail would ever find the money again.
    """
    db.execute(
        "UPDATE exchanges SET valid_until_s = ?, challenge_id = ?, rail = ?, asset = ?,"
        " account = ?, payee = ?, amount_minor = ?, owed_minor = '' WHERE id = ?",
        (
            last_s,
            request.challenge_id,
            request.rail,
            request.asset,
            request.account,
            request.payee,
            str(request.amount_minor),
            exchange_id,
        ),
    )


def _reopen(
    db: Connection,
    turn: Turn,
    before: State,
    after: State,
    request: ClaimRequest,
    owner: str,
    now_s: int,
) -> None:
    what = "credit redeemed" if before is State.CREDITED else "presented again"
    detail = f"{what} by {request.exchange_id}"
    move(db, turn, Change(before, after, detail=detail, due_s=request.due_s), now_s)
    # Under the name of an earlier process it would be taken up while we are still at it.
    db.execute("UPDATE exchanges SET owner = ? WHERE id = ?", (owner, turn.exchange_id))


def _insert(db: Connection, request: ClaimRequest, owner: str, now_s: int) -> bool:
    # Atomic for the proof and for its challenge: there is no moment between a look and the claim.
    inserted = db.execute(
        "INSERT INTO exchanges (id, proof_id, rail, asset, account, payee, amount_minor, scope,"
        " state, challenge_id, valid_until_s, owner, due_s, created_s, updated_s)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            request.exchange_id,
            request.proof_id,
            request.rail,
            request.asset,
            request.account,
            request.payee,
            str(request.amount_minor),
            request.scope,
            State.CLAIMED.value,
            request.challenge_id,
            request.valid_until_s,
            owner,
            request.due_s,
            now_s,
            now_s,
        ),
    ).rowcount
    return inserted == 1


def unclaim(db: Connection, request: ClaimRequest, now_s: int) -> bool:
    """Give back what a claim that nobody heard of may have written."""
    row = db.execute(
        "SELECT id, attempt, state FROM exchanges WHERE proof_id = ? AND due_s IS NOT NULL",
        (request.proof_id,),
    ).fetchone()
    if row is None:
        return False
    exchange_id, attempt, _ = row
    (opened,) = db.execute(
        "SELECT detail FROM journal WHERE exchange_id = ? AND attempt = ? ORDER BY seq LIMIT 1",
        (exchange_id, attempt),
    ).fetchone()
    is_first = attempt == 1 and exchange_id == request.exchange_id
    if not is_first and not opened.endswith(f" by {request.exchange_id}"):
        return False  # somebody else's by now
    return take_up(db, [row], now_s, "claimed, and nobody heard of it") == 1


def _was_held(db: Connection, exchange_id: str) -> bool:
    found = db.execute(
        "SELECT 1 FROM journal WHERE exchange_id = ? AND to_state = ?",
        (exchange_id, State.VERIFIED.value),
    ).fetchone()
    return found is not None


def _is_taken(db: Connection, request: ClaimRequest, exchange_id: str) -> bool:
    """Tell whether another proof has taken the challenge since this one was released."""
    found = db.execute(
        "SELECT 1 FROM exchanges WHERE challenge_id = ? AND state <> 'released' AND id <> ?",
        (request.challenge_id, exchange_id),
    ).fetchone()
    return found is not None


def _last_seq(db: Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0])


def owed(text: str) -> int | None:
    """Return what a rail was asked to move, as a row says it; None for all of it."""
    return int(text) if text else None
