"""Which transactions of buyers we have broadcast: written down before they are sent."""

from collections.abc import Iterator

from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.reading import Reading
from mpp_gateway.rails.base import Sent
from mpp_gateway.rails.evm.request import TxKey

RELAYS_SCHEMA = """
CREATE TABLE relays (
    chain_id INTEGER NOT NULL,
    tx_hash TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    at_s INTEGER NOT NULL,
    PRIMARY KEY (chain_id, tx_hash)
) STRICT
"""
"""Without what was signed: that is the buyer's, and a node that has it needs it no more."""


class Relays:
    """The transactions of one chain, in the store."""

    def __init__(self, database: Database, chain_id: int) -> None:
        self._database = database
        self._chain_id = chain_id

    async def note(self, tx_hash: str, nonce: int, now_s: int) -> None:
        """Write down that a transaction is about to be sent. Errors: `StoreUnavailable`."""
        await self._database.write(
            lambda db: db.execute(
                "INSERT INTO relays (chain_id, tx_hash, nonce, at_s) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (self._chain_id, tx_hash, nonce, now_s),
            )
        )

    async def nonce_of(self, tx_hash: str) -> int | None:
        """Return the nonce of a transaction that may have been sent; None if it was not, by us."""
        row = await self._database.read(
            lambda db: db.execute(
                "SELECT nonce FROM relays WHERE chain_id = ? AND tx_hash = ?",
                (self._chain_id, tx_hash),
            ).fetchone()
        )
        return None if row is None else int(row[0])


def sent_for(reading: Reading, proof_id: str) -> Iterator[Sent]:
    """Yield the transaction of a proof, if it was to be sent from here."""
    key = TxKey.parse(proof_id)
    if key is None:
        return
    query = "SELECT nonce, at_s FROM relays WHERE chain_id = ? AND tx_hash = ?"
    for nonce, at_s in reading.rows(query, (key.chain_id, key.tx_hash)):
        yield Sent(key.tx_hash, at_s, f"nonce {nonce} of the payer")
