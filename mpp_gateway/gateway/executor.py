"""Performs the effects of the sans-io stages: the one place that awaits stores and rails."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from mpp_gateway.errors import NotReady
from mpp_gateway.gateway.machine import Machine
from mpp_gateway.gateway.reporting import Reporter
from mpp_gateway.gateway.steps import (
    AskRail,
    ClaimProof,
    Effect,
    Emit,
    FindAnswer,
    ForgetPending,
    GiveBackTokens,
    Hold,
    KeepAnswer,
    LookUp,
    MarkDelivered,
    Move,
    NeedBody,
    RenewTurn,
    Reply,
    Settle,
    TakeToken,
    Verify,
)
from mpp_gateway.ledger.answers import Answers, KeptAnswer
from mpp_gateway.ledger.book import PaymentRecord, State
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.limits.buckets import TokenBuckets
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails.base import Outcome, Rail, Settlement

log = logging.getLogger(__name__)

STORE_RETRY_S = 5
RECORD_S = 5
"""How long a stop waits for what was settled to be written down."""

_TOLD = Reply(None, 0)
"""What telling comes to: nothing that the machine reads."""


def wall_clock() -> int:
    """Return the time in unix seconds."""
    return int(time.time())


class Executor:
    """Drives one stage at a time to its end. Shared by every host of the machine."""

    def __init__(
        self,
        exchanges: Exchanges,
        answers: Answers,
        rails: Mapping[str, Rail],
        reporter: Reporter,
        clock: Callable[[], int] = wall_clock,
        *,
        buckets: TokenBuckets,
        ask_soon: Callable[[], None] = lambda: None,
    ) -> None:
        self.clock = clock
        self._reporter = reporter
        self._buckets = buckets
        self._exchanges = exchanges
        self._answers = answers
        self._rails = rails
        self._ask_soon = ask_soon
        self._settling: set[asyncio.Future[Outcome]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._running = 0
        self._idle = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run[T](self, machine: Machine[T], began_ms: int, body: bytes | None = None) -> T:
        """Run `machine` and return its verdict; `body` answers `NeedBody`.

        `began_ms` is when the request began, as `Reporter.begin` said it.

        A Problem that an effect meets is raised into the machine, which knows what to undo.
        """
        self._running += 1
        self._idle.clear()
        try:
            return await self._drive(machine, began_ms, body)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _drive[T](self, machine: Machine[T], began_ms: int, body: bytes | None) -> T:
        reply: Reply | Problem | None = None
        while True:
            try:
                if reply is None:
                    effect = next(machine)
                elif isinstance(reply, Problem):
                    effect = machine.throw(reply)
                else:
                    effect = machine.send(reply)
            except StopIteration as end:
                verdict: T = end.value
                return verdict
            reply = await self._reply(effect, began_ms, body)

    async def _reply(self, effect: Effect, began_ms: int, body: bytes | None) -> Reply | Problem:
        if isinstance(effect, Emit):
            self._reporter.tell(effect.event, began_ms)
            return _TOLD
        if isinstance(effect, NeedBody):
            return Reply(body, self.clock())
        if isinstance(effect, MarkDelivered):
            self._later(self._mark_delivered(effect))
            return Reply(None, self.clock())
        if isinstance(effect, TakeToken):
            wait_ms = self._buckets.take(effect.client, self._reporter.ticker())
            return Reply(wait_ms, self.clock())
        if isinstance(effect, GiveBackTokens):
            self._buckets.give_back(effect.client, effect.tokens)
            return Reply(None, self.clock())
        try:
            value = await self._perform(effect)
        except Problem as problem:
            return problem
        except StoreUnavailable as error:
            log.error("the store is unavailable: %s", error)  # noqa: TRY400 - no traceback needed
            return NotReady("The gateway cannot keep its books now.", retry_after_s=STORE_RETRY_S)
        return Reply(value, self.clock())

    async def _perform(self, effect: Effect) -> Any:
        now_s = self.clock()
        match effect:
            case ClaimProof(request):
                return await self._exchanges.claim(request, now_s)
            case AskRail(rail):
                return await self._rails[rail].ready(now_s)
            case Verify(presented):
                return await self._rails[presented.rail].verify(presented, now_s)
            case Hold(turn, spendable_minor, seen_seq):
                return await self._exchanges.hold(turn, spendable_minor, seen_seq, now_s)
            case Move():
                return await self._move(effect, now_s)
            case RenewTurn(turn, due_s):
                return await self._exchanges.renew(turn, due_s)
            case Settle():
                return await self._settle(effect, now_s)
            case FindAnswer() | KeepAnswer() | ForgetPending():
                return await self._kept(effect, now_s)
            case LookUp(rail, payment):
                return await self._look_up(rail, payment, now_s)
            case _:
                raise TypeError(f"no such effect: {effect!r}")

    async def _move(self, effect: Move, now_s: int) -> bool:
        moved = await self._exchanges.move(
            effect.turn,
            effect.before,
            effect.after,
            now_s,
            reference=effect.reference,
            receipt=effect.receipt,
            detail=effect.detail,
            due_s=effect.due_s,
            amount_minor=effect.amount_minor,
        )
        if moved and effect.after is State.REFUNDING:
            self._ask_soon()
        return moved

    async def _kept(
        self, effect: FindAnswer | KeepAnswer | ForgetPending, now_s: int
    ) -> KeptAnswer | bool | None:
        if isinstance(effect, FindAnswer):
            return await self._answers.find(effect.exchange_id, effect.key_digest, now_s)
        if isinstance(effect, KeepAnswer):
            return await self._answers.keep(effect.answer)
        await self._answers.forget_pending(effect.exchange_id)
        return None

    async def _settle(self, effect: Settle, now_s: int) -> Outcome:
        presented = effect.presented
        rail = self._rails[presented.rail]
        task = asyncio.ensure_future(rail.settle(presented, effect.amount_minor, now_s))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        done, _ = await asyncio.wait({task}, timeout=effect.timeout_s)
        if not done:
            # The attempt goes on: stopping it half-way would only hide what it does. What it
            # comes to is written down when it is known, and the buyer's retry finds it there.
            self._later(self._settled_late(effect, task))
            return Outcome(Settlement.UNKNOWN, detail="the rail did not answer in time")
        return _outcome_of(task)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` run on its own; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _mark_delivered(self, effect: MarkDelivered) -> None:
        """Write it down, again and again while the store refuses, until a stop.

        What is never written down is served once more, to who has had it: ours to bear.
        """
        while True:
            try:
                if effect.pending is not None:
                    await self._answers.announce(effect.pending)
                await self._exchanges.mark_delivered(effect.turn)
            except StoreUnavailable:
                log.exception("the delivery of %s is not recorded", effect.turn.exchange_id)
            else:
                return
            if await self._is_stopped_within(STORE_RETRY_S):
                return

    async def _is_stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def _settled_late(self, effect: Settle, task: asyncio.Future[Outcome]) -> None:
        await asyncio.wait({task})
        outcome = _outcome_of(task)
        after = {Settlement.SETTLED: State.CREDITED, Settlement.REFUSED: State.RELEASED}.get(
            outcome.state
        )
        if after is None:
            return
        try:
            # The request's own word that it gave up waiting may come after this: said here too, it
            # cannot come too late and hide the outcome.
            await self._exchanges.move(effect.turn, State.SETTLING, State.UNKNOWN, self.clock())
            await self._exchanges.move(
                effect.turn,
                State.UNKNOWN,
                after,
                self.clock(),
                reference=outcome.reference,
                receipt=outcome.headers,
                detail="settled late",
            )
        except StoreUnavailable:
            log.exception("a late settlement of %s was not recorded", effect.turn.exchange_id)

    async def _look_up(self, name: str, payment: PaymentRecord, now_s: int) -> Outcome:
        try:
            return await self._rails[name].look_up(payment, now_s)
        except Problem:
            return Outcome(Settlement.UNKNOWN)

    async def close(self) -> None:
        """Wait for the money that is under way, and for its record."""
        if self._settling:
            await asyncio.wait(self._settling)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECORD_S):
                    await self._idle.wait()
        self._stopped.set()
        if self._late:
            await asyncio.wait(self._late)


def _outcome_of(task: asyncio.Future[Outcome]) -> Outcome:
    if task.cancelled():
        return Outcome(Settlement.UNKNOWN, detail="settling was cut off")
    error = task.exception()
    if error is None:
        return task.result()
    # A fault in the rail's code says nothing about the money: only the rail can.
    log.error("settling failed in the rail: %r", error)
    return Outcome(Settlement.UNKNOWN, detail=type(error).__name__)
