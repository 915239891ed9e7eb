"""When nobody knows whether the money moved: ask the rail, never the buyer, and serve once."""

import pytest

from mpp_gateway.protocol.credential import Credential
from tests.support.client import RawClient
from tests.support.evm import now
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Paid,
    own_chain,
    paid_gateway,
    receipt_of,
    refused,
    wait_until,
)

SHORT = "connect_s: 1, first_byte_s: 5, settle_s: 1"


def request(target: str, credential: Credential) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: x", f"Authorization: {credential.format()}", "", ""]
    return "\r\n".join(lines).encode()


def unknown(answer) -> None:
    problem = refused(answer, "settlement-unknown", 503)
    assert int(answer[1]["retry-after"]) > 0
    assert "do not pay again" in problem["detail"]
    assert b"marked" not in answer[2]
    assert "x-upstream" not in answer[1]


def fails_to_settle(gateway: Paid, fault: str) -> None:
    """From the moment the upstream is asked, the facilitator has `fault`."""

    async def fail() -> None:
        gateway.facilitator.fault = fault
        gateway.keeper.before = None

    gateway.keeper.before = fail


def submit_late(gateway: Paid) -> None:
    """The facilitator comes round by itself, long after it was asked."""
    gateway.facilitator.fault = ""
    _, body = next(asked for asked in gateway.facilitator.asked if asked[0] == "/settle")
    gateway.chain.run(gateway.facilitator._submit(body))


def served_once(gateway: Paid, credential, target: str = "/api/paid") -> None:
    """Present the credential until the chain has told; then it is spent."""
    answer = wait_until(lambda: _told(gateway, credential, target), "the chain tells")
    assert (answer[0], answer[2]) == (200, b"served")
    assert gateway.chain.transaction(receipt_of(answer).reference)["status"] == "0x1"
    assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
    refused(gateway.send(credential, target), "invalid-challenge")
    assert (gateway.balance(), gateway.purse()) == (PRICE, PURSE_MINOR - PRICE)


def _told(gateway: Paid, credential, target: str):
    # What never arrived is sent again by the upkeep; here it is told to hurry.
    rail = gateway.proxy.runtime.serving.rails["evm"]
    gateway.proxy.call(lambda: rail.maintain(now()))
    answer = gateway.send(credential, target)
    if answer[0] == 503:
        unknown(answer)
        return None
    return answer


@pytest.mark.parametrize("fault", ["hang", "500", "garbage", "lost", "pending"])
def test_a_facilitator_that_does_not_say_is_asked_about_on_the_chain(tmp_path, fault):
    with paid_gateway(tmp_path, facilitator=True, timeouts=SHORT) as gateway:
        gateway.keeper.answers("200 OK", "X-Upstream: marked", body=b"marked")
        credential = gateway.buy()
        fails_to_settle(gateway, fault)
        answer = gateway.send(credential)
        if answer[0] == 200:  # the chain told at once: the payment had gone through
            assert fault in ("lost", "pending")
            assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
            return
        unknown(answer)
        assert gateway.states() == {"unknown": 1}
        gateway.keeper.answers("200 OK", body=b"served")
        if fault in ("lost", "pending"):  # it has gone through, and nobody was told in time
            gateway.facilitator.fault = ""
        else:
            submit_late(gateway)
        served_once(gateway, credential)


def test_an_unknown_payment_is_never_answered_with_a_request_to_pay_again(tmp_path):
    """Not even when its challenge has run out meanwhile: the money may be gone."""
    with paid_gateway(tmp_path, facilitator=True, timeouts=SHORT) as gateway:
        credential = gateway.buy()
        fails_to_settle(gateway, "hang")
        unknown(gateway.send(credential))
        gateway.facilitator.fault = ""
        later_s = now() + 400
        gateway.proxy.runtime.serving.executor.clock = lambda: later_s
        unknown(gateway.send(credential))
        submit_late(gateway)
        gateway.keeper.answers("200 OK", body=b"served")
        answer = gateway.send(credential)
        assert (answer[0], answer[2]) == (200, b"served")
        refused(gateway.send(credential), "payment-expired")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_one_unknown_payment_does_not_lock_its_payer_out_for_ever(tmp_path):
    with paid_gateway(tmp_path, facilitator=True, with_rpc=False, timeouts=SHORT) as gateway:
        lost = gateway.resign(gateway.buy(), valid_before=now() + 30)
        fails_to_settle(gateway, "hang")
        unknown(gateway.send(lost))
        gateway.facilitator.fault = ""
        refused(gateway.send(gateway.buy()), "payment-insufficient")
        later_s = now() + 31
        gateway.proxy.runtime.serving.executor.clock = lambda: later_s
        assert gateway.send(gateway.buy())[0] == 200
        assert gateway.states() == {"unknown": 1, "released": 1, "settled": 1}


def test_a_copy_with_a_shorter_life_does_not_make_an_open_payment_look_dead(tmp_path):
    with (
        own_chain() as thread,
        paid_gateway(tmp_path, facilitator=True, timeouts=SHORT, thread=thread) as gateway,
    ):
        early_s = now()
        long = gateway.buy()
        short = gateway.resign(long, valid_before=early_s + 20)
        fails_to_settle(gateway, "hang")
        unknown(gateway.send(long))
        gateway.facilitator.fault = ""
        # For the chain, whose clock is ahead of ours, the short copy is over; the long one is not.
        thread.advance(25)
        gateway.proxy.runtime.serving.executor.clock = lambda: early_s
        unknown(gateway.send(short))
        assert gateway.states() == {"unknown": 1}


def test_a_payment_that_died_unused_is_released_and_nothing_was_charged(tmp_path):
    with (
        own_chain() as thread,
        paid_gateway(tmp_path, facilitator=True, timeouts=SHORT, thread=thread) as gateway,
    ):
        early_s = now()
        credential = gateway.resign(gateway.buy(), valid_before=early_s + 20)
        fails_to_settle(gateway, "hang")
        unknown(gateway.send(credential))
        thread.advance(25)
        gateway.proxy.runtime.serving.executor.clock = lambda: early_s
        gateway.facilitator.fault = "error:invalid_exact_evm_payload_authorization_valid_before"
        answer = gateway.send(credential)
        assert answer[0] == 402
        assert (gateway.balance(), gateway.states()) == (0, {"released": 1})


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_a_client_that_leaves_while_its_payment_settles_keeps_a_credit(tmp_path, target):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy(target)
        gateway.node.faults["eth_getTransactionReceipt"] = "500"
        client = RawClient(gateway.port)
        client.send(request(target, credential))
        gateway.reaches(settling=1)
        client.close()
        gateway.node.faults.clear()
        gateway.reaches(credited=1)
        assert gateway.balance() == PRICE
        hits = gateway.hits
        assert gateway.send(credential, target)[0] == 200
        refused(gateway.send(credential, target), "invalid-challenge")
        assert (gateway.balance(), gateway.hits) == (PRICE, hits + 1)
        assert gateway.states() == {"settled": 1}


def test_a_client_that_leaves_before_the_upstream_answers_pays_for_its_answer_once(tmp_path):
    """Else it makes the upstream work for nothing: ask, hang up, ask again."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.keeper.opened.clear()
        with RawClient(gateway.port) as client:
            client.send(request("/api/paid", credential))
            wait_until(lambda: gateway.hits == 1, "the upstream has the request")
        wait_until(lambda: gateway.proxy.orphans == 1, "the gateway knows that the client is gone")
        gateway.keeper.opened.set()
        gateway.reaches(credited=1)
        assert gateway.balance() == PRICE
        assert gateway.send(credential)[0] == 200
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_somebody_else_who_submits_the_payment_first_pays_it_for_the_buyer(tmp_path):
    """A front-runner burns the nonce with the very transfer that was signed."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.keeper.before = lambda: gateway.submit_from_elsewhere(credential)
        answer = gateway.send(credential)
        assert answer[0] == 200
        assert receipt_of(answer).reference
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
        refused(gateway.send(credential), "invalid-challenge")


def test_a_payment_that_was_submitted_before_it_was_shown_is_not_asked_for_again(tmp_path):
    """The transfer for this very challenge is on the chain: the payee has the money."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.pay_early(credential)
        assert gateway.balance() == PRICE
        assert gateway.send(credential)[0] == 200
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
