"""Answers that were paid for and given, kept for a buyer who lost one and asks again."""

import json
from dataclasses import dataclass

from mpp_gateway.failpoints import FailPoint
from mpp_gateway.ledger.book import Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import set_due
from mpp_gateway.ledger.sql import Connection

ANSWERS_SCHEMA = """
CREATE TABLE answers (
    exchange_id TEXT PRIMARY KEY REFERENCES exchanges (id),
    key_digest TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    until_s INTEGER NOT NULL
) STRICT;
CREATE INDEX answers_until ON answers (until_s);
CREATE TABLE answers_held (bytes INTEGER NOT NULL) STRICT;
INSERT INTO answers_held VALUES (0)
"""
"""`answers_held` is the length of all bodies together. Summed up anew each time, a day's answers
would keep every payment waiting for the one writer."""

BATCH_ROWS = 100
"""How many of them one turn of the writer forgets: payments wait meanwhile."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One answer, under the `Idempotency-Key` and for the body that it was asked for with."""

    exchange_id: str
    key_digest: str
    request_digest: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    until_s: int


class Answers:
    """The store of kept answers; one for each exchange, the last one given."""

    def __init__(self, database: Database, total_bytes: int) -> None:
        self._database = database
        self._total_bytes = total_bytes

    async def keep(self, answer: KeptAnswer, turn: Turn) -> bool:
        """Keep `answer` until its time, durable when this returns; False for want of room.

        What `turn` has paid for is handed over by that: whoever lost it asks for it here.
        Errors: `StoreUnavailable`.
        """
        around = FailPoint.BEFORE_KEPT, FailPoint.AFTER_KEPT
        return await self._database.write(
            lambda db: _keep(db, answer, turn, self._total_bytes), around
        )

    async def find(self, exchange_id: str, key_digest: str, now_s: int) -> KeptAnswer | None:
        """Return what is kept for the exchange under this key, or None."""
        return await self._database.read(lambda db: _find(db, exchange_id, key_digest, now_s))

    async def purge(self, now_s: int) -> int:
        """Forget what is past its time; return how many, a batch at most."""
        return await self._database.write(lambda db: _purge(db, now_s))


_UPSERT = (
    "INSERT INTO answers (exchange_id, key_digest, request_digest, status, headers, body, until_s)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (exchange_id) DO"
    " UPDATE SET key_digest = excluded.key_digest, request_digest = excluded.request_digest,"
    " status = excluded.status, headers = excluded.headers, body = excluded.body,"
    " until_s = excluded.until_s"
)


def _keep(db: Connection, answer: KeptAnswer, turn: Turn, total_bytes: int) -> bool:
    (held_bytes,) = db.execute("SELECT bytes FROM answers_held").fetchone()
    earlier = db.execute(
        "SELECT length(body) FROM answers WHERE exchange_id = ?", (answer.exchange_id,)
    ).fetchone()
    more_bytes = len(answer.body) - (earlier[0] if earlier else 0)
    if held_bytes + more_bytes > total_bytes:
        return False
    db.execute(_UPSERT, _values(answer))
    _hold(db, more_bytes)
    # In one transaction with it: killed in between, the same key would run the upstream again.
    set_due(db, turn, None)
    return True


def _hold(db: Connection, more_bytes: int) -> None:
    db.execute("UPDATE answers_held SET bytes = bytes + ?", (more_bytes,))


def _values(answer: KeptAnswer) -> tuple[str | int | bytes, ...]:
    return (
        answer.exchange_id,
        answer.key_digest,
        answer.request_digest,
        answer.status,
        json.dumps(answer.headers),
        answer.body,
        answer.until_s,
    )


def _find(db: Connection, exchange_id: str, key_digest: str, now_s: int) -> KeptAnswer | None:
    row = db.execute(
        "SELECT request_digest, status, headers, body, until_s FROM answers"
        # An earlier version announced an answer before it had one: with status 0, and no body.
        " WHERE exchange_id = ? AND key_digest = ? AND until_s > ? AND status > 0",
        (exchange_id, key_digest, now_s),
    ).fetchone()
    if row is None:
        return None
    request_digest, status, headers, body, until_s = row
    fields = tuple((name, value) for name, value in json.loads(headers))
    return KeptAnswer(exchange_id, key_digest, request_digest, status, fields, body, until_s)


def _purge(db: Connection, now_s: int) -> int:
    freed = db.execute(
        "DELETE FROM answers WHERE exchange_id IN"
        " (SELECT exchange_id FROM answers WHERE until_s <= ? LIMIT ?) RETURNING length(body)",
        (now_s, BATCH_ROWS),
    ).fetchall()
    if freed:
        _hold(db, -sum(size for (size,) in freed))
    return len(freed)
