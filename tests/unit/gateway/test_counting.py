"""What a request costs its client: one token, and none once it is paid and delivered."""

import asyncio

import pytest

from mpp_gateway import events
from mpp_gateway.gateway import admission, aiming, settlement
from mpp_gateway.gateway.steps import (
    Attend,
    Emit,
    GiveBackTokens,
    MarkDelivered,
    NeedBody,
    Reply,
    TakeToken,
)
from mpp_gateway.protocol.messages import Answer, RequestHead
from tests.support.machine import BEGAN_MS, ENTROPY, NOW_S, Stage, driven, head_with

CLIENT = "203.0.113.7"
WAIT_MS = 1001


def asked(stage: Stage, machine, *, wait_ms: int = 0, body: bytes = b""):
    """Drive a stage without a store or a rail; return its verdict and what it asked for."""

    def reply(effect):
        match effect:
            case TakeToken():
                return Reply(wait_ms, NOW_S)
            case NeedBody():
                return Reply(body, NOW_S)
            case Emit() | GiveBackTokens() | MarkDelivered() | Attend():
                return Reply(None, NOW_S)
        raise AssertionError(effect)

    return driven(machine, reply)


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    asyncio.run(stage.close())


def exchange_of(stage: Stage, method="GET", path="/api/paid", client=CLIENT):
    head = RequestHead(method, path, (), client=client)
    exchange, _ = asked(stage, admission.match(head, stage.snapshot, "r1", NOW_S, ENTROPY))
    return exchange


@pytest.mark.parametrize("route", [("GET", "/api/paid"), ("POST", "/api/paid")])
def test_without_a_token_a_request_is_refused_before_anything_else(stage, route):
    exchange = exchange_of(stage, *route)
    answer, effects = asked(stage, admission.admit(exchange, NOW_S, ENTROPY), wait_ms=WAIT_MS)

    took, told = effects
    assert took == TakeToken(CLIENT)
    refused = told.event
    assert isinstance(refused, events.RequestRefused)
    assert (refused.slug, refused.status) == ("too-many-requests", 429)
    assert (refused.service, refused.route) == ("api", f"{exchange.head.method} /paid")
    assert isinstance(answer, Answer)
    fields = dict(answer.headers)
    assert (answer.status, fields["Retry-After"]) == (429, "2")
    assert "WWW-Authenticate" not in fields
    assert not exchange.is_counted


def test_a_token_is_taken_before_the_body_and_not_once_more_after_it(stage):
    exchange = exchange_of(stage, "POST")

    assert asked(stage, admission.before_body(exchange, NOW_S)) == (None, [TakeToken(CLIENT)])
    _, effects = asked(stage, admission.admit(exchange, NOW_S, ENTROPY))
    assert TakeToken(CLIENT) not in effects


def test_without_a_token_no_body_is_asked_for(stage):
    exchange = exchange_of(stage, "POST")
    answer, effects = asked(stage, admission.before_body(exchange, NOW_S), wait_ms=1)

    assert answer.status == 429
    assert dict(answer.headers)["Retry-After"] == "1"
    assert [type(effect) for effect in effects] == [TakeToken, Emit]


@pytest.mark.parametrize("request_", [("/api/free", CLIENT), ("/api/paid", "")])
def test_what_is_free_and_who_is_not_counted_take_no_token(stage, request_):
    path, client = request_
    exchange = exchange_of(stage, path=path, client=client)
    _, effects = asked(stage, admission.admit(exchange, NOW_S, ENTROPY))

    assert not [effect for effect in effects if isinstance(effect, TakeToken)]


def paid_call(tmp_path, path, status=200, *, answered=True, delivered=True):
    """Return every token taken and given back in one call with a good credential."""
    moved = []

    async def story() -> None:
        stage = Stage(tmp_path)
        buckets = stage.executor._buckets
        take, give_back = buckets.take, buckets.give_back
        buckets.take = lambda *a: moved.append(-1) or take(*a)
        buckets.give_back = lambda _, tokens: moved.append(tokens) or give_back(_, tokens)
        credential = await stage.buy(path=path)
        head = head_with(credential, path=path)
        head = RequestHead(head.method, head.target, head.headers, client=CLIENT)
        exchange, answer = await stage.admit(head)
        assert answer is None
        await stage.executor.run(aiming.forward(exchange, NOW_S), BEGAN_MS)
        if answered:
            await stage.deliver(exchange, status)
        for _ in range(2):
            work = settlement.finish(exchange, status, delivered, not delivered, NOW_S)
            await stage.executor.run(work, BEGAN_MS)
        await stage.close()

    asyncio.run(story())
    return moved


@pytest.mark.parametrize("path", ["/api/paid", "/api/first"])
def test_a_paid_call_gives_back_its_token_and_that_of_its_402_once(tmp_path, path):
    assert paid_call(tmp_path, path) == [-1, 2]


@pytest.mark.parametrize("path", ["/api/paid", "/api/first"])
def test_a_call_that_was_not_delivered_gives_back_nothing(tmp_path, path):
    assert paid_call(tmp_path, path, status=500) == [-1]


@pytest.mark.parametrize(
    ("path", "answered", "moved"),
    [
        ("/api/paid", False, [-1]),
        ("/api/first", False, [-1, 2]),
        ("/api/paid", True, [-1, 2]),
        ("/api/first", True, [-1, 2]),
    ],
)
def test_a_client_that_leaves_gets_its_token_back_once_where_it_has_paid(
    tmp_path, path, answered, moved
):
    assert paid_call(tmp_path, path, answered=answered, delivered=False) == moved
