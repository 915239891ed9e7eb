"""The comment on a flow that no route took."""

import pytest
from mitmproxy import http

from mpp_gateway.addons.inspection import comment_on_own
from mpp_gateway.engine.answers import response_of
from mpp_gateway.errors import BadTarget, MethodNotAllowed, NotFound, NotReady
from mpp_gateway.gateway.answers import problem_answer, without_body
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.problems import PaymentRequired


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
