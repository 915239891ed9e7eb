"""How an exchange moves: each move one row changed and one line of the journal, or nothing at all.

All functions run inside one transaction of the store.
"""

import json
from dataclasses import dataclass, replace

from mpp_gateway.ledger.book import (
    LEFT_OPEN,
    PAID,
    TRANSITIONS,
    WAYS_OUT,
    IllegalTransition,
    OverPosted,
    State,
    Turn,
)
from mpp_gateway.ledger.sql import Connection


@dataclass(frozen=True, slots=True)
class Change:
    """What a move writes down; None leaves what is there."""

    before: State
    after: State
    reference: str | None = None
    receipt: tuple[tuple[str, str], ...] | None = None
    detail: str = ""
    due_s: int | None = None
    amount_minor: int | None = None
    refund: str | None = None


# The moves that open an exchange for another attempt.
_REOPENING = {(State.RELEASED, State.CLAIMED), (State.CREDITED, State.SETTLED)}


def move(db: Connection, turn: Turn, change: Change, now_s: int) -> bool:
    """Make one move of the table, with its line in the journal; False if it is not `turn`'s.

    Errors: `IllegalTransition`, `OverPosted`.
    """
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
            int((change.before, change.after) in _REOPENING),
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
        journal(db, turn.exchange_id, change.before, change.after, now_s, change.detail)
    return bool(moved)


def give_up(db: Connection, turn: Turn, change: Change, now_s: int) -> bool:
    """Bring `turn` to where its money is, by the moves that lead there; see `book.WAYS_OUT`."""
    row = db.execute("SELECT state FROM exchanges WHERE id = ?", (turn.exchange_id,)).fetchone()
    if row is None:
        return False
    before, is_moved = State(row[0]), False
    for after in WAYS_OUT[change.after].get(before, ()):
        is_moved = move(db, turn, replace(change, before=before, after=after), now_s)
        before = after
    return is_moved


def _check_posted(db: Connection, turn: Turn, before: State, amount_minor: int) -> None:
    row = db.execute(
        "SELECT amount_minor FROM exchanges WHERE id = ? AND attempt = ? AND state = ?",
        (turn.exchange_id, turn.attempt, before),
    ).fetchone()
    # More than was held is money that the buyer never agreed to.
    if row is not None and amount_minor > int(row[0]):
        raise OverPosted(turn.exchange_id)


def journal(
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


def take_up(db: Connection, rows: list[tuple[str, int, str]], now_s: int, detail: str) -> int:
    """End what nobody is at any more: rows of id, attempt and state; see `book.LEFT_OPEN`."""
    for exchange_id, attempt, state in rows:
        after = LEFT_OPEN[State(state)]
        move(db, Turn(exchange_id, attempt), Change(State(state), after, detail=detail), now_s)
    return len(rows)
