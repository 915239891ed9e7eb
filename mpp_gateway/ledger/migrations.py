"""The schema of the store, one entry a version, forward only: never edit one that was released."""

from mpp_gateway.ledger.exchanges import EXCHANGES_SCHEMA

MIGRATIONS = (EXCHANGES_SCHEMA,)
