"""Which store a configuration names."""

from mpp_gateway.config.model import PostgresStore, Store
from mpp_gateway.ledger.lock import keep_private, whole_store
from mpp_gateway.ledger.sql import Driver, StoreUnavailable
from mpp_gateway.ledger.sqlite import SqliteDriver


def driver_of(store: Store) -> Driver:
    """Return what opens `store`. Errors: `StoreUnavailable`."""
    if not isinstance(store, PostgresStore):
        path = whole_store(store.path)
        keep_private(path)
        return SqliteDriver(path)
    try:
        # Heavy, and not installed where nobody asked for it.
        from mpp_gateway.ledger.postgres import PostgresDriver  # noqa: PLC0415
    except ImportError:
        missing = "a store at postgresql:// needs psycopg: pip install 'mpp-gateway[postgres]'"
        raise StoreUnavailable(missing) from None
    return PostgresDriver(store.url.get_secret_value())
