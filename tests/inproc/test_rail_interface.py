"""The rail seam carries more than charge needs: use known at the end, change, bearer keys."""

import dataclasses
import json
import sqlite3

import pytest

from mpp_gateway.errors import Forbidden
from mpp_gateway.events import ExchangeFinished, PaymentCredited, PaymentSettled
from mpp_gateway.gateway.slots import Slots
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.rails.base import Capabilities, Outcome, Settlement
from tests.support.client import RawClient, get
from tests.support.scene import Scene, eventually, scene
from tests.support.toy_rail import ToyRail

AT_END = Capabilities(settles_at="end", can_verify_without_moving_money=True, gives_change=True)
PRICE = 10_000
KEY = "Authorization: Bearer toy-prepaid"
BODY = b"x" * 300
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + BODY
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + BODY


def metered(exchange, data: bytes) -> bytes:
    """Count one minor unit a byte, as a usage meter would."""
    exchange.used_minor = (exchange.used_minor or 0) + len(data)
    return data


def with_slots(played: Scene, **slots) -> None:
    """Put modules into the snapshot that is served."""

    def plug() -> None:
        serving = played.proxy.runtime.serving
        snapshot = dataclasses.replace(serving.snapshot, slots=Slots(**slots))
        played.proxy.runtime.serving = dataclasses.replace(serving, snapshot=snapshot)

    played.proxy.call(plug)


def rows(played: Scene) -> list[tuple[str, str]]:
    with sqlite3.connect(f"file:{played.store}?mode=ro", uri=True) as store:
        return store.execute("SELECT to_state, detail FROM journal ORDER BY seq").fetchall()


def test_use_that_is_known_at_the_end_is_settled_at_the_end_and_gives_change():
    rail = ToyRail(capabilities=AT_END)
    with scene(ANSWER, rail=rail) as played:
        with_slots(played, stream=(metered,))
        status, fields, body = get(played.proxy.port, "/api/paid", KEY)

        assert (status, body) == (200, BODY)
        assert rail.amounts == [len(BODY)]
        # The receipt follows the body: the amount was not known before.
        assert fields["payment-receipt"] == "toy-receipt"
        assert ("settled", f"change {PRICE - len(BODY)}") in rows(played)


def test_a_client_that_leaves_owes_what_was_delivered():
    rail = ToyRail(capabilities=AT_END)
    with scene(CUT, rail=rail) as played:
        with_slots(played, stream=(metered,))
        with RawClient(played.proxy.port) as client:
            client.send(f"GET /api/paid HTTP/1.1\r\nHost: x\r\n{KEY}\r\n\r\n".encode())
            assert client.head()[0] == 200
        eventually(lambda: rail.amounts == [len(BODY)])


def test_nothing_is_settled_at_the_end_of_an_upstream_failure():
    rail = ToyRail(capabilities=AT_END)
    with scene(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", rail=rail) as played:
        assert get(played.proxy.port, "/api/paid", KEY)[0] == 500
        assert rail.amounts == []
        assert rows(played)[-1][0] == "released"


def test_a_rail_without_change_settles_the_whole_price():
    rail = ToyRail(capabilities=dataclasses.replace(AT_END, gives_change=False))
    with scene(ANSWER, rail=rail) as played:
        with_slots(played, stream=(metered,))
        assert get(played.proxy.port, "/api/paid", KEY)[0] == 200
        assert rail.amounts == [PRICE]


@pytest.mark.parametrize("became", ["settled", "found"])
def test_of_less_than_the_price_what_moved_is_told_in_every_event_after(became: str):
    """Also by the request that has its credit, and by the one that asks what became of it."""
    heard, used, rail = [], 300, ToyRail(settle_as="settled")

    def pre(exchange, clock):
        exchange.used_minor = used
        yield from ()

    async def found(record, now_s):
        return Outcome(Settlement.SETTLED, change_minor=record.amount_minor - used)

    if became == "found":
        rail.settle_as, rail.look_up = "unknown", found
    with scene(rail=rail, sink=heard.append, base_url="http://127.0.0.1:1") as played:
        with_slots(played, pre=(pre,))
        for _ in range(2):
            get(played.port, "/api/first", KEY)
        assert eventually(lambda: len([e for e in heard if type(e) is ExchangeFinished]) == 2)

    moved = [type(event) for event in heard].index(PaymentSettled)
    assert {event.amount_minor for event in heard[:moved] if event.method} == {PRICE}
    after = [event for event in heard[moved:] if event.method]
    assert {PaymentSettled, PaymentCredited, ExchangeFinished} <= {type(event) for event in after}
    assert {event.amount_minor for event in after} == {used}


def test_a_bearer_key_is_a_credential_and_never_reaches_the_upstream():
    with scene(ANSWER, rail=ToyRail(capabilities=AT_END)) as played:
        assert get(played.proxy.port, "/api/paid", KEY)[0] == 200
        (seen,) = played.upstream.seen
        assert "toy-prepaid" not in repr(seen.headers)


@pytest.mark.parametrize(("target", "status"), [("/api/paid", 402), ("/api/free", 200)])
def test_every_slot_runs_on_paid_free_and_refused_requests(target, status):
    heard = []

    def pre(exchange, clock):
        heard.append("pre")
        yield from ()

    def post(exchange, answer):
        heard.append("post")
        return dataclasses.replace(answer, headers=(*answer.headers, ("X-Module", "was here")))

    def stream(exchange, data):
        heard.append("stream")
        return data.upper()

    with scene(ANSWER) as played:
        with_slots(played, pre=(pre,), stream=(stream,), post=(post,))
        got, fields, body = get(played.proxy.port, target)

    assert (got, fields["x-module"]) == (status, "was here")
    assert heard[:2] == ["pre", "post"]
    assert (b"X" * 300 in body) == (status == 200)


def test_a_pre_module_refuses_before_anything_is_read_or_charged():
    def pre(exchange, clock):
        raise Forbidden("Not today.")
        yield

    with scene(ANSWER) as played:
        with_slots(played, pre=(pre,))
        status, _, body = get(played.proxy.port, "/api/paid", KEY)
        assert (status, json.loads(body)["detail"]) == (403, "Not today.")
        assert (played.upstream.seen, played.rail.verified) == ([], [])


def test_a_stream_module_that_fails_cuts_the_answer():
    def stream(exchange, data):
        raise RuntimeError("bug")

    with scene(ANSWER) as played:
        with_slots(played, stream=(stream,))
        with RawClient(played.proxy.port) as client:
            client.send(b"GET /api/free HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head()[0] == 200
            assert client.rest() == b""
        assert not [line for line in played.proxy.log if "has crashed" in line]
        played.proxy.log.clear()


def test_a_post_module_may_not_turn_a_refusal_into_a_delivery():
    def post(exchange, answer):
        assert isinstance(answer, Answer)
        return Answer(503, answer.headers, b"closed")

    with scene(ANSWER) as played:
        with_slots(played, post=(post,))
        assert get(played.proxy.port, "/api/paid")[0] == 503
        assert played.upstream.seen == []
