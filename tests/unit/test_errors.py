"""Each leaf of the gateway's problems is a valid problem document with a slug of its own."""

import json
from collections import Counter

import pytest

from mpp_gateway import errors
from mpp_gateway.protocol.problems import Problem

STATUSES = {
    "ambiguous-credentials": 400,
    "malformed-payment": 400,
    "answer-not-kept": 409,
    "idempotency-key-reused": 409,
    "bad-target": 400,
    "content-too-large": 413,
    "forbidden": 403,
    "gateway-fault": 500,
    "head-too-large": 431,
    "method-not-allowed": 405,
    "not-found": 404,
    "not-ready": 503,
    "payment-in-progress": 409,
    "price-above-maximum": 412,
    "rail-unavailable": 503,
    "request-timeout": 408,
    "settlement-unknown": 503,
    "too-many-requests": 429,
    "unpriced": 403,
    "upstream-cut": 502,
    "upstream-malformed": 502,
    "upstream-refused": 502,
    "upstream-switched-protocols": 502,
    "upstream-timed-out": 504,
    "upstream-failed": 502,
    "upstream-tls-failed": 502,
}


def leaves(base):
    below = base.__subclasses__()
    return [leaf for inner in below for leaf in leaves(inner)] if below else [base]


@pytest.mark.parametrize("leaf", leaves(errors.GatewayProblem))
def test_each_leaf_gives_a_valid_problem_document(leaf):
    document = json.loads(json.dumps(leaf().document()))

    assert f"urn:mpp-gateway:problem:{leaf.slug}" == document["type"]
    assert leaf.status == document["status"]
    assert leaf.title == document["title"]


def test_the_slugs_and_statuses_are_wire_format():
    assert {leaf.slug: leaf.status for leaf in leaves(errors.GatewayProblem)} == STATUSES


def test_no_two_problems_share_a_slug():
    ours = [leaf for leaf in leaves(Problem) if leaf.__module__.startswith("mpp_gateway")]

    assert [slug for slug, n in Counter(leaf.slug for leaf in ours).items() if n > 1] == []


def test_a_method_that_is_not_allowed_says_which_are():
    problem = errors.MethodNotAllowed(("GET", "HEAD"), "No.", private="log only")

    assert (
        problem.allow,
        problem.detail,
        problem.private,
    ) == (("GET", "HEAD"), "No.", "log only")


def test_what_is_private_is_in_no_document():
    problem = errors.UpstreamRefused("Down.", private="10.0.0.7:8080")

    assert "10.0.0.7" not in json.dumps(problem.document()) + str(problem)
