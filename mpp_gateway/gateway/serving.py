"""A configuration brought to life: store, rails, snapshot and executor, opened and closed together."""

import fcntl
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.gateway.executor import Executor, Sink, wall_clock
from mpp_gateway.gateway.snapshot import Snapshot, compile_offers
from mpp_gateway.ledger.database import Database, StoreUnavailable
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.migrations import MIGRATIONS
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.rails import registry
from mpp_gateway.rails.base import Rail
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable

log = logging.getLogger(__name__)

type RailBuilder = Callable[[str, object, PaymentScheme, Database], Rail]


@dataclass(frozen=True, slots=True)
class Serving:
    """What a request takes once and keeps to its end."""

    config: GatewayConfig
    snapshot: Snapshot
    executor: Executor
    exchanges: Exchanges
    rails: dict[str, Rail]
    database: Database
    alone: IO[bytes]
    """The lock file beside the store, held while this process uses it."""

    async def close(self) -> None:
        """Finish what money is under way, then let go of everything."""
        await self.executor.close()
        for rail in self.rails.values():
            await rail.close()
        await self.database.close()
        self.alone.close()


async def open_serving(
    config: GatewayConfig,
    sink: Sink,
    *,
    clock: Callable[[], int] = wall_clock,
    build_rail: RailBuilder = registry.build,
    table: RouteTable | None = None,
) -> Serving:
    """Open the store, build the rails and compile the routes of `config`.

    Errors: `StoreUnavailable`, `StoreTooNew`, `errors.ConfigError` for a rail that cannot be.
    """
    keys = ChallengeKeys.from_secrets([key.get_secret_value() for key in config.secret_keys])
    scheme = PaymentScheme(keys, config.challenge_ttl_s)
    database = Database(config.store_path, MIGRATIONS)
    database.open()
    exchanges = Exchanges(database)
    alone, is_alone = _lock(config.store_path)
    if is_alone:
        # Only while no other process uses the store: it would take the claims of a living one.
        found = await exchanges.recover(clock())
        if found:
            log.warning("%d exchanges were open when the gateway last stopped", found)
        fcntl.flock(alone, fcntl.LOCK_SH)
    rails = {
        name: build_rail(name, settings, scheme, database)
        for name, settings in config.methods.items()
    }
    snapshot = Snapshot(
        config=config,
        table=table or RouteTable.build(config),
        rails=rails,
        scheme=scheme,
        offers=compile_offers(config, rails),
        prefixed=table is None,
    )
    executor = Executor(exchanges, rails, sink, clock)
    return Serving(config, snapshot, executor, exchanges, rails, database, alone)


def _lock(store: Path) -> tuple[IO[bytes], bool]:
    path = store.with_name(store.name + ".lock")
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreUnavailable(f"cannot lock the store: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_SH)
        return file, False
    return file, True
