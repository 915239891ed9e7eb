"""The comment on a flow: what a route asked for, or what was answered without one."""

from types import SimpleNamespace

import pytest
from mitmproxy import http

from mpp_gateway.addons.inspection import comment_on, comment_on_own, payment_parts
from mpp_gateway.engine.answers import response_of
from mpp_gateway.errors import BadTarget, MethodNotAllowed, NotFound, NotReady
from mpp_gateway.gateway.answers import problem_answer, without_body
from mpp_gateway.protocol import x402
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.protocol.problems import PaymentRequired
from mpp_gateway.rails.base import Offer

CENTS = Asset("usd", 2)
MICROS = Asset("0x8335", 6)


@pytest.mark.parametrize(
    ("answer", "comment"),
    [
        (problem_answer(NotFound("x")), "refused · not-found"),
        (problem_answer(MethodNotAllowed(("GET",), "x")), "refused · method-not-allowed"),
        (problem_answer(BadTarget("x")), f"refused · {BadTarget.slug}"),
        (problem_answer(NotReady("x")), "refused · not-ready"),
        (problem_answer(PaymentRequired("x")), f"refused · {PaymentRequired.slug}"),
        (without_body(problem_answer(NotFound("x"))), "refused · 404"),
        (Answer(200, (("Content-Type", "application/json"),), b"{}"), "document"),
        (Answer(304, ()), "document"),
        (Answer(204, (("Allow", "GET"),)), "preflight"),
    ],
)
def test_it_names_what_was_answered(answer, comment):
    assert comment_on_own(response_of(answer)) == comment


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b"{}"])
def test_a_document_that_cannot_be_read_leaves_the_status(body):
    fields = http.Headers(content_type="application/problem+json")

    assert comment_on_own(http.Response.make(500, body, fields)) == "refused · 500"


def offer(rail, minor, asset=MICROS):
    return Offer(rail, rail, "charge", Amount(minor, asset), {}, "e30")


def asked(*offers, presented=None, challenge_id="c"):
    """An exchange that nobody has claimed, as far as the comment looks at it."""
    return SimpleNamespace(
        route=SimpleNamespace(key="GET /x", free=False),
        service=SimpleNamespace(id="api"),
        offers=offers,
        presented=presented and SimpleNamespace(offer=presented, challenge_id=challenge_id),
        state=None,
        is_given=False,
    )


@pytest.mark.parametrize(
    ("offers", "shown"),
    [
        ([offer("base", 10_000)], "0.01 · base"),
        ([offer("base", 10_000), offer("tempo", 10_000)], "0.01 · base tempo"),
        ([offer("base", 500_000), offer("card", 50, CENTS)], "0.50 · base card"),
        ([offer("base", 10_000), offer("card", 50, CENTS)], "0.01 (base) or 0.50 (card)"),
        (
            [offer("base", 10_000), offer("tempo", 10_000), offer("card", 50, CENTS)],
            "0.01 (base) or 0.01 (tempo) or 0.50 (card)",
        ),
    ],
)
def test_each_method_is_shown_at_its_own_price(offers, shown):
    assert comment_on(asked(*offers), 402) == f"api · GET /x · {shown} · payment required"


def test_who_has_chosen_an_offer_is_shown_its_price_alone():
    base, card = offer("base", 10_000), offer("card", 50, CENTS)

    assert comment_on(asked(base, card, presented=card), 402).split(" · ")[2:4] == ["0.50", "card"]


def test_a_payment_without_a_challenge_is_shown_as_x402():
    base = offer("base", 10_000)

    shown = comment_on(asked(base, presented=base, challenge_id=None), 402)

    assert shown == "api · GET /x · 0.01 · base · x402 · payment required"


def test_the_fields_of_x402_are_shown_decoded():
    terms = x402.Terms("exact", 84532, "0xasset", 5, "0xpayee")
    headers, _ = x402.required(x402.Resource("http://a/b"), [terms], 60, "payment_required", {})
    settled = x402.response(84532, "0xpayer", "0xhash")
    answer = http.Response.make(402, b"", http.Headers([encoded(f) for f in (*headers, *settled)]))

    parts = dict(payment_parts(answer))

    assert parts["x402 offers"]["error"] == "payment_required"
    assert parts["x402 settlement"]["transaction"] == "0xhash"


def test_a_field_of_x402_that_cannot_be_read_is_shown_as_that():
    request = http.Request.make("GET", "http://a/", headers={"X-PAYMENT": "%%"})

    ((title, shown),) = payment_parts(request)

    assert (title, shown.split(":")[0]) == ("x402 payment", "cannot be read")


def encoded(field):
    name, value = field
    return name.encode(), value.encode()


def test_a_call_refused_before_its_offers_were_read_shows_none():
    assert comment_on(asked(), 429) == "api · GET /x · refused"
