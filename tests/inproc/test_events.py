"""Every step of a request tells one sink: which events, in which order, with which fields."""

import dataclasses
import itertools
import re
from contextlib import contextmanager

import pytest

from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.injection import AuthInjection
from mpp_gateway.events import (
    AnswerRepeated,
    ExchangeFinished,
    GatewayAnswered,
    PaymentCredited,
    PaymentReleased,
    PaymentRequired,
    PaymentSettled,
    PaymentUnknown,
    PaymentVerified,
    RequestForwarded,
    RequestReceived,
    RequestRefused,
    RouteMatched,
    UpstreamAnswered,
    UpstreamFailed,
)
from mpp_gateway.gateway import aiming
from mpp_gateway.rails.base import Settlement
from tests.support.client import get
from tests.support.scene import call, eventually, paying, scene
from tests.support.toy_rail import ToyRail

STEP_MS = 7
"""The clock of these tests goes on by as much whenever it is read."""
ASSET = "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e"
FREE = {"service": "api", "route": "GET /free"}
PAID = {"service": "api", "route": "GET /paid"}
PRICED = {"method": "toy", "amount_minor": 10_000, "asset": ASSET}
NOWHERE = "http://127.0.0.1:1"


@contextmanager
def told(*expected, respond=None, **more):
    """Play a scene; at its end exactly the `expected` events have been told, and in that order."""
    heard = []
    clock = itertools.count(1_000, STEP_MS)
    given = () if respond is None else (respond,)
    with scene(*given, sink=heard.append, ticker=lambda: next(clock), **more) as play:
        yield play
        assert eventually(lambda: len(heard) >= len(expected)), heard
    (request_id,) = {event.request_id for event in heard}
    assert re.fullmatch("[0-9a-f]{24}", request_id)
    assert {type(event.at_s) for event in heard} == {int}
    bare = [dataclasses.replace(event, request_id="", at_s=0) for event in heard]
    # Read once at the start and once for each event: so each has its own time, and nothing else
    # reads the clock.
    assert bare == [
        kind(request_id="", at_s=0, duration_ms=STEP_MS * number, **fields)
        for number, (kind, fields) in enumerate(expected, 1)
    ]


def test_a_free_call():
    with told(
        (RequestReceived, {}),
        (RouteMatched, FREE),
        (RequestForwarded, FREE),
        (UpstreamAnswered, FREE | {"status": 200}),
        (ExchangeFinished, FREE | {"status": 200}),
    ) as play:
        assert get(play.port, "/api/free")[0] == 200


def test_a_call_without_a_payment():
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentRequired, PAID | PRICED),
        (ExchangeFinished, PAID | PRICED | {"status": 402}),
    ) as play:
        assert get(play.port, "/api/paid")[0] == 402


def test_a_paid_call():
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentVerified, PAID | PRICED),
        (RequestForwarded, PAID | PRICED),
        (UpstreamAnswered, PAID | PRICED | {"status": 200}),
        (PaymentSettled, PAID | PRICED | {"reference": "ref-toy-1"}),
        (ExchangeFinished, PAID | PRICED | {"status": 200}),
    ) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 200


def test_a_call_whose_payment_is_refused():
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentReleased, PAID | PRICED),
        (RequestRefused, PAID | PRICED | {"slug": "verification-failed", "status": 402}),
        (ExchangeFinished, PAID | PRICED | {"status": 402}),
        rail=ToyRail(verify_refuses=True),
    ) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 402


def test_a_call_whose_settlement_is_refused():
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentVerified, PAID | PRICED),
        (RequestForwarded, PAID | PRICED),
        (UpstreamAnswered, PAID | PRICED | {"status": 200}),
        (PaymentReleased, PAID | PRICED),
        (RequestRefused, PAID | PRICED | {"slug": "verification-failed", "status": 402}),
        (ExchangeFinished, PAID | PRICED | {"status": 402}),
        rail=ToyRail(settle_as="refused"),
    ) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 402


def test_a_call_whose_settlement_is_unknown():
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentVerified, PAID | PRICED),
        (RequestForwarded, PAID | PRICED),
        (UpstreamAnswered, PAID | PRICED | {"status": 200}),
        (PaymentUnknown, PAID | PRICED),
        (RequestRefused, PAID | PRICED | {"slug": "settlement-unknown", "status": 503}),
        (ExchangeFinished, PAID | PRICED | {"status": 503}),
        rail=ToyRail(settle_as="unknown"),
    ) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 503


@pytest.mark.parametrize(
    ("became", "kinds"),
    [
        (Settlement.SETTLED, [PaymentSettled, PaymentCredited]),
        (Settlement.REFUSED, [PaymentReleased]),
    ],
)
def test_a_call_whose_unknown_settlement_is_known_now(became, kinds):
    heard, rail = [], ToyRail(settle_as="unknown", look_up_as=became)
    with scene(rail=rail, sink=heard.append) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 503
        assert eventually(lambda: isinstance(heard[-1], ExchangeFinished))
        heard.clear()
        rail.settle_as = "settled"
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 200
        first = [RequestReceived, RouteMatched, *kinds]
        assert [type(event) for event in heard[: len(first)]] == first
        assert (heard[2].method, heard[2].amount_minor) == ("toy", 10_000)


def test_a_call_whose_upstream_fails():
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentVerified, PAID | PRICED),
        (RequestForwarded, PAID | PRICED),
        (UpstreamFailed, PAID | PRICED | {"slug": "upstream-refused"}),
        (PaymentReleased, PAID | PRICED),
        (ExchangeFinished, PAID | PRICED | {"status": 502}),
        base_url=NOWHERE,
    ) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 502


def test_a_call_that_was_paid_ahead_and_whose_upstream_fails():
    first = {"service": "api", "route": "GET /first"} | PRICED
    with told(
        (RequestReceived, {}),
        (RouteMatched, {"service": "api", "route": "GET /first"}),
        (PaymentVerified, first),
        (PaymentSettled, first | {"reference": "ref-toy-1"}),
        (RequestForwarded, first),
        (UpstreamFailed, first | {"slug": "upstream-refused"}),
        (PaymentCredited, first),
        (ExchangeFinished, first | {"status": 502}),
        base_url=NOWHERE,
    ) as play:
        assert get(play.port, "/api/first", ": ".join(paying()))[0] == 502


@pytest.mark.parametrize("fault", ["raised", "no verdict"])
def test_a_call_that_a_fault_of_ours_refuses(fault, monkeypatch):
    def fail(_):
        raise RuntimeError("an addon is broken")

    if fault == "raised":
        monkeypatch.setattr(aiming, "aim", fail)
        given = {}
    else:
        given = {
            "addons": lambda runtime: [
                a for a in build_addons(runtime) if not isinstance(a, AuthInjection)
            ]
        }
    with told(
        (RequestReceived, {}),
        (RouteMatched, PAID),
        (PaymentVerified, PAID | PRICED),
        (RequestRefused, PAID | PRICED | {"slug": "gateway-fault", "status": 500}),
        (PaymentReleased, PAID | PRICED),
        (ExchangeFinished, PAID | PRICED | {"status": 500}),
        **given,
    ) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 500


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_that_is_repeated_is_no_free_call(method):
    heard = []
    about = {"service": "api", "route": f"{method} /paid"} | PRICED
    body = b"do it" if method == "POST" else b""
    with scene(sink=heard.append) as play:
        for _ in range(2):
            heard.clear()
            fields = (paying(), ("Idempotency-Key", "one"))
            reply = call("http/1.1", play.port, method, "/api/paid", *fields, body=body)
            assert reply.status == 200
            assert eventually(lambda: heard and isinstance(heard[-1], ExchangeFinished))
        _, _, repeated, _ = heard
    assert isinstance(repeated, AnswerRepeated)
    assert repeated.status == 200
    assert {name: getattr(repeated, name) for name in about} == about


@pytest.mark.parametrize("path", ["/llms.txt", "/openapi.json", "/discover/api", "/healthz"])
def test_a_document_and_the_health(path):
    with told(
        (RequestReceived, {}),
        (GatewayAnswered, {"route": path, "status": 200}),
    ) as play:
        assert get(play.port, f"{path}?utm=1")[0] == 200


def test_a_document_that_there_is_not():
    with told(
        (RequestReceived, {}),
        (RequestRefused, {"slug": "not-found", "status": 404}),
    ) as play:
        assert get(play.port, "/discover/nothing")[0] == 404


@pytest.mark.parametrize(
    ("target", "about"), [("/api/paid", {"service": "api"}), ("*", {}), ("/llms.txt", None)]
)
def test_a_preflight(target, about):
    answered = {"route": target, "status": 204} if about is None else about | {"status": 204}
    with told((RequestReceived, {}), (GatewayAnswered, answered)) as play:
        assert call("http/1.1", play.port, "OPTIONS", target).status == 204


@pytest.mark.parametrize(
    ("target", "slug", "status"),
    [("/nobody/free", "not-found", 404), ("/api/%zz", "bad-target", 400)],
)
def test_a_call_that_no_route_takes(target, slug, status):
    with told((RequestReceived, {}), (RequestRefused, {"slug": slug, "status": status})) as play:
        assert get(play.port, target)[0] == status


def test_a_call_before_the_gateway_is_open():
    with told(
        (RequestReceived, {}),
        (RequestRefused, {"slug": "not-ready", "status": 503}),
    ) as play:
        play.proxy.call(play.proxy.runtime.close)
        assert get(play.port, "/api/free")[0] == 503


def test_without_a_sink_no_clock_is_read():
    def broken():
        raise AssertionError("read")

    with scene(ticker=broken) as play:
        assert get(play.port, "/api/paid", ": ".join(paying()))[0] == 200
        assert get(play.port, "/llms.txt")[0] == 200
