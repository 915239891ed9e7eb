"""The payee has the money before the gateway settles: the price always has an owner.

A facilitator sees the whole signature when it is asked to check it, and anybody may submit what he
has seen; the buyer has paid all the same.
"""

import json
from collections import Counter

import pytest

from mpp_gateway.protocol.credential import Credential
from tests.support.client import RawClient
from tests.support.evm import now
from tests.support.paid import (
    PRICE,
    Paid,
    at_once,
    paid_gateway,
    receipt_of,
    refused,
    wait_until,
)

CHALLENGE_S = 300
OWN_KEY_OR_NOT = pytest.mark.parametrize("facilitator", [False, True], ids=["key", "facilitator"])


def breaks(gateway: Paid) -> None:
    """From now on the upstream hangs up on every request."""
    gateway.keeper.raw, gateway.keeper.keeps = b"", False


def later(gateway: Paid, seconds: int) -> None:
    later_s = now() + seconds
    gateway.proxy.runtime.serving.executor.clock = lambda: later_s


def served_once(gateway: Paid, credential: Credential, tx_hash: str) -> None:
    """Assert that the credential is worth one call, with the receipt of `tx_hash`, and no more."""
    gateway.keeper.answers("200 OK", body=b"served")
    hits = gateway.hits
    answer = gateway.send(credential)
    assert (answer[0], answer[2]) == (200, b"served")
    assert receipt_of(answer).reference == tx_hash
    assert gateway.send(credential)[0] == 402
    assert (gateway.hits, gateway.balance(), gateway.states()) == (hits + 1, PRICE, {"settled": 1})
    assert [row["reference"] for row in gateway.rows()] == [tx_hash]


@OWN_KEY_OR_NOT
@pytest.mark.parametrize("wait_s", [0, CHALLENGE_S + 1], ids=["at once", "after expiry"])
def test_an_upstream_that_fails_owes_the_call_to_who_has_paid_early(tmp_path, facilitator, wait_s):
    with paid_gateway(tmp_path, facilitator=facilitator) as gateway:
        credential = gateway.buy()
        tx_hash = gateway.pay_early(credential)
        breaks(gateway)
        problem = json.loads(gateway.send(credential)[2])
        assert problem["payment"] == "credited"
        assert "charged" not in problem["hint"]
        assert (gateway.balance(), gateway.states()) == (PRICE, {"credited": 1})
        later(gateway, wait_s)
        served_once(gateway, credential, tx_hash)


@OWN_KEY_OR_NOT
def test_an_early_transfer_costs_no_second_one(tmp_path, facilitator):
    with paid_gateway(tmp_path, facilitator=facilitator) as gateway:
        credential = gateway.buy()
        tx_hash = gateway.pay_early(credential)
        served_once(gateway, credential, tx_hash)
        assert "eth_sendRawTransaction" not in gateway.node.calls
        if gateway.facilitator is not None:
            assert "/settle" not in [path for path, _ in gateway.facilitator.asked]
        path = [after for _, after in gateway.journal()]
        assert path == ["claimed", "verified", "settling", "settled"]


def test_ten_copies_of_an_early_payment_are_one_call(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.pay_early(credential)
        statuses = Counter(answer[0] for answer in at_once([lambda: gateway.send(credential)] * 10))
        assert statuses.pop(200) == 1
        assert set(statuses) <= {402, 409}
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_transfer_while_the_upstream_fails_is_honoured_whenever_it_is_shown(
    tmp_path, is_forgotten
):
    """Released, for nobody had paid when the gateway looked; then even the row is gone."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        breaks(gateway)
        assert gateway.send(credential)[0] == 502
        assert gateway.states() == {"released": 1}
        tx_hash = gateway.pay_early(credential)
        later(gateway, CHALLENGE_S + 1)
        if is_forgotten:
            exchanges = gateway.proxy.runtime.serving.exchanges
            dead_s = int(credential.payload["validBefore"]) + 1
            assert gateway.proxy.call(lambda: exchanges.purge(dead_s)) == 1
            later(gateway, dead_s - now())
        served_once(gateway, credential, tx_hash)


def test_ten_copies_of_an_early_payment_after_its_expiry_are_one_call(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.pay_early(credential)
        later(gateway, CHALLENGE_S + 1)
        statuses = Counter(answer[0] for answer in at_once([lambda: gateway.send(credential)] * 10))
        assert statuses.pop(200) == 1
        assert set(statuses) <= {402, 409}
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


def test_an_expired_credential_that_nobody_submitted_buys_nothing(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        later(gateway, CHALLENGE_S + 1)
        refused(gateway.send(credential), "payment-expired")
        gateway.untouched()


def test_an_expired_credential_that_paid_somebody_else_buys_nothing(tmp_path):
    """The nonce is used, and the payee has nothing of it."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.pay_early(gateway.resign(credential, value=PRICE - 1))
        later(gateway, CHALLENGE_S + 1)
        refused(gateway.send(credential), "payment-expired")
        assert (gateway.hits, gateway.states()) == (0, {})


def test_a_payment_that_is_about_to_end_counts_when_it_was_made_early(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.resign(gateway.buy(), valid_before=now() + 20)
        tx_hash = gateway.pay_early(credential)
        served_once(gateway, credential, tx_hash)


@pytest.mark.parametrize("fault", ["500", "error: overloaded"])
@pytest.mark.parametrize("method", ["eth_getLogs", "eth_getTransactionReceipt"])
@pytest.mark.parametrize("wait_s", [0, CHALLENGE_S + 1], ids=["at once", "after expiry"])
def test_who_may_have_paid_is_never_asked_to_pay_again(tmp_path, method, fault, wait_s):
    """The nonce is used, and the node does not show by what: mined a moment ago, for one."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        tx_hash = gateway.pay_early(credential)
        later(gateway, wait_s)
        gateway.node.faults[method] = fault
        answer = gateway.send(credential)
        refused(answer, "settlement-unknown", 503)
        assert answer[1]["retry-after"]
        assert gateway.hits == 0
        gateway.node.faults.clear()
        served_once(gateway, credential, tx_hash)


def test_a_facilitator_that_is_gone_does_not_hide_that_it_has_taken_the_money(tmp_path):
    """It submits while the upstream works, and refuses every connection after."""
    with paid_gateway(tmp_path, facilitator=True) as gateway:
        credential = gateway.buy()
        settler = gateway.proxy.runtime.serving.rails["evm"]._settler

        async def take_and_go() -> None:
            await gateway.submit_from_elsewhere(credential)
            settler._url = "http://127.0.0.1:1"

        gateway.keeper.before = take_and_go
        answer = gateway.send(credential)
        assert answer[0] == 200
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_a_client_that_hangs_up_on_a_call_it_paid_for_early_has_had_it(tmp_path):
    """As where a route settles first: else it runs the upstream again and again for one price."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        gateway.pay_early(credential)
        gateway.keeper.opened.clear()
        with RawClient(gateway.port) as client:
            fields = ["GET /api/paid HTTP/1.1", "Host: x", f"Authorization: {credential.format()}"]
            client.send("\r\n".join([*fields, "", ""]).encode())
            wait_until(lambda: gateway.hits == 1, "the upstream has the request")
        wait_until(lambda: gateway.proxy.orphans == 1, "the gateway knows that the client is gone")
        gateway.keeper.opened.set()
        wait_until(lambda: not gateway.proxy.orphans, "the call has ended")
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


def test_a_credit_outlives_its_authorization_and_its_challenge(tmp_path):
    times = "connect_s: 1, first_byte_s: 5, settle_s: 5"
    with paid_gateway(tmp_path, timeouts=times) as gateway:
        credential = gateway.resign(gateway.buy("/api/first"), valid_before=now() + 100)
        breaks(gateway)
        assert gateway.send(credential, "/api/first")[0] == 502
        assert gateway.states() == {"credited": 1}
        gateway.keeper.answers("200 OK", body=b"served")
        later(gateway, CHALLENGE_S + 100)
        assert gateway.send(credential, "/api/first")[0] == 200
        assert gateway.send(credential, "/api/first")[0] == 402
