"""Asks the rails what only they can tell, with no buyer at hand: open settlements, owed refunds."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from mpp_gateway.gateway.reporting import Reporter, late_events
from mpp_gateway.ledger.book import Question
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails.base import Outcome, Rail, Settlement

log = logging.getLogger(__name__)

QUESTIONS_MAX = 100
"""How much one rail is asked in one round: the rest has its turn in the next."""
AT_ONCE = 4
START: tuple[int, str] = (0, "")
RARELY_S = 3600
"""How long a question rests at most that has had no answer for long."""
OF_ITS_AGE = 8
"""It rests for so large a part of the time that it is open."""
RESTING_MAX = 10_000

ANSWERS: dict[tuple[State, Settlement], State] = {
    (State.UNKNOWN, Settlement.SETTLED): State.CREDITED,
    (State.UNKNOWN, Settlement.REFUSED): State.RELEASED,
    (State.REFUNDING, Settlement.SETTLED): State.REFUNDED,
}
"""What an exchange becomes; any other answer leaves the question open."""


class Resolver:
    """Ends what is UNKNOWN, and pays back what is REFUNDING. Safe in many processes at once.

    It never asks a buyer for anything, and never has a payment made a second time: a settlement is
    only looked up, and a rail's `refund` pays back once however often it is called.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        rails: Mapping[str, Rail],
        reporter: Reporter,
        clock: Callable[[], int],
    ) -> None:
        self._exchanges = exchanges
        self._rails = rails
        self._reporter = reporter
        self._clock = clock
        self._next = dict.fromkeys(rails, START)
        self._rests_until: dict[str, int] = {}
        """By the id of the exchange: when it is asked about again."""
        self.wanted = asyncio.Event()
        """Set when there is a new question that should not wait for the next round."""

    async def round(self) -> int:
        """Ask each rail a batch of what is open; return how many questions were answered."""
        self.wanted.clear()
        found = await asyncio.gather(*(self._ask_rail(name) for name in self._rails))
        return sum(found)

    async def _ask_rail(self, name: str) -> int:
        try:
            asked = await self._exchanges.questions(name, self._next[name], QUESTIONS_MAX)
        except StoreUnavailable as error:
            log.warning("the open questions for %s cannot be read: %s", name, error)
            return 0
        # One that the rail cannot answer must not keep the later ones from being asked.
        last = asked[-1] if len(asked) == QUESTIONS_MAX else None
        self._next[name] = (last.asked_s, last.turn.exchange_id) if last else START
        asked = [question for question in asked if self._is_due(question)]
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(question: Question) -> bool:
            async with slots:
                return await self._ask(question)

        # One question that breaks the rail's code must not end the care for all the others.
        found = await asyncio.gather(*(ask(q) for q in asked), return_exceptions=True)
        for question, answered in zip(asked, found, strict=True):
            if isinstance(answered, Exception):
                log.error("%s could not be asked: %r", question.turn.exchange_id, answered)
            if answered is not True:
                self._let_rest(question)
        return sum(answered is True for answered in found)

    def _is_due(self, question: Question) -> bool:
        key = question.turn.exchange_id
        if question.state is not State.UNKNOWN:
            return True  # a debt, and no question that rested under the same name
        if self._clock() < self._rests_until.get(key, 0):
            return False
        self._rests_until.pop(key, None)
        return True

    def _let_rest(self, question: Question) -> None:
        """Ask the more rarely the longer there was no answer; a debt is tried in every round.

        A buyer can spend the nonce of its payment elsewhere: what became of it is then never found,
        by a hundred questions to the node each time. Asked without rest, some such calls would use
        up what the node gives, and nobody could pay any more.
        """
        now_s = self._clock()
        rest_s = min((now_s - question.asked_s) // OF_ITS_AGE, RARELY_S)
        if len(self._rests_until) >= RESTING_MAX:  # of some the buyers have asked meanwhile
            kept = {key: until_s for key, until_s in self._rests_until.items() if until_s > now_s}
            self._rests_until = kept
        if question.state is State.UNKNOWN and rest_s > 0 and len(self._rests_until) < RESTING_MAX:
            self._rests_until[question.turn.exchange_id] = now_s + rest_s

    async def _ask(self, question: Question) -> bool:
        rail, key = self._rails[question.rail], question.turn.exchange_id
        try:
            outcome = await _answer(rail, question, self._clock())
            after = ANSWERS.get((question.state, outcome.state))
            if after is None:
                if question.state is State.REFUNDING:
                    log.warning("a refund of %s is still owed: %s", key, outcome.detail)
                return False
            if not await self._write(question, after, outcome):
                return False  # somebody else was told first
        except (Problem, StoreUnavailable) as error:
            log.warning("%s of %s is still open: %s", question.state, key, error)
            return False
        log.info("%s was %s and is %s", key, question.state, after)
        late = late_events(
            key,
            after,
            self._clock(),
            question.asset,
            question.payment.amount_minor - outcome.change_minor,
            reference=outcome.reference,
            was_paid=question.state is not State.UNKNOWN,
        )
        self._reporter.tell_late(late)
        return True

    async def _write(self, question: Question, after: State, outcome: Outcome) -> bool:
        now_s = self._clock()
        if after is State.REFUNDED:
            return await self._exchanges.move(
                question.turn, question.state, after, now_s, refund=outcome.reference
            )
        return await self._exchanges.move(
            question.turn,
            question.state,
            after,
            now_s,
            reference=outcome.reference,
            receipt=outcome.headers,
            detail="the rail was asked",
            amount_minor=(
                question.payment.amount_minor - outcome.change_minor
                if outcome.change_minor
                else None
            ),
        )


async def _answer(rail: Rail, question: Question, now_s: int) -> Outcome:
    if question.state is State.UNKNOWN:
        return await rail.look_up(question.payment, now_s)
    if not rail.capabilities.can_refund:
        # Its configuration was changed since: the debt stays on the books, for a person to pay.
        log.warning("%s owes a refund that its rail cannot make", question.turn.exchange_id)
        return Outcome(Settlement.REFUSED)
    return await rail.refund(question.payment, now_s)
