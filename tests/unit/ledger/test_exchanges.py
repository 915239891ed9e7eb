"""The store of exchanges: the state table, claims, holds, fences, and what a crash leaves."""

import asyncio
import itertools
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.ledger.database import Database, StoreUnavailable
from mpp_gateway.ledger.exchanges import (
    EXCHANGES_SCHEMA,
    TRANSITIONS,
    Claim,
    Claimed,
    ClaimRequest,
    Exchanges,
    IllegalTransition,
    State,
    Turn,
)

NOW_S = 1_000
VALID_S = 2_000
RECEIPT = (("Payment-Receipt", "r"),)

LEGAL = {
    "claimed": {"verified", "released"},
    "verified": {"settling", "released"},
    "settling": {"settled", "released", "unknown"},
    "unknown": {"credited", "released"},
    "settled": {"credited", "refunded"},
    "released": {"claimed"},
    "credited": {"settled"},
    "refunded": set(),
}
"""Architecture 4.3, written out a second time."""

PATHS: dict[State, tuple[State, ...]] = {
    State.CLAIMED: (),
    State.VERIFIED: (State.VERIFIED,),
    State.SETTLING: (State.VERIFIED, State.SETTLING),
    State.SETTLED: (State.VERIFIED, State.SETTLING, State.SETTLED),
    State.UNKNOWN: (State.VERIFIED, State.SETTLING, State.UNKNOWN),
    State.RELEASED: (State.RELEASED,),
    State.CREDITED: (State.VERIFIED, State.SETTLING, State.SETTLED, State.CREDITED),
    State.REFUNDED: (State.VERIFIED, State.SETTLING, State.SETTLED, State.REFUNDED),
}


def claim_of(proof: str, number: int = 1, **changes) -> ClaimRequest:
    request = ClaimRequest(
        exchange_id=f"x{number}",
        proof_id=proof,
        rail="evm",
        asset="usd",
        account="purse",
        amount_minor=10,
        scope="scope",
        valid_until_s=VALID_S,
        challenge_id=f"challenge of {proof}",
    )
    return replace(request, **changes)


class Books:
    """The store of one test, asked without `await`."""

    def __init__(self, path: Path | str) -> None:
        self.loop = asyncio.new_event_loop()
        self.database = Database(path, (EXCHANGES_SCHEMA,))
        self.database.open()
        self.exchanges = Exchanges(self.database)

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
def books(tmp_path):
    found = Books(tmp_path / "books.db")
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
        (State.SETTLED, Claim.SPENT),
        (State.REFUNDED, Claim.SPENT),
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
        assert books.claim("p", 3).claim is Claim.SPENT


@pytest.mark.parametrize("state", State)
def test_a_proof_is_worth_nothing_for_another_request(books, state):
    books.at(state)
    assert books.claim("p", 2, scope="other").claim is Claim.SPENT
    assert books.state() is state


@pytest.mark.parametrize("state", State)
def test_an_expired_challenge_opens_nothing_anew(books, state):
    books.at(state)
    again = books.claim("p", 2, only_earlier=True).claim
    if state in (State.RELEASED, State.SETTLED, State.REFUNDED):
        assert again is Claim.SPENT
        assert books.state() is state
    assert books.claim("never seen", 3, only_earlier=True).claim is Claim.SPENT
    assert books.state("x3") is None


def test_many_claims_of_one_proof_at_once_are_one_claim(books):
    async def all_at_once():
        return await asyncio.gather(
            *(books.exchanges.claim(claim_of("p", number), NOW_S) for number in range(200))
        )

    claims = Counter(claimed.claim for claimed in books.ask(all_at_once()))
    assert claims == {Claim.FRESH: 1, Claim.IN_PROGRESS: 199}


def test_many_claims_from_two_processes_worth_of_writers_are_one_claim(tmp_path):
    stores = [Books(tmp_path / "shared.db") for _ in range(2)]
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


def test_a_challenge_is_used_once_whoever_pays_it(books):
    books.at(State.SETTLED, "p", 1, challenge_id="c")
    assert books.claim("q", 2, challenge_id="c").claim is Claim.SPENT
    assert books.state("x2") is None


def test_a_challenge_whose_payment_was_released_is_open_to_another(books):
    books.at(State.RELEASED, "p", 1, challenge_id="c")
    assert books.claim("q", 2, challenge_id="c").claim is Claim.FRESH
    assert books.claim("p", 3, challenge_id="c").claim is Claim.SPENT
    assert books.state("x1") is State.RELEASED


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
    found = books.ask(books.exchanges.recover(NOW_S))
    after = {
        State.CLAIMED: State.RELEASED,
        State.VERIFIED: State.RELEASED,
        State.SETTLING: State.UNKNOWN,
        State.SETTLED: State.CREDITED,
    }.get(state, state)
    assert (found, books.state()) == (int(after is not state), after)
    assert books.ask(books.exchanges.recover(NOW_S)) == 0


def test_the_sweeper_credits_what_was_paid_and_never_handed_over(books):
    books.at(State.SETTLED, "lost", 1)
    books.at(State.SETTLED, "had", 2)
    books.ask(books.exchanges.mark_delivered(Turn("x2", 1)))
    assert books.ask(books.exchanges.sweep(NOW_S + 200, 90, 200)) == 0
    assert books.ask(books.exchanges.sweep(NOW_S + 201, 90, 200)) == 1
    assert [books.state(f"x{n}") for n in (1, 2)] == [State.CREDITED, State.SETTLED]


def test_a_call_that_was_handed_over_is_no_credit_after_a_restart(books):
    books.at(State.SETTLED)
    books.ask(books.exchanges.mark_delivered(Turn("x1", 1)))
    assert books.ask(books.exchanges.recover(NOW_S)) == 0
    assert books.state() is State.SETTLED


def test_a_delivery_of_an_earlier_attempt_says_nothing_about_a_later_one(books):
    books.at(State.CREDITED)
    again = books.claim("p", 2)
    books.ask(books.exchanges.mark_delivered(Turn("x1", again.attempt - 1)))
    assert books.ask(books.exchanges.recover(NOW_S)) == 1
    assert books.state() is State.CREDITED


def test_the_sweeper_takes_only_what_no_living_process_can_still_own(books):
    books.at(State.SETTLING, "settling", 1)
    books.at(State.VERIFIED, "verified", 2)
    books.at(State.CLAIMED, "claimed", 3)
    assert books.ask(books.exchanges.sweep(NOW_S + 90, 90, 200)) == 0
    assert books.ask(books.exchanges.sweep(NOW_S + 91, 90, 200)) == 1
    assert books.state("x1") is State.UNKNOWN
    assert books.ask(books.exchanges.sweep(VALID_S + 1, 90, 200)) == 2
    assert [books.state(f"x{n}") for n in (2, 3)] == [State.RELEASED] * 2


def test_what_was_claimed_is_there_after_a_kill(tmp_path):
    first = Books(tmp_path / "books.db")
    first.claim("p")
    # No close: the second opens the files as a crash leaves them.
    second = Books(tmp_path / "books.db")
    assert second.claim("p", 2).claim is Claim.IN_PROGRESS
    second.close()
    first.close()


def test_the_last_validity_of_a_proof_is_remembered(books):
    books.at(State.UNKNOWN, "p", 1, valid_until_s=5_000)
    assert books.claim("p", 2, valid_until_s=3_000).valid_until_s == 5_000
    assert books.claim("p", 2, valid_until_s=6_000).valid_until_s == 6_000


def test_a_store_that_cannot_write_says_so_and_nothing_happened(books, tmp_path):
    books.ask(books.database.write(lambda db: db.execute("PRAGMA busy_timeout=0") and None))
    blocker = sqlite3.connect(tmp_path / "books.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        books.claim("p")
    blocker.execute("ROLLBACK")
    blocker.close()
    assert books.state() is None
    assert books.claim("p").claim is Claim.FRESH
