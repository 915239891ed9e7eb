"""How an exchange moves: each move one row changed and one line of the journal, or nothing at all.

All functions run inside one transaction of the store. Every paid call makes three or four moves,
all of them in one thread: what they cost is the ceiling of the whole gateway.
"""

import json
from functools import cache
from typing import NamedTuple

from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.book import (
    HELD_KEPT_S,
    NEVER_HELD_KEPT_S,
    ClaimRequest,
    IllegalTransition,
    OverPosted,
    Turn,
)
from mpp_gateway.ledger.sql import Connection
from mpp_gateway.ledger.states import LEFT_OPEN, POSTING, TRANSITIONS, WAYS_OUT, State


class Change(NamedTuple):
    """What a move writes down; None leaves what is there."""

    before: State
    after: State
    reference: str | None = None
    receipt: tuple[tuple[str, str], ...] | None = None
    detail: str = ""
    due_s: int | None = None
    amount_minor: int | None = None
    refund: str | None = None
    owed_minor: int | None = None


# The number of this very move's line, or one that is left out: one transaction writes at a time.
_NEXT_LINE = "(SELECT coalesce(max(seq), 0) + 1 FROM journal)"
_WAS_HELD = (
    "EXISTS (SELECT 1 FROM journal WHERE exchange_id = exchanges.id AND to_state = 'verified')"
)
# A signature costs nothing, and may be good for ever: remembered for as long, what came to nothing
# would fill the store.
_KEPT_S = f"CASE WHEN {_WAS_HELD} THEN {HELD_KEPT_S} ELSE {NEVER_HELD_KEPT_S} END"
_FORGET = (
    f", forget_s = CASE WHEN valid_until_s < updated_s + {NEVER_HELD_KEPT_S} THEN valid_until_s"
    f" WHEN valid_until_s < updated_s + {_KEPT_S} THEN valid_until_s ELSE updated_s + {_KEPT_S} END"
)
# The lists that a move puts the row on, and those that it takes it from.
_LISTS = {
    State.CLAIMED: ", forget_s = NULL",
    State.VERIFIED: ", held_until_s = valid_until_s",
    State.SETTLING: "",
    State.UNKNOWN: "",
    State.SETTLED: f", held_until_s = NULL, paid_seq = {_NEXT_LINE}",
    State.CREDITED: f", held_until_s = NULL, asked_s = NULL, paid_seq = {_NEXT_LINE}",
    State.REFUNDING: "",
    State.REFUNDED: ", asked_s = NULL, paid_seq = NULL",
    # It gives up its challenge: another payment may take it.
    State.RELEASED: f", held_until_s = NULL, asked_s = NULL, challenge_id = NULL{_FORGET}",
}
_ASKED = frozenset({State.UNKNOWN, State.REFUNDING})
_REOPENED = frozenset({State.RELEASED, State.CREDITED})

_THEIRS = " WHERE id = ? AND attempt = ? AND state = ?"
_IS_THEIRS = "SELECT 1 FROM exchanges" + _THEIRS  # noqa: S608 - ours
# More than was held is money that the buyer never agreed to. Decimal digits, however many.
_COVERED = " AND (length(amount_minor), amount_minor) >= (length(?), ?)"
_LINE = (
    "INSERT INTO journal (exchange_id, attempt, from_state, to_state, amount_minor, at_s, detail)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class _Step:
    """One pair of the state table, as what it writes: worked out once, for the paid call's sake."""

    __slots__ = ("after", "before", "ends", "is_asked", "is_posting", "opens", "update")

    def __init__(self, before: State, after: State) -> None:
        # Plain strings: SQLite's module asks each member of an enum how it wants to be stored.
        self.before = before.value
        self.after = after.value
        self.opens = int(before in _REOPENED)
        """Another attempt begins."""
        self.ends = after not in LEFT_OPEN
        self.is_asked = after in _ASKED
        self.is_posting = (before, after) in POSTING
        lists = _LISTS[after]

        @cache
        def update(*columns: str) -> str:
            given = "".join(f", {column} = ?" for column in columns)
            covered = _COVERED if "amount_minor" in columns else ""
            return (
                f"UPDATE exchanges SET state = ?, updated_s = ?{given}{lists}"  # noqa: S608 - ours
                f"{_THEIRS}{covered}"
            )

        self.update = update


_STEPS = {
    (before, after): _Step(before, after)
    for before, followers in TRANSITIONS.items()
    for after in followers
}


def move(db: Connection, turn: Turn, change: Change, now_s: int) -> bool:
    """Make one move of the table, with its line in the journal; False if it is not `turn`'s.

    Errors: `IllegalTransition`, `OverPosted`.
    """
    step = _STEPS.get((change.before, change.after))
    if step is None:
        raise IllegalTransition(f"{turn.exchange_id}: {change.before} -> {change.after}")
    posted = "" if change.amount_minor is None else str(change.amount_minor)
    if posted and not (step.is_posting and posted.isdecimal()):
        said = f"{turn.exchange_id}: {step.before} -> {step.after} cannot post {posted}"
        raise IllegalTransition(said)
    if change.owed_minor is not None and change.after is not State.SETTLING:
        raise IllegalTransition(f"{turn.exchange_id}: {step.after} asks for no money")
    columns = _columns(turn, step, change, posted, now_s)
    theirs = turn.exchange_id, turn.attempt, step.before
    values = (step.after, now_s, *columns.values(), *theirs)
    if posted:
        values += posted, posted
    if db.execute(step.update(*columns), values).rowcount == 0:
        if posted and db.execute(_IS_THEIRS, theirs).fetchone():
            raise OverPosted(turn.exchange_id)
        return False
    # Said anew where an attempt begins: whoever reads a line looks back over one attempt at most.
    _journal(db, turn, step, _amount(db, turn) if step.opens else posted, now_s, change.detail)
    return True


def _amount(db: Connection, turn: Turn) -> str:
    found = db.execute("SELECT amount_minor FROM exchanges WHERE id = ?", (turn.exchange_id,))
    return str(found.fetchone()[0])


def _journal(db: Connection, turn: Turn, step: _Step, posted: str, now_s: int, detail: str) -> None:
    attempt = turn.attempt + step.opens
    db.execute(_LINE, (turn.exchange_id, attempt, step.before, step.after, posted, now_s, detail))


def _columns(
    turn: Turn, step: _Step, change: Change, posted: str, now_s: int
) -> dict[str, str | int | None]:
    """Return the columns that a move writes, with their values; the others stay as they are."""
    columns: dict[str, str | int | None] = {}
    if step.opens:
        columns["attempt"] = turn.attempt + 1
    if step.is_asked:
        columns["asked_s"] = now_s
    if step.ends:
        columns["due_s"] = None
    elif change.due_s is not None:
        columns["due_s"] = change.due_s
    if change.reference is not None:
        columns["reference"] = change.reference
    if change.receipt is not None:
        columns["receipt"] = json.dumps(change.receipt)
    if posted:
        columns["amount_minor"] = posted
    if change.refund is not None:
        columns["refund"] = change.refund
    if change.owed_minor is not None:
        columns["owed_minor"] = str(change.owed_minor)
    return columns


def give_up(db: Connection, turn: Turn, change: Change, now_s: int) -> bool:
    """Bring `turn` to where its money is, by the moves that lead there; see `states.WAYS_OUT`."""
    row = db.execute("SELECT state FROM exchanges WHERE id = ?", (turn.exchange_id,)).fetchone()
    if row is None:
        return False
    before, is_moved = State(row[0]), False
    for after in WAYS_OUT[change.after].get(before, ()):
        minor = change.amount_minor if (before, after) in POSTING else None
        step = change._replace(before=before, after=after, amount_minor=minor)
        is_moved = move(db, turn, step, now_s)
        before = after
    return is_moved


def first_line(db: Connection, request: ClaimRequest, now_s: int) -> int:
    """Write that the exchange began; return the line's number."""
    minor = str(request.amount_minor)
    seq = db.append(_LINE, (request.exchange_id, 1, "", State.CLAIMED.value, minor, now_s, ""))
    assert seq is not None
    return seq


def take_up(db: Connection, rows: list[tuple[str, int, str]], now_s: int, detail: str) -> int:
    """End what nobody is at any more: rows of id, attempt and state; see `states.LEFT_OPEN`."""
    for exchange_id, attempt, state in rows:
        after = LEFT_OPEN[State(state)]
        move(db, Turn(exchange_id, attempt), Change(State(state), after, detail=detail), now_s)
        reach(FailPoint.TAKEN_UP)
    return len(rows)
