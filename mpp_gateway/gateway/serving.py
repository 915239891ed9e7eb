"""A configuration brought to life: store, rails, snapshot and executor, opened as one."""

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field

from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.gateway.executor import Executor, wall_clock
from mpp_gateway.gateway.reporting import Reporter, late_events
from mpp_gateway.gateway.resolving import Resolver
from mpp_gateway.gateway.slots import NO_MODULES, Slots
from mpp_gateway.gateway.snapshot import Snapshot, compile_offers
from mpp_gateway.ledger.answers import ANSWERS_SCHEMA, Answers
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges, TakenUp
from mpp_gateway.ledger.free_calls import FREE_CALLS_SCHEMA, FreeCalls
from mpp_gateway.ledger.schema import EXCHANGES_SCHEMA, OWED_SCHEMA, QUESTIONS_SCHEMA
from mpp_gateway.ledger.sql import Lease, StoreUnavailable
from mpp_gateway.ledger.stores import driver_of
from mpp_gateway.limits.buckets import TokenBuckets
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails import registry
from mpp_gateway.rails.base import Rail
from mpp_gateway.rails.evm.relays import RELAYS_SCHEMA
from mpp_gateway.rails.evm.submissions import ONCE_SCHEMA, SUBMISSIONS_SCHEMA
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable

log = logging.getLogger(__name__)

MAINTENANCE_S = 15

MIGRATIONS = (
    EXCHANGES_SCHEMA,
    SUBMISSIONS_SCHEMA,
    ANSWERS_SCHEMA,
    QUESTIONS_SCHEMA,
    ONCE_SCHEMA,
    FREE_CALLS_SCHEMA,
    RELAYS_SCHEMA,
    OWED_SCHEMA,
)
"""The schema of the store, one entry a version, forward only: never edit one that was released."""


type Purges = tuple[Callable[[int], Awaitable[int]], ...]
"""Each forgets a batch of what is past its time, and returns how much."""


class OpenBooks:
    """The matched requests whose money is not seen to yet."""

    def __init__(self) -> None:
        self._open: set[object] = set()
        self.idle = asyncio.Event()
        """Set while there are none; a drain waits for it."""
        self.idle.set()

    def open(self, request: object) -> None:
        """Count `request` until its books are closed."""
        self._open.add(request)
        self.idle.clear()

    def close(self, request: object) -> None:
        """Stop counting `request`. Idempotent."""
        self._open.discard(request)
        if not self._open:
            self.idle.set()

    def give_up(self) -> None:
        """Wait for nobody any more: the process ends, and the store has what is open."""
        self._open.clear()
        self.idle.set()


@dataclass(frozen=True, slots=True)
class Serving:
    """What a request takes once and keeps to its end."""

    config: GatewayConfig
    snapshot: Snapshot
    executor: Executor
    exchanges: Exchanges
    rails: dict[str, Rail]
    database: Database
    lease: Lease
    problems: dict[str, str]
    """Why a rail could not be looked after, by the rail's name; see `unready`."""
    resolver: Resolver
    upkeep: tuple[asyncio.Task[None], ...]
    books: OpenBooks = field(default_factory=OpenBooks)

    @property
    def unready(self) -> dict[str, str]:
        """Why a rail takes no payments now, by the rail's name; empty when all do."""
        withheld = {name: rail.withheld_for for name, rail in self.rails.items()}
        return {name: why for name, why in withheld.items() if why} | self.problems

    async def retire(self) -> None:
        """Serve on until every request that has taken this is done with it; then close."""
        await self.books.idle.wait()
        await self.close()

    async def close(self) -> None:
        """Finish what money is under way, then let go of everything."""
        for task in self.upkeep:
            task.cancel()
        await asyncio.gather(*self.upkeep, return_exceptions=True)
        await self.executor.close()
        for rail in self.rails.values():
            await rail.close()
        await self.database.close()
        self.lease.close()


async def open_serving(
    config: GatewayConfig,
    reporter: Reporter,
    *,
    clock: Callable[[], int] = wall_clock,
    build_rail: registry.RailBuilder = registry.build,
    table: RouteTable | None = None,
    slots: Slots = NO_MODULES,
) -> Serving:
    """Open the store, build the rails and compile the routes of `config`.

    Errors: `StoreUnavailable`, `StoreTooNew`, `errors.ConfigError` for a rail that cannot be.
    """
    keys = ChallengeKeys.from_secrets([key.get_secret_value() for key in config.secret_keys])
    scheme = PaymentScheme(keys, config.challenge_ttl_s)
    driver = driver_of(config.store)
    database = Database(driver, MIGRATIONS)
    database.open()
    async with AsyncExitStack() as opened:
        opened.push_async_callback(database.close)
        lease = opened.enter_context(closing(driver.lease(secrets.token_hex(16))))
        exchanges = Exchanges(database, lease.owner)
        await _recover(exchanges, lease, reporter, clock())
        lease.share()
        rails: dict[str, Rail] = {}
        for name, settings in config.methods.items():
            settle_s = math.ceil(config.timeouts.settle_s)
            rails[name] = build_rail(
                name, settings, scheme=scheme, database=database, settle_s=settle_s
            )
            opened.push_async_callback(rails[name].close)
        problems: dict[str, str] = {}
        for rail in rails.values():
            await _look_after(rail, problems, clock(), first=True)
        await _tell_of_orphans(exchanges, rails)
        snapshot = Snapshot(
            config=config,
            table=table or RouteTable.build(config),
            rails=rails,
            scheme=scheme,
            offers=compile_offers(config, rails),
            store_id=await exchanges.store_id(secrets.token_hex(16)),
            slots=slots,
            prefixed=table is None,
        )
        opened.pop_all()  # it is all open: from here on `Serving.close` sees to it
    resolver = Resolver(exchanges, rails, reporter, clock)
    answers, free_calls = Answers(database, config.idempotency.total_bytes), FreeCalls(database)
    buckets = TokenBuckets(config.limits.unpaid_per_minute)
    told = resolver.wanted.set
    executor = Executor(exchanges, answers, rails, reporter, clock, buckets=buckets, ask_soon=told)
    executor.free_calls = free_calls
    purges = (exchanges.purge, answers.purge, free_calls.purge)
    upkeep = (
        asyncio.ensure_future(_keep(exchanges, purges, lease, rails, problems, reporter, clock)),
        asyncio.ensure_future(_ask(resolver)),
    )
    return Serving(
        config,
        snapshot,
        executor,
        exchanges,
        rails,
        database,
        lease,
        problems,
        resolver,
        upkeep,
    )


async def _keep(
    exchanges: Exchanges,
    purges: Purges,
    lease: Lease,
    rails: dict[str, Rail],
    problems: dict[str, str],
    reporter: Reporter,
    clock: Callable[[], int],
) -> None:
    """Look after the books and every rail now and then, for as long as the gateway serves."""
    while True:
        await asyncio.sleep(MAINTENANCE_S)
        await _sweep(exchanges, purges, lease, reporter, clock())
        for rail in rails.values():
            looking = _look_after(rail, problems, clock(), first=False)
            (error,) = await asyncio.gather(looking, return_exceptions=True)
            if error is not None:
                # One rail that fails in a new way must not end the care for all the others.
                log.error("%s could not be looked after: %r", rail.name, error)
                problems[rail.name] = str(error) or type(error).__name__


async def _ask(resolver: Resolver) -> None:
    """Ask at once what an earlier process has left open, then now and then, and when wanted."""
    while True:
        (error,) = await asyncio.gather(resolver.round(), return_exceptions=True)
        if isinstance(error, Exception):
            log.error("open questions could not be asked: %r", error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAINTENANCE_S):
                await resolver.wanted.wait()


async def _recover(exchanges: Exchanges, lease: Lease, reporter: Reporter, now_s: int) -> None:
    """Take up what is left open and nobody is at any more."""
    found = 0
    async for batch in exchanges.recover(lease.is_gone, now_s):
        found += _tell_of_taken_up(batch, reporter, now_s)
    if found:
        log.warning("%d exchanges were left open by a process that is gone", found)


def _tell_of_taken_up(batch: list[TakenUp], reporter: Reporter, now_s: int) -> int:
    for taken in batch:
        about = taken.exchange_id, taken.after, now_s, taken.asset, taken.amount_minor
        reporter.tell_late(late_events(*about))
    return len(batch)


async def _tell_of_orphans(exchanges: Exchanges, rails: dict[str, Rail]) -> None:
    """Say which open questions nobody can answer: their method was renamed or taken out."""
    for name, count in (await exchanges.open_questions()).items():
        if name not in rails:
            log.warning("%d payments by %s are open, and no method has this name now", count, name)


async def _sweep(
    exchanges: Exchanges, purges: Purges, lease: Lease, reporter: Reporter, now_s: int
) -> None:
    async def sweep(now_s: int) -> int:
        return _tell_of_taken_up(await exchanges.sweep(now_s), reporter, now_s)

    try:
        await _recover(exchanges, lease, reporter, now_s)
        if found := await _until_done(sweep, now_s):
            log.warning("%d exchanges were left open by a process that is gone", found)
        for purge in purges:
            await _until_done(purge, now_s)
    except StoreUnavailable as error:
        log.warning("the books could not be swept: %s", error)


async def _until_done(work: Callable[[int], Awaitable[int]], now_s: int) -> int:
    """Do `work` batch by batch, so that payments get their turn in between; return the sum."""
    found = batch = await work(now_s)
    while batch:
        batch = await work(now_s)
        found += batch
    return found


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
        if problems.pop(rail.name, None) is not None:
            log.warning("%s is ready again", rail.name)
