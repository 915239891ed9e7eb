"""What is promised of every rail, row by row: the same claims for each way to pay.

Eleven rows: happy, replay, replay at once, wrong amount, recipient and chain, expired, an upstream
that fails, a network that is down, that is slow, and whose reply is lost.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paid import Response, at_once, receipt_of, refused, slug_of, wait_until
from tests.support.tills import TILLS, TIMES, Payment, Till

BRIEF = "connect_s: 1, first_byte_s: 5, settle_s: 1"
NOT_THIS = {"verification-failed", "payment-insufficient", "invalid-challenge", "payment-expired"}
TRIES = 5
COPIES = 10


@pytest.fixture(params=TILLS)
def till(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Till]:
    with TILLS[request.param](tmp_path, TIMES) as till:
        yield till


@pytest.fixture(params=TILLS)
def hasty_till(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Till]:
    """A till that waits a second for its network."""
    with TILLS[request.param](tmp_path, BRIEF) as till:
        yield till


def turned_down(answer: Response) -> str:
    """Assert that it is a 402 with fresh offers; return why."""
    slug = slug_of(answer)
    refused(answer, slug)
    return slug


def sold_once(till: Till, payment: Payment) -> None:
    """Assert that one call was paid for, and that what paid for it buys no other."""
    hits = till.shop.hits
    assert turned_down(till.send(payment)) in NOT_THIS
    assert (till.takings(), till.shop.hits) == (till.price_minor, hits)
    assert till.shop.states() == {"settled": 1}


def test_a_payment_moves_its_exact_price_and_has_a_receipt(till: Till):
    payment = till.buy()

    answer = till.send(payment)

    assert answer[0] == 200
    assert (till.takings(), till.shop.hits) == (till.price_minor, 1)
    if "payment-response" not in answer[1] and "x-payment-response" not in answer[1]:
        assert receipt_of(answer).status == "success"
    assert "www-authenticate" not in answer[1]


def test_a_payment_that_is_shown_again_buys_nothing(till: Till):
    payment = till.buy()
    assert till.send(payment)[0] == 200

    answer = till.send(payment)

    assert turned_down(answer) == "invalid-challenge"
    assert "payment-response" not in answer[1]  # "it failed" would be a lie about what is paid
    sold_once(till, payment)


def test_ten_copies_at_once_buy_one_call(till: Till):
    payment = till.buy()

    answers = at_once([lambda: till.send(payment)] * COPIES)

    told = [answer[0] for answer in answers]
    assert told.count(200) == 1
    assert set(told) <= {200, 402, 409}
    assert (till.takings(), till.shop.hits) == (till.price_minor, 1)


def buys_nothing(till: Till, payments: list[Payment]) -> None:
    for payment in payments:
        assert turned_down(till.send(payment)) in NOT_THIS
    assert payments
    till.nothing_happened()


def test_a_payment_of_another_amount_buys_nothing(till: Till):
    buys_nothing(till, till.wrong_amounts())


def test_a_payment_to_somebody_else_buys_nothing(till: Till):
    buys_nothing(till, till.wrong_recipients())


def test_a_payment_on_another_chain_or_in_another_currency_buys_nothing(till: Till):
    buys_nothing(till, till.wrong_chains())


def test_a_payment_that_comes_late_moves_nothing_and_who_had_paid_before_is_served_once(
    till: Till,
):
    payment = till.expired()

    answer = till.send(payment)

    if till.pays_ahead:
        assert answer[0] == 200
        sold_once(till, payment)
        return
    assert turned_down(answer) == "payment-expired"
    till.nothing_happened()


def test_an_upstream_that_fails_costs_its_buyer_nothing(till: Till):
    till.shop.keeper.answers("500 no", body=b"marked")
    payment = till.buy()

    answer = till.send(payment)

    assert answer[0] == (500 if till.gives_back == "released" else 502)
    assert not {"payment-receipt", "payment-response"} & set(answer[1])
    assert (till.shop.hits, "www-authenticate" in answer[1]) == (1, False)
    till.shop.keeper.answers("200 OK")
    if till.gives_back == "refunded":
        wait_until(lambda: till.takings() == 0, "the money is given back")
        turned_down(till.send(payment))
        assert (till.takings(), till.shop.hits) == (0, 1)
        return
    assert till.takings() == (till.price_minor if till.gives_back == "credited" else 0)
    assert till.send(payment)[0] == 200
    assert till.shop.hits == 2
    sold_once(till, payment)


def is_put_off(till: Till, answer: Response, slug: str) -> None:
    """Assert that the buyer is told to come again, is not asked to pay, and has paid nothing."""
    refused(answer, slug, 503)
    assert int(answer[1]["retry-after"]) > 0
    assert "payment-required" not in answer[1]
    till.nothing_happened()


def test_a_network_that_is_down_takes_no_money_and_asks_for_none(till: Till):
    payment = till.buy()

    till.go_down()
    is_put_off(till, till.send(payment), till.when_down)
    till.calm()

    assert till.send(payment)[0] == 200
    sold_once(till, payment)


def test_a_network_that_is_slow_takes_no_money_and_asks_for_none(hasty_till: Till):
    till = hasty_till
    payment = till.buy()

    till.slow_down()
    is_put_off(till, till.send(payment), till.when_slow)
    till.calm()

    again = till.send(payment)
    assert again[0] == till.after_slow
    if again[0] == 200:
        sold_once(till, payment)
    else:
        is_put_off(till, again, till.when_slow)


def test_a_reply_that_is_lost_leaves_one_payment_and_one_call(till: Till):
    payment = till.buy()

    till.lose_reply()
    answer = till.send(payment)
    till.calm()
    for _ in range(TRIES):
        if answer[0] == 200:
            break
        refused(answer, "settlement-unknown", 503)
        answer = till.send(payment)

    assert answer[0] == 200
    assert till.takings() == till.price_minor
    sold_once(till, payment)
