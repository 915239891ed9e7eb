"""After `kill -9` at any point the books say what to ask; two processes share them and no proof."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.evm import now
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Paid,
    at_once,
    own_chain,
    paid_parts,
    receipt_of,
    refused,
    wait_until,
)
from tests.support.process import BIN, START_S, Process, free_port, process


@contextmanager
def serving(
    gateway: Paid, tmp_path: Path, store: Path | None = None
) -> Iterator[tuple[Process, int]]:
    """Run `mpp-gateway serve` on the test's store, or by another name of it."""
    port = free_port()
    config = tmp_path / f"gateway-{port}.yaml"
    text = gateway.config
    if store is not None:
        text = text.replace(str(gateway.store), str(store))
    config.write_text(text + f"\nlisten: 127.0.0.1:{port}\n")
    with process(str(BIN / "mpp-gateway"), "serve", "--config", str(config)) as running:
        running.wait_for_text("serving on")
        gateway._port = port
        yield running, port


def kill(running: Process) -> None:
    running.popen.kill()
    running.popen.wait(START_S)


def leave_pending(gateway: Paid, credential, target: str = "/api/paid") -> RawClient:
    client = RawClient(gateway.port)
    lines = [f"GET {target} HTTP/1.1", "Host: x", f"Authorization: {credential.format()}", "", ""]
    client.send("\r\n".join(lines).encode())
    return client


def hold_at(gateway: Paid, state: str) -> None:
    if state == "claimed":
        gateway.node.faults["eth_call"] = "hang"
    elif state == "verified":
        gateway.keeper.opened.clear()
    else:
        gateway.node.faults["eth_getTransactionReceipt"] = "500"


@pytest.mark.parametrize("state", ["claimed", "verified", "settling"])
def test_a_payment_that_a_kill_cut_off_is_served_once_and_charged_once(tmp_path, place, state):
    with paid_parts(tmp_path, place=place) as gateway:
        with serving(gateway, tmp_path) as (running, _):
            credential = gateway.buy()
            hold_at(gateway, state)
            client = leave_pending(gateway, credential)
            gateway.reaches(**{state: 1})
            if state == "settling":
                asked = gateway.node.calls
                wait_until(lambda: "eth_getTransactionReceipt" in asked, "the transfer is sent")
            kill(running)
            client.close()
        assert gateway.states() == {state: 1}
        gateway.node.faults.clear()
        gateway.keeper.opened.set()
        hits = gateway.hits
        with serving(gateway, tmp_path) as (running, _):
            # A settlement that was cut off is asked about at once, so it may be resolved already.
            after = {"unknown", "credited"} if state == "settling" else {"released"}
            assert set(gateway.states()) <= after
            answer = wait_until(lambda: _served(gateway.send(credential)), "it is served")
            assert gateway.chain.transaction(receipt_of(answer).reference)["status"] == "0x1"
            assert (gateway.hits, gateway.balance()) == (hits + 1, PRICE)
            assert gateway.purse() == PURSE_MINOR - PRICE
            refused(gateway.send(credential), "invalid-challenge")
            kill(running)
        if state == "settling":
            with serving(gateway, tmp_path):
                refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.hits, gateway.balance()) == (hits + 1, PRICE)
        assert gateway.states() == {"settled": 1}


def test_a_settlement_cut_off_before_it_was_sent_is_neither_charged_nor_asked_for_again(
    tmp_path, place
):
    """Until the chain can say that it never will be: then, and only then, it is released."""
    with own_chain() as thread, paid_parts(tmp_path, place=place, thread=thread) as gateway:
        with serving(gateway, tmp_path) as (running, _):
            credential = gateway.buy()
            gateway.node.faults["eth_estimateGas"] = "hang"
            client = leave_pending(gateway, credential)
            gateway.reaches(settling=1)
            kill(running)
            client.close()
        gateway.node.faults.clear()
        with serving(gateway, tmp_path):
            refused(gateway.send(credential), "settlement-unknown", 503)
            thread.advance(int(credential.payload["validBefore"]) - now() + 1)
            assert gateway.send(credential)[0] == 402
        assert (gateway.balance(), gateway.states()) == (0, {"released": 1})


def _served(answer):
    assert answer[0] in (200, 503), answer
    return answer if answer[0] == 200 else None


def test_two_gateways_on_one_store_accept_a_payment_once(tmp_path, place):
    with (
        paid_parts(tmp_path, place=place) as gateway,
        serving(gateway, tmp_path) as (_, first),
        serving(gateway, tmp_path) as (_, second),
    ):
        credential = gateway.buy()

        def send(port: int):
            with RawClient(port) as client:
                lines = [
                    "GET /api/paid HTTP/1.1",
                    "Host: x",
                    f"Authorization: {credential.format()}",
                ]
                client.send("\r\n".join([*lines, "", ""]).encode())
                return client.response()

        calls = [lambda port=port: send(port) for port in (first, second) * 10]
        statuses = Counter(answer[0] for answer in at_once(calls))
        assert statuses.pop(200) == 1
        assert set(statuses) <= {402, 409}
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


def test_a_second_gateway_leaves_the_claims_of_the_first_alone(tmp_path, place):
    with paid_parts(tmp_path, place=place) as gateway, serving(gateway, tmp_path):
        gateway.keeper.opened.clear()
        client = leave_pending(gateway, gateway.buy())
        gateway.reaches(verified=1)
        with serving(gateway, tmp_path) as (second, _):
            assert gateway.states() == {"verified": 1}
            # Nor does its end, however sudden.
            kill(second)
        assert gateway.states() == {"verified": 1}
        threading.Timer(0, gateway.keeper.opened.set).start()
        assert client.response()[0] == 200
        client.close()
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


@contextmanager
def shut(gateway: Paid) -> Iterator[None]:
    """Keep the upstream from answering; a test that fails meanwhile must not hold up the stop."""
    gateway.keeper.opened.clear()
    try:
        yield
    finally:
        gateway.keeper.opened.set()


def another_way_to(store: Path, way: str) -> Path:
    """Return a name by which a gateway reaches `store` without seeing that it is in use."""
    if way == "no lock file":
        store.with_name(store.name + ".lock").unlink()
        return store
    other = store.with_name("other")
    if way == "a link":
        other.symlink_to(store)
        return other
    other.symlink_to(store.parent, target_is_directory=True)
    return other / store.name


@pytest.mark.parametrize("way", ["a link", "a linked folder", "no lock file"])
def test_a_second_gateway_by_another_way_to_the_store_takes_no_live_call(tmp_path, way):
    """What it took for left behind would be a credit: two calls for one payment."""
    with paid_parts(tmp_path) as gateway, serving(gateway, tmp_path) as (_, first):
        with shut(gateway):
            credential = gateway.buy("/api/first")
            client = leave_pending(gateway, credential, "/api/first")
            gateway.reaches(settled=1)
            with serving(gateway, tmp_path, another_way_to(gateway.store, way)):
                assert gateway.states() == {"settled": 1}
                refused(gateway.send(credential, "/api/first"), "payment-in-progress", 409)
        assert client.response()[0] == 200
        client.close()
        gateway._port = first
        refused(gateway.send(credential, "/api/first"), "invalid-challenge")
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


def test_a_call_that_was_paid_early_is_a_credit_after_a_kill(tmp_path, place):
    """The payee has the money already: released, the price would have no owner."""
    with paid_parts(tmp_path, place=place) as gateway:
        with serving(gateway, tmp_path) as (running, _):
            credential = gateway.buy()
            gateway.pay_early(credential)
            gateway.keeper.opened.clear()
            client = leave_pending(gateway, credential)
            wait_until(lambda: gateway.hits == 1, "the upstream has the request")
            kill(running)
            client.close()
        gateway.keeper.opened.set()
        with serving(gateway, tmp_path):
            assert gateway.states() == {"credited": 1}
            assert gateway.send(credential)[0] == 200
            refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.hits, gateway.balance(), gateway.states()) == (2, PRICE, {"settled": 1})


def test_a_stop_waits_for_the_money_that_is_under_way(tmp_path, place):
    with paid_parts(tmp_path, place=place) as gateway, serving(gateway, tmp_path) as (running, _):
        credential = gateway.buy()
        gateway.node.faults["eth_getTransactionReceipt"] = "500"
        client = leave_pending(gateway, credential)
        gateway.reaches(settling=1)
        running.popen.terminate()
        gateway.node.faults.clear()
        assert client.response()[0] == 200
        client.close()
        assert running.popen.wait(START_S) == 0
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
