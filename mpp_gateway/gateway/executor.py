"""Performs the effects of the sans-io stages: the one place that awaits stores and rails."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from mpp_gateway.errors import NotReady
from mpp_gateway.gateway.inquiries import Inquiries
from mpp_gateway.gateway.machine import Machine
from mpp_gateway.gateway.reporting import Reporter, late_events
from mpp_gateway.gateway.steps import (
    AskRail,
    Attend,
    ClaimProof,
    Effect,
    Emit,
    FindAnswer,
    GiveBackTokens,
    GiveUp,
    Hold,
    KeepAnswer,
    LookUp,
    MarkDelivered,
    Move,
    NeedBody,
    RenewTurn,
    Reply,
    Settle,
    TakeFreeCall,
    TakeToken,
    Verify,
)
from mpp_gateway.ledger.answers import Answers, KeptAnswer
from mpp_gateway.ledger.book import Claimed, ClaimRequest, PaymentRecord, Turn
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.free_calls import FreeCalls
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.ledger.states import State
from mpp_gateway.limits.buckets import TokenBuckets
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails.base import Outcome, Rail, Settlement

log = logging.getLogger(__name__)

STORE_RETRY_S = 5
ATTEND_S = 20
ATTENDED_S = 80
"""While an answer goes out its turn is renewed every so often, for so long."""
WRITE_AGAIN_S = 1
"""How soon what has to be written down is tried again."""
GIVE_UP_S = 2
"""How long a request that ends waits until that is written down."""
LAST_WORD_S = 1
"""How long a rail that ends at its deadline has to say how: it knows more than that it is late."""
RECORD_S = 5
"""How long a stop waits for what was settled to be written down."""

_TOLD = Reply(None, 0)
"""What telling comes to: nothing that the machine reads."""


def wall_clock() -> int:
    """Return the time in unix seconds."""
    return int(time.time())


def new_request_id() -> str:
    """Return a fresh name for a request, 24 hex digits: the millisecond, then chance.

    Those of one time stand beside each other in the store's indexes: a batch writes to few pages.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


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
        self.free_calls: FreeCalls | None = None
        """Who counts them; without, there are none."""
        self._inquiries = Inquiries()
        self._settling: set[asyncio.Future[Outcome]] = set()
        self._late: set[asyncio.Task[Any]] = set()
        self._attended: dict[Turn, asyncio.TimerHandle] = {}
        """The calls whose answers are on their way, and when each turn is renewed."""
        self._ending: dict[tuple[Turn, State], asyncio.Task[bool | None]] = {}
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
            self._leave(effect.turn)
            self._later(self._mark_delivered(effect))
            return Reply(None, self.clock())
        if isinstance(effect, Attend):
            self._attend(effect.turn)
            return Reply(None, self.clock())
        if isinstance(effect, TakeToken):
            wait_ms = self._buckets.take(effect.client, self._reporter.ticker())
            return Reply(wait_ms, self.clock())
        if isinstance(effect, GiveBackTokens):
            self._buckets.give_back(effect.client, effect.tokens)
            return Reply(None, self.clock())
        try:
            value = await self._perform(effect, began_ms)
        except Problem as problem:
            return problem
        except StoreUnavailable as error:
            log.error("the store is unavailable: %s", error)  # noqa: TRY400 - no traceback needed
            return NotReady("The gateway cannot keep its books now.", retry_after_s=STORE_RETRY_S)
        return Reply(value, self.clock())

    async def _perform(self, effect: Effect, began_ms: int) -> Any:
        now_s = self.clock()
        match effect:
            case GiveUp():
                return await self._give_up(effect, began_ms)
            case ClaimProof() | Hold() | Move() | RenewTurn():
                return await self._write(effect, now_s)
            case AskRail(rail):
                return await self._rails[rail].ready(now_s)
            case Verify(presented):
                return await self._rails[presented.rail].verify(presented, now_s)
            case Settle():
                return await self._settle(effect, now_s)
            case FindAnswer() | KeepAnswer():
                return await self._kept(effect, now_s)
            case LookUp(rail, payment, is_spaced):
                return await self._look_up(rail, payment, now_s, is_spaced=is_spaced)
            case TakeFreeCall(call):
                return await self.free_calls.take(call, now_s) if self.free_calls else None
            case _:
                raise TypeError(f"no such effect: {effect!r}")

    async def _write(
        self, effect: ClaimProof | Hold | Move | RenewTurn, now_s: int
    ) -> Claimed | bool:
        match effect:
            case ClaimProof(request):
                return await self._claim(request, now_s)
            case Hold(turn, spendable_minor, seen_seq, settled_by_s):
                return await self._exchanges.hold(
                    turn, spendable_minor, seen_seq, now_s, settled_by_s
                )
            case RenewTurn(turn, due_s):
                return await self._exchanges.renew(turn, due_s)
            case Move():
                return await self._move(effect, now_s)

    async def _move(self, effect: Move, now_s: int) -> bool:
        return await self._exchanges.move(
            effect.turn,
            effect.before,
            effect.after,
            now_s,
            reference=effect.reference,
            receipt=effect.receipt,
            detail=effect.detail,
            due_s=effect.due_s,
            amount_minor=effect.amount_minor,
            owed_minor=effect.owed_minor,
        )

    async def _kept(self, effect: FindAnswer | KeepAnswer, now_s: int) -> KeptAnswer | bool | None:
        if isinstance(effect, FindAnswer):
            return await self._answers.find(effect.exchange_id, effect.key_digest, now_s)
        is_kept = await self._answers.keep(effect.answer, effect.turn)
        if is_kept:
            self._leave(effect.turn)
        return is_kept

    async def _claim(self, request: ClaimRequest, now_s: int) -> Claimed:
        try:
            return await self._exchanges.claim(request, now_s)
        except StoreUnavailable as error:
            if error.may_be_written:
                unclaimed = self._until_written(
                    lambda: self._exchanges.unclaim(request, self.clock()), request.exchange_id
                )
                self._later(unclaimed)
            raise

    async def _give_up(self, effect: GiveUp, began_ms: int) -> bool:
        self._leave(effect.turn)
        # A request may end in several places; what is being written down need not be twice.
        key = (effect.turn, effect.after)
        task = self._ending.get(key)
        if task is None:
            task = self._ending[key] = self._later(self._until_given_up(effect, began_ms))
            task.add_done_callback(lambda _: self._ending.pop(key, None))
        await asyncio.wait({task}, timeout=GIVE_UP_S)
        if not task.done():
            raise StoreUnavailable(f"the end of {effect.turn.exchange_id} is written down later")
        return bool(task.result())

    async def _until_given_up(self, effect: GiveUp, began_ms: int) -> bool | None:
        is_given_up = await self._until_written(
            lambda: self._exchanges.give_up(
                effect.turn,
                effect.after,
                self.clock(),
                reference=effect.reference,
                receipt=effect.receipt,
                detail=effect.detail,
                amount_minor=effect.amount_minor,
            ),
            effect.turn.exchange_id,
        )
        for event in effect.told if is_given_up else ():
            self._reporter.tell(event, began_ms)
        if is_given_up and effect.after is State.REFUNDING:
            self._ask_soon()
        return is_given_up

    async def _until_written[T](
        self, writing: Callable[[], Awaitable[T]], exchange_id: str
    ) -> T | None:
        """Write it down, again and again while the store refuses; None if a stop comes first.

        What a stop leaves open is taken up at the next start.
        """
        tries = 0
        while True:
            try:
                written = await writing()
            except StoreUnavailable as error:
                tries += 1
                if tries == 1:
                    log.warning("%s is written down when the store is back: %s", exchange_id, error)
            else:
                if tries:
                    log.warning("%s is written down, after %d tries", exchange_id, tries + 1)
                return written
            if await self._is_stopped_within(WRITE_AGAIN_S):
                return None

    async def _settle(self, effect: Settle, now_s: int) -> Outcome:
        presented = effect.presented
        rail = self._rails[presented.rail]
        task = asyncio.ensure_future(rail.settle(presented, effect.amount_minor, now_s))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        done, _ = await asyncio.wait({task}, timeout=effect.timeout_s + LAST_WORD_S)
        if not done:
            # The attempt goes on: stopping it half-way would only hide what it does. What it
            # comes to is written down when it is known, and the buyer's retry finds it there.
            self._later(self._settled_late(effect, task))
            return Outcome(Settlement.UNKNOWN, detail="the rail did not answer in time")
        return _outcome_of(task)

    def _later[T](self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Let `work` run on its own; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task

    async def _mark_delivered(self, effect: MarkDelivered) -> None:
        """Write it down, however long it takes.

        What is never written down is served once more, to who has had it: ours to bear.
        """
        await self._until_written(
            lambda: self._exchanges.mark_delivered(effect.turn), effect.turn.exchange_id
        )

    def _attend(self, turn: Turn) -> None:
        """Renew `turn` now and then: a sweep would take a long answer for one that is left."""
        loop = asyncio.get_running_loop()
        self._attended[turn] = loop.call_later(ATTEND_S, self._attend_again, turn)

    def _attend_again(self, turn: Turn) -> None:
        self._later(self._renew(turn))
        self._attend(turn)

    async def _renew(self, turn: Turn) -> None:
        try:
            is_ours = await self._exchanges.renew(turn, self.clock() + ATTENDED_S)
        except StoreUnavailable as error:
            log.warning("%s could not be renewed: %s", turn.exchange_id, error)
            return
        if is_ours or turn not in self._attended:
            return
        # The answer is out already: to cut it off would leave a buyer who has paid with half of it.
        # Whoever took the call up has made a credit of it, which buys it once more.
        self._leave(turn)
        log.warning("%s was taken up elsewhere while its answer goes out", turn.exchange_id)

    def _leave(self, turn: Turn) -> None:
        if (renewing := self._attended.pop(turn, None)) is not None:
            renewing.cancel()

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
        # Of what was presented, as the rail says it: of what was asked for, less may be left than
        # nothing, and a buyer who has paid would have neither call nor money.
        used_minor = effect.presented.amount_minor - outcome.change_minor
        # The request's own word that it gave up waiting may come after this: it finds no way then.
        late = GiveUp(
            effect.turn,
            after,
            outcome.reference,
            outcome.headers,
            "settled late",
            used_minor,
            late_events(
                effect.turn.exchange_id,
                after,
                self.clock(),
                effect.presented.offer.amount.asset.code,
                used_minor,
                reference=outcome.reference,
                was_paid=False,
            ),
        )
        await self._until_given_up(late, self._reporter.begin())

    async def _look_up(
        self, name: str, payment: PaymentRecord, now_s: int, *, is_spaced: bool
    ) -> Outcome:
        if is_spaced and not self._inquiries.may_ask(payment.proof_id, now_s):
            return Outcome(Settlement.UNKNOWN, detail="asked a moment ago", may_be_paid=True)
        try:
            outcome = await self._rails[name].look_up(payment, now_s)
        except Problem:
            return Outcome(Settlement.UNKNOWN)
        if outcome.state is not Settlement.UNKNOWN:
            self._inquiries.ended(payment.proof_id)
        return outcome

    async def close(self) -> None:
        """Wait for the money that is under way, and for its record."""
        if self._settling:
            await asyncio.wait(self._settling)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECORD_S):
                    await self._idle.wait()
        self._stopped.set()
        for turn in list(self._attended):
            self._leave(turn)  # what is cut off now is a credit at the next start
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
