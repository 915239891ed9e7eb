"""An older store is brought up to date where it stands; nothing in it is lost."""

import asyncio

import pytest

from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.book import Claim, State, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.schema import QUESTIONS_SCHEMA
from mpp_gateway.ledger.sql import StoreTooNew
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
