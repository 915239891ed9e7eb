"""From the settings of a method to its rail. A kind's code is imported only when it is configured."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mpp_gateway.ledger.database import Database
from mpp_gateway.rails.base import Rail
from mpp_gateway.rails.payment_scheme import PaymentScheme

KINDS = {"evm": "mpp_gateway.rails.evm.seller"}
"""Module of each kind; it has `build(name, settings, scheme, database) -> Rail`."""

type Builder = Callable[[str, Any, PaymentScheme, Database], Rail]


def build(name: str, settings: Any, scheme: PaymentScheme, database: Database) -> Rail:
    """Return the rail `name` as its settings say; opens no connection."""
    builder: Builder = import_module(KINDS[settings.kind]).build
    return builder(name, settings, scheme, database)
