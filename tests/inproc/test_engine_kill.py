"""What an addon, or somebody at mitmweb, kills goes no further, and nobody pays for it."""

import pytest

from mpp_gateway.addons.build import build_addons
from tests.support.scene import VERSIONS, call, eventually, paying, scene


class Killer:
    """Kills every flow in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda flow: flow.kill())


def killing(hook: str, *, first: bool):
    def addons(runtime):
        host, *ours = build_addons(runtime)
        killer = Killer(hook)
        return [host, killer, *ours] if first else [host, *ours, killer]

    return addons


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("target", ["/api/free", "/api/paid", "/api/first"])
def test_a_call_that_is_killed_at_its_head_reaches_no_upstream(version, first, target):
    with scene(addons=killing("requestheaders", first=first)) as play:
        reply = call(version, play.port, "GET", target, paying())
        assert (reply.status, reply.complete) == (0, False)
        assert play.upstream.heads == 0
        assert eventually(lambda: not play.open_books)
        assert play.state("toy-1") in {None, "released", "credited"}
        assert play.state("toy-1") != "released" or play.rail.settled == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("first", [True, False])
def test_an_answer_that_is_killed_is_not_given_and_leaves_a_credit_if_it_was_paid(version, first):
    with scene(addons=killing("responseheaders", first=first)) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert (reply.status, reply.complete) == (0, False)
        assert play.ends_as("toy-1", "credited" if play.rail.settled else "released")
        assert eventually(lambda: not play.open_books)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_body_that_was_read_for_its_digest_is_killed_with_its_request(version):
    with scene(addons=killing("request", first=True)) as play:
        reply = call(version, play.port, "POST", "/api/digest", paying(), body=b"hello")
        assert (reply.status, reply.complete) == (0, False)
        assert play.upstream.heads == 0
        assert eventually(lambda: not play.open_books)
