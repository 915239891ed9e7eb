"""An older store is brought up to date where it stands; nothing in it is lost."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.answers import Answers
from mpp_gateway.ledger.book import Claim, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.schema import QUESTIONS_SCHEMA
from mpp_gateway.ledger.sql import StoreTooNew
from mpp_gateway.ledger.states import State
from mpp_gateway.rails.evm.submissions import Fees, Signed, Submissions
from tests.support.components import ROOT
from tests.support.stores import SqlitePlace
from tests.unit.ledger.test_exchanges import NOW_S, VALID_S, claim_of

OWED = (
    "INSERT INTO exchanges (id, proof_id, rail, asset, account, amount_minor, scope, state,"
    " challenge_id, valid_until_s, owner, due_s, created_s, updated_s) VALUES"
    " ('x1', 'p', 'evm', 'usd', 'purse', '10', 'scope', 'unknown', 'c', {valid}, 'o', NULL, 1, 1)"
)


def run(place, migrations, story):
    async def main():
        database = Database(place.driver(), migrations)
        database.open()
        try:
            return await story(database)
        finally:
            await database.close()

    return asyncio.run(main())


LISTED = MIGRATIONS.index(QUESTIONS_SCHEMA)
"""From this version on the books list their rows; a row of an earlier one is put on the lists."""


@pytest.mark.parametrize("version", range(1, LISTED + 1))
def test_an_older_store_is_upgraded_and_keeps_what_is_open(place, version):
    async def leave_open(database: Database) -> None:
        await database.write(lambda db: db.execute(OWED.format(valid=VALID_S)))

    async def find(database: Database) -> None:
        books = Exchanges(database, "lock")
        (question,) = await books.questions("evm", (0, ""), 9)
        assert (question.turn, question.state) == (Turn("x1", 1), State.UNKNOWN)
        assert (question.payment.proof_id, question.payment.payee) == ("p", "")
        again = await books.claim(claim_of("p", 2, challenge_id="c"), NOW_S)
        assert (again.claim, again.exchange_id) == (Claim.UNKNOWN, "x1")
        assert (await books.claim(claim_of("q", 3), NOW_S)).claim is Claim.FRESH

    run(place, MIGRATIONS[:version], leave_open)
    run(place, MIGRATIONS, find)
    with pytest.raises(StoreTooNew):
        run(place, MIGRATIONS[:version], find)


# What was given away, as it was: no later version of the code may change it.
GIVEN_AWAY = ROOT / "tests" / "golden" / "store" / "version-3.sql"
SENDER = "0x" + "aa" * 20


def given_away(path):
    """Make the store of version 3, with money in every place that it has for it."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(GIVEN_AWAY.read_text())
        db.execute("PRAGMA user_version=3")
        db.execute(OWED.format(valid=VALID_S))
        nonces = [(7, "p", "done"), (8, "q", "open")]
        for nonce, proof, state in nonces:
            db.execute(
                "INSERT INTO submissions VALUES (8453, ?, ?, ?, ?, 9, 1)",
                (SENDER, nonce, proof, state),
            )
        # Dearer ones replace others of their nonce; two may be of the same second.
        for tx_hash, nonce, fee, at_s in [("0xc", 8, 100, 5), ("0xb", 8, 99, 5), ("0xa", 7, 9, 4)]:
            db.execute(
                "INSERT INTO broadcasts VALUES (?, 8453, ?, ?, x'02', ?, '1', ?)",
                (tx_hash, SENDER, nonce, str(fee), at_s),
            )
        db.execute("INSERT INTO answers VALUES ('x1', 'k', 'r', 0, '[]', x'', 9)")
        db.commit()


def test_a_store_that_was_given_away_is_upgraded_with_what_was_sent_in_its_order(tmp_path):
    given_away(tmp_path / "store.db")

    async def find(database: Database) -> None:
        nonces = Submissions(database, 8453, bytes.fromhex(SENDER[2:]))
        (open_one,) = await nonces.unfinished()
        assert (open_one.nonce, [s.tx_hash for s in open_one.sent]) == (8, ["0xb", "0xc"])
        assert await nonces.sent_for("q") == ("0xc", "0xb")
        assert await nonces.sent_for("p") == ("0xa",)
        signed = Signed("0xd", b"3", Fees(120, 1))
        assert await nonces.replace(open_one, signed, 6, fills=False)
        assert await nonces.sent_for("q") == ("0xd", "0xc", "0xb")
        # Announced, and never given: whoever asks again is not answered with nothing.
        assert await Answers(database, 9).find("x1", "k", 1) is None
        (question,) = await Exchanges(database, "lock").questions("evm", (0, ""), 9)
        assert question.payment.proof_id == "p"

    run(SqlitePlace(tmp_path / "store.db"), MIGRATIONS, find)


def test_a_schema_that_was_given_away_is_that_of_its_migrations(tmp_path):
    def shape(path) -> set[tuple[str, str]]:
        with closing(sqlite3.connect(path)) as db:
            found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            return {(name, " ".join(sql.split())) for name, sql in found}

    given_away(tmp_path / "given.db")

    async def nothing(_: Database) -> None:
        """Only what opening does."""

    run(SqlitePlace(tmp_path / "made.db"), MIGRATIONS[:3], nothing)
    assert shape(tmp_path / "made.db") == shape(tmp_path / "given.db")
