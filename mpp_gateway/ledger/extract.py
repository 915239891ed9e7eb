"""A copy of what is to be compared with the rails, so that the store need not be held meanwhile.

Asking a payment network takes minutes; one snapshot of the store must not be kept open for so long.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mpp_gateway.ledger.inquiry import Record

_SCHEMA = """
CREATE TABLE booked (
    proof_id TEXT PRIMARY KEY, exchange_id TEXT NOT NULL, rail TEXT NOT NULL, asset TEXT NOT NULL,
    account TEXT NOT NULL, payee TEXT NOT NULL, amount_minor TEXT NOT NULL, state TEXT NOT NULL,
    reference TEXT NOT NULL, refund TEXT NOT NULL, created_s INTEGER NOT NULL, due_s INTEGER,
    updated_s INTEGER NOT NULL
);
CREATE INDEX booked_rail ON booked (rail, state, reference);
CREATE INDEX booked_refund ON booked (lower(refund)) WHERE state = 'refunded';
CREATE INDEX booked_account ON booked (account, state);
CREATE TABLE looked_at (rail TEXT NOT NULL, reference TEXT NOT NULL, PRIMARY KEY (rail, reference))
"""
_COLUMNS = (
    "proof_id, exchange_id, rail, asset, account, payee, amount_minor, state, reference, refund,"
    " created_s, due_s, updated_s"
)


@dataclass(frozen=True, slots=True)
class BookedExchange:
    """What of an exchange is compared with its rail."""

    proof_id: str
    exchange_id: str
    rail: str
    asset: str
    account: str
    payee: str
    amount_minor: int
    state: str
    reference: str
    refund: str
    created_s: int
    due_s: int | None
    updated_s: int
    """Since when it is in its state."""


class Extract:
    """The copy, in a file of its own that ends with it: a large store needs no memory for it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_SCHEMA)

    def add(self, records: Iterable[Record]) -> None:
        """Copy exchanges."""
        self._db.execute("BEGIN")
        self._db.executemany(
            f"INSERT OR IGNORE INTO booked ({_COLUMNS}) VALUES ({', '.join('?' * 13)})",  # noqa: S608 - ours
            map(_values, records),
        )
        self._db.execute("COMMIT")

    def rails(self) -> dict[str, int]:
        """Return how many exchanges each rail has."""
        found = self._db.execute("SELECT rail, count(*) FROM booked GROUP BY rail ORDER BY rail")
        return dict(found.fetchall())

    def payees(self, rail: str) -> frozenset[str]:
        """Return everybody who was paid through a rail."""
        asked = "SELECT DISTINCT payee FROM booked WHERE rail = ? AND payee <> ''"
        return frozenset(payee for (payee,) in self._db.execute(asked, (rail,)))

    def givers(self) -> frozenset[str]:
        """Return everybody from whom money was given back, or is owed back, through any rail."""
        asked = (
            "SELECT DISTINCT payee FROM booked WHERE state IN ('refunding', 'refunded')"
            " AND payee <> ''"
        )
        return frozenset(payee for (payee,) in self._db.execute(asked))

    def given_back_by(self, reference: str) -> list[BookedExchange]:
        """Return what was given back under a reference, through whatever rail."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM booked WHERE state = 'refunded' AND lower(refund) = ?"  # noqa: S608
            " ORDER BY proof_id",
            (reference.lower(),),
        )
        return list(map(_booked, rows))

    def has_paid(self, account: str) -> bool:
        """Tell whether an account has ever paid for a call, through whatever rail."""
        asked = (
            "SELECT 1 FROM booked WHERE account = ?"
            " AND state IN ('settled', 'credited', 'refunding', 'refunded') LIMIT 1"
        )
        return self._db.execute(asked, (account,)).fetchone() is not None

    def owed_back(self, account: str, payee: str, amount_minor: int) -> int:
        """Return how many exchanges with such a payment are to be given back, of any rail."""
        asked = (
            "SELECT count(*) FROM booked WHERE account = ? AND state = 'refunding' AND payee = ?"
            " AND amount_minor = ?"
        )
        found = self._db.execute(asked, (account, payee, str(amount_minor)))
        return int(found.fetchone()[0])

    def first_s(self, rail: str) -> int | None:
        """Return when the rail's first exchange began."""
        asked = "SELECT min(created_s) FROM booked WHERE rail = ?"
        (found,) = self._db.execute(asked, (rail,)).fetchone()
        return None if found is None else int(found)

    def in_states(self, rail: str, states: Iterable[str], by: str) -> Iterator[BookedExchange]:
        """Yield a rail's exchanges in some states, those with one `reference` or `refund` together.

        `by` is one of these two.
        """
        assert by in ("reference", "refund")
        asked = sorted(states)
        marks = ", ".join("?" * len(asked))
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM booked WHERE rail = ? AND state IN ({marks})"  # noqa: S608
            f" ORDER BY {by}, proof_id",
            (rail, *asked),
        )
        return map(_booked, rows)

    def waiting(self) -> Iterator[BookedExchange]:
        """Yield every exchange that is to be given back, those that wait longest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM booked WHERE state = 'refunding'"  # noqa: S608 - ours
            " ORDER BY updated_s, proof_id"
        )
        return map(_booked, rows)

    def of_proof(self, proof_id: str) -> BookedExchange | None:
        """Return the exchange of a proof, of whatever rail."""
        asked = f"SELECT {_COLUMNS} FROM booked WHERE proof_id = ?"  # noqa: S608 - ours
        row = self._db.execute(asked, (proof_id,)).fetchone()
        return None if row is None else _booked(row)

    def proofs_of(self, text: str) -> tuple[str, ...]:
        """Return the proofs that begin with a text, of whatever rail."""
        asked = "SELECT proof_id FROM booked WHERE proof_id >= ? AND proof_id < ? ORDER BY proof_id"
        return tuple(proof for (proof,) in self._db.execute(asked, (text, text + "\U0010ffff")))

    def look(self, rail: str, reference: str) -> bool:
        """Note that a reference is looked at; False if it was before."""
        done = self._db.execute(
            "INSERT OR IGNORE INTO looked_at VALUES (?, ?)", (rail, reference.lower())
        )
        return done.rowcount == 1

    def close(self) -> None:
        """Forget it all."""
        self._db.close()


def _values(record: Record) -> tuple[object, ...]:
    return (
        record.proof_id,
        record.exchange_id,
        record.rail,
        record.asset,
        record.account,
        record.payee,
        str(record.amount_minor),
        record.state,
        record.reference,
        record.refund,
        record.created_s,
        record.due_s,
        record.updated_s,
    )


def _booked(row: tuple[object, ...]) -> BookedExchange:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    fields["amount_minor"] = int(str(fields["amount_minor"]))
    return BookedExchange(**fields)  # type: ignore[arg-type]
