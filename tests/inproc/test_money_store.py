"""A store that fails: every request is refused, no money moves, and nothing is served twice."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.client import RawClient
from tests.support.evm import now
from tests.support.paid import (
    PRICE,
    Paid,
    paid_gateway,
    refused,
    wait_until,
)


@contextmanager
def locked(gateway: Paid) -> Iterator[None]:
    """Keep the store from writing for the length of the block."""
    database = gateway.proxy.runtime.serving.database
    gateway.proxy.call(
        lambda: database.write(lambda db: db.execute("PRAGMA busy_timeout=0") and None)
    )
    blocker = sqlite3.connect(gateway.store, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()


def test_without_a_store_nothing_is_sold_and_nothing_is_charged(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        with locked(gateway):
            for _ in range(3):
                answer = gateway.send(credential)
                refused(answer, "not-ready", 503)
                assert answer[1]["retry-after"]
            gateway.challenge()
            assert gateway.ask("/api/free")[0] == 200
        assert (gateway.balance(), gateway.states()) == (0, {})
        assert gateway.send(credential)[0] == 200
        assert gateway.balance() == PRICE


def test_a_store_that_fails_between_claim_and_hold_sells_nothing(tmp_path):
    times = "connect_s: 1, first_byte_s: 5, settle_s: 1"
    with paid_gateway(tmp_path, timeouts=times) as gateway:
        credential = gateway.buy()
        gateway.node.faults["eth_call"] = "hang"
        client = pending(gateway, credential)
        gateway.reaches(claimed=1)
        with locked(gateway):
            # The node does not answer, and the gateway cannot even write the release.
            refused(client.response(), "rail-unavailable", 503)
        client.close()
        gateway.node.faults.clear()
        # Written down as soon as the store is back: the buyer need not wait for a sweep.
        gateway.reaches(released=1)
        assert (gateway.hits, gateway.balance()) == (0, 0)
        assert gateway.send(credential)[0] == 200
        assert (gateway.hits, gateway.balance()) == (1, PRICE)


def test_a_store_that_fails_before_the_settlement_moves_no_money(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        gateway.keeper.opened.clear()
        client = pending(gateway, gateway.buy())
        gateway.reaches(verified=1)
        wait_until(lambda: gateway.hits == 1, "the upstream has the request")
        with locked(gateway):
            gateway.keeper.opened.set()
            answer = client.response()
            refused(answer, "not-ready", 503)
            assert b"marked" not in answer[2]
        client.close()
        gateway.reaches(released=1)
        assert gateway.balance() == 0


def test_a_store_that_fails_after_the_money_moved_serves_it_later_and_once(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        credential = gateway.buy()
        gateway.node.faults["eth_getTransactionReceipt"] = "500"
        client = pending(gateway, credential)
        gateway.reaches(settling=1)
        calls = gateway.node.calls
        wait_until(lambda: "eth_getTransactionReceipt" in calls, "the transfer is sent")
        with locked(gateway):
            gateway.node.faults.clear()
            answer = client.response()
            refused(answer, "settlement-unknown", 503)
            assert b"marked" not in answer[2]
        client.close()
        assert gateway.balance() == PRICE
        gateway.reaches(credited=1)
        assert gateway.send(credential)[0] == 200
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_an_exchange_that_was_taken_over_while_it_settled_is_not_served_here_too(tmp_path):
    """What a restart beside us, or the sweeper, has made UNKNOWN is served by whoever asks next."""
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        credential = gateway.buy()
        gateway.node.faults["eth_getTransactionReceipt"] = "500"
        client = pending(gateway, credential)
        gateway.reaches(settling=1)
        assert sweep(gateway, now() + 1000) == 1
        gateway.node.faults.clear()
        answer = client.response()
        refused(answer, "settlement-unknown", 503)
        assert b"marked" not in answer[2]
        client.close()
        assert gateway.send(credential)[0] == 200
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def sweep(gateway: Paid, at_s: int) -> int:
    exchanges = gateway.proxy.runtime.serving.exchanges
    return gateway.proxy.call(lambda: exchanges.sweep(at_s))


def pending(gateway: Paid, credential) -> RawClient:
    client = RawClient(gateway.port)
    lines = ["GET /api/paid HTTP/1.1", "Host: x", f"Authorization: {credential.format()}", "", ""]
    client.send("\r\n".join(lines).encode())
    return client
