"""The store of exchanges: the state table, claims, holds, fences, and what a crash leaves."""

import asyncio
import dataclasses
import itertools
import sqlite3
from collections import Counter
from dataclasses import replace

import pytest

from mpp_gateway.ledger.book import (
    HELD_KEPT_S,
    NEVER_HELD_KEPT_S,
    Claim,
    Claimed,
    ClaimRequest,
    IllegalTransition,
    OverPosted,
    PaymentRecord,
    Turn,
)
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import (
    BATCH_ROWS,
    HELD_BY_OTHERS,
    Exchanges,
    TakenUp,
    _hold,
)
from mpp_gateway.ledger.schema import EXCHANGES_SCHEMA, OWED_SCHEMA, QUESTIONS_SCHEMA
from mpp_gateway.ledger.sql import Connection, StoreUnavailable
from mpp_gateway.ledger.states import LEFT_OPEN, TRANSITIONS, State
from tests.support.ledger import PATHS, swept, taken_up
from tests.support.stores import Place, SqlitePlace

NOW_S = 1_000
VALID_S = 2_000
DUE_S = 1_500
CREDIT_S = 10_000
LOCK = "lock"
RECEIPT = (("Payment-Receipt", "r"),)

LEGAL = {
    "claimed": {"verified", "released"},
    "verified": {"settling", "released"},
    "settling": {"settled", "released", "unknown"},
    "unknown": {"credited", "released"},
    "settled": {"credited", "refunding"},
    "refunding": {"refunded"},
    "released": {"claimed"},
    "credited": {"settled"},
    "refunded": set(),
}
"""Architecture 4.3, written out a second time."""


def claim_of(proof: str, number: int = 1, **changes) -> ClaimRequest:
    request = ClaimRequest(
        exchange_id=f"x{number}",
        proof_id=proof,
        rail="evm",
        asset="usd",
        account="purse",
        payee="till",
        amount_minor=10,
        scope="scope",
        valid_until_s=VALID_S,
        due_s=DUE_S,
        credit_s=CREDIT_S,
        challenge_id=f"challenge of {proof}",
    )
    return replace(request, **changes)


class Books:
    """The store of one test, asked without `await`."""

    def __init__(self, place: Place, lock: str = LOCK) -> None:
        self.place = place
        self.lock = lock
        self.loop = asyncio.new_event_loop()
        self.database = Database(place.driver(), (EXCHANGES_SCHEMA, QUESTIONS_SCHEMA, OWED_SCHEMA))
        self.database.open()
        self.exchanges = Exchanges(self.database, lock)

    def ask(self, work):
        return self.loop.run_until_complete(work)

    def claim(self, proof: str, number: int = 1, now_s: int = NOW_S, **changes) -> Claimed:
        return self.ask(self.exchanges.claim(claim_of(proof, number, **changes), now_s))

    def move(self, turn: Turn, before: State, after: State, **more) -> bool:
        return self.ask(self.exchanges.move(turn, before, after, NOW_S, **more))

    def hold(self, turn: Turn, spendable: int | None, seq: int = 0, now_s: int = NOW_S) -> bool:
        return self.ask(self.exchanges.hold(turn, spendable, seq, now_s))

    def at(self, state: State, proof: str = "p", number: int = 1, **changes) -> Turn:
        """Return the turn of a new exchange that was brought to `state`."""
        claimed = self.claim(proof, number, **changes)
        turn = Turn(claimed.exchange_id, claimed.attempt)
        for before, after in itertools.pairwise((State.CLAIMED, *PATHS[state])):
            assert self.move(turn, before, after, receipt=RECEIPT, reference="0xtx")
        return turn

    def sweep(self, now_s: int) -> int:
        return self.ask(swept(self.exchanges, now_s))

    def purge(self, now_s: int) -> int:
        return self.ask(self.exchanges.purge(now_s))

    def recover(self) -> int:
        return self.ask(taken_up(self.exchanges, lambda _, owner: owner == self.lock, NOW_S))

    def fill(self, count: int, state: State, **values) -> None:
        """Write many rows of the purse at once, past every check."""
        row = {"due_s": None, "valid_until_s": VALID_S} | values
        held = state in (State.VERIFIED, State.SETTLING, State.UNKNOWN)

        def work(db: Connection) -> None:
            db.executemany(
                "INSERT INTO exchanges (id, proof_id, rail, asset, account, amount_minor, scope,"
                " state, challenge_id, valid_until_s, owner, due_s, created_s, updated_s,"
                " paid_seq, held_until_s, forget_s) VALUES (?, ?, 'evm', 'usd', 'purse', '10',"
                " 'scope', ?, ?, ?, ?, ?, 1, 1, ?, ?, ?)",
                (
                    (
                        f"{state} {n}",
                        f"proof of {state} {n}",
                        state,
                        f"challenge of {state} {n}",
                        row["valid_until_s"],
                        LOCK,
                        row["due_s"],
                        0 if state in (State.SETTLED, State.CREDITED) else None,
                        row["valid_until_s"] if held else None,
                        row["valid_until_s"] if state is State.RELEASED else None,
                    )
                    for n in range(count)
                ),
            )

        self.ask(self.database.write(work))

    def state(self, exchange_id: str = "x1") -> State | None:
        return self.ask(self.exchanges.state(exchange_id))

    def journal(self) -> list[tuple[str, str, int]]:
        return self.ask(
            self.database.read(
                lambda db: db.execute(
                    "SELECT from_state, to_state, attempt FROM journal ORDER BY seq"
                ).fetchall()
            )
        )

    def close(self) -> None:
        self.ask(self.database.close())
        self.loop.close()


@pytest.fixture
def books(place):
    found = Books(place)
    yield found
    found.close()


@pytest.fixture
def file_books(tmp_path):
    """Where a test looks under the bonnet of SQLite."""
    found = Books(SqlitePlace(tmp_path / "books.db"))
    yield found
    found.close()


def test_the_state_table_is_the_one_of_the_architecture():
    assert {b.value: {a.value for a in after} for b, after in TRANSITIONS.items()} == LEGAL


@pytest.mark.parametrize(
    ("before", "after"), [(b, a) for b in State for a in sorted(TRANSITIONS[b])], ids=str
)
def test_a_legal_move_is_made_and_journalled(books, before, after):
    turn = books.at(before)
    if before is State.RELEASED:
        assert books.claim("p", 2).claim is Claim.FRESH
    else:
        assert books.move(turn, before, after)
    assert books.state() is after
    assert books.journal()[-1][:2] == (before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b, a) for b in State for a in State if a not in TRANSITIONS[b]],
    ids=str,
)
def test_an_illegal_move_raises_and_changes_nothing(books, before, after):
    turn = books.at(before)
    with pytest.raises(IllegalTransition):
        books.move(turn, before, after)
    assert books.state() is before


@pytest.mark.parametrize("state", State)
def test_a_move_from_a_state_that_it_is_not_in_is_nobodys(books, state):
    turn = books.at(state)
    others = [b for b in State if b is not state and TRANSITIONS[b]]
    for before in others:
        assert not books.move(turn, before, min(TRANSITIONS[before]))
    assert books.state() is state


@pytest.mark.parametrize(
    ("state", "claim"),
    [
        (State.CLAIMED, Claim.IN_PROGRESS),
        (State.VERIFIED, Claim.IN_PROGRESS),
        (State.SETTLING, Claim.IN_PROGRESS),
        (State.UNKNOWN, Claim.UNKNOWN),
        (State.SETTLED, Claim.IN_PROGRESS),
        (State.REFUNDING, Claim.REFUNDED),
        (State.REFUNDED, Claim.REFUNDED),
        (State.RELEASED, Claim.FRESH),
        (State.CREDITED, Claim.CREDITED),
    ],
)
def test_what_a_proof_is_worth_when_it_is_shown_again(books, state, claim):
    turn = books.at(state)
    again = books.claim("p", 2)
    assert (again.claim, again.exchange_id) == (claim, turn.exchange_id)
    if claim is Claim.CREDITED:
        assert (again.receipt, again.reference) == (RECEIPT, "0xtx")
        assert books.claim("p", 3).claim is Claim.IN_PROGRESS


def test_a_credit_can_be_redeemed_until_the_time_that_was_stated(books):
    books.at(State.CREDITED)
    assert books.claim("p", 2, NOW_S + CREDIT_S).claim is Claim.LAPSED
    assert books.state() is State.CREDITED, "the seller owes it still"
    assert books.claim("p", 3, NOW_S + CREDIT_S - 1).claim is Claim.CREDITED


@pytest.mark.parametrize("minor", [-1, -(2**256)])
def test_nothing_negative_is_posted(books, minor):
    turn = books.at(State.SETTLING)
    with pytest.raises(IllegalTransition):
        books.move(turn, State.SETTLING, State.SETTLED, amount_minor=minor)
    assert books.state() is State.SETTLING


def test_an_attempt_says_its_amount_anew_so_that_no_reader_looks_far_back(books):
    turn = books.at(State.CLAIMED)
    for number in range(2, 5):
        assert books.move(turn, State.CLAIMED, State.RELEASED)
        again = books.claim("p", number)
        turn = Turn(again.exchange_id, again.attempt)
    lines = books.ask(books.database.read(lambda db: db.execute(JOURNAL).fetchall()))
    assert [minor for *_, minor in lines] == ["10", "", "10", "", "10", "", "10"]


def test_a_payment_that_is_settled_at_once_is_held_and_settling_in_one_write(books):
    turn = books.at(State.CLAIMED)
    held = books.exchanges.hold(turn, 100, 0, NOW_S, settled_by_s=NOW_S + 90)
    assert books.ask(held)
    assert [after for _, after, _ in books.journal()] == ["claimed", "verified", "settling"]
    # Taken up when its process should have been done with it: only the rail knows.
    assert books.sweep(NOW_S + 90) == 0
    assert books.sweep(NOW_S + 91) == 1
    assert books.state() is State.UNKNOWN


def test_what_is_not_covered_does_not_begin_to_settle(books):
    turn = books.at(State.CLAIMED)
    held = books.exchanges.hold(turn, 9, 0, NOW_S, settled_by_s=NOW_S + 90)
    assert not books.ask(held)
    assert books.state() is State.CLAIMED


def test_no_more_is_posted_than_was_held(books):
    turn = books.at(State.SETTLING)
    with pytest.raises(OverPosted):
        books.move(turn, State.SETTLING, State.SETTLED, amount_minor=11)
    assert books.state() is State.SETTLING
    assert books.move(turn, State.SETTLING, State.SETTLED, amount_minor=7)
    lines = books.ask(books.database.read(lambda db: db.execute(JOURNAL).fetchall()))
    assert [minor for *_, minor in lines] == ["10", "", "", "7"]


JOURNAL = "SELECT to_state, amount_minor FROM journal ORDER BY seq"


def test_what_is_posted_is_what_the_next_move_is_about(books):
    """With the amount of the hold, a refund would give back more than was taken."""
    turn = books.at(State.SETTLING)
    books.move(turn, State.SETTLING, State.SETTLED, amount_minor=7, reference="0xtx")
    assert books.move(turn, State.SETTLED, State.REFUNDING)
    (question,) = books.ask(books.exchanges.questions("evm", (0, ""), 9))
    expected = PaymentRecord("p", "purse", "till", 7, VALID_S, "challenge of p", "0xtx")
    assert (question.turn, question.state) == (turn, State.REFUNDING)
    assert question.payment == expected


def test_what_a_rail_was_asked_to_move_is_asked_for_later(books):
    """Of a payment by use: with its most, a sale that moved less would stay unknown for good."""
    turn = books.at(State.VERIFIED)
    assert books.move(turn, State.VERIFIED, State.SETTLING, owed_minor=4)
    assert books.move(turn, State.SETTLING, State.UNKNOWN)
    (question,) = books.ask(books.exchanges.questions("evm", (0, ""), 9))
    assert (question.payment.amount_minor, question.payment.owed_minor) == (10, 4)
    assert books.claim("p", 2).owed_minor == 4

    assert books.move(turn, State.UNKNOWN, State.RELEASED)
    again = books.claim("p", 3)
    turn = Turn(again.exchange_id, again.attempt)
    for before, after in itertools.pairwise(
        (State.CLAIMED, State.VERIFIED, State.SETTLING, State.UNKNOWN)
    ):
        assert books.move(turn, before, after)
    (question,) = books.ask(books.exchanges.questions("evm", (0, ""), 9))
    assert question.payment.owed_minor is None


def test_only_a_settlement_asks_for_money(books):
    turn = books.at(State.SETTLING)
    with pytest.raises(IllegalTransition):
        books.move(turn, State.SETTLING, State.UNKNOWN, owed_minor=4)


def test_open_questions_come_in_pages_and_by_rail(books):
    for number in range(1, 6):
        books.at(State.UNKNOWN, f"p{number}", number)
    first = books.ask(books.exchanges.questions("evm", (0, ""), 3))
    rest = books.ask(
        books.exchanges.questions("evm", (first[-1].asked_s, first[-1].turn.exchange_id), 3)
    )
    assert [q.turn.exchange_id for q in (*first, *rest)] == ["x1", "x2", "x3", "x4", "x5"]
    assert books.ask(books.exchanges.questions("toy", (0, ""), 3)) == []


def test_a_proof_whose_answer_was_handed_over_is_spent_and_shows_its_receipt(books):
    turn = books.at(State.SETTLED)
    books.ask(books.exchanges.mark_delivered(turn))
    again = books.claim("p", 2)
    assert (again.claim, again.exchange_id, again.receipt) == (Claim.DELIVERED, "x1", RECEIPT)
    assert books.claim("p", 3, scope="other").claim is Claim.SPENT


@pytest.mark.parametrize("state", State)
def test_a_proof_is_worth_nothing_for_another_request(books, state):
    books.at(state)
    assert books.claim("p", 2, scope="other").claim is Claim.SPENT
    assert books.state() is state


@pytest.mark.parametrize("state", State)
def test_an_expired_challenge_opens_nothing_anew(books, state):
    books.at(state)
    again = books.claim("p", 2, only_earlier=True).claim
    kept = {
        State.RELEASED: Claim.EXPIRED,
        State.SETTLED: Claim.IN_PROGRESS,
        State.REFUNDING: Claim.REFUNDED,
        State.REFUNDED: Claim.REFUNDED,
    }
    if state in kept:
        assert again is kept[state]
        assert books.state() is state
    assert books.claim("never seen", 3, only_earlier=True).claim is Claim.EXPIRED
    assert books.state("x3") is None


def test_many_claims_of_one_proof_at_once_are_one_claim(books):
    async def all_at_once():
        return await asyncio.gather(
            *(books.exchanges.claim(claim_of("p", number), NOW_S) for number in range(200))
        )

    claims = Counter(claimed.claim for claimed in books.ask(all_at_once()))
    assert claims == {Claim.FRESH: 1, Claim.IN_PROGRESS: 199}


def test_many_claims_from_two_processes_worth_of_writers_are_one_claim(place):
    stores = [Books(place) for _ in range(2)]
    try:
        tasks = [s.exchanges.claim(claim_of("p", n), NOW_S) for n in range(50) for s in stores]

        async def all_at_once():
            return await asyncio.gather(*tasks)

        loop = stores[0].loop
        claims = Counter(c.claim for c in loop.run_until_complete(all_at_once()))
        assert claims == {Claim.FRESH: 1, Claim.IN_PROGRESS: 99}
    finally:
        for store in stores:
            store.close()


@pytest.mark.parametrize("state", [State.CREDITED, State.UNKNOWN, State.SETTLED, State.CLAIMED])
def test_a_tied_proof_is_for_the_challenge_that_it_was_first_shown_with(books: Books, state):
    """Anybody can see a transaction: whoever copies it must not have what its buyer is owed."""
    books.at(state, "p", 1, challenge_id="c")
    stolen = books.claim("p", 2, challenge_id="other", is_tied=True)
    assert (stolen.claim, books.state("x1")) == (Claim.SPENT, state)

    assert books.claim("p", 3, challenge_id="c", is_tied=True).claim is not Claim.SPENT


def test_a_tied_proof_that_paid_nothing_may_be_shown_with_another_challenge(books: Books):
    books.at(State.RELEASED, "p", 1, challenge_id="c")
    assert books.claim("p", 2, challenge_id="other", is_tied=True).claim is Claim.FRESH


def test_a_challenge_is_used_once_whoever_pays_it(books):
    books.at(State.SETTLED, "p", 1, challenge_id="c")
    assert books.claim("q", 2, challenge_id="c").claim is Claim.SPENT
    assert books.state("x2") is None


def test_a_challenge_whose_payment_was_released_is_open_to_another(books):
    books.at(State.RELEASED, "p", 1, challenge_id="c")
    assert books.claim("q", 2, challenge_id="c").claim is Claim.FRESH
    assert books.claim("p", 3, challenge_id="c").claim is Claim.SPENT
    assert books.state("x1") is State.RELEASED


def test_a_released_proof_that_is_shown_for_another_price_is_held_and_sought_at_it(books):
    """A token of Stripe's, refused by one account and then shown to another, or for a new price."""
    books.at(State.RELEASED, "p", 1)
    again = {"rail": "other", "asset": "eur", "account": "b", "payee": "c", "amount_minor": 30}

    claimed = books.claim("p", 2, **again)

    turn = Turn(claimed.exchange_id, claimed.attempt)
    assert not books.hold(turn, 29)
    assert books.hold(turn, 30)
    for before, after in itertools.pairwise(PATHS[State.UNKNOWN]):
        assert books.move(turn, before, after)
    (question,) = books.ask(books.exchanges.questions("other", (0, ""), 10))
    assert (question.asset, question.payment.amount_minor) == ("eur", 30)
    assert (question.payment.account, question.payment.payee) == ("b", "c")
    assert books.ask(books.exchanges.questions("evm", (0, ""), 10)) == []


@pytest.mark.parametrize(
    "other", [{"amount_minor": 11}, {"asset": "eur"}, {"account": "b"}, {"payee": "c"}], ids=str
)
def test_an_open_settlement_is_not_asked_about_under_the_terms_of_another(books, other):
    """The rail would say, truly, that of those nothing moved: and the buyer would pay again."""
    books.at(State.UNKNOWN, "p", 1)
    assert books.claim("p", 2).claim is Claim.UNKNOWN
    assert books.claim("p", 3, rail="renamed").claim is Claim.UNKNOWN
    assert books.claim("p", 4, **other).claim is Claim.IN_PROGRESS
    assert books.state("x1") is State.UNKNOWN


def test_rails_without_challenges_do_not_share_one(books):
    assert books.claim("p", 1, challenge_id=None).claim is Claim.FRESH
    assert books.claim("q", 2, challenge_id=None).claim is Claim.FRESH


def test_a_late_writer_of_an_earlier_attempt_changes_nothing(books):
    first = books.at(State.RELEASED)
    again = books.claim("p", 2)
    second = Turn(again.exchange_id, again.attempt)
    assert second.attempt == first.attempt + 1
    assert not books.move(first, State.CLAIMED, State.RELEASED)
    assert not books.hold(first, 100)
    assert books.hold(second, 100)
    assert books.state() is State.VERIFIED


def test_a_credit_that_is_spent_is_not_given_back_by_a_late_writer(books):
    first = books.at(State.CREDITED)
    second = books.claim("p", 2)
    assert second.claim is Claim.CREDITED
    assert not books.move(first, State.SETTLED, State.CREDITED)
    assert books.state() is State.SETTLED
    assert books.move(Turn("x1", second.attempt), State.SETTLED, State.CREDITED)


# Holds


def test_holds_never_exceed_the_purse(books):
    turns = [books.at(State.CLAIMED, f"p{n}", n) for n in range(5)]
    assert [books.hold(turn, 35) for turn in turns] == [True, True, True, False, False]


def test_a_purse_that_nobody_could_read_covers_one_payment(books):
    turns = [books.at(State.CLAIMED, f"p{n}", n) for n in range(3)]
    assert [books.hold(turn, None) for turn in turns] == [True, False, False]


def test_a_purse_holds_for_its_own_account_only(books):
    one = books.at(State.CLAIMED, "p", 1, account="a")
    other = books.at(State.CLAIMED, "q", 2, account="b")
    assert books.hold(one, 10)
    assert books.hold(other, 10)


@pytest.mark.parametrize("state", [State.VERIFIED, State.SETTLING, State.UNKNOWN])
def test_what_is_unsettled_counts_until_it_can_no_longer_be_settled(books, state):
    books.at(state, "p", 1)
    turn = books.at(State.CLAIMED, "q", 2)
    assert not books.hold(turn, 19, now_s=VALID_S - 1)
    assert books.hold(turn, 19, now_s=VALID_S)


def test_what_settled_after_the_balance_was_read_still_counts(books):
    seen = books.claim("q", 2)
    books.at(State.SETTLED, "p", 1)
    assert not books.hold(Turn("x2", 1), 19, seen.seq)


def test_what_settled_before_the_balance_was_read_does_not_count_even_in_the_same_second(books):
    books.at(State.SETTLED, "p", 1)
    seen = books.claim("q", 2)
    assert books.hold(Turn("x2", 1), 10, seen.seq)
    assert books.hold(Turn("x2", 1), 10, seen.seq) is False


@pytest.mark.parametrize("state", [State.CLAIMED, State.RELEASED])
def test_what_is_given_back_or_not_checked_yet_does_not_count(books, state):
    books.at(state, "p", 1)
    seen = books.claim("q", 2)
    assert books.hold(Turn("x2", 1), 10, seen.seq)


# What a crash leaves behind


@pytest.mark.parametrize("state", State)
def test_after_a_restart_nothing_is_left_that_nobody_owns(books, state):
    books.at(state)
    found = books.recover()
    after = {
        State.CLAIMED: State.RELEASED,
        State.VERIFIED: State.RELEASED,
        State.SETTLING: State.UNKNOWN,
        State.SETTLED: State.CREDITED,
    }.get(state, state)
    assert (found, books.state()) == (int(after is not state), after)
    assert books.recover() == 0


@pytest.mark.parametrize("state", State)
def test_who_has_another_lock_alone_takes_nothing_of_ours(books, state):
    """The lock file was deleted under a live gateway, and a second one has made its own."""
    books.at(state)
    second = Books(books.place, lock="another")
    assert (second.recover(), second.state()) == (0, state)
    second.close()


def test_a_proof_that_is_shown_again_belongs_to_whoever_serves_it_now(books):
    books.at(State.RELEASED, "p", 1)
    books.at(State.CREDITED, "q", 2)
    second = Books(books.place, lock="another")
    second.claim("p", 3)
    second.claim("q", 4)
    assert books.recover() == 0
    assert second.recover() == 2
    second.close()


def test_the_sweeper_credits_what_was_paid_and_never_handed_over(books):
    books.at(State.SETTLED, "lost", 1)
    books.at(State.SETTLED, "had", 2)
    books.ask(books.exchanges.mark_delivered(Turn("x2", 1)))
    assert books.sweep(DUE_S) == 0
    assert books.sweep(DUE_S + 1) == 1
    assert [books.state(f"x{n}") for n in (1, 2)] == [State.CREDITED, State.SETTLED]


def test_a_renewal_that_comes_late_does_not_give_a_delivered_call_away(books):
    turn = books.at(State.SETTLED)
    assert books.ask(books.exchanges.mark_delivered(turn))
    assert not books.ask(books.exchanges.renew(turn, DUE_S))
    assert books.sweep(10**9) == 0
    assert books.claim("p", 2).claim is Claim.DELIVERED


@pytest.mark.parametrize("state", [State.SETTLED, State.REFUNDING])
def test_an_amount_is_posted_when_money_moves_and_never_after(books, state):
    """Else a refund of nothing would close a debt."""
    turn = books.at(state)
    (after, *_) = sorted(TRANSITIONS[state])
    with pytest.raises(IllegalTransition):
        books.move(turn, state, after, amount_minor=0)
    assert books.state() is state


def test_a_call_that_was_handed_over_is_no_credit_after_a_restart(books):
    books.at(State.SETTLED)
    books.ask(books.exchanges.mark_delivered(Turn("x1", 1)))
    assert books.recover() == 0
    assert books.state() is State.SETTLED


def test_a_delivery_of_an_earlier_attempt_says_nothing_about_a_later_one(books):
    books.at(State.CREDITED)
    again = books.claim("p", 2)
    books.ask(books.exchanges.mark_delivered(Turn("x1", again.attempt - 1)))
    assert books.recover() == 1
    assert books.state() is State.CREDITED


@pytest.mark.parametrize("state", [s for s in State if s not in LEFT_OPEN])
def test_what_is_nobodys_to_finish_is_never_due(books, state):
    books.at(state)
    assert books.sweep(10**9) == 0
    assert books.state() is state


def test_each_row_is_due_by_the_deadlines_of_the_process_that_wrote_it(books):
    """The sweeper of an impatient configuration must not give away a patient one's call."""
    for number, due_s in ((1, NOW_S + 90), (2, NOW_S + 900)):
        turn = books.at(State.VERIFIED, f"settling {number}", number)
        books.move(turn, State.VERIFIED, State.SETTLING, due_s=due_s)
        turn = books.at(State.SETTLING, f"paid {number}", number + 2)
        books.move(turn, State.SETTLING, State.SETTLED, due_s=due_s)
    assert books.sweep(NOW_S + 90) == 0
    assert books.sweep(NOW_S + 91) == 2
    late = [State.UNKNOWN, State.SETTLING, State.CREDITED, State.SETTLED]
    assert [books.state(f"x{n}") for n in (1, 2, 3, 4)] == late
    assert books.sweep(NOW_S + 901) == 2


def test_a_redeemed_credit_is_due_by_the_deadlines_of_who_redeems_it(books):
    books.at(State.CREDITED)
    books.claim("p", 2, due_s=DUE_S + 500)
    assert books.sweep(DUE_S + 500) == 0
    assert books.sweep(DUE_S + 501) == 1


def test_a_turn_that_was_swept_is_not_renewed(books):
    turn = books.at(State.SETTLED)
    books.sweep(DUE_S + 1)
    assert not books.ask(books.exchanges.renew(turn, DUE_S + 9))
    assert books.claim("p", 2).claim is Claim.CREDITED
    assert not books.ask(books.exchanges.renew(turn, DUE_S + 9))
    assert books.ask(books.exchanges.renew(Turn("x1", 2), DUE_S + 9))


def test_a_renewed_turn_is_not_swept_before_its_new_end(books):
    turn = books.at(State.SETTLED)
    assert books.ask(books.exchanges.renew(turn, DUE_S + 9))
    assert books.sweep(DUE_S + 9) == 0
    assert books.sweep(DUE_S + 10) == 1


def test_the_sweeper_lets_payments_in_between_its_batches(books):
    books.fill(BATCH_ROWS + 1, State.SETTLING, due_s=DUE_S)
    assert [books.sweep(DUE_S + 1) for _ in range(3)] == [BATCH_ROWS, 1, 0]


def test_recovery_lets_payments_in_between_its_batches(books):
    """A start after a crash with many open rows must not hold the only writer."""
    books.fill(2 * BATCH_ROWS + 1, State.SETTLING, due_s=DUE_S)

    async def story() -> list[int]:
        sizes = []
        async for batch in books.exchanges.recover(lambda _, owner: owner == LOCK, NOW_S):
            claimed = await books.exchanges.claim(claim_of(f"new {len(sizes)}", len(sizes)), NOW_S)
            assert claimed.claim is Claim.FRESH
            # What is claimed meanwhile has another owner: nobody who serves takes up its own.
            await books.database.write(
                lambda db: db.execute("UPDATE exchanges SET owner = 'other' WHERE id LIKE 'x%'")
            )
            sizes.append(len(batch))
        return sizes

    assert books.ask(story()) == [BATCH_ROWS, BATCH_ROWS, 1]


def test_a_name_that_is_served_under_again_loses_nothing_more(books):
    books.fill(2 * BATCH_ROWS, State.SETTLING, due_s=DUE_S)
    asked = []

    def is_gone(_, owner):
        asked.append(owner)
        return len(asked) == 1

    assert books.ask(taken_up(books.exchanges, is_gone, NOW_S)) == BATCH_ROWS
    assert asked == [LOCK, LOCK]


@pytest.mark.parametrize("state", LEFT_OPEN)
def test_what_is_taken_up_is_told_with_its_money(books, state):
    expected = [TakenUp("x1", "usd", 10, LEFT_OPEN[state])]
    books.at(state)
    assert books.ask(books.exchanges.sweep(10**9)) == expected
    books.at(state, "q", 2)

    async def recovered() -> list[TakenUp]:
        found = books.exchanges.recover(lambda _, owner: owner == LOCK, NOW_S)
        return [taken for batch in [b async for b in found] for taken in batch]

    assert books.ask(recovered()) == [dataclasses.replace(expected[0], exchange_id="x2")]


# What is forgotten


def left(books: Books) -> tuple[int, int]:
    """Return how many exchanges and how many lines of the journal there are."""
    count = "SELECT (SELECT count(*) FROM exchanges), (SELECT count(*) FROM journal)"
    return books.ask(books.database.read(lambda db: db.execute(count).fetchone()))


@pytest.mark.parametrize("state", State)
def test_only_a_release_whose_proof_is_dead_is_forgotten(books, state):
    books.at(state)
    before = left(books)
    assert books.purge(VALID_S) == 0
    assert books.purge(10**9) == int(state is State.RELEASED)
    assert left(books) == ((0, 0) if state is State.RELEASED else before)
    if state in (State.SETTLED, State.REFUNDED):
        assert books.claim("p", 2).claim in (Claim.REFUNDED, Claim.IN_PROGRESS)


def test_a_purge_lets_payments_in_between_its_batches(books):
    books.fill(BATCH_ROWS + 1, State.RELEASED)
    assert [books.purge(VALID_S + 1) for _ in range(3)] == [BATCH_ROWS, 1, 0]


def test_a_late_writer_of_a_forgotten_exchange_changes_nothing(books):
    turn = books.at(State.CLAIMED)
    books.sweep(DUE_S + 1)
    assert books.purge(VALID_S + 1) == 1
    assert books.claim("p", 2).claim is Claim.FRESH
    assert not books.hold(turn, 100)
    assert not books.move(turn, State.CLAIMED, State.RELEASED)
    assert books.state("x2") is State.CLAIMED


# What a payer with a long history costs everybody else


def plan(books: Books, query: str, values) -> list[str]:
    rows = books.ask(
        books.database.read(lambda db: db.execute(f"EXPLAIN QUERY PLAN {query}", values).fetchall())
    )
    return [row[3] for row in rows if "exchanges" in row[3]]


def test_a_hold_searches_what_is_open_and_never_walks_over_a_payers_history(file_books):
    values = ("x", NOW_S, "x", "x", 0, "x")
    its_account = "SEARCH exchanges USING INDEX sqlite_autoindex_exchanges_1 (id=?)"
    assert plan(file_books, HELD_BY_OTHERS, values) == [
        "SEARCH exchanges USING INDEX exchanges_held (account=? AND held_until_s>?)",
        its_account,
        "SEARCH exchanges USING INDEX exchanges_paid (account=? AND paid_seq>?)",
        its_account,
    ]


def steps_of_a_hold(books: Books, number: int) -> int:
    """Return how many instructions the store's machine takes for one hold."""
    seen = books.claim(f"mine {number}", number)
    turn = Turn(seen.exchange_id, seen.attempt)
    steps = itertools.count()

    def work(db: sqlite3.Connection) -> None:
        db.set_progress_handler(lambda: next(steps) and None, 1)
        assert _hold(db, turn, 1_000, seen.seq, NOW_S)
        db.set_progress_handler(None, 0)

    books.ask(books.database.write(work))
    return next(steps)


def test_a_hold_is_as_much_work_behind_thousands_of_failed_calls_as_behind_none(file_books):
    before = steps_of_a_hold(file_books, 1)
    file_books.fill(5_000, State.RELEASED)
    file_books.fill(5_000, State.UNKNOWN, valid_until_s=NOW_S)
    file_books.fill(5_000, State.CREDITED)
    assert steps_of_a_hold(file_books, 2) < 2 * before


def test_what_was_claimed_is_there_after_a_kill(place):
    first = Books(place)
    first.claim("p")
    # No close: the second opens the files as a crash leaves them.
    second = Books(place)
    assert second.claim("p", 2).claim is Claim.IN_PROGRESS
    second.close()
    first.close()


def test_the_last_validity_of_a_proof_is_remembered(books):
    books.at(State.UNKNOWN, "p", 1, valid_until_s=5_000)
    assert books.claim("p", 2, valid_until_s=3_000).valid_until_s == 5_000
    assert books.claim("p", 2, valid_until_s=6_000).valid_until_s == 6_000


def test_a_store_that_cannot_write_says_so_and_nothing_happened(file_books, tmp_path):
    file_books.ask(
        file_books.database.write(lambda db: db.execute("PRAGMA busy_timeout=0") and None)
    )
    blocker = sqlite3.connect(tmp_path / "books.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        file_books.claim("p")
    blocker.execute("ROLLBACK")
    blocker.close()
    assert file_books.state() is None
    assert file_books.claim("p").claim is Claim.FRESH


FOR_EVER_S = 2**33


def forgotten_at(books: Books) -> int:
    ((forget_s,),) = books.ask(
        books.database.read(lambda db: db.execute("SELECT forget_s FROM exchanges").fetchall())
    )
    return forget_s


def test_a_signature_for_ever_that_was_never_good_does_not_stay_for_ever(books):
    """Fresh keys without money sign as many as they like: each would keep its row until 2242."""
    for number in (1, 2):
        claimed = books.claim("p", number, valid_until_s=FOR_EVER_S)
        turn = Turn(claimed.exchange_id, claimed.attempt)
        assert books.move(turn, State.CLAIMED, State.RELEASED)
        assert forgotten_at(books) == NOW_S + NEVER_HELD_KEPT_S
    assert books.purge(NOW_S + NEVER_HELD_KEPT_S + 1) == 1


def test_a_signature_for_ever_that_was_good_is_remembered_for_a_month(books):
    claimed = books.claim("p", 1, valid_until_s=FOR_EVER_S)
    turn = Turn(claimed.exchange_id, claimed.attempt)
    assert not claimed.was_held
    assert books.hold(turn, 100)
    assert books.move(turn, State.VERIFIED, State.RELEASED)

    assert forgotten_at(books) == NOW_S + HELD_KEPT_S
    assert books.claim("p", 2, valid_until_s=FOR_EVER_S).was_held
