import json

import pytest

from mpp_gateway.protocol import problems
from mpp_gateway.protocol.problems import InvalidChallenge, Problem

SLUGS = {
    "payment-required": 402,
    "malformed-credential": 402,
    "invalid-challenge": 402,
    "payment-expired": 402,
    "verification-failed": 402,
    "payment-insufficient": 402,
    "payment-action-required": 402,
    "method-unsupported": 400,
    "invalid-payload": 402,
    "bad-request": 400,
}


def leaves(cls=Problem):
    for child in cls.__subclasses__():
        if child.__subclasses__():
            yield from leaves(child)
        else:
            yield child


LEAVES = sorted(
    (leaf for leaf in leaves() if leaf.__module__ == problems.__name__),
    key=lambda leaf: leaf.__name__,
)


def test_the_table_of_slugs_is_the_specifications():
    assert {leaf.slug: leaf.status for leaf in LEAVES} == SLUGS


def test_no_two_leaves_share_a_type():
    everything = list(leaves())

    assert len({leaf().type_uri for leaf in everything}) == len(everything)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_gives_a_valid_problem_document(leaf):
    document = json.loads(json.dumps(leaf("What happened.").document("an-id")))

    assert document == {
        "type": f"https://paymentauth.org/problems/{leaf.slug}",
        "title": leaf.title,
        "status": SLUGS[leaf.slug],
        "detail": "What happened.",
        "challengeId": "an-id",
    }


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_a_document_always_has_the_four_members(leaf):
    document = leaf().document()

    assert {"type", "title", "status", "detail"} == set(document)
    assert all(document.values())


def test_private_detail_is_in_no_document_and_in_no_text_of_the_error():
    problem = InvalidChallenge("Public.", private="key 2", hint="Ask again.", extra={"n": 1})

    assert "key 2" not in json.dumps(problem.document("id")) + str(problem) + repr(problem)
    assert problem.document()["hint"] == "Ask again."
    assert problem.document()["n"] == 1


def test_an_extension_member_never_replaces_a_standard_one():
    document = InvalidChallenge("Public.", extra={"status": 200, "type": "x"}).document()

    assert document["status"] == 402
    assert document["type"].endswith("invalid-challenge")
