"""How an exchange moves: each move one row changed and one line of the journal, or nothing at all.

All functions run inside one transaction of the store.
"""

import enum
import json
from dataclasses import dataclass, replace
from functools import lru_cache

from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.book import (
    LEFT_OPEN,
    POSTING,
    TRANSITIONS,
    WAYS_OUT,
    ClaimRequest,
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

    @property
    def is_reopening(self) -> bool:
        """Whether it begins another attempt."""
        return self.before in (State.RELEASED, State.CREDITED)


class _Mark(enum.Enum):
    """What a list keeps of the move that put a row on it."""

    TIME = "time"
    LINE = "line"


# The lists that a move puts the row on, and those that it takes it from.
_LISTS: dict[State, tuple[str, _Mark | None]] = {
    State.CLAIMED: (", forget_s = NULL", None),
    State.VERIFIED: (", held_until_s = valid_until_s", None),
    State.SETTLING: ("", None),
    State.UNKNOWN: (", asked_s = ?", _Mark.TIME),
    State.SETTLED: (", held_until_s = NULL, paid_seq = ?", _Mark.LINE),
    State.CREDITED: (", held_until_s = NULL, asked_s = NULL, paid_seq = ?", _Mark.LINE),
    State.REFUNDING: (", asked_s = ?", _Mark.TIME),
    State.REFUNDED: (", asked_s = NULL, paid_seq = NULL", None),
    # It gives up its challenge: another payment may take it.
    State.RELEASED: (
        ", held_until_s = NULL, asked_s = NULL, challenge_id = NULL, forget_s = valid_until_s",
        None,
    ),
}


@lru_cache
def _update(after: State, *, sets_due: bool) -> str:
    due = ", due_s = ?" if sets_due else ""
    return (
        "UPDATE exchanges SET state = ?, updated_s = ?, attempt = ?,"  # noqa: S608 - no input
        " reference = coalesce(?, reference), receipt = coalesce(?, receipt),"
        " amount_minor = coalesce(?, amount_minor), refund = coalesce(?, refund)"
        f"{due}{_LISTS[after][0]} WHERE id = ?"
    )


def move(db: Connection, turn: Turn, change: Change, now_s: int) -> bool:
    """Make one move of the table, with its line in the journal; False if it is not `turn`'s.

    Errors: `IllegalTransition`, `OverPosted`.
    """
    after = change.after
    if after not in TRANSITIONS[change.before]:
        raise IllegalTransition(f"{turn.exchange_id}: {change.before} -> {after}")
    if change.amount_minor is not None and (change.before, after) not in POSTING:
        raise IllegalTransition(f"{turn.exchange_id}: {change.before} -> {after} posts no amount")
    if change.amount_minor is not None:
        _check_posted(db, turn, change.before, change.amount_minor)
    seq = journal(db, turn, change, now_s)
    if seq is None:
        return False
    values: list[str | int | None] = [
        after,
        now_s,
        turn.attempt + change.is_reopening,
        change.reference,
        None if change.receipt is None else json.dumps(change.receipt),
        None if change.amount_minor is None else str(change.amount_minor),
        change.refund,
    ]
    sets_due = after not in LEFT_OPEN or change.due_s is not None
    if sets_due:
        values.append(change.due_s if after in LEFT_OPEN else None)
    mark = _LISTS[after][1]
    if mark is not None:
        values.append(now_s if mark is _Mark.TIME else seq)
    db.execute(_update(after, sets_due=sets_due), (*values, turn.exchange_id))
    return True


def give_up(db: Connection, turn: Turn, change: Change, now_s: int) -> bool:
    """Bring `turn` to where its money is, by the moves that lead there; see `book.WAYS_OUT`."""
    row = db.execute("SELECT state FROM exchanges WHERE id = ?", (turn.exchange_id,)).fetchone()
    if row is None:
        return False
    before, is_moved = State(row[0]), False
    for after in WAYS_OUT[change.after].get(before, ()):
        minor = change.amount_minor if (before, after) in POSTING else None
        step = replace(change, before=before, after=after, amount_minor=minor)
        is_moved = move(db, turn, step, now_s)
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


_LINE = (
    "INSERT INTO journal (exchange_id, attempt, from_state, to_state, amount_minor, at_s, detail)"
)
_MOVED = (
    " SELECT id, attempt + ?, state, ?, coalesce(?, amount_minor), ?, ? FROM exchanges"
    " WHERE id = ? AND attempt = ? AND state = ?"
)


def journal(db: Connection, turn: Turn, change: Change, now_s: int) -> int | None:
    """Write the line of `turn`'s move; return its number, or None if it is not its move."""
    return db.append(
        _LINE + _MOVED,
        (
            int(change.is_reopening),
            change.after,
            None if change.amount_minor is None else str(change.amount_minor),
            now_s,
            change.detail,
            turn.exchange_id,
            turn.attempt,
            change.before,
        ),
    )


def first_line(db: Connection, request: ClaimRequest, now_s: int) -> int:
    """Write that the exchange began; return the line's number."""
    minor = str(request.amount_minor)
    values = (request.exchange_id, State.CLAIMED, minor, now_s)
    seq = db.append(_LINE + " VALUES (?, 1, '', ?, ?, ?, '')", values)
    assert seq is not None
    return seq


def take_up(db: Connection, rows: list[tuple[str, int, str]], now_s: int, detail: str) -> int:
    """End what nobody is at any more: rows of id, attempt and state; see `book.LEFT_OPEN`."""
    for exchange_id, attempt, state in rows:
        after = LEFT_OPEN[State(state)]
        move(db, Turn(exchange_id, attempt), Change(State(state), after, detail=detail), now_s)
        reach(FailPoint.TAKEN_UP)
    return len(rows)
