"""Open questions are asked of the rails, and no question keeps another one waiting."""

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway.reporting import Reporter
from mpp_gateway.gateway.resolving import QUESTIONS_MAX, Resolver
from mpp_gateway.ledger.book import PaymentRecord, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.schema import EXCHANGES_SCHEMA, OWED_SCHEMA, QUESTIONS_SCHEMA
from mpp_gateway.ledger.states import State
from mpp_gateway.rails.base import Capabilities, Outcome, Settlement
from tests.support.ledger import PATHS
from tests.unit.ledger.test_exchanges import LOCK, NOW_S, claim_of

REFUNDS = Capabilities("headers", can_verify_without_moving_money=True, can_refund=True)
SETTLED = Outcome(Settlement.SETTLED, "0xfound", (("Payment-Receipt", "r"),))


@dataclass
class Rail:
    """Answers by proof; what is not in `answers` it does not know."""

    answers: dict[str, Outcome | Exception] = field(default_factory=dict)
    capabilities: Capabilities = REFUNDS
    asked: list[str] = field(default_factory=list)
    refunded: list[str] = field(default_factory=list)

    async def look_up(self, record: PaymentRecord, now_s: int) -> Outcome:
        self.asked.append(record.proof_id)
        return self._answer(record)

    async def refund(self, record: PaymentRecord, now_s: int) -> Outcome:
        self.refunded.append(record.proof_id)
        return self._answer(record)

    def _answer(self, record: PaymentRecord) -> Outcome:
        answer = self.answers.get(record.proof_id, Outcome(Settlement.UNKNOWN))
        if isinstance(answer, Exception):
            raise answer
        return answer


class Stage:
    """A store with exchanges at chosen states, a resolver over it, and what it told."""

    def __init__(self, database: Database, rail: Rail) -> None:
        self.exchanges = Exchanges(database, LOCK)
        self.rail = rail
        self.told: list = []
        self.now_s = NOW_S + 1
        self.resolver = Resolver(
            self.exchanges, {"evm": rail}, Reporter(self.told.append), lambda: self.now_s
        )

    async def at(self, state: State, *proofs: str) -> None:
        for proof in proofs:
            claimed = await self.exchanges.claim(claim_of(proof, exchange_id=f"x-{proof}"), NOW_S)
            turn = Turn(claimed.exchange_id, claimed.attempt)
            for before, after in itertools.pairwise((State.CLAIMED, *PATHS[state])):
                assert await self.exchanges.move(turn, before, after, NOW_S, reference="0xpaid")

    async def states(self, *proofs: str) -> list[State | None]:
        return [await self.exchanges.state(f"x-{proof}") for proof in proofs]


def stage(place, story, rail: Rail):
    async def main() -> None:
        database = Database(place.driver(), (EXCHANGES_SCHEMA, QUESTIONS_SCHEMA, OWED_SCHEMA))
        database.open()
        try:
            await story(Stage(database, rail))
        finally:
            await database.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("state", "answer", "after", "told"),
    [
        (State.UNKNOWN, SETTLED, State.CREDITED, "PaymentSettled PaymentCredited"),
        (State.UNKNOWN, Outcome(Settlement.REFUSED), State.RELEASED, "PaymentReleased"),
        (State.UNKNOWN, Outcome(Settlement.UNKNOWN), State.UNKNOWN, ""),
        (State.UNKNOWN, RailUnavailable("no node"), State.UNKNOWN, ""),
        (State.UNKNOWN, RuntimeError("a fault of the rail's"), State.UNKNOWN, ""),
        (State.REFUNDING, SETTLED, State.REFUNDED, "PaymentRefunded"),
        (State.REFUNDING, Outcome(Settlement.REFUSED), State.REFUNDING, ""),
        (State.REFUNDING, Outcome(Settlement.UNKNOWN), State.REFUNDING, ""),
        (State.REFUNDING, RuntimeError("a fault of the rail's"), State.REFUNDING, ""),
    ],
    ids=str,
)
def test_an_open_question_ends_with_the_rails_answer_and_no_other(
    place, state, answer, after, told
):
    async def story(s: Stage) -> None:
        await s.at(state, "p", "q")
        assert await s.resolver.round() == 1 + int(after is not state)
        assert await s.states("p", "q") == [after, END[state]]
        about = [event for event in s.told if event.request_id == "x-p"]
        assert [type(event).__name__ for event in about] == told.split()
        assert {(event.asset, event.amount_minor) for event in about} <= {("usd", 10)}
        references = {event.reference for event in about if hasattr(event, "reference")}
        assert references <= {"0xfound"}

    stage(place, story, Rail({"p": answer, "q": SETTLED}))


END = {State.UNKNOWN: State.CREDITED, State.REFUNDING: State.REFUNDED}


def test_what_no_rail_can_answer_keeps_no_later_question_waiting(place):
    proofs = [f"p{number:03}" for number in range(QUESTIONS_MAX + 5)]

    async def story(s: Stage) -> None:
        await s.at(State.UNKNOWN, *proofs)
        await s.resolver.round()
        assert s.rail.asked == proofs[:QUESTIONS_MAX]
        await s.resolver.round()
        assert s.rail.asked == proofs
        await s.resolver.round()
        assert s.rail.asked == [*proofs, *proofs[:QUESTIONS_MAX]]

    stage(place, story, Rail())


def test_a_debt_of_a_rail_that_makes_no_refunds_stays_a_debt(place):
    async def story(s: Stage) -> None:
        await s.at(State.REFUNDING, "p")
        assert await s.resolver.round() == 0
        assert (s.rail.refunded, await s.states("p")) == ([], [State.REFUNDING])

    no = Capabilities("headers", can_verify_without_moving_money=True)
    stage(place, story, Rail({"p": SETTLED}, capabilities=no))


def test_of_two_that_are_told_at_once_one_writes_it_down(place):
    async def story(s: Stage) -> None:
        await s.at(State.UNKNOWN, "p")
        both = [s.resolver, Resolver(s.exchanges, {"evm": s.rail}, Reporter(), lambda: NOW_S)]
        assert sum(await asyncio.gather(*(one.round() for one in both))) == 1

    stage(place, story, Rail({"p": SETTLED}))


@pytest.mark.parametrize("answer", [Outcome(Settlement.UNKNOWN), RuntimeError("a fault")], ids=str)
def test_a_nonce_that_was_spent_elsewhere_does_not_use_up_the_node(place, answer):
    """What no rail can ever answer is asked about a few dozen times a day, not thousands."""
    times: list[int] = []

    async def story(s: Stage) -> None:
        await s.at(State.UNKNOWN, "p")
        for s.now_s in range(NOW_S, NOW_S + 24 * 3600, 15):
            before = len(s.rail.asked)
            await s.resolver.round()
            times.extend([s.now_s - NOW_S] * (len(s.rail.asked) - before))
        s.rail.answers["p"] = SETTLED
        s.now_s += 3600
        assert (await s.resolver.round(), await s.states("p")) == (1, [State.CREDITED])

    stage(place, story, Rail({"p": answer}))

    assert times[:8] == list(range(0, 8 * 15, 15))
    assert len(times) < 100
    assert max(after - before for before, after in itertools.pairwise(times)) <= 3600 + 15


def test_a_debt_is_tried_in_every_round_however_old(place):
    async def story(s: Stage) -> None:
        await s.at(State.REFUNDING, "p")
        for s.now_s in range(NOW_S, NOW_S + 24 * 3600, 3600):
            for _ in range(3):
                await s.resolver.round()
        assert len(s.rail.refunded) == 3 * 24

    stage(place, story, Rail())
