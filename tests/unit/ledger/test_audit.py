"""The audit: what a disk fault, a stranger or a fault of ours did to the books is found."""

import re
import sqlite3
from contextlib import closing

import pytest

from mpp_gateway.ledger.audit import FAULTS_MAX, REOPENING, Audit, FoundLine, Row, audit, faults_of
from mpp_gateway.ledger.inquiry import Purse
from mpp_gateway.ledger.reading import reading
from mpp_gateway.ledger.states import TRANSITIONS, State
from tests.support.ledger import NOW_S, PATHS, PRICE, SCHEMA, VALID_S, Keeper, store_of
from tests.support.stores import Place, SqlitePlace

PURSE = Purse("default", "evm", "usd")


def audited(place: Place) -> Audit:
    with reading(store_of(place), SCHEMA) as books:
        return audit(books)


def told(place: Place) -> str:
    """Return what the audit says of the exchanges one by one, and see that the sums say so too."""
    found = audited(place)
    assert not found.is_sound
    return "\n".join(f"{fault.exchange_id}: {fault.text}" for fault in found.faults)


def tamper(place: Place, *statements: str) -> None:
    """Change the store behind the gateway's back."""
    if isinstance(place, SqlitePlace):
        with closing(sqlite3.connect(place.path)) as db, db:
            for statement in statements:
                db.execute(statement)
        return
    import psycopg

    with psycopg.connect(place.url) as db:
        # As a restored or broken table would have it.
        db.execute("ALTER TABLE journal DROP CONSTRAINT journal_exchange_id_fkey")
        for statement in statements:
            db.execute(statement)


@pytest.fixture
def sold(place) -> Place:
    """A store with an exchange in every state; the settled one is `settled`."""
    with Keeper(place) as keeper:
        for state in State:
            keeper.sell(str(state), state)
    return place


def test_books_that_the_gateway_kept_are_sound(sold):
    found = audited(sold)

    assert (found.faults, found.is_sound) == ([], True)
    assert found.exchanges == len(State)
    assert found.lines == sum(1 + len(path) for path in PATHS.values())
    assert {b.state: (b.count, b.amount_minor) for b in found.balances} == {
        str(state): (1, PRICE) for state in State
    }


def test_books_in_which_everything_was_opened_again_are_sound(place):
    with Keeper(place) as keeper:
        keeper.sell("released", State.RELEASED)
        keeper.claim("released", NOW_S + 1)
        keeper.sell("credited", State.CREDITED)
        turn = keeper.claim("credited", NOW_S + 1)
        keeper.move(turn, State.SETTLED, State.CREDITED, NOW_S + 2)
    assert audited(place).faults == []


def test_less_may_settle_than_was_held(place):
    with Keeper(place) as keeper:
        turn = keeper.sell("x1", State.SETTLING)
        settled = keeper.exchanges.move(
            turn, State.SETTLING, State.SETTLED, NOW_S, amount_minor=PRICE - 1
        )
        assert keeper.run(settled)
    found = audited(place)
    assert found.faults == []
    assert [(b.state, b.amount_minor) for b in found.balances] == [("settled", PRICE - 1)]


def test_what_the_gateway_forgot_is_not_missed(place):
    with Keeper(place) as keeper:
        keeper.sell("x1", State.RELEASED)
        keeper.sell("x2")
        assert keeper.run(keeper.exchanges.purge(VALID_S + 1)) == 1
    found = audited(place)
    assert (found.is_sound, found.exchanges) == (True, 1)


ATTACKS = {
    "a state changed in the table": (
        "UPDATE exchanges SET state = 'credited' WHERE id = 'settled'",
        r"settled: the table says credited, the journal says settled",
    ),
    "an amount changed in the table": (
        "UPDATE exchanges SET amount_minor = '1' WHERE id = 'settled'",
        r"settled: the table says '1', the journal says '10000'",
    ),
    "an amount that is none": (
        "UPDATE exchanges SET amount_minor = '-5' WHERE id = 'settled'",
        r"settled: '-5' is no amount",
    ),
    "an amount changed in a line": (
        (
            "UPDATE journal SET amount_minor = '99999' WHERE exchange_id = 'settled'"
            " AND to_state = 'settled'"
        ),
        r"settled: line \d+ is about '99999', line \d+ about '10000'",
    ),
    "an amount lowered in a line": (
        (
            "UPDATE journal SET amount_minor = '1' WHERE exchange_id = 'credited'"
            " AND to_state = 'credited'"
        ),
        r"credited: line \d+ is about '1', line \d+ about '10000'",
    ),
    "an attempt changed in the table": (
        "UPDATE exchanges SET attempt = 2 WHERE id = 'credited'",
        r"credited: the table says attempt 2, the journal says 1",
    ),
    "an attempt changed in a line": (
        "UPDATE journal SET attempt = 2 WHERE exchange_id = 'settled' AND to_state = 'settling'",
        r"settled: line \d+ is of attempt 2, it should be of 1",
    ),
    "the first line deleted": (
        "DELETE FROM journal WHERE exchange_id = 'settled' AND to_state = 'claimed'",
        r"settled: line \d+ goes on from claimed, but nothing was before",
    ),
    "a line in the middle deleted": (
        "DELETE FROM journal WHERE exchange_id = 'settled' AND to_state = 'settling'",
        r"settled: line \d+ goes on from settling, but line \d+ ended in verified",
    ),
    "the last line deleted": (
        "DELETE FROM journal WHERE exchange_id = 'credited' AND to_state = 'credited'",
        r"credited: the table says credited, the journal says settled",
    ),
    "every line deleted": (
        "DELETE FROM journal WHERE exchange_id = 'settled'",
        r"settled: no line of the journal is left",
    ),
    "a line doubled": (
        (
            "INSERT INTO journal (exchange_id, attempt, from_state, to_state, amount_minor, at_s)"
            " SELECT exchange_id, attempt, from_state, to_state, amount_minor, at_s FROM journal"
            " WHERE exchange_id = 'settled' AND to_state = 'settled'"
        ),
        r"settled: line \d+ goes on from settling, but line \d+ ended in settled",
    ),
    "a line that is no legal move": (
        (
            "INSERT INTO journal (exchange_id, attempt, from_state, to_state, amount_minor, at_s)"
            " VALUES ('released', 1, 'released', 'credited', '10000', 1700000000)"
        ),
        r"released: line \d+: released -> credited is no legal move",
    ),
    "a line of no exchange": (
        (
            "INSERT INTO journal (exchange_id, attempt, from_state, to_state, amount_minor, at_s)"
            " VALUES ('nobody', 1, '', 'claimed', '10000', 1700000000)"
        ),
        r"nobody: line \d+ is of an exchange that the table does not have",
    ),
    "a row deleted and its lines left": (
        "DELETE FROM exchanges WHERE id = 'settled'",
        r"settled: line \d+ is of an exchange that the table does not have",
    ),
    "a line moved to another exchange": (
        (
            "UPDATE journal SET exchange_id = 'refunded' WHERE exchange_id = 'settled'"
            " AND to_state = 'settled'"
        ),
        r"refunded: line \d+ ",
    ),
    "lines in another order": (
        (
            "UPDATE journal SET seq = seq + 1000 WHERE exchange_id = 'settled'"
            " AND to_state = 'verified'"
        ),
        r"settled: line \d+ goes on from verified, but line \d+ ended in claimed",
    ),
    "a beginning changed in the table": (
        "UPDATE exchanges SET created_s = created_s - 1 WHERE id = 'settled'",
        r"settled: the table says that it began at 1699999999, the journal says 1700000000",
    ),
    "a last move changed in the table": (
        "UPDATE exchanges SET updated_s = updated_s + 1 WHERE id = 'settled'",
        r"settled: the table says that it moved last at 1700000001, the journal says 1700000000",
    ),
    "the line that paid changed in the table": (
        "UPDATE exchanges SET paid_seq = 1 WHERE id = 'settled'",
        r"settled: the table says that it was paid by line 1, the journal says \d+",
    ),
    "a paid row that would be forgotten, and its proof with it": (
        "UPDATE exchanges SET forget_s = 1 WHERE id = 'settled'",
        r"settled: it is listed to be forgotten, which settled must not be",
    ),
    "a release that would never be forgotten": (
        "UPDATE exchanges SET forget_s = NULL WHERE id = 'released'",
        r"released: it is not listed to be forgotten",
    ),
    "a question that would never be asked": (
        "UPDATE exchanges SET asked_s = NULL WHERE id = 'refunding'",
        r"refunding: it is not listed for the rail to be asked",
    ),
    "a question that nobody has": (
        "UPDATE exchanges SET asked_s = 1 WHERE id = 'settled'",
        r"settled: it is listed for the rail to be asked, which settled must not be",
    ),
    "a hold that does not count": (
        "UPDATE exchanges SET held_until_s = NULL WHERE id = 'verified'",
        r"verified: it is not listed as held",
    ),
    "a deadline taken away": (
        "UPDATE exchanges SET due_s = NULL WHERE id = 'settling'",
        r"settling: no process is said to be at it: settling would stay for ever",
    ),
    "a deadline given": (
        "UPDATE exchanges SET due_s = 1 WHERE id = 'refunded'",
        r"refunded: a process is said to be at it, which refunded does not need",
    ),
    "a state that there is none of": (
        "UPDATE exchanges SET state = 'stolen' WHERE id = 'settled'",
        r"settled: the table says stolen, the journal says settled",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_store_that_was_tampered_with_is_not_sound(attack, sold):
    statement, finding = ATTACKS[attack]
    tamper(sold, statement)

    assert re.search(f"^{finding}", told(sold), re.MULTILINE), told(sold)


@pytest.mark.parametrize(
    "attack",
    ["a state changed in the table", "an amount changed in a line", "a line in the middle deleted"],
)
def test_sums_of_table_and_journal_are_compared_too(attack, sold):
    tamper(sold, ATTACKS[attack][0])

    assert re.search(
        r"^: evm \S+ \w+: the table has \d+ in \d+, the journal ", told(sold), re.MULTILINE
    )


def test_money_above_64_bits_is_added_up_exactly(place):
    with Keeper(place) as keeper:
        for number in range(3):
            keeper.sell(f"x{number}", amount_minor=2**80 + 1)
    found = audited(place)
    assert found.is_sound
    assert [(b.count, b.amount_minor) for b in found.balances] == [(3, 3 * (2**80 + 1))]


def test_an_index_that_contradicts_its_table_is_damage(tmp_path):
    """Read by it, a row would seem to be missing, or a proof could be used twice."""
    place = SqlitePlace(tmp_path / "store.db")
    with Keeper(place) as keeper:
        keeper.sell("x1")
    tamper(
        place,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX journal_exchange ON journal (attempt)'"
        " WHERE name = 'journal_exchange'",
    )
    assert "the store is damaged" in told(place)


def test_faults_without_end_are_counted_and_not_all_kept():
    found = Audit()
    for number in range(FAULTS_MAX + 5):
        found.note("x", str(number))
    assert (len(found.faults), found.faults_found) == (FAULTS_MAX, FAULTS_MAX + 5)


def lines_to(path: tuple[State, ...]) -> list[FoundLine]:
    lines, before, attempt = [], "", 1
    for seq, after in enumerate((State.CLAIMED, *path), 1):
        attempt += (before, after) in REOPENING
        lines.append(FoundLine(seq, attempt, before, after, "10", NOW_S))
        before = after
    return lines


def row_of(state: State, paid_seq: int | None = None) -> Row:
    due_s = VALID_S if state in ("claimed", "verified", "settling") else None
    return Row("x", PURSE, "10", state, 1, due_s, NOW_S, NOW_S, None, None, None, paid_seq)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("after", list(State))
def test_every_move_that_the_table_of_states_lacks_is_found(state, after):
    lines = lines_to(PATHS[state])
    attempt = 1 + ((state, after) in REOPENING)
    lines.append(FoundLine(len(lines) + 1, attempt, state, after, "10", NOW_S))
    found = [text for text in faults_of(row_of(after), lines) if "no legal move" in text]
    assert bool(found) == (after not in TRANSITIONS[state])


def test_a_line_that_stands_twice_or_behind_is_found():
    lines = lines_to(PATHS[State.VERIFIED])
    again = [lines[0], lines[1], lines[1]]
    assert "line 2 stands behind line 2" in list(faults_of(row_of(State.VERIFIED), again))
