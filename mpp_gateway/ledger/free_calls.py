"""How many free calls every client has had, counted where no restart forgets and no two processes
count apart."""

from dataclasses import dataclass

from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sql import Connection

FREE_CALLS_SCHEMA = """
CREATE TABLE free_calls (
    scope TEXT NOT NULL,
    client TEXT NOT NULL,
    until_s INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (scope, client)
) STRICT;
CREATE INDEX free_calls_until ON free_calls (until_s)
"""
"""`until_s` is the end of the period that is counted. The row of `EVERYBODY` counts all clients."""

EVERYBODY = "*"
BATCH_ROWS = 500
"""How many of them one turn of the writer forgets: payments wait meanwhile."""
REMEMBERED_MAX = 65_536


@dataclass(frozen=True, slots=True)
class FreeCall:
    """One call that a client asks for without paying. `scope` names what it is counted for."""

    scope: str
    client: str
    count: int
    """How many each client has in a period."""
    total: int
    """How many all clients together have in it; it bounds the rows of the table too."""
    until_s: int
    """When the period ends, in unix seconds."""


class FreeCalls:
    """The counts of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used_up: dict[tuple[str, str], int] = {}
        """Until when somebody has none left: that does not change, so nobody is asked again."""

    async def take(self, call: FreeCall, now_s: int) -> int | None:
        """Return how many the client has left after this one; None if it had none any more.

        It is counted, durably, when this returns. Errors: `StoreUnavailable`.
        """
        for client in (call.client, EVERYBODY):
            if self._used_up.get((call.scope, client), 0) > now_s:
                return None
        left, spent = await self._database.write(lambda db: _take(db, call), begins=True)
        if spent is not None:
            if len(self._used_up) >= REMEMBERED_MAX:
                self._used_up.clear()
            self._used_up[call.scope, spent] = call.until_s
        return left

    async def purge(self, now_s: int) -> int:
        """Forget the periods that are over; return how many rows, a batch at most."""
        return await self._database.write(lambda db: _purge(db, now_s))


def _take(db: Connection, call: FreeCall) -> tuple[int | None, str | None]:
    """Return how many are left, and who has none, if that is so."""
    for client, most in ((EVERYBODY, call.total), (call.client, call.count)):
        if _used(db, call, client) >= most:
            return None, client
    for client in (EVERYBODY, call.client):
        used = _used(db, call, client) + 1
        db.execute(
            "INSERT INTO free_calls (scope, client, until_s, used) VALUES (?, ?, ?, ?)"
            # Never earlier: of two clocks at the turn of a period, the one ahead would find none
            # used each time that the other one has counted.
            " ON CONFLICT (scope, client) DO UPDATE SET used = excluded.used, until_s = CASE WHEN"
            " free_calls.until_s > excluded.until_s THEN free_calls.until_s"
            " ELSE excluded.until_s END",
            (call.scope, client, call.until_s, used),
        )
    return call.count - used, None


def _used(db: Connection, call: FreeCall, client: str) -> int:
    row = db.execute(
        # Of an earlier period nothing counts; one that ends later has begun already, for a clock
        # that went back must not give calls anew.
        "SELECT used FROM free_calls WHERE scope = ? AND client = ? AND until_s >= ?",
        (call.scope, client, call.until_s),
    ).fetchone()
    return 0 if row is None else int(row[0])


def _purge(db: Connection, now_s: int) -> int:
    return db.execute(
        "DELETE FROM free_calls WHERE (scope, client) IN"
        " (SELECT scope, client FROM free_calls WHERE until_s <= ? LIMIT ?)",
        (now_s, BATCH_ROWS),
    ).rowcount
