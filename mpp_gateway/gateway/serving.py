"""A configuration brought to life: store, rails, snapshot and executor, opened as one."""

import asyncio
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
from mpp_gateway.ledger.exchanges import EXCHANGES_SCHEMA, Exchanges
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails import registry
from mpp_gateway.rails.base import Rail
from mpp_gateway.rails.evm.submissions import SUBMISSIONS_SCHEMA
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable

log = logging.getLogger(__name__)

MAINTENANCE_S = 15

MIGRATIONS = (EXCHANGES_SCHEMA, SUBMISSIONS_SCHEMA)
"""The schema of the store, one entry a version, forward only: never edit one that was released."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What a request takes once and keeps to its end."""

    config: GatewayConfig
    snapshot: Snapshot
    executor: Executor
    exchanges: Exchanges
    rails: dict[str, Rail]
    database: Database
    lock: IO[bytes]
    """The file beside the store that is locked while this process uses it."""
    problems: dict[str, str]
    """Why a rail is not ready, by the rail's name; empty when all are."""
    upkeep: asyncio.Task[None]

    async def close(self) -> None:
        """Finish what money is under way, then let go of everything."""
        self.upkeep.cancel()
        await self.executor.close()
        for rail in self.rails.values():
            await rail.close()
        await self.database.close()
        self.lock.close()


async def open_serving(
    config: GatewayConfig,
    sink: Sink,
    *,
    clock: Callable[[], int] = wall_clock,
    build_rail: registry.RailBuilder = registry.build,
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
    lock = await _lock(config.store_path, exchanges, clock())
    rails = {
        name: build_rail(
            name,
            settings,
            scheme=scheme,
            database=database,
            settle_s=int(config.timeouts.settle_s),
        )
        for name, settings in config.methods.items()
    }
    problems: dict[str, str] = {}
    for rail in rails.values():
        await _look_after(rail, problems, clock(), first=True)
    snapshot = Snapshot(
        config=config,
        table=table or RouteTable.build(config),
        rails=rails,
        scheme=scheme,
        offers=compile_offers(config, rails),
        prefixed=table is None,
    )
    executor = Executor(exchanges, rails, sink, clock)
    upkeep = asyncio.ensure_future(_keep(rails, problems, clock))
    return Serving(config, snapshot, executor, exchanges, rails, database, lock, problems, upkeep)


async def _keep(rails: dict[str, Rail], problems: dict[str, str], clock: Callable[[], int]) -> None:
    """Look after every rail now and then, for as long as the gateway serves."""
    while True:
        await asyncio.sleep(MAINTENANCE_S)
        for rail in rails.values():
            await _look_after(rail, problems, clock(), first=False)


async def _look_after(rail: Rail, problems: dict[str, str], now_s: int, *, first: bool) -> None:
    try:
        if first or rail.name in problems:
            await rail.self_check()
        await rail.maintain(now_s)
    except Problem as problem:
        if rail.name not in problems:
            log.warning("%s is not ready: %s %s", rail.name, problem.detail, problem.private)
        problems[rail.name] = problem.detail or problem.title
    except StoreUnavailable as error:
        log.warning("%s could not be looked after: %s", rail.name, error)
    else:
        problems.pop(rail.name, None)


async def _lock(store: Path, exchanges: Exchanges, now_s: int) -> IO[bytes]:
    """Share the store with other processes; the first one settles what was left open."""
    path = store.with_name(store.name + ".lock")
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreUnavailable(f"cannot lock the store: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Somebody else is serving from this store: what is open there is not ours to take.
        fcntl.flock(file, fcntl.LOCK_SH)
        return file
    found = await exchanges.recover(now_s)
    if found:
        log.warning("%d exchanges were open when the gateway last stopped", found)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file
