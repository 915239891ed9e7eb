"""Nothing of the upstream's answer reaches a client that has not paid for it."""

import pytest

from mpp_gateway.rails.base import Settlement
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import (
    UPSTREAM_BODY,
    VERSIONS,
    call,
    eventually,
    is_free_of_marks,
    marked,
    paying,
    scene,
)
from tests.support.toy_rail import RECEIPT, ToyRail

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nX-Marked: marked-upstream-field\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"14\r\nmarked-upstream-body\r\n0\r\n\r\n"
)
ANSWERS = {"buffered": marked(), "streamed": CHUNKED}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ANSWERS)
def test_a_settled_call_is_delivered_with_its_receipt(version, kind):
    with scene(ANSWERS[kind]) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert (reply.status, reply.body) == (200, UPSTREAM_BODY)
        assert reply.fields["payment-receipt"] == RECEIPT
        assert play.ends_as("toy-1", "settled")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize(
    ("settle_as", "status", "slug", "state"),
    [
        ("refused", 402, "verification-failed", "released"),
        ("raise", 503, "settlement-unknown", "unknown"),
        ("unknown", 503, "settlement-unknown", "unknown"),
    ],
)
def test_not_one_upstream_byte_is_given_for_a_settlement_that_failed(
    version, kind, settle_as, status, slug, state
):
    with scene(ANSWERS[kind], rail=ToyRail(settle_as=settle_as)) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert reply.status == status
        assert reply.fields["content-type"] == "application/problem+json"
        assert slug.encode() in reply.body
        assert is_free_of_marks(reply)
        assert "payment-receipt" not in reply.fields
        assert play.upstream.heads == 1
        assert play.ends_as("toy-1", state)


@pytest.mark.parametrize("version", VERSIONS)
def test_not_one_upstream_byte_is_given_when_settling_takes_too_long(version):
    rail = ToyRail(hold_settle=True)
    with scene(marked(), rail=rail, timeouts="settle_s: 0.3") as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert reply.status == 503
        assert b"settlement-unknown" in reply.body
        assert is_free_of_marks(reply)
        assert play.state("toy-1") == "unknown"
        play.let_go()
        assert play.ends_as("toy-1", "credited"), "the late settlement was not written down"
        again = call(version, play.port, "GET", "/api/paid", paying())
        assert (again.status, again.body) == (200, UPSTREAM_BODY)
        assert again.fields["payment-receipt"] == RECEIPT
        assert rail.settled == ["toy-1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_settlement_is_resolved_by_the_rail_and_not_by_a_second_payment(version):
    rail = ToyRail(settle_as="unknown")
    with scene(marked(), rail=rail) as play:
        assert call(version, play.port, "GET", "/api/paid", paying()).status == 503
        assert call(version, play.port, "GET", "/api/paid", paying()).status == 503
        assert rail.settled == ["toy-1"]
        rail.look_up_as = Settlement.SETTLED
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert (reply.status, reply.fields["payment-receipt"]) == (200, RECEIPT)
        assert rail.settled == ["toy-1"]
        assert call(version, play.port, "GET", "/api/paid", paying()).status == 402


def start_call(version, port, target, *headers):
    """Send a request and return its client, with the answer still to be read."""
    if version == "h2":
        client = H2Client(port)
        client.request("GET", target, headers)
        return client
    client = RawClient(port)
    lines = [f"GET {target} HTTP/1.1", "Host: g", *(f"{n}: {v}" for n, v in headers), "", ""]
    client.send("\r\n".join(lines).encode())
    return client


def has_answer(client) -> bool:
    """Whether any byte of an answer has come; waits shortly for one."""
    client.socket.settimeout(0.2)
    try:
        if isinstance(client, RawClient):
            return bool(client.socket.recv(1))
        while client.receive():
            if any(stream.status for stream in client.streams.values()):
                return True
    except TimeoutError:
        return False
    return False


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ANSWERS)
def test_nothing_is_sent_while_settlement_is_under_way(version, kind):
    rail = ToyRail(hold_settle=True)
    with scene(ANSWERS[kind], rail=rail) as play:
        client = start_call(version, play.port, "/api/paid", paying())
        assert eventually(lambda: rail.settled == ["toy-1"])
        assert not has_answer(client)
        play.let_go()
        client.socket.settimeout(10)
        if version == "h2":
            assert client.response(1).body == UPSTREAM_BODY
        else:
            assert client.response()[2] == UPSTREAM_BODY
        client.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_leaves_while_settling_has_one_more_call_and_not_two(version):
    rail = ToyRail(hold_settle=True)
    with scene(marked(), rail=rail) as play:
        client = start_call(version, play.port, "/api/paid", paying())
        assert eventually(lambda: rail.settled == ["toy-1"])
        client.close()
        assert eventually(lambda: play.clients == 0)
        play.let_go()
        assert play.ends_as("toy-1", "credited")
        again = call(version, play.port, "GET", "/api/paid", paying())
        assert (again.status, again.body) == (200, UPSTREAM_BODY)
        assert again.fields["payment-receipt"] == RECEIPT
        third = call(version, play.port, "GET", "/api/paid", paying())
        assert third.status == 402
        assert is_free_of_marks(third)
        assert rail.settled == ["toy-1"]
        assert play.state("toy-1") == "settled"


@pytest.mark.parametrize("version", VERSIONS)
def test_settling_first_keeps_the_upstream_out_of_it_until_the_money_is_there(version):
    rail = ToyRail(settle_as="refused")
    with scene(marked(), rail=rail) as play:
        reply = call(version, play.port, "GET", "/api/first", paying())
        assert reply.status == 402
        assert play.upstream.heads == 0
        rail.settle_as = "settled"
        reply = call(version, play.port, "GET", "/api/first", paying("toy-2"))
        assert (reply.status, reply.body) == (200, UPSTREAM_BODY)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("status", [b"404 Not Found", b"302 Found", b"500 Oops"])
def test_an_answer_that_is_no_success_is_free_and_releases_the_payment(version, status):
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nhm"
    with scene(answer) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert (reply.status, reply.body) == (int(status[:3]), b"hm")
        assert play.ends_as("toy-1", "released")
        assert play.rail.settled == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_proof_reaches_no_upstream(version):
    with scene(marked(), rail=ToyRail(verify_refuses=True)) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert (reply.status, play.upstream.connections) == (402, 0)
        assert play.ends_as("toy-1", "released")
