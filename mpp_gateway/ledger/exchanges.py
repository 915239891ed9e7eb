"""The durable record of every paid exchange: who claimed which proof, and where the money is."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpp_gateway.ledger.book import (
    LEFT_OPEN,
    PAID,
    REOPENING,
    TRANSITIONS,
    Claim,
    Claimed,
    ClaimRequest,
    IllegalTransition,
    OverPosted,
    PaymentRecord,
    Question,
    State,
    Turn,
)
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sql import Connection

EXCHANGES_SCHEMA = """
CREATE TABLE exchanges (
    id TEXT PRIMARY KEY,
    proof_id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL DEFAULT 'default',
    rail TEXT NOT NULL,
    asset TEXT NOT NULL,
    account TEXT NOT NULL,
    amount_minor TEXT NOT NULL,
    scope TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    reference TEXT NOT NULL DEFAULT '',
    receipt TEXT NOT NULL DEFAULT '[]',
    challenge_id TEXT,
    valid_until_s INTEGER NOT NULL,
    owner TEXT NOT NULL,
    due_s INTEGER,
    created_s INTEGER NOT NULL,
    updated_s INTEGER NOT NULL,
    updated_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX exchanges_holding ON exchanges (account, valid_until_s)
    WHERE state IN ('verified', 'settling', 'unknown');
CREATE INDEX exchanges_paid ON exchanges (account, updated_seq)
    WHERE state IN ('settled', 'credited');
CREATE INDEX exchanges_due ON exchanges (due_s) WHERE due_s IS NOT NULL;
CREATE INDEX exchanges_released ON exchanges (valid_until_s) WHERE state = 'released';
CREATE UNIQUE INDEX exchanges_challenge ON exchanges (challenge_id) WHERE state <> 'released';
CREATE TABLE store (id TEXT NOT NULL) STRICT;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    exchange_id TEXT NOT NULL REFERENCES exchanges (id),
    attempt INTEGER NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    amount_minor TEXT NOT NULL,
    at_s INTEGER NOT NULL,
    detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX journal_exchange ON journal (exchange_id)
"""
"""`owner` names the lock under which the row's process serves (`ledger.lock`). `due_s` is when that
process must be done with the row, by its own deadlines; NULL while nobody is at it."""

QUESTIONS_SCHEMA = """
ALTER TABLE exchanges ADD COLUMN payee TEXT NOT NULL DEFAULT '';
ALTER TABLE exchanges ADD COLUMN refund TEXT NOT NULL DEFAULT '';
DROP INDEX exchanges_paid;
CREATE INDEX exchanges_paid ON exchanges (account, updated_seq)
    WHERE state IN ('settled', 'credited', 'refunding');
CREATE INDEX exchanges_asked ON exchanges (rail, updated_s, id)
    WHERE state IN ('unknown', 'refunding')
"""
"""What is asked of a rail with no request at hand: who was paid, which questions are open, and
what the rail calls a refund that it made."""

BATCH_ROWS = 500
"""How much of the books one turn of the writer may take up or forget: payments wait meanwhile."""


type IsGone = Callable[[Connection, str], bool]
"""Tells whether nobody who marks rows with a name is left; see `sql.Lease`."""


class Exchanges:
    """Every question and every move about an exchange, each one atomic and durable.

    `owner` is the lock that this process serves under; what it claims is marked with it.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def claim(self, request: ClaimRequest, now_s: int) -> Claimed:
        """Bind `request.proof_id` to one exchange, or say what became of it; insert-if-absent."""
        return await self._database.write(lambda db: _claim(db, request, self._owner, now_s))

    async def hold(
        self, turn: Turn, spendable_minor: int | None, seen_seq: int, now_s: int
    ) -> bool:
        """Move to VERIFIED if the payer's unsettled holds and this price fit `spendable_minor`.

        `seen_seq` is the journal's last entry before the balance was read: what settled after it
        is counted as still unpaid.
        """
        return await self._database.write(
            lambda db: _hold(db, turn, spendable_minor, seen_seq, now_s)
        )

    async def move(
        self,
        turn: Turn,
        before: State,
        after: State,
        now_s: int,
        *,
        reference: str | None = None,
        receipt: tuple[tuple[str, str], ...] | None = None,
        detail: str = "",
        due_s: int | None = None,
        amount_minor: int | None = None,
        refund: str | None = None,
    ) -> bool:
        """Move from `before` to `after` and write the journal; False if it is not `turn`'s move.

        `due_s` is when we are done with it, or gone; None leaves the time that was given before.
        `amount_minor` is what was used of what was held, None for all of it; `refund` is what the
        rail calls the payment that gave it back.
        Errors: `IllegalTransition` for a pair that the table lacks, `OverPosted` for an amount
        above what was held, `StoreUnavailable`.
        """
        change = _Change(before, after, reference, receipt, detail, due_s, amount_minor, refund)
        return await self._database.write(lambda db: _move(db, turn, change, now_s))

    async def state(self, exchange_id: str) -> State | None:
        """Return where the exchange stands, or None if there is none of that id."""
        row = await self._database.read(
            lambda db: db.execute(
                "SELECT state FROM exchanges WHERE id = ?", (exchange_id,)
            ).fetchone()
        )
        return State(row[0]) if row else None

    async def renew(self, turn: Turn, due_s: int) -> bool:
        """Stay in charge of what `turn` has paid for until `due_s`; False if it is not its own."""
        return await self._database.write(lambda db: _set_due(db, turn, due_s))

    async def recover(self, is_gone: IsGone, now_s: int) -> int:
        """Take up what processes have left of which `is_gone` says that they are.

        Nothing moved for CLAIMED and VERIFIED. An exchange that had begun to settle becomes
        UNKNOWN, so that only the rail can resolve it. Returns how many there were.
        """
        return await self._database.write(lambda db: _recover(db, is_gone, now_s))

    async def mark_delivered(self, turn: Turn) -> bool:
        """Note that the answer which `turn` paid for was handed over; False if it is not its."""
        return await self._database.write(lambda db: _set_due(db, turn, None))

    async def questions(self, rail: str, after: tuple[int, str], limit: int) -> list[Question]:
        """Return what `rail` must be asked, the oldest first, from after that (time, id) on."""
        return await self._database.read(lambda db: _questions(db, rail, after, limit))

    async def store_id(self, fresh: str) -> str:
        """Return the id of this very store: `fresh` if it has none yet, else what it was given.

        Challenges carry it: without it a payment made to one store buys again at another one, or
        at the same gateway with a new file, for the chain shows that it is paid.
        """
        return await self._database.write(lambda db: _store_id(db, fresh))

    async def sweep(self, now_s: int) -> int:
        """Take up what its process should have been done with; return how many, a batch at most.

        A settlement becomes UNKNOWN, a claim is released, and what was paid and not handed over is
        credited. Each row is due by the deadlines of the process that wrote it, not by ours.
        """
        return await self._database.write(lambda db: _sweep(db, now_s))

    async def purge(self, now_s: int) -> int:
        """Forget releases whose proofs can move no money any more; count them, a batch at most.

        What guards against a second use is never forgotten: settled, credited, refunded, unknown.
        """
        return await self._database.write(lambda db: _purge(db, now_s))


def _claim(db: Connection, request: ClaimRequest, owner: str, now_s: int) -> Claimed:
    if not request.only_earlier and _insert(db, request, owner, now_s):
        seq = _journal(db, request.exchange_id, "", State.CLAIMED, now_s, "")
        return Claimed(Claim.FRESH, request.exchange_id, seq=seq)
    row = db.execute(
        "SELECT id, state, scope, attempt, reference, receipt, valid_until_s, due_s, updated_s"
        " FROM exchanges WHERE proof_id = ?",
        (request.proof_id,),
    ).fetchone()
    if row is None:
        return Claimed(Claim.EXPIRED if request.only_earlier else Claim.SPENT, "")
    return _claim_again(db, request, row, owner, now_s)


def _claim_again(
    db: Connection, request: ClaimRequest, row: tuple[Any, ...], owner: str, now_s: int
) -> Claimed:
    exchange_id, state, scope, attempt, reference, receipt, valid_until_s, due_s, updated_s = row
    turn = Turn(exchange_id, attempt)
    last_s = max(valid_until_s, request.valid_until_s)
    headers = tuple((name, value) for name, value in json.loads(receipt))
    if scope != request.scope:
        return Claimed(Claim.SPENT, exchange_id)
    if state in (State.REFUNDING, State.REFUNDED):
        return Claimed(Claim.REFUNDED, exchange_id)
    if state == State.SETTLED and due_s is None:
        return Claimed(Claim.DELIVERED, exchange_id, attempt, reference, headers)
    if state == State.RELEASED:
        if _is_taken(db, request, exchange_id):
            return Claimed(Claim.SPENT, exchange_id)
        if request.only_earlier:
            return Claimed(Claim.EXPIRED, exchange_id)
        # The challenge it was shown with first may be somebody else's by now.
        db.execute(
            "UPDATE exchanges SET valid_until_s = ?, challenge_id = ?, payee = ? WHERE id = ?",
            (last_s, request.challenge_id, request.payee, exchange_id),
        )
        _reopen(db, turn, State.RELEASED, State.CLAIMED, request, owner, now_s)
        return Claimed(Claim.FRESH, exchange_id, attempt + 1, seq=_last_seq(db))
    if state == State.CREDITED and updated_s + request.credit_s <= now_s:
        return Claimed(Claim.LAPSED, exchange_id)
    if state == State.CREDITED:
        # The credit is spent by this very move: of ten parallel copies one gets the call.
        _reopen(db, turn, State.CREDITED, State.SETTLED, request, owner, now_s)
        return Claimed(Claim.CREDITED, exchange_id, attempt + 1, reference, headers)
    claim = Claim.UNKNOWN if state == State.UNKNOWN else Claim.IN_PROGRESS
    return Claimed(claim, exchange_id, attempt, valid_until_s=last_s)


def _reopen(
    db: Connection,
    turn: Turn,
    before: State,
    after: State,
    request: ClaimRequest,
    owner: str,
    now_s: int,
) -> None:
    detail = "credit redeemed" if before is State.CREDITED else "presented again"
    _move(db, turn, _Change(before, after, detail=detail, due_s=request.due_s), now_s)
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
            State.CLAIMED,
            request.challenge_id,
            request.valid_until_s,
            owner,
            request.due_s,
            now_s,
            now_s,
        ),
    ).rowcount
    return inserted == 1


def _is_taken(db: Connection, request: ClaimRequest, exchange_id: str) -> bool:
    """Tell whether another proof has taken the challenge since this one was released."""
    found = db.execute(
        "SELECT 1 FROM exchanges WHERE challenge_id = ? AND state <> 'released' AND id <> ?",
        (request.challenge_id, exchange_id),
    ).fetchone()
    return found is not None


def _last_seq(db: Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0])


# Two searches, each by an index of its own that has no released row: whoever lets a payer's calls
# fail by the thousand would otherwise make every hold walk over all of them, in the only writer.
HELD_BY_OTHERS = """
SELECT amount_minor FROM exchanges
 WHERE account = :account AND valid_until_s > :now_s AND id <> :id
 AND state IN ('verified', 'settling', 'unknown')
UNION ALL
SELECT amount_minor FROM exchanges
 WHERE account = :account AND updated_seq > :seen_seq AND id <> :id
 AND state IN ('settled', 'credited', 'refunding')
"""
"""A proof that is out of date moves no money any more. Counted for ever, one settlement that stayed
unknown would lock its payer out."""


def _hold(
    db: Connection, turn: Turn, spendable_minor: int | None, seen_seq: int, now_s: int
) -> bool:
    row = db.execute(
        "SELECT account, amount_minor FROM exchanges WHERE id = ?", (turn.exchange_id,)
    ).fetchone()
    if row is None:
        return False  # taken from us, released and forgotten
    account, amount_minor = row[0], int(row[1])
    others = db.execute(
        HELD_BY_OTHERS,
        {"account": account, "id": turn.exchange_id, "now_s": now_s, "seen_seq": seen_seq},
    )
    held_minor = sum(int(row[0]) for row in others)
    # A balance that nobody could read is known to cover this one payment and no other: without
    # this line a payer with money for one call runs twenty at the seller's cost.
    spendable = amount_minor if spendable_minor is None else spendable_minor
    if held_minor + amount_minor > spendable:
        return False
    return _move(db, turn, _Change(State.CLAIMED, State.VERIFIED), now_s)


@dataclass(frozen=True, slots=True)
class _Change:
    before: State
    after: State
    reference: str | None = None
    receipt: tuple[tuple[str, str], ...] | None = None
    detail: str = ""
    due_s: int | None = None
    amount_minor: int | None = None
    refund: str | None = None


def _move(db: Connection, turn: Turn, change: _Change, now_s: int) -> bool:
    if change.after not in TRANSITIONS[change.before]:
        raise IllegalTransition(f"{turn.exchange_id}: {change.before} -> {change.after}")
    if change.amount_minor is not None:
        _check_posted(db, turn, change.before, change.amount_minor)
    moved = db.execute(
        "UPDATE exchanges SET state = ?, updated_s = ?, attempt = attempt + ?,"
        " due_s = CASE WHEN ? = 1 THEN coalesce(?, due_s) END,"
        " reference = coalesce(?, reference), receipt = coalesce(?, receipt),"
        " amount_minor = coalesce(?, amount_minor), refund = coalesce(?, refund)"
        " WHERE id = ? AND attempt = ? AND state = ?",
        (
            change.after,
            now_s,
            int((change.before, change.after) in REOPENING),
            int(change.after in LEFT_OPEN),
            change.due_s,
            change.reference,
            None if change.receipt is None else json.dumps(change.receipt),
            None if change.amount_minor is None else str(change.amount_minor),
            change.refund,
            turn.exchange_id,
            turn.attempt,
            change.before,
        ),
    ).rowcount
    if moved:
        _journal(db, turn.exchange_id, change.before, change.after, now_s, change.detail)
    return bool(moved)


def _check_posted(db: Connection, turn: Turn, before: State, amount_minor: int) -> None:
    row = db.execute(
        "SELECT amount_minor FROM exchanges WHERE id = ? AND attempt = ? AND state = ?",
        (turn.exchange_id, turn.attempt, before),
    ).fetchone()
    # More than was held is money that the buyer never agreed to.
    if row is not None and amount_minor > int(row[0]):
        raise OverPosted(turn.exchange_id)


def _journal(
    db: Connection, exchange_id: str, before: str, after: str, now_s: int, detail: str
) -> int:
    """Write the journal's next line; return its number."""
    (seq,) = db.execute(
        "INSERT INTO journal (exchange_id, attempt, from_state, to_state, amount_minor, at_s,"
        " detail) SELECT id, attempt, ?, ?, amount_minor, ?, ? FROM exchanges WHERE id = ?"
        " RETURNING seq",
        (before, after, now_s, detail, exchange_id),
    ).fetchone()
    if after in PAID:
        db.execute("UPDATE exchanges SET updated_seq = ? WHERE id = ?", (seq, exchange_id))
    return int(seq)


def _set_due(db: Connection, turn: Turn, due_s: int | None) -> bool:
    changed = db.execute(
        "UPDATE exchanges SET due_s = ? WHERE id = ? AND attempt = ? AND state = ?",
        (due_s, turn.exchange_id, turn.attempt, State.SETTLED),
    ).rowcount
    return changed == 1


def _recover(db: Connection, is_gone: IsGone, now_s: int) -> int:
    # Paid, and no answer was handed over: killed in between. Without that row the buyer's money
    # would have bought nothing, and the same credential would be called used.
    left = "SELECT DISTINCT owner FROM exchanges WHERE due_s IS NOT NULL"
    found = 0
    for (owner,) in db.execute(left).fetchall():
        if is_gone(db, owner):
            rows = db.execute(
                "SELECT id, attempt, state FROM exchanges WHERE due_s IS NOT NULL AND owner = ?"
                " ORDER BY id",
                (owner,),
            ).fetchall()
            found += _take_up(db, rows, now_s, "left open by a process that is gone")
    return found


def _questions(db: Connection, rail: str, after: tuple[int, str], limit: int) -> list[Question]:
    rows = db.execute(
        "SELECT id, attempt, asset, state, updated_s, proof_id, account, payee, amount_minor,"
        " valid_until_s, challenge_id, reference FROM exchanges"
        " WHERE rail = ? AND state IN ('unknown', 'refunding') AND (updated_s, id) > (?, ?)"
        " ORDER BY updated_s, id LIMIT ?",
        (rail, *after, limit),
    )
    return [_question(rail, *row) for row in rows]


def _question(
    rail: str,
    exchange_id: str,
    attempt: int,
    asset: str,
    state: str,
    updated_s: int,
    *record: Any,
) -> Question:
    proof_id, account, payee, amount_minor, *rest = record
    payment = PaymentRecord(proof_id, account, payee, int(amount_minor), *rest)
    return Question(Turn(exchange_id, attempt), rail, asset, State(state), payment, updated_s)


def _store_id(db: Connection, fresh: str) -> str:
    row = db.execute("SELECT id FROM store").fetchone()
    if row is None:
        db.execute("INSERT INTO store (id) VALUES (?)", (fresh,))
    return fresh if row is None else str(row[0])


def _sweep(db: Connection, now_s: int) -> int:
    rows = db.execute(
        "SELECT id, attempt, state FROM exchanges WHERE due_s < ? ORDER BY id LIMIT ?",
        (now_s, BATCH_ROWS),
    ).fetchall()
    return _take_up(db, rows, now_s, "left open by its process")


def _purge(db: Connection, now_s: int) -> int:
    # A release was never paid, so the journal's sums are the same without its lines.
    dead = db.execute(
        "SELECT id FROM exchanges WHERE state = 'released' AND valid_until_s < ? LIMIT ?",
        (now_s, BATCH_ROWS),
    ).fetchall()
    db.executemany("DELETE FROM journal WHERE exchange_id = ?", dead)
    db.executemany("DELETE FROM exchanges WHERE id = ?", dead)
    return len(dead)


def _take_up(db: Connection, rows: list[tuple[str, int, str]], now_s: int, detail: str) -> int:
    for exchange_id, attempt, state in rows:
        after = LEFT_OPEN[State(state)]
        _move(db, Turn(exchange_id, attempt), _Change(State(state), after, detail=detail), now_s)
    return len(rows)
