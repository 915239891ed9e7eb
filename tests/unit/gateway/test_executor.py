"""Settlements that come late, fail in the rail, or are cut off: none is lost, none counts twice."""

import asyncio

import pytest

from mpp_gateway.events import (
    PaymentCredited,
    PaymentReleased,
    PaymentSettled,
    PaymentUnknown,
    RequestReceived,
    RequestRefused,
    RouteMatched,
)
from mpp_gateway.gateway import executor
from mpp_gateway.gateway.exchange import event
from mpp_gateway.gateway.steps import Deliver, GiveUp, Settle
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.messages import Answer, RequestHead
from mpp_gateway.protocol.problems import VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm.request import Attempt
from tests.support.evm import until
from tests.support.machine import Stage, head_with

QUICK = "timeouts: {settle_s: 0.05}"


def play(tmp_path, story, **more) -> None:
    async def run() -> None:
        stage = Stage(tmp_path, **more)
        try:
            await story(stage)
        finally:
            await stage.close()

    asyncio.run(run())


async def verified(stage: Stage):
    credential = await stage.buy()
    exchange, answer = await stage.admit(head_with(credential))
    assert (answer, exchange.state) == (None, State.VERIFIED)
    return credential, exchange


def slug(answer) -> str:
    assert isinstance(answer, Answer)
    return answer.body.decode().split('"type": "')[1].split('"')[0].rsplit(":", 1)[1]


@pytest.mark.parametrize(
    ("state", "after", "told"),
    [
        (Settlement.SETTLED, State.CREDITED, [PaymentSettled, PaymentCredited]),
        (Settlement.REFUSED, State.RELEASED, [PaymentReleased]),
    ],
)
def test_a_settlement_that_comes_late_is_written_down_and_told(tmp_path, state, after, told):
    async def story(stage: Stage) -> None:
        stage.settler.hold = asyncio.Event()
        stage.settler.attempt = Attempt(state, "0xlate")
        _, exchange = await verified(stage)
        answer = await stage.deliver(exchange)
        assert (answer.status, slug(answer)) == (503, "settlement-unknown")
        assert await stage.exchanges.state(exchange.turn.exchange_id) is State.UNKNOWN
        stage.settler.hold.set()
        assert [type(event) for event in stage.events[-2:]] == [PaymentUnknown, RequestRefused]
        stage.events.clear()
        await stage.executor.close()
        assert await stage.exchanges.state(exchange.turn.exchange_id) is after
        assert [type(event) for event in stage.events] == told
        price = exchange.presented.offer.amount
        about = (exchange.turn.exchange_id, price.asset.code, price.minor)
        assert {(e.request_id, e.asset, e.amount_minor) for e in stage.events} == {about}

    play(tmp_path, story, more=QUICK)


def test_a_late_settlement_is_not_lost_when_it_overtakes_the_word_that_it_is_late(tmp_path):
    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        turn = exchange.turn
        await stage.exchanges.move(turn, State.VERIFIED, State.SETTLING, stage.now_s)
        stage.settler.hold = asyncio.Event()
        outcome = await stage.executor._settle(
            Settle(exchange.presented, turn, exchange.owed_minor, 0.01), stage.now_s
        )
        assert outcome.state is Settlement.UNKNOWN
        # The request has not written UNKNOWN yet, and the rail is done.
        stage.settler.hold.set()
        await stage.executor.close()
        assert await stage.exchanges.state(turn.exchange_id) is State.CREDITED
        assert not await stage.exchanges.move(turn, State.SETTLING, State.UNKNOWN, stage.now_s)
        # Nor is it told that nobody knows, after it was told that it is paid.
        lost = event(PaymentUnknown, exchange, stage.now_s)
        late = GiveUp(turn, State.UNKNOWN, told=(lost,))
        assert (await stage.executor._reply(late, 0, None)).value is False
        assert [type(told) for told in stage.events[-2:]] == [PaymentSettled, PaymentCredited]

    play(tmp_path, story)


def test_an_end_that_the_store_takes_later_is_told_when_it_is_written_down(tmp_path, monkeypatch):
    """Told before, or never, an operator's sums would not be those of the books."""
    monkeypatch.setattr(executor, "GIVE_UP_S", 0.01)
    monkeypatch.setattr(executor, "WRITE_AGAIN_S", 0.01)

    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        give_up, is_full = stage.exchanges.give_up, [True]

        async def full_at_first(*words, **more):
            if is_full:
                raise StoreUnavailable("disk full")
            return await give_up(*words, **more)

        stage.exchanges.give_up = full_at_first
        stage.events.clear()
        await stage.finish(exchange, delivered=False)
        assert PaymentReleased not in {type(event) for event in stage.events}
        is_full.clear()
        await until(
            lambda: [type(event) for event in stage.events][-1] is PaymentReleased, "it is told"
        )
        assert await stage.exchanges.state(exchange.turn.exchange_id) is State.RELEASED
        assert [type(event) for event in stage.events].count(PaymentReleased) == 1

    play(tmp_path, story)


def test_a_late_credit_buys_one_call_and_no_second_settlement(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.hold = asyncio.Event()
        credential, exchange = await verified(stage)
        await stage.deliver(exchange)
        stage.settler.hold.set()
        await stage.executor.close()
        again, answer = await stage.admit(head_with(credential), b"2" * 32)
        assert (answer, again.paid) == (None, True)
        delivery = await stage.deliver(again)
        assert isinstance(delivery, Deliver)
        assert "Payment-Receipt" in dict(delivery.headers)
        assert len(stage.settler.settled) == 1
        await stage.finish(again)
        assert await stage.is_spent(head_with(credential))

    play(tmp_path, story, more=QUICK)


@pytest.mark.parametrize("again", [False, True])
def test_a_call_that_was_paid_ahead_and_swept_meanwhile_is_not_delivered_twice(tmp_path, again):
    """The clock of a sweeper has jumped: the credit that it gave is worth the call, and once."""

    async def story(stage: Stage) -> None:
        credential = await stage.buy(path="/api/first")
        head = head_with(credential, path="/api/first")
        first, _ = await stage.admit(head)
        assert first.state is State.SETTLED
        assert len(await stage.exchanges.sweep(stage.now_s + 10**6)) == 1
        if again:  # the credit is taken up, and its call is under way
            second, answer = await stage.admit(head, b"2" * 32)
            assert (answer, second.paid) == (None, True)
        answer = await stage.deliver(first)
        assert (answer.status, slug(answer)) == (409, "payment-in-progress")
        if not again:
            second, _ = await stage.admit(head, b"2" * 32)
        assert isinstance(await stage.deliver(second), Deliver)
        await stage.finish(second)
        assert await stage.is_spent(head)
        assert len(stage.settler.settled) == 1

    play(tmp_path, story)


def test_no_sweep_comes_between_the_last_question_and_the_note_of_a_delivery(tmp_path):
    """The upstream took its time: by the old term the call was due to be taken over just now."""

    async def story(stage: Stage) -> None:
        credential = await stage.buy(path="/api/first")
        head = head_with(credential, path="/api/first")
        exchange, _ = await stage.admit(head)
        due_s = exchange.answered_by_s(stage.now_s)
        stage.now_s = due_s
        mark, swept = stage.exchanges.mark_delivered, []

        async def swept_first(turn):
            swept.append(await stage.exchanges.sweep(due_s + 1))
            await mark(turn)

        stage.exchanges.mark_delivered = swept_first
        assert isinstance(await stage.deliver(exchange), Deliver)
        await stage.finish(exchange)
        await until(lambda: swept, "the delivery is noted")
        assert swept == [[]]
        assert await stage.is_spent(head)

    play(tmp_path, story)


def test_a_delivery_that_a_full_disk_kept_from_the_books_is_noted_later(tmp_path, monkeypatch):
    """Never noted, the call would become a credit, and be had twice for one payment."""
    monkeypatch.setattr(executor, "STORE_RETRY_S", 0.01)

    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        mark, tries, noted = stage.exchanges.mark_delivered, [], asyncio.Event()

        async def full_at_first(turn):
            tries.append(turn)
            if len(tries) < 3:
                raise StoreUnavailable("disk full")
            await mark(turn)
            noted.set()

        stage.exchanges.mark_delivered = full_at_first
        assert isinstance(await stage.deliver(exchange), Deliver)
        await stage.finish(exchange)
        await noted.wait()
        assert await stage.exchanges.sweep(stage.now_s + 10**6) == []
        assert len(tries) == 3

    play(tmp_path, story)


def test_a_long_answer_is_not_taken_for_one_that_is_left(tmp_path, monkeypatch):
    """Swept, it would be a credit, and be had twice for one payment."""
    monkeypatch.setattr(executor, "ATTEND_S", 0.01)

    async def story(stage: Stage) -> None:
        credential, exchange = await verified(stage)
        renew, until_s = stage.exchanges.renew, [0]

        async def watched(turn, due_s):
            assert await renew(turn, due_s)
            until_s.append(due_s)
            return True

        stage.exchanges.renew = watched
        assert isinstance(await stage.deliver(exchange), Deliver)
        long_s = exchange.answered_by_s(stage.now_s) - stage.now_s + 1
        for _ in range(3):
            stage.now_s += long_s
            await until(lambda: until_s[-1] > stage.now_s, "the turn is renewed")
            assert await stage.exchanges.sweep(stage.now_s) == []
        await stage.finish(exchange)
        assert await stage.is_spent(head_with(credential))
        assert await stage.exchanges.sweep(stage.now_s + 10**6) == []

    play(tmp_path, story)


def test_an_answer_whose_call_was_taken_up_elsewhere_is_told_of_once(tmp_path, monkeypatch, caplog):
    """By a clock that jumped: the buyer has the answer and a credit, and the seller should know."""
    monkeypatch.setattr(executor, "ATTEND_S", 0.01)

    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        assert isinstance(await stage.deliver(exchange), Deliver)
        assert len(await stage.exchanges.sweep(stage.now_s + 10**6)) == 1
        await until(lambda: not stage.executor._attended, "it is left alone")
        await stage.finish(exchange)
        said = f"{exchange.turn.exchange_id} was taken up elsewhere while its answer goes out"
        assert [record.getMessage() for record in caplog.records] == [said]

    play(tmp_path, story)


def test_a_renewal_behind_the_note_of_a_delivery_is_no_alarm(tmp_path, monkeypatch, caplog):
    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        assert isinstance(await stage.deliver(exchange), Deliver)
        await stage.finish(exchange)
        await until(lambda: not stage.executor._late, "the delivery is noted")
        await stage.executor._renew(exchange.turn)
        assert not caplog.records

    play(tmp_path, story)


@pytest.mark.parametrize("end", ["finished", "credited", "stopped"])
def test_nobody_attends_to_an_answer_that_has_an_end(tmp_path, monkeypatch, end):
    monkeypatch.setattr(executor, "ATTEND_S", 3600)

    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        assert isinstance(await stage.deliver(exchange), Deliver)
        assert list(stage.executor._attended) == [exchange.turn]
        if end == "stopped":
            await stage.executor.close()
        else:
            await stage.finish(exchange, delivered=end == "finished")
        assert not stage.executor._attended

    play(tmp_path, story)


def test_a_stop_does_not_wait_for_a_store_that_refuses_a_note(tmp_path):
    async def story(stage: Stage) -> None:
        _, exchange = await verified(stage)
        refused = asyncio.Event()

        async def full(_):
            refused.set()
            raise StoreUnavailable("disk full")

        stage.exchanges.mark_delivered = full
        assert isinstance(await stage.deliver(exchange), Deliver)
        await stage.finish(exchange)
        await refused.wait()
        await stage.executor.close()

    play(tmp_path, story)


def test_a_paid_call_whose_store_is_gone_is_kept_for_later(tmp_path):
    async def story(stage: Stage) -> None:
        credential = await stage.buy(path="/api/first")
        exchange, _ = await stage.admit(head_with(credential, path="/api/first"))
        await stage.database.close()
        answer = await stage.deliver(exchange)
        assert (answer.status, slug(answer)) == (503, "not-ready")

    play(tmp_path, story)


def test_a_fault_in_the_rail_says_nothing_about_the_money(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.fault = RuntimeError("marked")
        _, exchange = await verified(stage)
        answer = await stage.deliver(exchange)
        assert (answer.status, slug(answer)) == (503, "settlement-unknown")
        assert b"marked" not in answer.body
        assert await stage.exchanges.state(exchange.turn.exchange_id) is State.UNKNOWN

    play(tmp_path, story)


def test_a_settlement_that_is_cut_off_by_a_stop_is_unknown_and_no_crash(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.fault = asyncio.CancelledError()
        _, exchange = await verified(stage)
        answer = await stage.deliver(exchange)
        assert (answer.status, slug(answer)) == (503, "settlement-unknown")

    play(tmp_path, story)


def test_a_stop_waits_for_a_settlement_and_its_record(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.hold = asyncio.Event()
        _, exchange = await verified(stage)
        delivery = asyncio.ensure_future(stage.deliver(exchange))
        await until(lambda: stage.settler.settled, "the settlement begins")
        closing = asyncio.ensure_future(stage.close())
        await asyncio.sleep(0)
        assert not closing.done()
        stage.settler.hold.set()
        assert isinstance(await delivery, Deliver)
        await closing

    play(tmp_path, story)


def test_a_store_that_is_closed_refuses_with_a_date_to_come_back(tmp_path):
    async def story(stage: Stage) -> None:
        credential = await stage.buy()
        await stage.database.close()
        exchange, answer = await stage.admit(head_with(credential))
        assert (answer.status, slug(answer)) == (503, "not-ready")
        assert "Retry-After" in dict(answer.headers)
        assert exchange.turn is None

    play(tmp_path, story)


@pytest.mark.parametrize("after", ["hold", "settle"])
def test_a_store_that_closes_on_the_way_refuses_and_does_not_crash(tmp_path, after):
    async def story(stage: Stage) -> None:
        if after == "settle":
            _, exchange = await verified(stage)
            await stage.database.close()
            answer = await stage.deliver(exchange)
            assert stage.settler.settled == []
        else:
            credential = await stage.buy()

            async def check(payment, now_s):
                await stage.database.close()

            stage.settler.check = check
            _, answer = await stage.admit(head_with(credential))
        assert (answer.status, slug(answer)) == (503, "not-ready")
        assert "WWW-Authenticate" not in dict(answer.headers)

    play(tmp_path, story)


def test_a_sink_that_fails_decides_nothing(tmp_path):
    async def story(stage: Stage) -> None:
        def sink(_):
            raise ValueError("sink")

        stage.reporter.sink = sink
        _, exchange = await verified(stage)
        assert isinstance(await stage.deliver(exchange), Deliver)

    play(tmp_path, story)


def test_a_settlement_that_fails_is_a_402_that_can_be_paid(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.attempt = Attempt(Settlement.REFUSED, detail="no")
        _, exchange = await verified(stage)
        answer = await stage.deliver(exchange)
        assert answer.status == 402
        assert "WWW-Authenticate" in dict(answer.headers)
        assert exchange.state is State.RELEASED

    play(tmp_path, story)


def test_without_a_rail_that_takes_money_a_402_becomes_a_503(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.withheld_for = "No gas."
        _, answer = await stage.admit(RequestHead("GET", "/api/paid", ()))
        assert (answer.status, slug(answer)) == (503, "rail-unavailable")
        assert "WWW-Authenticate" not in dict(answer.headers)

    play(tmp_path, story)


def test_the_time_that_a_refused_check_took_is_in_what_the_sink_is_told(tmp_path):
    async def story(stage: Stage) -> None:
        credential = await stage.buy()

        async def check(payment, now_s):
            stage.ticks_ms += 3_000
            raise VerificationFailed

        stage.settler.check = check
        stage.events.clear()
        await stage.admit(head_with(credential))
        assert [(type(event), event.duration_ms) for event in stage.events] == [
            (RequestReceived, 0),
            (RouteMatched, 0),
            (PaymentReleased, 3_000),
            (RequestRefused, 3_000),
        ]

    play(tmp_path, story)


def test_a_402_without_an_offer_is_told_as_the_503_that_it_is(tmp_path):
    async def story(stage: Stage) -> None:
        stage.settler.withheld_for = "No gas."
        await stage.admit(RequestHead("GET", "/api/paid", ()))
        last = stage.events[-1]
        assert isinstance(last, RequestRefused)
        assert (last.slug, last.status) == ("rail-unavailable", 503)

    play(tmp_path, story)


def test_names_of_requests_are_in_their_order_and_no_two_are_one():
    names = [executor.new_request_id() for _ in range(2_000)]
    times = [name[:12] for name in names]
    assert times == sorted(times)
    assert len(set(names)) == len({name[12:] for name in names}) == 2_000
    assert {len(name) for name in names} == {24}
