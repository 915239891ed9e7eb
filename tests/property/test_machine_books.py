"""The store against a small model: whatever happens in whatever order, the money adds up."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import (
    EXCHANGES_SCHEMA,
    LEFT_OPEN,
    TRANSITIONS,
    Claim,
    ClaimRequest,
    Exchanges,
    IllegalTransition,
    State,
    Turn,
)

PROOFS = st.integers(0, 5)
PAYERS = ("a", "b")
PRICE = 10
VALID_S = 10**6


@dataclass
class Model:
    """One exchange as it should be. `deliveries` counts what its turns may serve."""

    key: str
    scope: str
    state: State
    attempt: int = 1
    is_paid: bool = False
    deliveries: int = 0
    is_delivered: bool = False


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.database = Database(Path(self.folder.name) / "books.db", (EXCHANGES_SCHEMA,))
        self.database.open()
        self.exchanges = Exchanges(self.database, "lock")
        self.model: dict[int, Model] = {}
        self.now_s = 1000
        self.claims = 0

    def ask(self, work):
        self.now_s += 1
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.database.close())
        self.loop.close()
        self.folder.cleanup()

    @rule(proof=PROOFS, scope=st.sampled_from("xy"), only_earlier=st.booleans())
    def claim(self, proof: int, scope: str, only_earlier: bool) -> None:
        self.claims += 1
        request = ClaimRequest(
            exchange_id=f"{proof} {self.claims}",
            proof_id=f"p{proof}",
            rail="evm",
            asset="usd",
            account=PAYERS[proof % 2],
            amount_minor=PRICE,
            scope=scope,
            valid_until_s=VALID_S,
            due_s=VALID_S,
            challenge_id=f"c{proof}",
            only_earlier=only_earlier,
        )
        claimed = self.ask(self.exchanges.claim(request, self.now_s))
        known = self.model.get(proof)
        if known is None:
            assert claimed.claim is (Claim.EXPIRED if only_earlier else Claim.FRESH)
            if not only_earlier:
                self.model[proof] = Model(request.exchange_id, scope, State.CLAIMED)
            return
        assert claimed.exchange_id == known.key
        if known.scope != scope or known.state is State.REFUNDED:
            assert claimed.claim is Claim.SPENT
        elif known.state is State.SETTLED:
            assert claimed.claim is (Claim.DELIVERED if known.is_delivered else Claim.IN_PROGRESS)
        elif known.state is State.RELEASED:
            assert claimed.claim is (Claim.EXPIRED if only_earlier else Claim.FRESH)
            if not only_earlier:
                known.state, known.attempt = State.CLAIMED, known.attempt + 1
        elif known.state is State.CREDITED:
            assert claimed.claim is Claim.CREDITED
            known.state, known.attempt = State.SETTLED, known.attempt + 1
            known.deliveries += 1
            known.is_delivered = False
        else:
            unknown = known.state is State.UNKNOWN
            assert claimed.claim is (Claim.UNKNOWN if unknown else Claim.IN_PROGRESS)

    @rule(
        proof=PROOFS,
        before=st.sampled_from(State),
        after=st.sampled_from(State),
        lag=st.sampled_from([0, 0, 0, 1]),
    )
    def move(self, proof: int, before: State, after: State, lag: int) -> None:
        known = self.model.get(proof)
        turn = Turn(known.key if known else "none", (known.attempt if known else 1) - lag)
        reopening = (before, after) in {
            (State.RELEASED, State.CLAIMED),
            (State.CREDITED, State.SETTLED),
        }
        if reopening:
            return  # only a claim does this
        work = self.exchanges.move(turn, before, after, self.now_s)
        if after not in TRANSITIONS[before]:
            with pytest.raises(IllegalTransition):
                self.ask(work)
            return
        moved = self.ask(work)
        assert moved == (known is not None and known.state is before and lag == 0)
        if moved:
            assert known is not None
            known.state, known.is_delivered = after, False
            if after in (State.SETTLED, State.CREDITED):
                known.is_paid = True
            if after is State.SETTLED:
                known.deliveries += 1
            if (before, after) == (State.SETTLED, State.CREDITED):
                known.deliveries -= 1

    @rule(proof=PROOFS)
    def pay(self, proof: int) -> None:
        """Bring a call to where its money has moved: chance alone hardly ever does."""
        self.claim(proof, "x", only_earlier=False)
        self.hold(proof, None)
        self.move(proof, State.VERIFIED, State.SETTLING, 0)
        self.move(proof, State.SETTLING, State.SETTLED, 0)

    @rule(proof=PROOFS, spendable=st.none() | st.integers(0, 4).map(lambda n: n * PRICE))
    def hold(self, proof: int, spendable: int | None) -> None:
        known = self.model.get(proof)
        if known is None:
            return
        turn = Turn(known.key, known.attempt)
        held = self.ask(self.exchanges.hold(turn, spendable, 10**9, self.now_s))
        others = sum(
            PRICE
            for other, m in self.model.items()
            if other != proof
            and other % 2 == proof % 2
            and m.state in (State.VERIFIED, State.SETTLING, State.UNKNOWN)
        )
        fits = others + PRICE <= (PRICE if spendable is None else spendable)
        assert held == (known.state is State.CLAIMED and fits)
        if held:
            known.state = State.VERIFIED

    @rule(proof=PROOFS)
    def deliver(self, proof: int) -> None:
        known = self.model.get(proof)
        if known is None:
            return
        turn = Turn(known.key, known.attempt)
        is_paid = known.state is State.SETTLED
        if not known.is_delivered:
            assert self.ask(self.exchanges.renew(turn, VALID_S)) == is_paid
        self.ask(self.exchanges.mark_delivered(turn))
        known.is_delivered = is_paid

    @rule(end=st.sampled_from(["crash", "sweep"]))
    def lose_the_process(self, end: str) -> None:
        if end == "crash":
            found = self.ask(self.exchanges.recover(self.now_s))
        else:
            found = self.ask(self.exchanges.sweep(VALID_S + 1))
        left = [m for m in self.model.values() if m.state in LEFT_OPEN and not m.is_delivered]
        assert found == len(left)
        for known in left:
            known.deliveries -= known.state is State.SETTLED
            known.state = LEFT_OPEN[known.state]

    @rule(is_early=st.booleans())
    def purge(self, is_early: bool) -> None:
        found = self.ask(self.exchanges.purge(VALID_S if is_early else VALID_S + 1))
        dead = [p for p, m in self.model.items() if m.state is State.RELEASED and not is_early]
        assert found == len(dead)
        for proof in dead:
            assert not self.model.pop(proof).is_paid

    @invariant()
    def the_store_is_the_model(self) -> None:
        rows = self.ask(
            self.database.read(
                lambda db: db.execute("SELECT id, state, attempt FROM exchanges").fetchall()
            )
        )
        found = {key: (State(state), attempt) for key, state, attempt in rows}
        assert found == {m.key: (m.state, m.attempt) for m in self.model.values()}

    @invariant()
    def what_buyers_paid_is_settled_refunded_or_credited(self) -> None:
        paid = sum(PRICE for m in self.model.values() if m.is_paid)
        there = sum(
            PRICE
            for m in self.model.values()
            if m.state in (State.SETTLED, State.REFUNDED, State.CREDITED)
        )
        assert paid == there

    @invariant()
    def what_was_taken_adds_up_from_the_journal_alone(self) -> None:
        rows = self.ask(
            self.database.read(
                lambda db: db.execute(
                    "SELECT count(DISTINCT exchange_id) FROM journal"
                    " WHERE to_state IN ('settled', 'credited')"
                ).fetchone()
            )
        )
        assert rows == (sum(m.is_paid for m in self.model.values()),)

    @invariant()
    def no_payment_is_delivered_twice(self) -> None:
        for known in self.model.values():
            assert known.deliveries <= 1
            if known.state is State.CREDITED:
                assert known.deliveries == 0

    @invariant()
    def the_journal_tells_the_whole_story(self) -> None:
        rows = self.ask(
            self.database.read(
                lambda db: db.execute(
                    "SELECT exchange_id, from_state, to_state FROM journal ORDER BY seq"
                ).fetchall()
            )
        )
        at: dict[str, str] = {}
        for key, before, after in rows:
            assert at.get(key, "") == before
            assert before == "" or State(after) in TRANSITIONS[State(before)]
            at[key] = after
        assert at == {m.key: m.state.value for m in self.model.values()}


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
