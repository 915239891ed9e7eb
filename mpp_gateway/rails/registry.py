"""From the settings of a method to its rail; a kind's code is imported only when configured."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.reading import Reading
from mpp_gateway.rails.base import Rail, Sent
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.rails.statement import NoStatement, Statement

KINDS = {
    "evm": "mpp_gateway.rails.evm.opening",
    "stripe": "mpp_gateway.rails.stripe.opening",
    "tempo": "mpp_gateway.rails.tempo.opening",
}
"""Module of each kind; it has `open_rail(name, method, *, scheme, database, settle_s)` and, where
the kind can look at its network, `open_statement(name, method, recipients)`."""

RECORDS = ("mpp_gateway.rails.evm.submissions", "mpp_gateway.rails.evm.relays")
"""Modules with tables of their own in the store; each has `sent_for(reading, proof_id)`."""

type RailBuilder = Callable[..., Rail]


def build(
    name: str, method: Any, *, scheme: PaymentScheme, database: Database, settle_s: int
) -> Rail:
    """Return the rail `name` as its settings say; connects to nothing."""
    builder: RailBuilder = import_module(KINDS[method.kind]).open_rail
    return builder(name, method, scheme=scheme, database=database, settle_s=settle_s)


def statement(name: str, method: Any, recipients: frozenset[str]) -> Statement:
    """Return the network's own account of the rail `name`; connects to nothing.

    `recipients` are paid beside the method's own. Errors: `NoStatement`.
    """
    opener = getattr(import_module(KINDS[method.kind]), "open_statement", None)
    if opener is None:
        raise NoStatement(f"payments of the kind {method.kind} cannot be looked up")
    opened: Statement = opener(name, method, recipients)
    return opened


def transactions_for(reading: Reading, proof_id: str) -> Iterator[Sent]:
    """Yield what was written down to be sent for a proof, of whatever rail, the oldest first."""
    for module in RECORDS:
        sent_for: Callable[[Reading, str], Iterator[Sent]] = import_module(module).sent_for
        yield from sent_for(reading, proof_id)
