"""Every store against the book: whatever happens in whatever order, both say the same."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mpp_gateway.ledger import claims as claims_module
from mpp_gateway.ledger import exchanges as store_module
from mpp_gateway.ledger import moves as moves_module
from mpp_gateway.ledger.book import (
    Book,
    Claim,
    Claimed,
    ClaimRequest,
    IllegalTransition,
    OverPosted,
    Turn,
    balances,
    standing,
)
from mpp_gateway.ledger.book import Line as BookLine
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.schema import EXCHANGES_SCHEMA, OWED_SCHEMA, QUESTIONS_SCHEMA
from mpp_gateway.ledger.sqlite import SqliteDriver
from mpp_gateway.ledger.states import LEFT_OPEN, PAID, POSTING, TRANSITIONS, WAYS_OUT, State
from tests.support.ledger import swept, taken_up
from tests.support.stores import in_memory

PRICE = 10
NOW_S, DUE_S, VALID_S, CREDIT_S = 1_000, 2_000, 3_000, 5_000
OWNER = "lock"
REOPENING = {(State.RELEASED, State.CLAIMED), (State.CREDITED, State.SETTLED)}
MOVES = [(b, a) for b in State for a in sorted(TRANSITIONS[b]) if (b, a) not in REOPENING]
ILLEGAL = [(b, a) for b in State for a in State if a not in TRANSITIONS[b]]
RARE = [
    (State.SETTLING, State.UNKNOWN, State.CREDITED),
    (State.SETTLING, State.UNKNOWN, State.RELEASED),
    (State.SETTLING, State.RELEASED),
    (State.SETTLING, State.SETTLED, State.REFUNDING, State.REFUNDED),
]
WAYS = [
    (State.SETTLING, State.SETTLED),
    (State.SETTLING, State.SETTLED, State.CREDITED),
    (State.SETTLING, State.SETTLED, State.REFUNDING),
    (State.RELEASED,),
    (State.RELEASED,),
    (),
    *RARE,
    *RARE,
    *RARE,
]
"""What may become of a call whose payment was verified."""
RECEIPT = (("Payment-Receipt", "r"),)

made: Counter[tuple[State | None, State]] = Counter()
"""How often each move was made, over all examples of the comparison with SQLite."""


class Books(RuleBasedStateMachine):
    """`driver` makes an empty store."""

    turns = Bundle("turns")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=in_memory())
        self.loop = asyncio.new_event_loop()
        self.database = Database(self.driver(), (EXCHANGES_SCHEMA, QUESTIONS_SCHEMA, OWED_SCHEMA))
        self.database.open()
        self.store = Exchanges(self.database, OWNER)
        self.book = Book(OWNER)
        self.claims = 0
        self.served: Counter[str] = Counter()

    def driver(self):
        return SqliteDriver(Path(self.folder.name) / "books.db")

    def ask(self, work):
        return self.loop.run_until_complete(work)

    def both(self, asked, expected):
        """Assert that store and book say the same, or fail in the same way; return what."""
        try:
            said = expected()
        except (IllegalTransition, OverPosted) as error:
            with pytest.raises(type(error)):
                self.ask(asked)
            return None
        found = self.ask(asked)
        if isinstance(found, Claimed):
            # Stores number the journal with gaps: what was rolled back has had its number too.
            found = replace(found, seq=said.seq)
        assert found == said
        return said

    def teardown(self) -> None:
        made.update((line.before, line.after) for line in self.book.lines)
        self.loop.run_until_complete(self.database.close())
        self.loop.close()
        self.folder.cleanup()

    @rule(
        target=turns,
        proof=st.integers(0, 7),
        challenge=st.integers(0, 4) | st.none(),
        scope=st.sampled_from("xxxy"),
        dearer=st.sampled_from([0, 0, 0, 1]),
        only_earlier=st.sampled_from([False, False, False, True]),
        now_s=st.sampled_from([NOW_S, NOW_S, NOW_S + CREDIT_S]),
    )
    def claim(self, proof, challenge, scope, only_earlier, now_s=NOW_S, dearer=0):
        self.claims += 1
        request = ClaimRequest(
            exchange_id=f"x{self.claims}",
            proof_id=f"p{proof}",
            rail="evm",
            asset="usd",
            account="ab"[(proof + dearer) % 2],
            payee="till",
            amount_minor=PRICE + proof + dearer,
            scope=scope,
            valid_until_s=VALID_S + proof % 5,
            due_s=DUE_S + proof % 5,
            credit_s=CREDIT_S,
            challenge_id=None if challenge is None else f"c{challenge}",
            only_earlier=only_earlier,
        )
        said = self.both(self.store.claim(request, now_s), lambda: self.book.claim(request, now_s))
        if said.claim not in (Claim.FRESH, Claim.CREDITED):
            return multiple()
        return Turn(said.exchange_id, said.attempt)

    @rule(
        turn=turns,
        spendable=st.none() | st.integers(0, 5).map(lambda n: n * PRICE),
        settled_by_s=st.none() | st.just(DUE_S + 7),
    )
    def hold(self, turn, spendable, settled_by_s=None):
        if not self.book.lines:
            return  # all was forgotten
        seen = len(self.book.lines) // 2
        (rows,) = self.read("SELECT seq FROM journal ORDER BY seq")
        seqs = [seq for (seq,) in rows]
        self.both(
            self.store.hold(turn, spendable, seqs[seen], NOW_S, settled_by_s),
            lambda: self.book.hold(turn, spendable, self.book.lines[seen].seq, NOW_S, settled_by_s),
        )

    @rule(
        turn=turns,
        move=st.sampled_from(MOVES),
        used=st.none() | st.integers(0, PRICE + 9),
        owed=st.none() | st.integers(0, PRICE),
    )
    def move(self, turn, move, used=None, owed=None):
        if move not in POSTING:
            used = None
        if move[1] is not State.SETTLING:
            owed = None
        changes = {
            "due_s": DUE_S + 9,
            "reference": "0x1",
            "receipt": RECEIPT,
            "amount_minor": used,
            "owed_minor": owed,
        }
        moved = self.both(
            self.store.move(turn, *move, NOW_S, **changes),
            lambda: self.book.move(turn, *move, NOW_S, **changes),
        )
        if moved and move == (State.SETTLED, State.REFUNDING):
            self.served[turn.exchange_id] -= 1

    @rule(turn=turns)
    def give_up(self, turn):
        """Release what was claimed, wherever it stands."""
        for before in (State.CLAIMED, State.SETTLING):
            self.move(turn, (before, State.RELEASED))

    @rule(turn=turns, after=st.sampled_from(sorted(WAYS_OUT)))
    def end(self, turn, after):
        """A request that ends says where its money is, whatever of it was written."""
        self.both(
            self.store.give_up(turn, after, NOW_S, reference="0x2", receipt=RECEIPT),
            lambda: self.book.give_up(turn, after, NOW_S, reference="0x2", receipt=RECEIPT),
        )

    @rule(turn=turns, move=st.sampled_from(ILLEGAL))
    def move_as_nobody_may(self, turn, move):
        self.both(self.store.move(turn, *move, NOW_S), lambda: self.book.move(turn, *move, NOW_S))

    @rule(turn=turns)
    def deliver(self, turn):
        due_s = DUE_S + 50
        self.both(self.store.renew(turn, due_s), lambda: self.book.renew(turn, due_s))
        if self.both(self.store.mark_delivered(turn), lambda: self.book.mark_delivered(turn)):
            self.served[turn.exchange_id] = 1

    @rule(target=turns, proof=st.integers(0, 7), way=st.sampled_from(WAYS))
    def run(self, proof, way):
        """A call as it mostly goes: without it few examples would ever see money move."""
        turn = self.claim(proof, None, "x", only_earlier=False)
        if not isinstance(turn, Turn):
            return turn
        is_at_once = proof % 2 == 0 and way[:1] == (State.SETTLING,)
        self.hold(turn, 10**6, DUE_S + 7 if is_at_once else None)
        for move in pairwise((State.VERIFIED, *way)):
            self.move(turn, move)
        return turn

    @rule(target=turns, proof=st.integers(0, 7), way=st.sampled_from(WAYS))
    def run_another(self, proof, way):
        """Calls are what there is most of: two rules are chosen twice as often as one."""
        return self.run(proof, way)

    @rule(is_gone=st.booleans())
    def crash(self, is_gone):
        self.both(
            taken_up(self.store, lambda _, owner: is_gone and owner == OWNER, NOW_S),
            lambda: self.book.recover(lambda owner: is_gone and owner == OWNER, NOW_S),
        )

    @rule(now_s=st.sampled_from([DUE_S, DUE_S + 3, DUE_S + 100]))
    def sweep(self, now_s):
        self.both(swept(self.store, now_s), lambda: self.book.sweep(now_s))

    @precondition(lambda self: len(self.book.entries) > 3)
    @rule(now_s=st.sampled_from([VALID_S, VALID_S + 3]))
    def purge(self, now_s):
        self.both(self.store.purge(now_s), lambda: self.book.purge(now_s))

    @invariant()
    def the_store_is_the_book(self):
        rows, lines = self.read(
            "SELECT id, state, attempt, due_s, owner, reference, owed_minor FROM exchanges",
            "SELECT seq, exchange_id, attempt, from_state, to_state, amount_minor FROM journal"
            " ORDER BY seq",
        )
        assert {row[0]: tuple(row[1:]) for row in rows} == {
            key: (
                *(e.state, e.attempt, e.due_s, e.owner, e.reference),
                "" if e.owed_minor is None else str(e.owed_minor),
            )
            for key, e in self.book.entries.items()
        }
        self.the_journal_alone_tells_where_everything_stands(lines)

    def the_journal_alone_tells_where_everything_stands(self, rows):
        lines = [
            BookLine(
                seq,
                key,
                attempt,
                State(before) if before else None,
                State(after),
                int(minor) if minor else None,
            )
            for seq, key, attempt, before, after, minor in rows
        ]
        assert [replace(line, seq=0) for line in lines] == [
            replace(line, seq=0) for line in self.book.lines
        ]
        assert standing(lines) == {key: e.state for key, e in self.book.entries.items()}
        held: Counter[State] = Counter()
        for entry in self.book.entries.values():
            held[entry.state] += entry.amount_minor
        assert balances(lines) == {state: minor for state, minor in held.items() if minor}

    @invariant()
    def what_buyers_paid_is_settled_refunded_or_credited(self):
        """And no payment leaves the seller's side but by a refund."""
        paid = {line.exchange_id for line in self.book.lines if line.after in PAID}
        at = {key: e.state for key, e in self.book.entries.items()}
        assert {at[key] for key in paid} <= {*PAID, State.REFUNDED}
        said = {
            line.exchange_id: line.amount_minor
            for line in self.book.lines
            if line.amount_minor is not None
        }
        found = balances(self.book.lines)
        assert sum(found.get(s, 0) for s in (*PAID, State.REFUNDED)) == sum(said[k] for k in paid)

    @invariant()
    def every_open_question_can_be_asked(self):
        asked = self.ask(self.store.questions("evm", (0, ""), 100))
        assert {(q.turn, q.state, q.payment.proof_id, q.payment.amount_minor) for q in asked} == {
            (Turn(key, e.attempt), e.state, e.request.proof_id, e.amount_minor)
            for key, e in self.book.entries.items()
            if e.state in (State.UNKNOWN, State.REFUNDING)
        }

    def read(self, *queries):
        return self.ask(
            self.database.read(lambda db: [db.execute(query).fetchall() for query in queries])
        )


Books.TestCase.settings = settings(max_examples=500, stateful_step_count=40, derandomize=True)
TestBooksOnSqlite = Books.TestCase


def test_every_move_of_the_state_table_was_made_a_hundred_times():
    """Else the comparison above would say little."""
    if not made:
        run_state_machine_as_test(Books, settings=Books.TestCase.settings)
    table = {(before, after) for before in State for after in TRANSITIONS[before]}
    rare = {move: made[move] for move in table if made[move] < 100}
    assert not rare


def test_postgresql_keeps_the_same_book(postgres):
    from mpp_gateway.ledger.postgres import PostgresDriver

    class OnPostgres(Books):
        def driver(self):
            return PostgresDriver(postgres.database())

    run_state_machine_as_test(
        OnPostgres, settings=settings(max_examples=15, stateful_step_count=50)
    )


# Bugs as they were made elsewhere: each must be found, or the comparison is worth nothing.


@contextmanager
def planted(monkeypatch, name: str, bug) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module in (store_module, moves_module, claims_module):
            if hasattr(module, name):
                patch.setattr(module, name, bug)
        yield


def double_post(right):
    """The journal has every move to the seller twice."""

    def journal(db, turn, step, *said):
        right(db, turn, step, *said)
        if step.after == State.SETTLED:
            right(db, turn, step, *said)

    return journal


def lost_void(right):
    """A release is written into the journal and forgotten in the exchange."""

    def move(db, turn, change, now_s):
        moved = right(db, turn, change, now_s)
        if change.after is State.RELEASED:
            db.execute(
                "UPDATE exchanges SET state = ? WHERE id = ? AND state = 'released'",
                (change.before, turn.exchange_id),
            )
        return moved

    return move


def claim_after_money(right):
    """A proof is looked up without its attempts being counted: the next claim finds it fresh."""

    def claim(db, request, owner, now_s):
        db.execute(
            "UPDATE exchanges SET proof_id = proof_id || id WHERE state = 'settled'"
            " AND proof_id = ?",
            (request.proof_id,),
        )
        return right(db, request, owner, now_s)

    return claim


@pytest.mark.parametrize(
    ("name", "bug"),
    [("_journal", double_post), ("move", lost_void), ("claim", claim_after_money)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_bug_is_found(monkeypatch, name, bug):
    class Planted(Books):
        def teardown(self):
            self.loop.run_until_complete(self.database.close())
            self.loop.close()
            self.folder.cleanup()

    right = getattr(moves_module if hasattr(moves_module, name) else claims_module, name)
    quick = settings(
        max_examples=300,
        stateful_step_count=40,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    with planted(monkeypatch, name, bug(right)), pytest.raises(AssertionError):
        run_state_machine_as_test(Planted, settings=quick)


def test_every_way_out_is_made_of_moves_that_the_table_allows():
    for after, ways in WAYS_OUT.items():
        for before, steps in ways.items():
            assert steps[-1] is after
            assert all(b in TRANSITIONS[a] for a, b in pairwise((before, *steps)))


def test_what_is_left_open_has_an_end_that_the_table_allows():
    assert all(after in TRANSITIONS[before] for before, after in LEFT_OPEN.items())
