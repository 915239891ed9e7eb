"""What the books say of exchanges and balances, asked of one snapshot of the store."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpp_gateway.ledger.reading import Reading, StoreDamaged
from mpp_gateway.ledger.states import State

PREFIX_MIN = 6
"""How much of an id has to be given: with less, any typing error would name some exchange."""
CANDIDATES_MAX = 10


@dataclass(frozen=True, slots=True)
class Record:
    """One exchange as its row has it."""

    exchange_id: str
    proof_id: str
    tenant: str
    rail: str
    asset: str
    account: str
    payee: str
    """Empty where the exchange is older than the column."""
    amount_minor: int
    scope: str
    state: str
    attempt: int
    reference: str
    refund: str
    """What the rail calls the payment that gave it back; empty without one."""
    receipt: tuple[tuple[str, str], ...]
    challenge_id: str | None
    valid_until_s: int
    due_s: int | None
    created_s: int
    updated_s: int


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One line of the journal."""

    seq: int
    exchange_id: str
    attempt: int
    before: str
    after: str
    amount_minor: int
    at_s: int
    detail: str


@dataclass(frozen=True, slots=True)
class Purse:
    """Whose money a sum is of; `account` is empty where all accounts are one sum."""

    tenant: str
    rail: str
    asset: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """How many exchanges are in one state (or `LAPSED`), and their money."""

    purse: Purse
    state: str
    count: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class KeptNote:
    """That an answer is kept for an exchange; what is in it is the buyer's business alone."""

    status: int
    length: int
    until_s: int


_COLUMNS = (
    "id, proof_id, tenant, rail, asset, account, payee, amount_minor, scope, state, attempt,"
    " reference, refund, receipt, challenge_id, valid_until_s, due_s, created_s, updated_s"
)
_NAMES = ("id", "proof_id", "reference", "refund")
LAPSED = "lapsed"
"""What sums say for a credit whose time is over; its row says `credited` for ever."""
_ORDER = tuple(
    name for state in State for name in ((state, LAPSED) if state is State.CREDITED else (state,))
)
# A line that is silent about its amount leaves it as the lines before have it.
_MOVES = (
    "seq, exchange_id, attempt, from_state, to_state, (SELECT said.amount_minor FROM journal said"
    " WHERE said.exchange_id = journal.exchange_id AND said.seq <= journal.seq"
    " AND said.amount_minor <> '' ORDER BY said.seq DESC LIMIT 1), at_s, detail"
)


def balances(
    reading: Reading, credited_since_s: int, *, by_account: bool = False
) -> Iterator[Balance]:
    """Yield the sums by purse and state, in order.

    A credit that is no younger than `credited_since_s` is `LAPSED`: nobody can ask for it.
    """
    # Amounts are text: they may be above what the store can add. Equal ones, of which there are
    # few, are counted by the store and added up here.
    key = "tenant, rail, asset, shown" + (", account" if by_account else "")
    rows = reading.rows(
        f"SELECT {key}, amount_minor, count(*) FROM (SELECT tenant, rail, asset, account,"  # noqa: S608 - ours
        " amount_minor, CASE WHEN state = 'credited' AND updated_s <= ? THEN 'lapsed'"
        f" ELSE state END AS shown FROM exchanges) AS counted GROUP BY {key}, amount_minor",
        (credited_since_s,),
    )
    found: dict[tuple[Purse, str], tuple[int, int]] = {}
    for tenant, rail, asset, shown, *account, amount_minor, count in rows:
        place = Purse(tenant, rail, asset, *account), shown
        counted, minor = found.get(place, (0, 0))
        found[place] = counted + count, minor + count * _minor(amount_minor)
    for purse, state in sorted(found, key=place_of):
        yield Balance(purse, state, *found[purse, state])


def place_of(sum_of: tuple[Purse, str]) -> tuple[object, ...]:
    """Return where a sum stands among others: by purse, then by state in the order of a payment."""
    purse, state = sum_of
    place = _ORDER.index(state) if state in _ORDER else len(_ORDER)
    return purse.tenant, purse.rail, purse.asset, purse.account, place, state


def newest(
    reading: Reading,
    *,
    limit: int,
    state: str | None = None,
    rail: str | None = None,
    since_s: int | None = None,
) -> Iterator[Record]:
    """Yield the exchanges that began last, the newest first."""
    wishes = {"state = ?": state, "rail = ?": rail, "created_s >= ?": since_s}
    given = {text: value for text, value in wishes.items() if value is not None}
    where = f" WHERE {' AND '.join(given)}" if given else ""
    rows = reading.rows(
        f"SELECT {_COLUMNS} FROM exchanges{where}"  # noqa: S608 - ours
        " ORDER BY created_s DESC, id DESC LIMIT ?",
        (*given.values(), limit),
    )
    return map(_record, rows)


def every(reading: Reading) -> Iterator[Record]:
    """Yield every exchange in the order in which they began."""
    rows = reading.rows(f"SELECT {_COLUMNS} FROM exchanges ORDER BY created_s, id")  # noqa: S608
    return map(_record, rows)


def moves(reading: Reading, exchange_id: str | None = None) -> Iterator[JournalLine]:
    """Yield the lines of the journal, of one exchange or all of them, in their order."""
    where, parameters = (
        ("", ()) if exchange_id is None else (" WHERE exchange_id = ?", (exchange_id,))
    )
    rows = reading.rows(f"SELECT {_MOVES} FROM journal{where} ORDER BY seq", parameters)  # noqa: S608
    for seq, found_id, attempt, before, after, amount_minor, at_s, detail in rows:
        yield JournalLine(seq, found_id, attempt, before, after, _minor(amount_minor), at_s, detail)


def find(reading: Reading, name: str) -> list[Record]:
    """Return what `name` names: an exchange, a proof or a transaction, whole or its beginning.

    An exact name goes before a beginning. Several come back where it is not clear which is meant.
    """
    if not name:
        return []  # what has no reference yet has an empty one
    for column in _NAMES:
        if found := _where(reading, f"{column} = ?", name):
            return found
    if len(name) < PREFIX_MIN:
        return []
    begins = " OR ".join(f"substr({column}, 1, ?) = ?" for column in _NAMES)
    return _where(reading, begins, *(len(name), name) * len(_NAMES))


def kept(reading: Reading, exchange_id: str) -> KeptNote | None:
    """Return whether an answer of the exchange is kept, and until when."""
    sql = "SELECT status, length(body), until_s FROM answers WHERE exchange_id = ?"
    for status, length, until_s in reading.rows(sql, (exchange_id,)):
        return KeptNote(status, length, until_s)
    return None


def _where(reading: Reading, where: str, *parameters: object) -> list[Record]:
    sql = f"SELECT {_COLUMNS} FROM exchanges WHERE {where} ORDER BY id LIMIT ?"  # noqa: S608
    return [_record(row) for row in reading.rows(sql, (*parameters, CANDIDATES_MAX))]


def _record(row: tuple[Any, ...]) -> Record:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    fields["exchange_id"] = fields.pop("id")
    fields["amount_minor"] = _minor(fields["amount_minor"])
    try:
        fields["receipt"] = tuple((name, value) for name, value in json.loads(fields["receipt"]))
    except ValueError:
        raise StoreDamaged(f"the receipt of {fields['exchange_id']} cannot be read") from None
    return Record(**fields)


def _minor(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise StoreDamaged(f"{text!r} stands where an amount belongs") from None
