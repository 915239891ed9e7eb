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
from mpp_gateway.ledger.extract import Extract
from mpp_gateway.ledger.inquiry import Record
from mpp_gateway.ledger.states import State
from mpp_gateway.rails.statement import Booked, Entry, ProofsOf, Shown, Transferred

NOW_S = 1_000
LAST = 9


class Statement:
    """A network of three lines; place and reference are the same number."""

    is_by_time = False

    def __init__(self, *entries: Entry) -> None:
        self.entries = {entry.reference: entry for entry in entries}
        self.asked: list[str] = []
        self.searched: tuple[int, int] | None = None
        self.watched: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    async def newest(self) -> int:
        return LAST

    async def place_at(self, unix_s: int) -> int:
        return 4

    async def read_ahead(self, first: int) -> None:
        self.ahead = first

    async def under(self, reference: str) -> Entry:
        self.asked.append(reference)
        return self.entries.get(reference, Entry(reference, None, why="it is nowhere"))

    def shows(self, shown: Shown, booked: Booked) -> bool:
        return (shown.proof_id, shown.amount_minor) == (booked.proof_id, booked.amount_minor)

    def gives_back(self, transferred: Transferred, booked: Booked) -> bool:
        ends = transferred.source, transferred.target, transferred.amount_minor
        return ends == (booked.payee, booked.account, booked.amount_minor)

    def watch(self, payees: frozenset[str], givers: frozenset[str], proofs_of: ProofsOf) -> None:
        self.watched = payees, givers

    async def movements(self, first: int, last: int) -> AsyncIterator[tuple[int, tuple[str, ...]]]:
        self.searched = first, last
        for entry in self.entries.values():
            if entry.place is not None and first <= entry.place <= last:
                yield entry.place, (entry.reference,)

    async def close(self) -> None:
        pass


def line(place: int, *proofs: str, minor: int = 5, **more) -> Entry:
    payments = tuple(Shown(proof, "us", minor, is_ours=True) for proof in proofs)
    return Entry(f"ref-{place}", place, payments, **more)


def back(minor: int = 5, target: str = "payer", source: str = "us") -> Transferred:
    return Transferred(source, target, minor, is_from_us=source == "us")


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
    paid = line(5, "a", transfers=(back(),))
    done, found = compared(Statement(paid), refunded("a"))
    assert (done.found, done.refunds, found) == (1, 1, [])
    _, found = compared(Statement(line(5, "a")), refunded("a"))
    assert found == [("refund", "a")]


@pytest.mark.parametrize("sent", [back(4), back(6), back(target="them")])
def test_a_refund_of_another_amount_or_to_somebody_else_is_told_once(sent):
    done, found = compared(Statement(line(5, "a", transfers=(sent,))), refunded("a"))
    assert (done.refunds, found) == (0, [("refund", "a")])
    assert f"it sent {sent.amount_minor} to {sent.target}" in done.differences[0].text


def refunded(proof: str, reference: str = "ref-5") -> Record:
    return record(proof, State.REFUNDED, reference, refund=reference)


def test_a_refund_that_was_sent_twice_is_overpaid():
    paid = line(5, "a", transfers=(back(),))
    done, found = compared(Statement(paid, line(6, transfers=(back(),))), refunded("a"))
    assert (done.refunds, found) == (1, [("overpaid", "")])
    assert (done.differences[0].reference, done.differences[0].amount_minor) == ("ref-6", 5)
    twice = line(5, "a", transfers=(back(), back()))
    assert compared(Statement(twice), refunded("a"))[1] == [("overpaid", "")]


@pytest.mark.parametrize("state", [State.SETTLED, State.CREDITED])
def test_money_sent_to_a_buyer_to_whom_none_is_owed_is_overpaid(state):
    sent = line(5, "a", transfers=(back(3),))
    assert compared(Statement(sent), record("a", state, "ref-5"))[1] == [("overpaid", "")]


def test_one_refund_that_is_owed_explains_one_transfer():
    owed = record("a", State.REFUNDING, "ref-5")
    paid, sent, again = line(5, "a"), line(6, transfers=(back(),)), line(7, transfers=(back(),))
    assert compared(Statement(paid), owed)[1] == []
    done, found = compared(Statement(paid, sent), owed)
    assert (done.under_way, found) == (1, [])
    assert compared(Statement(paid, sent, again), owed)[1] == [("overpaid", "")]
    assert compared(Statement(paid, line(6, transfers=(back(4),))), owed)[1] == [("overpaid", "")]


@pytest.mark.parametrize(
    "sent", [back(target="nobody"), back(source="a stranger"), back(target="us")]
)
def test_money_that_is_no_refund_to_a_buyer_of_ours_is_not_our_business(sent):
    statement = Statement(line(5, "a", transfers=(sent,)))
    assert compared(statement, record("a", reference="ref-5"))[1] == []


def test_the_longest_debts_are_told_first():
    extract = Extract()
    states = {"a": State.REFUNDING, "b": State.REFUNDING, "c": State.REFUNDED}
    extract.add(record(p, state, updated_s=NOW_S - ord(p)) for p, state in states.items())
    found = [(owed.proof_id, owed.updated_s) for owed in extract.waiting()]
    assert found == [("b", NOW_S - ord("b")), ("a", NOW_S - ord("a"))]


def test_one_transfer_back_gives_one_of_two_alike_payments_back():
    both = [refunded(proof) for proof in "ab"]
    done, found = compared(Statement(line(5, "a", "b", transfers=(back(),))), *both)
    assert (done.refunds, len(found)) == (1, 1)
    done, found = compared(Statement(line(5, "a", "b", transfers=(back(), back()))), *both)
    assert (done.refunds, found) == (2, [])


def test_everybody_whom_the_books_paid_is_watched():
    statement = Statement()
    compared(
        statement, record("a", State.RELEASED, payee="p"), record("b", State.RELEASED, payee="")
    )
    assert statement.watched == ({"p"}, frozenset())


def test_who_gave_money_back_or_owes_it_is_watched_whatever_the_rail():
    statement = Statement()
    states = (State.REFUNDING, State.REFUNDED, State.SETTLED)
    sold = [record(s, s, payee=f"p-{s}", rail="other") for s in states]
    compared(statement, *sold)
    assert statement.watched == (frozenset(), {"p-refunding", "p-refunded"})


def test_differences_without_end_are_counted_and_not_all_kept():
    done = Comparison("base")
    for number in range(DIFFERENCES_MAX + 5):
        done.note(Difference("extra", "", str(number), "", 1, "usd"))
    assert (len(done.differences), done.differences_found) == (DIFFERENCES_MAX, DIFFERENCES_MAX + 5)


def test_rails_that_were_not_compared_are_named_with_their_exchanges():
    extract = Extract()
    extract.add([record("a"), record("b", rail="other"), record("c", rail="other")])
    assert list(not_compared(extract, {"base"})) == [("other", 2)]
