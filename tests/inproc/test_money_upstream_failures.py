"""A buyer is not charged for an upstream failure, and a seller does not work for nothing."""

import contextlib
import json

import pytest

from mpp_gateway.protocol.timestamps import parse_rfc3339
from tests.support.client import RawClient
from tests.support.clock import Clock
from tests.support.evm import now
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Paid,
    at_once,
    paid_gateway,
    receipt_of,
    refused,
    wait_until,
)

FIRST_BYTE_S = 60
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this much"


def released_then_served(gateway: Paid, credential, target: str = "/api/paid") -> None:
    """The same credential is good again once the upstream is back, and is charged once."""
    assert (gateway.balance(), gateway.purse()) == (0, PURSE_MINOR)
    gateway.reaches(released=1)
    gateway.keeper.answers("200 OK", body=b"served")
    status, _, body = answer = gateway.send(credential, target)
    assert (status, body) == (200, b"served")
    assert receipt_of(answer)
    assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
    refused(gateway.send(credential, target), "invalid-challenge")
    assert gateway.balance() == PRICE


@pytest.mark.parametrize(
    "status", ["500 Oops", "404 Gone", "302 Found", "401 Who", "304 Same", "429 Slow"]
)
def test_an_answer_that_is_no_success_is_passed_on_and_costs_nothing(tmp_path, status):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers(status, body=b"" if status.startswith("304") else b"why")
        credential = gateway.buy()
        answer = gateway.send(credential)
        assert answer[0] == int(status[:3])
        assert "payment-receipt" not in answer[1]
        released_then_served(gateway, credential)


def test_a_402_of_the_upstream_is_never_passed_on(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("402 Pay Me", 'WWW-Authenticate: Payment id="theirs"')
        credential = gateway.buy()
        problem = refused(gateway.send(credential), "upstream-refused", 502)
        assert problem["payment"] == "released"
        refused(gateway.ask("/api/free"), "upstream-refused", 502)
        released_then_served(gateway, credential)


BROKEN = {
    "cut before the head": (b"", "upstream-cut", 502),
    "cut in the head": (b"HTTP/1.1 200 OK\r\nConte", "upstream-cut", 502),
    "no http": (b"SSH-2.0-OpenSSH\r\n\r\n", "upstream-malformed", 502),
    "switched protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nsecret tunnel",
        "upstream-switched-protocols",
        502,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_an_upstream_that_breaks_off_costs_nothing(tmp_path, what):
    raw, slug, status = BROKEN[what]
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.raw, gateway.keeper.keeps = raw, False
        credential = gateway.buy()
        problem = refused(gateway.send(credential), slug, status)
        assert problem["payment"] == "released"
        assert str(gateway.upstream.port) not in json.dumps(problem)
        released_then_served(gateway, credential)


def test_an_upstream_that_refuses_connections_costs_nothing(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.stop()
        gateway.start(gateway.config.replace(gateway.upstream.url, "http://127.0.0.1:1"))
        problem = refused(gateway.send(credential), "upstream-refused", 502)
        assert problem["payment"] == "released"
        gateway.stop()
        gateway.start()
        released_then_served(gateway, credential)


def test_an_upstream_that_hangs_costs_nothing(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        clock = Clock(gateway.proxy)
        gateway.keeper.opened.clear()
        credential = gateway.buy()

        def give_up() -> None:
            wait_until(lambda: gateway.hits == 1, "the upstream has the request")
            clock.advance(FIRST_BYTE_S)

        answer, _ = at_once([lambda: gateway.send(credential), give_up])
        problem = refused(answer, "upstream-timed-out", 504)
        assert problem["payment"] == "released"
        gateway.keeper.opened.set()
        released_then_served(gateway, credential)


def test_interim_answers_are_no_delivery(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        gateway.keeper.answers("500 Oops")
        gateway.keeper.raw = interim + gateway.keeper.raw
        credential = gateway.buy()
        assert gateway.send(credential)[0] == 500
        assert gateway.balance() == 0
        gateway.keeper.answers("200 OK")
        gateway.keeper.raw = interim + gateway.keeper.raw
        assert gateway.send(credential)[0] == 200
        assert gateway.balance() == PRICE


def test_an_answer_that_is_cut_in_its_body_was_delivered_and_is_charged(tmp_path):
    """Documented: the head decides. What came is the buyer's, and so is the bill."""
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.raw, gateway.keeper.keeps = CUT, False
        with pytest.raises((EOFError, ConnectionError)):
            gateway.send(gateway.buy())
        gateway.reaches(settled=1)
        assert gateway.balance() == PRICE


def test_money_that_leaves_between_the_check_and_the_settlement_buys_not_one_byte(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", "X-Upstream: marked", body=b"marked upstream bytes")
        gateway.keeper.before = gateway.spend_from_elsewhere
        answer = gateway.send(gateway.buy())
        refused(answer, "verification-failed")
        assert b"marked" not in answer[2]
        assert "x-upstream" not in answer[1]
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, 0, {"released": 1})


def test_a_payment_that_ends_before_it_could_be_settled_never_reaches_the_upstream(tmp_path):
    times = "connect_s: 5, first_byte_s: 60, settle_s: 30"
    with paid_gateway(tmp_path, timeouts=times) as gateway:
        near = gateway.resign(gateway.buy(), valid_before=now() + 90)
        problem = refused(gateway.send(near), "verification-failed")
        assert "95 seconds" in problem["detail"]
        gateway.untouched(released=1)
        enough = gateway.resign(gateway.buy(), valid_before=now() + 100)
        assert gateway.send(enough)[0] == 200


def test_where_money_moves_first_the_upstreams_time_is_not_counted(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        near = gateway.resign(gateway.buy("/api/first"), valid_before=now() + 40)
        assert gateway.send(near, "/api/first")[0] == 200


@pytest.mark.parametrize("with_rpc", [True, False], ids=["own key", "facilitator alone"])
def test_twenty_payments_from_a_purse_for_one_reach_the_upstream_once(tmp_path, with_rpc):
    options = {} if with_rpc else {"facilitator": True, "with_rpc": False}
    with paid_gateway(tmp_path, purse_minor=PRICE, **options) as gateway:
        credentials = [gateway.buy() for _ in range(20)]
        gateway.keeper.opened.clear()

        def send(credential):
            return lambda: gateway.send(credential)

        def open_later():
            wait_until(lambda: gateway.hits >= 1, "one call reaches the upstream")
            wait_until(lambda: gateway.states().get("released") == 19, "the others are refused")
            gateway.keeper.opened.set()

        answers = at_once([*(send(c) for c in credentials), open_later])[:-1]
        assert sorted(a[0] for a in answers) == [200] + [402] * 19
        for answer in answers:
            if answer[0] == 402:
                refused(answer, "payment-insufficient")
        assert (gateway.hits, gateway.balance()) == (1, PRICE)
        assert gateway.states() == {"settled": 1, "released": 19}


def test_a_facilitator_alone_serves_one_payer_call_after_call_without_a_pause(tmp_path):
    with paid_gateway(tmp_path, facilitator=True, with_rpc=False) as gateway:
        assert [gateway.send(gateway.buy())[0] for _ in range(5)] == [200] * 5
        assert gateway.balance() == 5 * PRICE


def test_a_purse_can_be_spent_to_its_last_unit_call_after_call(tmp_path):
    with paid_gateway(tmp_path, purse_minor=3 * PRICE) as gateway:
        assert [gateway.send(gateway.buy())[0] for _ in range(3)] == [200] * 3
        refused(gateway.send(gateway.buy()), "payment-insufficient")
        assert (gateway.balance(), gateway.purse()) == (3 * PRICE, 0)


# Routes on which the money moves first


def test_where_money_moves_first_a_failure_is_a_credit_for_one_more_call(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.raw, gateway.keeper.keeps = b"", False
        credential = gateway.buy("/api/first")
        problem = refused(gateway.send(credential, "/api/first"), "upstream-cut", 502)
        assert problem["payment"] == "credited"
        assert (gateway.balance(), gateway.states()) == (PRICE, {"credited": 1})
        refused(gateway.send(credential, "/api/first2"), "invalid-challenge")
        refused(gateway.send(credential, "/api/paid"), "invalid-challenge")

        gateway.keeper.answers("200 OK", body=b"served")
        answer = gateway.send(credential, "/api/first")
        assert (answer[0], answer[2]) == (200, b"served")
        assert gateway.chain.transaction(receipt_of(answer).reference)["status"] == "0x1"
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
        refused(gateway.send(credential, "/api/first"), "invalid-challenge")
        assert gateway.balance() == PRICE


def test_a_credit_that_the_upstream_fails_again_stays_a_credit(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")
        for _ in range(3):
            problem = refused(gateway.send(credential, "/api/first"), "upstream-failed", 502)
            assert (gateway.balance(), gateway.states()) == (PRICE, {"credited": 1})
            assert problem["payment"] == "credited"
            until_s = parse_rfc3339(problem["creditedUntil"])
            assert abs(until_s - now() - 2_592_000) < 120
            assert "present the same credential again" in problem["hint"]
        gateway.keeper.answers("200 OK")
        assert gateway.send(credential, "/api/first")[0] == 200
        assert gateway.balance() == PRICE


def test_ten_copies_of_a_credit_get_one_call(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")
        gateway.send(credential, "/api/first")
        gateway.keeper.answers("200 OK")
        answers = at_once([lambda: gateway.send(credential, "/api/first")] * 10)
        assert [a[0] for a in answers].count(200) == 1
        assert (gateway.hits, gateway.balance()) == (2, PRICE)


def test_where_money_moves_first_a_payer_without_money_never_reaches_the_upstream(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy("/api/first")
        gateway.move_money_away()
        refused(gateway.send(credential, "/api/first"), "payment-insufficient")
        gateway.untouched(released=1)


def test_a_credit_is_kept_though_its_challenge_has_expired(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")
        gateway.send(credential, "/api/first")
        gateway.keeper.answers("200 OK")
        later_s = now() + 4000
        gateway.proxy.runtime.serving.executor.clock = lambda: later_s
        assert gateway.send(credential, "/api/first")[0] == 200
        refused(gateway.send(credential, "/api/first"), "payment-expired")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_a_released_payment_is_not_good_after_its_challenge_has_expired(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy()
        gateway.send(credential)
        later_s = now() + 301
        gateway.proxy.runtime.serving.executor.clock = lambda: later_s
        refused(gateway.send(credential), "payment-expired")
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, 0, {"released": 1})


def test_an_upload_that_drips_on_does_not_outlive_the_payment(tmp_path):
    """Each byte proves that the client is alive; it must not buy more of the upstream's time."""
    times = "connect_s: 0.1, first_byte_s: 0.3, idle_s: 1, settle_s: 5"
    with paid_gateway(tmp_path, timeouts=times) as gateway:
        credential = gateway.sign(gateway.challenge("/api/paid", method="POST", body=b"x"))
        lines = [
            "POST /api/paid HTTP/1.1",
            "Host: gateway.test",
            "Content-Length: 100000",
            f"Authorization: {credential.format()}",
        ]
        with RawClient(gateway.port) as client:
            client.send("\r\n".join([*lines, "", ""]).encode())
            client.socket.settimeout(0.02)
            for _ in range(500):
                with contextlib.suppress(ConnectionError):  # it has its answer, which is read next
                    client.send(b"x")
                try:
                    client.buffer += client.socket.recv(1)
                    break
                except TimeoutError:
                    continue
            client.socket.settimeout(10)
            status, _, body = client.response()
        assert status == 408
        assert json.loads(body)["payment"] == "released"
        assert (gateway.balance(), gateway.hits) == (0, 0)
        gateway.reaches(released=1)


def broken_hook(*_):
    """A hook of the operator's with a mistake in it."""
    raise KeyError("marked")


@pytest.mark.parametrize("hook", ["rewrite_request", "rewrite_response"])
@pytest.mark.parametrize(
    ("target", "state", "hint"),
    [
        ("/api/paid", "released", "Nothing was charged"),
        ("/api/first", "credited", "present the same credential again"),
    ],
)
def test_a_fault_of_ours_says_what_became_of_the_money(tmp_path, hook, target, state, hint):
    auth = f"{hook}: {__name__}:broken_hook"
    with paid_gateway(tmp_path, auth=auth) as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        problem = refused(gateway.send(gateway.buy(target), target), "gateway-fault", 500)
        assert (problem["payment"], hint in problem["hint"]) == (state, True)
        assert ("creditedUntil" in problem) == (state == "credited")
        assert (gateway.states(), gateway.balance()) == (
            {state: 1},
            PRICE if state == "credited" else 0,
        )
