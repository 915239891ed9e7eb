"""Nobody asks for news of a paid answer without paying: no upstream gets to say 304 for it."""

import pytest

from tests.support.scene import VERSIONS, call, paying, scene

ETAG = '"marked-etag"'
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
FULL = b'HTTP/1.1 200 OK\r\nETag: "marked-etag"\r\nContent-Length: 5\r\n\r\nwhole'
UNCHANGED = b'HTTP/1.1 304 Not Modified\r\nETag: "marked-etag"\r\n\r\n'
ASKING = (("If-None-Match", ETAG), ("If-Modified-Since", DATE))
CHANGED = b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"
DEMANDING = (("If-Match", '"another-etag"'), ("If-Unmodified-Since", DATE))
CHARGED_412 = '      "GET /paid": {charge: "0.01", charge_on: [412]}'
CHARGED_ROUTES = '      "GET /paid": {charge: "0.01", charge_on: [304]}'


async def revalidating(seen, _, writer):
    """Answers as an origin that honours preconditions, with a resource that never changes."""
    is_asked = seen.get("if-none-match") == ETAG or seen.get("if-modified-since") == DATE
    answer = UNCHANGED if is_asked else FULL
    writer.write(answer.removesuffix(b"whole") if seen.method == "HEAD" else answer)
    await writer.drain()
    return True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("field", ASKING, ids=lambda field: field[0])
def test_who_asks_whether_a_paid_answer_is_new_pays_for_the_whole_of_it(version, method, field):
    with scene(revalidating) as play:
        lower = (field[0].lower(), field[1])

        reply = call(version, play.port, method, "/api/paid", paying(), lower)

        assert reply.status == 200
        assert reply.body == (b"whole" if method == "GET" else b"")
        assert play.rail.settled == ["toy-1"]
        assert play.upstream.seen[0].get(field[0]) is None


def test_one_payment_does_not_ask_for_news_twice():
    with scene(revalidating) as play:
        asked = [call("http/1.1", play.port, "GET", "/api/paid", paying(), *ASKING) for _ in "ab"]

        assert [reply.status for reply in asked] == [200, 402]
        assert len(play.upstream.seen) == 1


async def changed(seen, _, writer):
    """Answers as an origin whose resource is another version than anybody asks for."""
    is_asked = seen.get("if-match") or seen.get("if-unmodified-since")
    answer = CHANGED if is_asked else FULL
    writer.write(answer.removesuffix(b"whole") if seen.method == "HEAD" else answer)
    await writer.drain()
    return True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("field", DEMANDING, ids=lambda field: field[0])
def test_who_asks_for_one_version_of_a_paid_answer_pays_for_any(version, method, field):
    with scene(changed) as play:
        lower = (field[0].lower(), field[1])

        reply = call(version, play.port, method, "/api/paid", paying(), lower)

        assert reply.status == 200
        assert play.rail.settled == ["toy-1"]
        assert play.upstream.seen[0].get(field[0]) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("field", DEMANDING, ids=lambda field: field[0])
def test_who_downloads_in_parts_is_told_that_they_no_longer_fit(version, field):
    with scene(changed) as play:
        fields = (("range", "bytes=0-4"), (field[0].lower(), field[1]))

        reply = call(version, play.port, "GET", "/api/paid", paying(), *fields)

        assert reply.status == 412
        assert play.ends_as("toy-1", "released")


def test_a_range_makes_no_part_of_a_head():
    with scene(changed) as play:
        fields = (("Range", "bytes=0-4"), *DEMANDING)

        reply = call("http/1.1", play.port, "HEAD", "/api/paid", paying(), *fields)

        assert reply.status == 200
        assert play.rail.settled == ["toy-1"]


def test_a_route_that_charges_for_412_gives_one():
    with scene(changed, routes=CHARGED_412) as play:
        reply = call("http/1.1", play.port, "GET", "/api/paid", paying(), *DEMANDING)

        assert reply.status == 412
        assert play.rail.settled == ["toy-1"]


def test_a_free_route_is_asked_for_one_version_as_ever():
    with scene(changed) as play:
        assert call("http/1.1", play.port, "GET", "/api/free", *DEMANDING).status == 412


@pytest.mark.parametrize("field", DEMANDING, ids=lambda field: field[0])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_paid_write_to_one_version_only_still_is_one(method, field):
    """Without its condition it would overwrite what somebody else has written meanwhile."""
    with scene() as play:
        call("http/1.1", play.port, method, "/api/paid", paying(), field, body=b"x")

        assert play.upstream.seen[0].get(field[0]) == field[1]


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_precondition_of_a_paid_write_reaches_the_upstream(method):
    """`If-None-Match: *` means: create, do not replace. Without it a paid write destroys."""
    with scene() as play:
        condition = ("If-None-Match", "*")

        reply = call("http/1.1", play.port, method, "/api/paid", paying(), condition, body=b"x")

        assert reply.status == 200
        assert play.upstream.seen[0].get("if-none-match") == "*"


def test_a_range_that_holds_for_one_version_only_still_does():
    with scene() as play:
        fields = (("Range", "bytes=0-4"), ("If-Range", ETAG))

        call("http/1.1", play.port, "GET", "/api/paid", paying(), *fields)

        assert play.upstream.seen[0].get("if-range") == ETAG


def test_a_free_route_is_revalidated_as_ever():
    with scene(revalidating) as play:
        reply = call("http/1.1", play.port, "GET", "/api/free", *ASKING)

        assert reply.status == 304


def test_a_route_that_charges_for_304_gives_one():
    with scene(revalidating, routes=CHARGED_ROUTES) as play:
        reply = call("http/1.1", play.port, "GET", "/api/paid", paying(), *ASKING)

        assert reply.status == 304
        assert play.rail.settled == ["toy-1"]
