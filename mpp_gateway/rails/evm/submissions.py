"""Which nonce of which gas key carries which payment: written down before anything is sent.

All functions run inside one transaction of the store; together they make one key safe to use from
many processes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.reading import Reading
from mpp_gateway.ledger.sql import Connection
from mpp_gateway.rails.base import Sent

SUBMISSIONS_SCHEMA = """
CREATE TABLE submissions (
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    proof_id TEXT NOT NULL,
    state TEXT NOT NULL,
    valid_until_s INTEGER NOT NULL,
    leased_at_s INTEGER NOT NULL,
    PRIMARY KEY (chain_id, sender, nonce)
) STRICT;
CREATE UNIQUE INDEX submissions_open_proof ON submissions (proof_id) WHERE state = 'open';
CREATE INDEX submissions_unfinished ON submissions (chain_id, sender, nonce)
    WHERE state IN ('open', 'filling', 'free');
CREATE TABLE broadcasts (
    tx_hash TEXT PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    max_fee_wei TEXT NOT NULL,
    tip_wei TEXT NOT NULL,
    at_s INTEGER NOT NULL
) STRICT;
CREATE INDEX broadcasts_nonce ON broadcasts (chain_id, sender, nonce)
"""

# open: signed and stored, maybe sent. done: in a block, whatever it did there. free: never sent,
# the signature is erased, the nonce may be leased again. filling: a transfer of nothing to
# ourselves takes the place of what must not be sent any more. lost: somebody else used the nonce.
OPEN, DONE, FREE, FILLING, LOST = "open", "done", "free", "filling", "lost"

ONCE = "refund:"
"""Begins the name of a call that no contract keeps from happening twice: the store has to."""
GAP = "gap:"
"""Begins the name of what only fills a nonce: of no call, or of a refund made under another."""
FOREVER_S = 2**40
ONCE_SCHEMA = """
CREATE INDEX submissions_proof ON submissions (proof_id);
CREATE TABLE numbered (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tx_hash TEXT NOT NULL UNIQUE,
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    max_fee_wei TEXT NOT NULL,
    tip_wei TEXT NOT NULL,
    at_s INTEGER NOT NULL
) STRICT;
INSERT INTO numbered (tx_hash, chain_id, sender, nonce, raw, max_fee_wei, tip_wei, at_s)
    SELECT tx_hash, chain_id, sender, nonce, raw, max_fee_wei, tip_wei, at_s FROM broadcasts
    ORDER BY at_s, length(max_fee_wei), max_fee_wei;
DROP TABLE broadcasts;
ALTER TABLE numbered RENAME TO broadcasts;
CREATE INDEX broadcasts_nonce ON broadcasts (chain_id, sender, nonce)
"""
"""Numbers say which of a nonce's transactions was signed last; of what was signed before there were
numbers it is the dearer one, since only that replaces another."""


# By indexes that leave out what is done: every settlement asks these, in the only writer, and a key
# that has sold a million calls has a million rows.
UNFINISHED = (
    "SELECT nonce, proof_id, state, valid_until_s FROM submissions WHERE chain_id = ?"
    " AND sender = ? AND state IN ('open', 'filling', 'free') ORDER BY nonce"
)
LOWEST_FREE = (
    "SELECT min(nonce) FROM submissions WHERE chain_id = ? AND sender = ? AND nonce >= ?"
    " AND state IN ('open', 'filling', 'free') AND state = 'free'"
)
HIGHEST = "SELECT max(nonce) FROM submissions WHERE chain_id = ? AND sender = ?"


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers for gas, in wei (EIP-1559)."""

    max_fee_wei: int
    tip_wei: int

    def capped(self, ceiling_wei: int | None) -> "Fees":
        """Return these fees, lowered to a ceiling where there is one."""
        if ceiling_wei is None:
            return self
        return Fees(min(self.max_fee_wei, ceiling_wei), min(self.tip_wei, ceiling_wei))

    def bumped(self, market: "Fees", ceiling_wei: int | None) -> "Fees | None":
        """Return fees that may replace these: an eighth more, or the market's.

        None if an eighth more is above the ceiling: then nothing may replace them.
        """
        least = Fees(self.max_fee_wei * 9 // 8 + 1, self.tip_wei * 9 // 8 + 1)
        if ceiling_wei is not None and least.max_fee_wei > ceiling_wei:
            return None
        return Fees(
            max(least.max_fee_wei, market.max_fee_wei), max(least.tip_wei, market.tip_wei)
        ).capped(ceiling_wei)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction. `raw` can move money: it stays out of every text."""

    tx_hash: str
    raw: bytes = field(repr=False)
    fees: Fees


@dataclass(frozen=True, slots=True)
class Submission:
    """One leased nonce and every transaction ever signed for it, the newest last."""

    nonce: int
    proof_id: str
    state: str
    valid_until_s: int
    sent: tuple[Signed, ...]
    is_fresh: bool = False
    """True if this call leased the nonce: nothing of it was ever sent."""

    @property
    def is_once(self) -> bool:
        """Whether only the store sees to it that the call happens once."""
        return self.proof_id.startswith(ONCE)


type Sign = Callable[[int], Signed]


class Submissions:
    """The nonces of one key on one chain, in the store."""

    def __init__(self, database: Database, chain_id: int, sender: bytes) -> None:
        self._database = database
        self._key = (chain_id, "0x" + sender.hex())

    async def lease(
        self,
        proof_id: str,
        valid_until_s: int,
        floor: int,
        sign: Sign,
        now_s: int,
        *,
        passed: int | None = None,
    ) -> Submission:
        """Return the proof's submission, or sign one under the next nonce and store it.

        `floor` is the chain's own count for the key. `sign` runs inside the transaction, so no
        nonce is ever taken by a transaction that a crash could forget. `passed` is the nonce of an
        earlier submission that is known to have done nothing.
        """

        def work(db: Connection) -> Submission:
            found = _find(db, self._key, proof_id)
            if found is not None and found.nonce != passed:
                return found
            nonce = _next_nonce(db, self._key, floor)
            signed = sign(nonce)
            db.execute(
                "INSERT INTO submissions (chain_id, sender, nonce, proof_id, state, valid_until_s,"
                " leased_at_s) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (chain_id, sender, nonce) DO UPDATE SET"
                " proof_id = excluded.proof_id, state = excluded.state,"
                " valid_until_s = excluded.valid_until_s, leased_at_s = excluded.leased_at_s",
                (*self._key, nonce, proof_id, OPEN, valid_until_s, now_s),
            )
            _store(db, self._key, nonce, signed, now_s)
            return Submission(nonce, proof_id, OPEN, valid_until_s, (signed,), is_fresh=True)

        leased = await self._database.write(work)
        reach(FailPoint.LEASED)
        return leased

    async def replace(self, row: Submission, signed: Signed, now_s: int, *, fills: bool) -> bool:
        """Store another transaction for the nonce of `row`; `fills` if it carries no payment.

        False, and nothing stored, if the row has moved on since it was read.
        """
        # Under its name, what fills the nonce would be taken for the refund.
        proof_id = GAP + row.proof_id if fills and row.is_once else row.proof_id
        state = FILLING if fills else OPEN

        def work(db: Connection) -> bool:
            moved = db.execute(
                "UPDATE submissions SET state = ?, proof_id = ? WHERE chain_id = ? AND sender = ?"
                " AND nonce = ? AND state = ? AND proof_id = ?",
                (state, proof_id, *self._key, row.nonce, row.state, row.proof_id),
            ).rowcount
            if moved:
                _store(db, self._key, row.nonce, signed, now_s)
            return bool(moved)

        replaced = await self._database.write(work)
        reach(FailPoint.REPLACED)
        return replaced

    async def fill(self, nonce: int, signed: Signed, now_s: int) -> bool:
        """Store what fills a nonce that nobody has leased; False if somebody has by now."""

        def work(db: Connection) -> bool:
            inserted = db.execute(
                "INSERT INTO submissions (chain_id, sender, nonce, proof_id, state, valid_until_s,"
                " leased_at_s) VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT DO NOTHING",
                (*self._key, nonce, GAP, FILLING, now_s),
            ).rowcount
            if inserted:
                _store(db, self._key, nonce, signed, now_s)
            return bool(inserted)

        return await self._database.write(work)

    async def reopen(self, row: Submission) -> bool:
        """Follow again what was done or lost, and of which the chain knows nothing any more.

        False if its call was signed for another nonce since: sent under both, a refund would be
        paid twice.
        """

        def work(db: Connection) -> bool:
            return bool(
                db.execute(
                    REOPEN, (*self._key, row.nonce, row.state, row.proof_id, *self._key, row.nonce)
                ).rowcount
            )

        return await self._database.write(work)

    async def finish(self, row: Submission, state: str, *, has_failed: bool = False) -> None:
        """Record that a nonce is in a block (`DONE`), or gone (`LOST`): then the rest is erased.

        Of a call that must happen once nothing is: what it was sent as is how it is known again.
        """

        def work(db: Connection) -> None:
            self._move(db, row.nonce, state)
            if has_failed and not row.is_once:
                # Its buyer is told that nothing was charged. Sent anew where a reorganisation takes
                # the failure back, it would charge for a call that was never made.
                db.execute(UNSIGN, (b"", *self._key, row.nonce))
            if state == LOST and not row.is_once:
                _erase(db, self._key, row.nonce)

        if state == DONE:
            reach(FailPoint.MINED)
        await self._database.write(work)
        if state == LOST:
            reach(FailPoint.LOST)

    async def release(self, nonce: int) -> bool:
        """Give back a nonce whose transaction certainly reached nobody, and erase the signature.

        True if a higher nonce is open: then this one is a gap, and those wait for it.
        """

        def work(db: Connection) -> bool:
            # Erased with the release, in one transaction: a signature whose payment was refused
            # must not be there for a later rebroadcast to send.
            _erase(db, self._key, nonce)
            self._move(db, nonce, FREE)
            (higher,) = db.execute(
                "SELECT count(*) FROM submissions WHERE chain_id = ? AND sender = ? AND nonce > ?"
                " AND state = ?",
                (*self._key, nonce, OPEN),
            ).fetchone()
            return bool(higher)

        is_gap = await self._database.write(work)
        reach(FailPoint.RETURNED)
        return is_gap

    async def find(self, proof_id: str) -> Submission | None:
        """Return the submission under way for a proof, or None.

        Of a call that must happen once (`ONCE`) the last that is in a block counts too.
        """
        return await self._database.read(lambda db: _find(db, self._key, proof_id))

    async def at(self, nonce: int) -> Submission | None:
        """Return what has a nonce, in whatever state."""

        def work(db: Connection) -> Submission | None:
            row = db.execute(AT, (*self._key, nonce)).fetchone()
            return None if row is None else _submission(db, self._key, row)

        return await self._database.read(work)

    async def sent_for(self, proof_id: str) -> tuple[str, ...]:
        """Return every transaction that is stored for a proof, by hash, the newest first."""
        rows = await self._database.read(
            lambda db: db.execute(SENT_FOR, (*self._key, proof_id)).fetchall()
        )
        return tuple(tx_hash for (tx_hash,) in rows)

    async def unfinished(self) -> tuple[Submission, ...]:
        """Return every nonce that still needs a block, in order, and the free ones among them."""

        def work(db: Connection) -> tuple[Submission, ...]:
            rows = db.execute(UNFINISHED, self._key).fetchall()
            return tuple(_submission(db, self._key, row) for row in rows)

        return await self._database.read(work)

    def _move(self, db: Connection, nonce: int, state: str) -> None:
        db.execute(
            "UPDATE submissions SET state = ? WHERE chain_id = ? AND sender = ? AND nonce = ?",
            (state, *self._key, nonce),
        )


_SENT_FOR = (
    "SELECT s.nonce, s.state, b.tx_hash, b.max_fee_wei, b.at_s FROM submissions s JOIN broadcasts b"
    " ON b.chain_id = s.chain_id AND b.sender = s.sender AND b.nonce = s.nonce"
    " WHERE s.proof_id = ? OR s.proof_id = ? ORDER BY b.seq"
)


def sent_for(reading: Reading, proof_id: str) -> Iterator[Sent]:
    """Yield the transactions of a proof and of its refund, and of what took their nonces' places.

    The oldest come first.
    """
    for nonce, state, tx_hash, max_fee_wei, at_s in reading.rows(
        _SENT_FOR, (proof_id, ONCE + proof_id)
    ):
        yield Sent(tx_hash, at_s, f"nonce {nonce}, {state}, at most {max_fee_wei} wei for gas")


_OPEN_ONE = (
    "SELECT nonce, proof_id, state, valid_until_s FROM submissions"
    " WHERE chain_id = ? AND sender = ? AND proof_id = ? AND state = 'open'"
)
_SIGNED_AT = (
    "(SELECT max(b.seq) FROM broadcasts b WHERE b.chain_id = {0}.chain_id"
    " AND b.sender = {0}.sender AND b.nonce = {0}.nonce)"
)
# The last that was signed, which need not have the highest nonce: one that was given back is leased
# again. The earlier one did nothing: believed to be the last, it would have the refund paid anew.
_LAST_ONE = (
    "SELECT nonce, proof_id, state, valid_until_s FROM submissions s"  # noqa: S608 - ours
    " WHERE chain_id = ? AND sender = ? AND proof_id = ? AND state IN ('open', 'done')"
    f" ORDER BY state = 'open' DESC, {_SIGNED_AT.format('s')} DESC LIMIT 1"
)
AT = (
    "SELECT nonce, proof_id, state, valid_until_s FROM submissions"
    " WHERE chain_id = ? AND sender = ? AND nonce = ?"
)
REOPEN = (
    "UPDATE submissions SET state = 'open' WHERE chain_id = ? AND sender = ?"  # noqa: S608 - ours
    " AND nonce = ? AND state = ? AND proof_id = ? AND NOT EXISTS (SELECT 1 FROM submissions o"
    " WHERE o.chain_id = ? AND o.sender = ? AND o.proof_id = submissions.proof_id AND o.nonce <> ?"
    " AND (o.state = 'open' OR (o.state = 'done' AND"
    f" {_SIGNED_AT.format('o')} > {_SIGNED_AT.format('submissions')})))"
)
UNSIGN = "UPDATE broadcasts SET raw = ? WHERE chain_id = ? AND sender = ? AND nonce = ?"
SENT_FOR = (
    "SELECT b.tx_hash FROM submissions s JOIN broadcasts b ON b.chain_id = s.chain_id"
    " AND b.sender = s.sender AND b.nonce = s.nonce"
    " WHERE s.chain_id = ? AND s.sender = ? AND s.proof_id = ? ORDER BY b.seq DESC"
)


def _find(db: Connection, key: tuple[int, str], proof_id: str) -> Submission | None:
    # Without the finished ones a refund that was paid and not written down is paid again.
    query = _LAST_ONE if proof_id.startswith(ONCE) else _OPEN_ONE
    row = db.execute(query, (*key, proof_id)).fetchone()
    return None if row is None else _submission(db, key, row)


def _submission(db: Connection, key: tuple[int, str], row: tuple[int, str, str, int]) -> Submission:
    nonce, proof_id, state, valid_until_s = row
    return Submission(nonce, proof_id, state, valid_until_s, _sent(db, key, nonce))


def _sent(db: Connection, key: tuple[int, str], nonce: int) -> tuple[Signed, ...]:
    rows = db.execute(
        "SELECT tx_hash, raw, max_fee_wei, tip_wei FROM broadcasts"
        " WHERE chain_id = ? AND sender = ? AND nonce = ? ORDER BY seq",
        (*key, nonce),
    ).fetchall()
    return tuple(
        Signed(tx_hash, raw, Fees(int(max_fee), int(tip))) for tx_hash, raw, max_fee, tip in rows
    )


def _next_nonce(db: Connection, key: tuple[int, str], floor: int) -> int:
    """Return the lowest nonce that was given back, else one past the highest ever leased."""
    (free,) = db.execute(LOWEST_FREE, (*key, floor)).fetchone()
    if free is not None:
        return int(free)
    (highest,) = db.execute(HIGHEST, key).fetchone()
    return floor if highest is None else max(floor, int(highest) + 1)


def _store(db: Connection, key: tuple[int, str], nonce: int, signed: Signed, now_s: int) -> None:
    db.execute(
        "INSERT INTO broadcasts (tx_hash, chain_id, sender, nonce, raw, max_fee_wei, tip_wei,"
        " at_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            signed.tx_hash,
            *key,
            nonce,
            signed.raw,
            str(signed.fees.max_fee_wei),
            str(signed.fees.tip_wei),
            now_s,
        ),
    )


def _erase(db: Connection, key: tuple[int, str], nonce: int) -> None:
    db.execute(
        "DELETE FROM broadcasts WHERE chain_id = ? AND sender = ? AND nonce = ?", (*key, nonce)
    )
