"""Books beside a statement: what differs is named, and what is only late is not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mpp_gateway.gateway.reconciliation import (
    DIFFERENCES_MAX,
    Comparison,
    Difference,
    Reconciliation,
    not_compared,
)
from mpp_gateway.ledger.book import State
from mpp_gateway.ledger.extract import Extract
from mpp_gateway.ledger.inquiry import Record
from mpp_gateway.rails.statement import Booked, Entry, Shown

NOW_S = 1_000
LAST = 9


class Statement:
    """A network of three lines; place and reference are the same number."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {entry.reference: entry for entry in entries}
        self.asked: list[str] = []
        self.searched: tuple[int, int] | None = None
        self.watched: frozenset[str] = frozenset()

    async def newest(self) -> int:
        return LAST

    async def place_at(self, unix_s: int) -> int:
        return 4

    async def under(self, reference: str) -> Entry:
        self.asked.append(reference)
        return self.entries.get(reference, Entry(reference, None, why="it is nowhere"))

    def shows(self, shown: Shown, booked: Booked) -> bool:
        return (shown.proof_id, shown.amount_minor) == (booked.proof_id, booked.amount_minor)

    def given_back(self, entry: Entry, booked: Booked) -> int:
        return len(entry.transfers)

    def watch(self, payees: frozenset[str]) -> None:
        self.watched = payees

    async def incoming(self, first: int, last: int) -> AsyncIterator[tuple[int, tuple[str, ...]]]:
        self.searched = first, last
        for entry in self.entries.values():
            if entry.place is not None and first <= entry.place <= last:
                yield entry.place, (entry.reference,)

    async def close(self) -> None:
        pass


def line(place: int, *proofs: str, minor: int = 5, **more) -> Entry:
    payments = tuple(Shown(proof, "us", minor, is_ours=True) for proof in proofs)
    return Entry(f"ref-{place}", place, payments, **more)


def record(proof: str, state: State = State.SETTLED, reference: str = "", **changes) -> Record:
    fields = {
        "exchange_id": f"x-{proof}",
        "proof_id": proof,
        "tenant": "default",
        "rail": "base",
        "asset": "usd",
        "account": "payer",
        "payee": "us",
        "amount_minor": 5,
        "scope": "scope",
        "state": str(state),
        "attempt": 1,
        "reference": reference,
        "refund": "",
        "receipt": (),
        "challenge_id": None,
        "valid_until_s": NOW_S,
        "due_s": None,
        "created_s": NOW_S,
        "updated_s": NOW_S,
    }
    return Record(**(fields | changes))


def compared(
    statement: Statement, *records: Record, first: int | None = None
) -> tuple[Comparison, list[tuple[str, str]]]:
    extract = Extract()
    extract.add(records)
    work = Reconciliation("base", "usd", statement, extract, LAST, NOW_S)
    done = asyncio.run(work.run(first))
    extract.close()
    return done, [(found.kind, found.proof_id) for found in done.differences]


@pytest.mark.parametrize("state", [State.SETTLED, State.CREDITED, State.REFUNDING])
def test_a_payment_that_is_there_agrees(state):
    done, found = compared(Statement(line(5, "a")), record("a", state, "ref-5"))
    assert (done.found, found) == (1, [])


def test_a_payment_that_is_nowhere_is_missing():
    done, found = compared(Statement(), record("a", State.SETTLED, "ref-5"))
    assert (done.found, found) == (0, [("missing", "a")])
    assert done.differences[0].text == "the books say settled, but it is nowhere"


def test_a_payment_without_a_reference_is_missing_and_nobody_is_asked():
    statement = Statement()
    _, found = compared(statement, record("a"))
    assert (found, statement.asked) == ([("missing", "a")], [])


def test_one_line_shows_two_payments_only_if_it_has_both():
    sold = [record(proof, State.SETTLED, "ref-5") for proof in "ab"]
    assert compared(Statement(line(5, "a", "b")), *sold)[1] == []
    assert compared(Statement(line(5, "a")), *sold)[1] == [("missing", "b")]


def test_a_payment_of_another_amount_is_different():
    _, found = compared(Statement(line(5, "a", minor=4)), record("a", State.SETTLED, "ref-5"))
    assert found == [("different", "a")]


def test_money_that_no_exchange_has_is_extra():
    done, found = compared(Statement(line(5, "a"), line(6, "b")), record("a", reference="ref-5"))
    assert found == [("extra", "b")]
    assert (done.differences[0].asset, done.differences[0].reference) == ("usd", "ref-6")


@pytest.mark.parametrize("state", [State.RELEASED, State.UNKNOWN])
def test_money_of_which_the_books_say_that_it_never_came_is_unrecorded(state):
    _, found = compared(Statement(line(5, "a")), record("a", state))
    assert found == [("unrecorded", "a")]


@pytest.mark.parametrize("state", [State.CLAIMED, State.VERIFIED, State.SETTLING])
def test_a_payment_that_is_just_being_made_is_no_difference_until_it_is_overdue(state):
    statement = Statement(line(5, "a"))
    done, found = compared(statement, record("a", state, due_s=NOW_S + 1))
    assert (done.under_way, found) == (1, [])
    done, found = compared(statement, record("a", state, due_s=NOW_S))
    assert (done.under_way, found) == (0, [("unrecorded", "a")])


def test_money_beside_a_known_payment_is_found_too():
    _, found = compared(Statement(line(5, "a", "b")), record("a", reference="ref-5"))
    assert found == [("extra", "b")]


def test_a_payment_of_another_rail_of_the_books_is_not_extra():
    _, found = compared(Statement(line(5, "a")), record("a", reference="ref-5", rail="other"))
    assert found == []


def test_a_payment_to_somebody_else_is_not_our_business():
    entry = Entry("ref-5", 5, (Shown("b", "them", 5, is_ours=False),))
    assert compared(Statement(entry), record("a", State.RELEASED))[1] == []


def test_what_came_by_no_proof_is_counted_once():
    done, found = compared(Statement(line(5, "a", others=2)), record("a", reference="ref-5"))
    assert (done.others, found) == (2, [])


def test_each_line_is_asked_for_once():
    statement = Statement(*(line(place, str(place)) for place in range(5, 9)))
    sold = [record(str(place), reference=f"ref-{place}") for place in range(5, 9)]
    done, found = compared(statement, *sold)
    assert (done.found, found) == (4, [])
    assert sorted(statement.asked) == [f"ref-{place}" for place in range(5, 9)]


@pytest.mark.parametrize(
    ("place", "first", "searched"), [(2, None, (2, LAST)), (7, None, (4, LAST)), (7, 6, (6, LAST))]
)
def test_the_search_begins_with_the_first_payment_or_exchange_or_where_it_is_told(
    place, first, searched
):
    statement = Statement(line(place, "a"))
    done, _ = compared(statement, record("a", reference=f"ref-{place}"), first=first)
    assert statement.searched == searched
    assert (done.first, done.last) == searched


def test_a_refund_is_found_or_told():
    paid = line(5, "a", transfers=("one",))
    back = {"state": "refunded", "refund": "ref-5"}
    done, found = compared(Statement(paid), record("a", reference="ref-5", **back))
    assert (done.found, done.refunds, found) == (1, 1, [])
    _, found = compared(Statement(line(5, "a")), record("a", reference="ref-5", **back))
    assert found == [("refund", "a")]


def test_one_transfer_back_gives_one_of_two_alike_payments_back():
    back = {"state": "refunded", "refund": "ref-5", "reference": "ref-5"}
    both = [record(proof, **back) for proof in "ab"]
    done, found = compared(Statement(line(5, "a", "b", transfers=("one",))), *both)
    assert (done.refunds, len(found)) == (1, 1)
    done, found = compared(Statement(line(5, "a", "b", transfers=("one", "two"))), *both)
    assert (done.refunds, found) == (2, [])


def test_everybody_whom_the_books_paid_is_watched():
    statement = Statement()
    compared(
        statement, record("a", State.RELEASED, payee="p"), record("b", State.RELEASED, payee="")
    )
    assert statement.watched == {"p"}


def test_differences_without_end_are_counted_and_not_all_kept():
    done = Comparison("base")
    for number in range(DIFFERENCES_MAX + 5):
        done.note(Difference("extra", "", str(number), "", 1, "usd"))
    assert (len(done.differences), done.differences_found) == (DIFFERENCES_MAX, DIFFERENCES_MAX + 5)


def test_rails_that_were_not_compared_are_named_with_their_exchanges():
    extract = Extract()
    extract.add([record("a"), record("b", rail="other"), record("c", rail="other")])
    assert list(not_compared(extract, {"base"})) == [("other", 2)]
