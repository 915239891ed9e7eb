"""What the books are asked: balances, the newest exchanges, one of them by any of its names."""

import pytest

from mpp_gateway.ledger import inquiry
from mpp_gateway.ledger.book import Claim
from mpp_gateway.ledger.inquiry import Purse
from mpp_gateway.ledger.reading import StoreDamaged, reading
from mpp_gateway.ledger.states import State
from tests.support.ledger import ASSET, NOW_S, PAYER, PRICE, SCHEMA, Keeper, request, store_of


@pytest.fixture
def keeper(place):
    with Keeper(place) as keeper:
        keeper.place = place
        yield keeper


def ask(keeper, question, *arguments, **named):
    with reading(store_of(keeper.place), SCHEMA) as books:
        found = question(books, *arguments, **named)
        return found if isinstance(found, list) else list(found)


def test_balances_count_and_add_up_by_rail_asset_and_state(keeper):
    keeper.sell("x1")
    keeper.sell("x2", amount_minor=3)
    keeper.sell("x3", State.CREDITED)
    keeper.sell("x4", rail="other")
    found = ask(keeper, inquiry.balances, 0)
    assert [(b.purse.rail, b.state, b.count, b.amount_minor) for b in found] == [
        ("evm", "settled", 2, PRICE + 3),
        ("evm", "credited", 1, PRICE),
        ("other", "settled", 1, PRICE),
    ]
    assert found[0].purse == Purse("default", "evm", ASSET)


@pytest.mark.parametrize(("since_s", "state"), [(NOW_S, "lapsed"), (NOW_S - 1, "credited")])
def test_a_credit_that_nobody_can_ask_for_any_more_is_shown_apart(keeper, since_s, state):
    """As a claim has it: a credit of `credit_s` ago is over."""
    keeper.sell("x1", State.CREDITED)
    keeper.sell("x2", State.REFUNDING)
    found = ask(keeper, inquiry.balances, since_s)
    assert [(b.state, b.count) for b in found] == [("refunding", 1), (state, 1)]
    claimed = keeper.run(keeper.exchanges.claim(request("x1", credit_s=10), since_s + 10))
    assert claimed.claim is (Claim.LAPSED if state == "lapsed" else Claim.CREDITED)


def test_balances_by_account_tell_the_buyers_apart(keeper):
    keeper.sell("x1")
    keeper.sell("x2", account="somebody else")
    found = ask(keeper, inquiry.balances, 0, by_account=True)
    assert {b.purse.account: b.amount_minor for b in found} == {
        f"{ASSET}/{PAYER}": PRICE,
        "somebody else": PRICE,
    }


def test_amounts_above_64_bits_are_added_up_exactly(keeper):
    for number in range(4):
        keeper.sell(f"x{number}", amount_minor=2**64 - 1)
    (found,) = ask(keeper, inquiry.balances, 0)
    assert found.amount_minor == 4 * (2**64 - 1)


def test_the_newest_come_first_and_no_more_than_asked_for(keeper):
    for number in range(5):
        keeper.sell(f"x{number}", now_s=NOW_S + number)
    found = ask(keeper, inquiry.newest, limit=2)
    assert [record.exchange_id for record in found] == ["x4", "x3"]


def test_the_newest_are_narrowed_by_state_rail_and_time(keeper):
    keeper.sell("x1", State.CREDITED)
    keeper.sell("x2", rail="other")
    keeper.sell("x3", now_s=NOW_S + 9)
    wishes = ({"state": "credited"}, {"rail": "other"}, {"since_s": NOW_S + 9})
    found = [[r.exchange_id for r in ask(keeper, inquiry.newest, limit=9, **w)] for w in wishes]
    assert found == [["x1"], ["x2"], ["x3"]]
    assert ask(keeper, inquiry.newest, limit=9, state="credited", rail="other") == []


@pytest.mark.parametrize(
    "name", ["exchange-1", "proof-of-exchange-1", "ref-of-exchange-1", "exchan", "ref-of-e"]
)
def test_an_exchange_is_found_by_each_of_its_names(name, keeper):
    keeper.sell("exchange-1")
    keeper.sell("other-2", proof_id="other")
    (found,) = ask(keeper, inquiry.find, name)
    assert found.exchange_id == "exchange-1"


def test_a_whole_name_goes_before_a_beginning(keeper):
    keeper.sell("exchange-1")
    keeper.sell("exchange-10")
    assert [r.exchange_id for r in ask(keeper, inquiry.find, "exchange-1")] == ["exchange-1"]
    assert len(ask(keeper, inquiry.find, "exchange-")) == 2


@pytest.mark.parametrize("name", ["excha", "", "%change-1", "_xchange-1", "nobody", "EXCHANGE-1"])
def test_what_is_too_short_or_a_pattern_finds_nothing(name, keeper):
    keeper.sell("exchange-1")
    assert ask(keeper, inquiry.find, name) == []


def test_the_lines_of_one_exchange_come_in_their_order(keeper):
    keeper.sell("x1")
    keeper.sell("x2")
    found = ask(keeper, inquiry.moves, "x1")
    assert [(m.before, m.after) for m in found] == [
        ("", "claimed"),
        ("claimed", "verified"),
        ("verified", "settling"),
        ("settling", "settled"),
    ]
    assert len(ask(keeper, inquiry.moves)) == 8


def test_every_exchange_comes_in_the_order_of_their_beginnings(keeper):
    keeper.sell("x2", now_s=NOW_S)
    keeper.sell("x1", now_s=NOW_S + 1)
    assert [r.exchange_id for r in ask(keeper, inquiry.every)] == ["x2", "x1"]


@pytest.mark.parametrize(
    "fault", ["UPDATE exchanges SET amount_minor = 'much'", "UPDATE exchanges SET receipt = '{'"]
)
def test_a_row_that_cannot_be_read_is_damage(fault, keeper):
    keeper.sell("x1")
    keeper.run(keeper._database.write(lambda db: db.execute(fault)))
    with pytest.raises(StoreDamaged):
        ask(keeper, inquiry.every)
