"""The books checked against themselves: the journal alone says what the table should say."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from mpp_gateway.ledger.inquiry import Balance, Purse, place_of
from mpp_gateway.ledger.reading import Reading, StoreDamaged
from mpp_gateway.ledger.states import LEFT_OPEN, POSTING, TRANSITIONS, State

FAULTS_MAX = 1_000
"""How many faults are told one by one; the others are counted."""
REOPENING = frozenset({(State.RELEASED, State.CLAIMED), (State.CREDITED, State.SETTLED)})
"""The moves that open an exchange for another attempt."""
PAYING = frozenset({State.SETTLED, State.CREDITED})
"""The moves to these bring the money to the seller, or back under its name."""
HELD = frozenset({State.VERIFIED, State.SETTLING, State.UNKNOWN})
ASKED = frozenset({State.UNKNOWN, State.REFUNDING})
FORGOTTEN = frozenset({State.RELEASED})
"""Which states are on the lists that the books keep of their rows."""
_AMOUNT = re.compile(r"0|[1-9][0-9]*")

type Tick = Callable[[int], None]
"""Is told how far a long work has come."""


@dataclass(frozen=True, slots=True)
class FoundLine:
    """One line of the journal, as it is there: nothing of it is believed."""

    seq: int
    attempt: int
    before: str
    after: str
    amount: str
    """Where the line is silent, that of the line before."""
    at_s: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of one exchange."""

    exchange_id: str
    purse: Purse
    amount: str
    state: str
    attempt: int
    due_s: int | None
    created_s: int
    updated_s: int
    held_until_s: int | None
    asked_s: int | None
    forget_s: int | None
    paid_seq: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One contradiction in the books."""

    exchange_id: str
    text: str


@dataclass(slots=True)
class Audit:
    """What came of a check of all books."""

    exchanges: int = 0
    lines: int = 0
    faults: list[Fault] = field(default_factory=list)
    faults_found: int = 0
    balances: list[Balance] = field(default_factory=list)
    """From the journal alone."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.faults_found == 0

    def note(self, exchange_id: str, text: str) -> None:
        """Write a fault down."""
        self.faults_found += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(exchange_id, text))


_EVERY_LINE = (
    "SELECT e.id, e.tenant, e.rail, e.asset, e.amount_minor, e.state, e.attempt, e.due_s,"
    " e.created_s, e.updated_s, e.held_until_s, e.asked_s, e.forget_s, e.paid_seq,"
    " j.seq, j.attempt, j.from_state, j.to_state, j.amount_minor, j.at_s"
    " FROM exchanges e LEFT JOIN journal j ON j.exchange_id = e.id ORDER BY e.id, j.seq"
)
_ORPHANS = (
    "SELECT j.seq, j.exchange_id FROM journal j LEFT JOIN exchanges e ON e.id = j.exchange_id"
    " WHERE e.id IS NULL ORDER BY j.seq"
)


def audit(reading: Reading, tick: Tick = lambda _: None) -> Audit:
    """Check every exchange and all balances against the journal.

    It does not see that an exchange was taken out whole, with all of its lines: a release that is
    forgotten goes the same way. If it was paid, only the rail tells.
    """
    done = Audit()
    for text in reading.damage():
        done.note("", f"the store is damaged: {text}")
    told: _Sums = defaultdict(lambda: [0, 0])
    moved: _Sums = defaultdict(lambda: [0, 0])
    try:
        for row, lines in _histories(reading):
            for text in faults_of(row, lines):
                done.note(row.exchange_id, text)
            done.exchanges += 1
            done.lines += len(lines)
            _add(told, row.purse, row.state, 1, row.amount)
            _follow(moved, row.purse, lines)
            tick(done.exchanges)
        for seq, exchange_id in reading.rows(_ORPHANS):
            done.lines += 1
            done.note(exchange_id, f"line {seq} is of an exchange that the table does not have")
    except StoreDamaged as error:
        done.note("", f"the store is damaged: {error}")
    _compare(done, told, moved)
    return done


def faults_of(row: Row, lines: Iterable[FoundLine]) -> Iterator[str]:
    """Yield what is wrong with one exchange: its lines by themselves, then the row beside them."""
    state, attempt, seq = "", 1, 0
    first = last = None
    paid_after_seq = paid_seq = 0
    for line in lines:
        if line.seq <= seq:
            yield f"line {line.seq} stands behind line {seq}"
        if line.before != state:
            begun = f"line {seq} ended in {state}" if state else "nothing was before"
            yield f"line {line.seq} goes on from {line.before or 'nothing'}, but {begun}"
        if not _is_legal(line):
            yield f"line {line.seq}: {line.before or 'nothing'} -> {line.after} is no legal move"
        attempt += (line.before, line.after) in REOPENING
        if line.attempt != attempt:
            yield f"line {line.seq} is of attempt {line.attempt}, it should be of {attempt}"
            attempt = line.attempt
        if last is not None and not _may_follow(last, line):
            yield f"line {line.seq} is about {line.amount!r}, line {last.seq} about {last.amount!r}"
        if line.after in PAYING:
            paid_after_seq, paid_seq = seq, line.seq
        first, last = first or line, line
        state, seq = line.after, line.seq
    if first is None or last is None:
        yield "no line of the journal is left"
        return
    yield from _row_faults(row, first, last)
    # The table says which number was next: a transaction that came to nothing may have taken it.
    is_paid = paid_seq > 0 and state != State.REFUNDED
    right_seqs = range(paid_after_seq + 1, paid_seq + 1) if is_paid else (None,)
    if row.paid_seq not in right_seqs:
        yield f"the table says that it was paid by line {row.paid_seq}, the journal says {paid_seq}"
    yield from _list_faults(row)


def _row_faults(row: Row, first: FoundLine, last: FoundLine) -> Iterator[str]:
    if not _AMOUNT.fullmatch(row.amount):
        yield f"{row.amount!r} is no amount"
    if row.amount != last.amount:
        yield f"the table says {row.amount!r}, the journal says {last.amount!r}"
    if row.state != last.after:
        yield f"the table says {row.state}, the journal says {last.after}"
    if row.attempt != last.attempt:
        yield f"the table says attempt {row.attempt}, the journal says {last.attempt}"
    if row.created_s != first.at_s:
        yield f"the table says that it began at {row.created_s}, the journal says {first.at_s}"
    if row.updated_s != last.at_s:
        yield f"the table says that it moved last at {row.updated_s}, the journal says {last.at_s}"
    is_held = row.due_s is not None
    if is_held and row.state not in LEFT_OPEN:
        yield f"a process is said to be at it, which {row.state} does not need"
    if not is_held and row.state in LEFT_OPEN and row.state != State.SETTLED:
        yield f"no process is said to be at it: {row.state} would stay for ever"


def _list_faults(row: Row) -> Iterator[str]:
    """Yield where the row is on a wrong list: what nobody lists, nobody sees to.

    A paid row among those to be forgotten would take its proof with it, which then buys again.
    """
    lists = (
        (row.held_until_s, HELD, "as held"),
        (row.asked_s, ASKED, "for the rail to be asked"),
        (row.forget_s, FORGOTTEN, "to be forgotten"),
    )
    for value, states, what in lists:
        if value is None and row.state in states:
            yield f"it is not listed {what}"
        if value is not None and row.state not in states:
            yield f"it is listed {what}, which {row.state} must not be"


def _may_follow(last: FoundLine, line: FoundLine) -> bool:
    """Tell whether the amounts agree: less may settle than was held; nothing else changes."""
    if line.amount == last.amount:
        return True
    is_settled = (line.before, line.after) in POSTING
    are_amounts = _AMOUNT.fullmatch(line.amount) and _AMOUNT.fullmatch(last.amount)
    return bool(is_settled and are_amounts) and int(line.amount) < int(last.amount)


def _is_legal(line: FoundLine) -> bool:
    if not line.before:
        return line.after == State.CLAIMED
    return any(
        line.before == before and line.after in following
        for before, following in TRANSITIONS.items()
    )


def _histories(reading: Reading) -> Iterator[tuple[Row, list[FoundLine]]]:
    for _, group in groupby(reading.rows(_EVERY_LINE), key=lambda found: found[0]):
        row: Row | None = None
        lines: list[FoundLine] = []
        for exchange_id, tenant, rail, asset, *rest in group:
            row = row or Row(exchange_id, Purse(tenant, rail, asset), *rest[:10])
            if rest[10] is not None:
                line = FoundLine(*rest[10:])
                is_silent = lines and not line.amount
                lines.append(replace(line, amount=lines[-1].amount) if is_silent else line)
        assert row is not None
        yield row, lines


type _Sums = defaultdict[tuple[Purse, str], list[int]]


def _add(sums: _Sums, purse: Purse, state: str, count: int, amount: Any) -> None:
    minor = int(amount) if _AMOUNT.fullmatch(amount) else 0
    found = sums[purse, state]
    found[0] += count
    found[1] += count * minor


def _follow(sums: _Sums, purse: Purse, lines: list[FoundLine]) -> None:
    """Move the money of one exchange from line to line, as `book.balances` does."""
    amount = "0"
    for line in lines:
        _add(sums, purse, line.after, 1, line.amount)
        if line.before:
            _add(sums, purse, line.before, -1, amount)
        amount = line.amount


def _compare(done: Audit, told: _Sums, moved: _Sums) -> None:
    for purse, state in sorted({*told, *moved}, key=place_of):
        by_table, by_journal = told[purse, state], moved[purse, state]
        if by_table != by_journal:
            done.note(
                "",
                f"{purse.rail} {purse.asset} {state}: the table has {by_table[1]} in"
                f" {by_table[0]}, the journal {by_journal[1]} in {by_journal[0]}",
            )
        if any(by_journal):
            done.balances.append(Balance(purse, state, *by_journal))
