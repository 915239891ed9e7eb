"""The durable record of every paid exchange: who claimed which proof, and where the money is."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mpp_gateway.failpoints import FailPoint
from mpp_gateway.ledger import claims
from mpp_gateway.ledger.book import (
    Claimed,
    ClaimRequest,
    PaymentRecord,
    Question,
    Turn,
)
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.moves import Change, give_up, move, take_up
from mpp_gateway.ledger.sql import Connection
from mpp_gateway.ledger.states import LEFT_OPEN, State

BATCH_ROWS = 500
"""How much of the books one turn of the writer may take up or forget: payments wait meanwhile."""

AROUND = {state: (FailPoint(f"before {state}"), FailPoint(f"after {state}")) for state in State}

type IsGone = Callable[[Connection, str], bool]
"""Tells whether nobody who marks rows with a name is left; see `sql.Lease`."""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """An exchange that nobody was at any more, and what became of it; see `states.LEFT_OPEN`."""

    exchange_id: str
    asset: str
    amount_minor: int
    after: State


class Exchanges:
    """Every question and every move about an exchange, each one atomic and durable.

    `owner` is the lock that this process serves under; what it claims is marked with it.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def claim(self, request: ClaimRequest, now_s: int) -> Claimed:
        """Bind `request.proof_id` to one exchange, or say what became of it; insert-if-absent."""
        return await self._database.write(
            lambda db: claims.claim(db, request, self._owner, now_s),
            AROUND[State.CLAIMED],
            begins=True,
        )

    async def unclaim(self, request: ClaimRequest, now_s: int) -> bool:
        """Give back what `claim` of this very request may have written before the store was lost.

        Nobody heard of that claim: left alone it would keep its buyer off until the proof is dead.
        """
        return await self._database.write(lambda db: claims.unclaim(db, request, now_s))

    async def hold(
        self,
        turn: Turn,
        spendable_minor: int | None,
        seen_seq: int,
        now_s: int,
        settled_by_s: int | None = None,
    ) -> bool:
        """Move to VERIFIED if the payer's unsettled holds and this price fit `spendable_minor`.

        On to SETTLING, if it is to be settled at once, by `settled_by_s`.

        `seen_seq` is the journal's last entry before the balance was read: what settled after it
        is counted as still unpaid.
        """
        after = State.VERIFIED if settled_by_s is None else State.SETTLING
        return await self._database.write(
            lambda db: _hold(db, turn, spendable_minor, seen_seq, now_s, settled_by_s),
            AROUND[after],
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
        owed_minor: int | None = None,
    ) -> bool:
        """Move from `before` to `after` and write the journal; False if it is not `turn`'s move.

        `due_s` is when we are done with it, or gone; None leaves the time that was given before.
        `amount_minor` is what was used of what was held, None for all of it; `refund` is what the
        rail calls the payment that gave it back; `owed_minor` is what the rail is asked to move.
        Errors: `IllegalTransition` for a pair that the table lacks, `OverPosted` for an amount
        above what was held, `StoreUnavailable`.
        """
        change = Change(
            before, after, reference, receipt, detail, due_s, amount_minor, refund, owed_minor
        )
        return await self._database.write(lambda db: move(db, turn, change, now_s), AROUND[after])

    async def give_up(
        self,
        turn: Turn,
        after: State,
        now_s: int,
        *,
        reference: str | None = None,
        receipt: tuple[tuple[str, str], ...] | None = None,
        detail: str = "",
        amount_minor: int | None = None,
    ) -> bool:
        """Bring `turn` to `after`, where its money is known to be, from wherever the store has it.

        False if it is not `turn`'s any more, or there is no way (`states.WAYS_OUT`): then somebody
        else has seen to it.
        """
        change = Change(after, after, reference, receipt, detail, amount_minor=amount_minor)
        return await self._database.write(
            lambda db: give_up(db, turn, change, now_s), AROUND[after]
        )

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
        return await self._database.write(lambda db: set_due(db, turn, due_s))

    async def recover(self, is_gone: IsGone, now_s: int) -> AsyncIterator[list[TakenUp]]:
        """Take up what processes have left of which `is_gone` says that they are.

        Nothing moved for CLAIMED and VERIFIED. An exchange that had begun to settle becomes
        UNKNOWN, so that only the rail can resolve it. Yields them batch by batch.
        """
        for owner in await self._database.read(_owners):
            # One transaction for all of them would keep every payment waiting.
            work = partial(_recover, owner=owner, is_gone=is_gone, now_s=now_s)
            while found := await self._database.write(work):
                yield found

    async def mark_delivered(self, turn: Turn) -> bool:
        """Note that the answer which `turn` paid for was handed over; False if it is not its."""
        around = FailPoint.BEFORE_DELIVERED, FailPoint.AFTER_DELIVERED
        return await self._database.write(lambda db: set_due(db, turn, None), around)

    async def questions(self, rail: str, after: tuple[int, str], limit: int) -> list[Question]:
        """Return what `rail` must be asked, the oldest first, from after that (time, id) on."""
        return await self._database.read(lambda db: _questions(db, rail, after, limit))

    async def open_questions(self) -> dict[str, int]:
        """Return how many questions there are for each rail, configured or not."""
        return await self._database.read(
            lambda db: dict(
                db.execute(
                    "SELECT rail, count(*) FROM exchanges WHERE asked_s IS NOT NULL GROUP BY rail"
                ).fetchall()
            )
        )

    async def store_id(self, fresh: str) -> str:
        """Return the id of this very store: `fresh` if it has none yet, else what it was given.

        Challenges carry it: without it a payment made to one store buys again at another one, or
        at the same gateway with a new file, for the chain shows that it is paid.
        """
        return await self._database.write(lambda db: _store_id(db, fresh))

    async def sweep(self, now_s: int) -> list[TakenUp]:
        """Take up what its process should have been done with; return it, a batch at most.

        A settlement becomes UNKNOWN, a claim is released, and what was paid and not handed over is
        credited. Each row is due by the deadlines of the process that wrote it, not by ours.
        """
        return await self._database.write(
            lambda db: _take_up(db, "due_s < ?", now_s, now_s, "by its process")
        )

    async def purge(self, now_s: int) -> int:
        """Forget releases whose proofs can move no money any more; count them, a batch at most.

        What guards against a second use is never forgotten: settled, credited, refunded, unknown.
        """
        return await self._database.write(lambda db: _purge(db, now_s))


# Two searches, each by an index of its own that has no released row: whoever lets a payer's calls
# fail by the thousand would otherwise make every hold walk over all of them, in the only writer.
HELD_BY_OTHERS = """
SELECT amount_minor, 0 FROM exchanges
WHERE account = (SELECT account FROM exchanges WHERE id = ?) AND held_until_s > ? AND id <> ?
UNION ALL
SELECT amount_minor, 0 FROM exchanges
WHERE account = (SELECT account FROM exchanges WHERE id = ?) AND paid_seq > ? AND id <> ?
"""
"""A proof that is out of date moves no money any more. Counted for ever, one settlement that stayed
unknown would lock its payer out."""
_PRICE = "SELECT amount_minor, 1 FROM exchanges WHERE id = ?"
_PRICE_AND_HELD = f"{_PRICE} UNION ALL {HELD_BY_OTHERS}"


def _hold(
    db: Connection,
    turn: Turn,
    spendable_minor: int | None,
    seen_seq: int,
    now_s: int,
    settled_by_s: int | None = None,
) -> bool:
    key = turn.exchange_id
    needed_minor = price_minor = 0
    rows = db.execute(_PRICE_AND_HELD, (key, key, now_s, key, key, seen_seq, key)).fetchall()
    for minor, is_price in rows:
        needed_minor += int(minor)
        price_minor = int(minor) if is_price else price_minor
    # A balance that nobody could read is known to cover this one payment and no other: without
    # this line a payer with money for one call runs twenty at the seller's cost.
    if needed_minor > (price_minor if spendable_minor is None else spendable_minor):
        return False
    # Without rows it was taken from us, released and forgotten: then this moves nothing.
    if not move(db, turn, Change(State.CLAIMED, State.VERIFIED), now_s):
        return False
    if settled_by_s is None:
        return True
    return move(db, turn, Change(State.VERIFIED, State.SETTLING, due_s=settled_by_s), now_s)


def set_due(db: Connection, turn: Turn, due_s: int | None) -> bool:
    """Say until when `turn` is in charge of what it has paid for; None: it was handed over."""
    # Handed over, it stays so: a renewal that comes late would have a sweep give it away again.
    changed = db.execute(
        "UPDATE exchanges SET due_s = ? WHERE id = ? AND attempt = ? AND state = ?"
        " AND (due_s IS NOT NULL OR ? = 1)",
        (due_s, turn.exchange_id, turn.attempt, State.SETTLED.value, int(due_s is None)),
    ).rowcount
    return changed == 1


def _owners(db: Connection) -> list[str]:
    left = "SELECT DISTINCT owner FROM exchanges WHERE due_s IS NOT NULL"
    return [owner for (owner,) in db.execute(left).fetchall()]


def _recover(db: Connection, owner: str, is_gone: IsGone, now_s: int) -> list[TakenUp]:
    # Asked anew in each transaction: somebody of that name may have begun to serve meanwhile.
    if not is_gone(db, owner):
        return []
    # Paid, and no answer was handed over: killed in between. Without that row the buyer's money
    # would have bought nothing, and the same credential would be called used.
    return _take_up(
        db, "due_s IS NOT NULL AND owner = ?", owner, now_s, "by a process that is gone"
    )


def _take_up(
    db: Connection, where: str, parameter: str | int, now_s: int, by: str
) -> list[TakenUp]:
    # Sorted here: by the store, every batch would be looked for among all that is open.
    rows = sorted(
        db.execute(
            f"SELECT id, attempt, state, asset, amount_minor FROM exchanges WHERE {where} LIMIT ?",  # noqa: S608 - ours
            (parameter, BATCH_ROWS),
        ).fetchall()
    )
    take_up(db, [row[:3] for row in rows], now_s, f"left open {by}")
    return [
        TakenUp(exchange_id, asset, int(minor), LEFT_OPEN[State(state)])
        for exchange_id, _, state, asset, minor in rows
    ]


def _questions(db: Connection, rail: str, after: tuple[int, str], limit: int) -> list[Question]:
    rows = db.execute(
        "SELECT id, attempt, asset, state, asked_s, amount_minor, owed_minor, proof_id, account,"
        " payee, valid_until_s, challenge_id, reference FROM exchanges"
        " WHERE rail = ? AND asked_s IS NOT NULL AND (asked_s, id) > (?, ?)"
        " ORDER BY asked_s, id LIMIT ?",
        (rail, *after, limit),
    )
    return [_question(rail, *row) for row in rows]


def _question(
    rail: str,
    exchange_id: str,
    attempt: int,
    asset: str,
    state: str,
    asked_s: int,
    amount_minor: str,
    owed_minor: str,
    *record: Any,
) -> Question:
    proof_id, account, payee, valid_until_s, challenge_id, reference = record
    payment = PaymentRecord(
        proof_id,
        account,
        payee,
        int(amount_minor),
        valid_until_s,
        challenge_id,
        reference,
        claims.owed(owed_minor),
    )
    return Question(Turn(exchange_id, attempt), rail, asset, State(state), payment, asked_s)


def _store_id(db: Connection, fresh: str) -> str:
    row = db.execute("SELECT id FROM store").fetchone()
    if row is None:
        db.execute("INSERT INTO store (id) VALUES (?)", (fresh,))
    return fresh if row is None else str(row[0])


def _purge(db: Connection, now_s: int) -> int:
    # A release was never paid, so the journal's sums are the same without its lines.
    dead = db.execute(
        "SELECT id FROM exchanges WHERE forget_s < ? LIMIT ?",
        (now_s, BATCH_ROWS),
    ).fetchall()
    db.executemany("DELETE FROM journal WHERE exchange_id = ?", dead)
    db.executemany("DELETE FROM exchanges WHERE id = ?", dead)
    return len(dead)
