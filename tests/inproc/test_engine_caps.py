"""No client can make the gateway hold, wait or guess without end."""

import contextlib
import json

import pytest

from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, call, eventually, paying, scene

NEXT = b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n"


@pytest.fixture(scope="module")
def play():
    with scene(more="limits: {unpaid_bodies: 2}") as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_crashes(play):
    yield
    assert play.complaints == []


def slug(body: bytes) -> str:
    return json.loads(body)["type"].replace("/", ":").rpartition(":")[2]


def refused(play, raw, status, name, *, method="GET"):
    """The answer is ours, the connection is closed, the upstream knows nothing of it."""
    before = play.upstream.connections
    with RawClient(play.port) as client:
        with contextlib.suppress(ConnectionError):  # the answer may come before all is sent
            client.send(raw)
        got, _, body = client.response(method)
        assert (got, slug(body)) == (status, name)
        assert client.is_closed()
    assert play.upstream.connections == before


def test_a_head_that_is_too_large_is_refused(play):
    refused(play, b"GET / HTTP/1.1\r\nX: " + b"a" * 140_000, 431, "head-too-large")
    many = b"".join(b"X-%d: aaaaaaaaaaaa\r\n" % n for n in range(7000))
    refused(play, b"GET / HTTP/1.1\r\nHost: g\r\n" + many + b"\r\n", 431, "head-too-large")


def test_a_head_that_is_too_large_ends_an_http2_connection(play):
    with H2Client(play.port) as client:
        fields = [(f"x-{n}", "a" * 1000) for n in range(150)]
        client.response(client.request("GET", "/api/free", fields))
        assert client.closed
        assert client.goaway is not None


AMBIGUOUS = {
    "length and chunks": b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks and length": b"POST /api/free HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n"
    b"Content-Length: 36\r\n\r\n" + NEXT,
    "a list of lengths": b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: 0, 0\r\n\r\n",
    "a signed length": b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: +1\r\n\r\nx",
    "a unicode length": "POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: ²\r\n\r\nx".encode(),
    "unicode length, chunks": b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: \xc2\xb2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST /api/free HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /api/free HTTP/1.1\r\nHost: g\r\n"
    b"Transfer-Encoding: xchunked\r\n\r\n",
    "a coding beside chunked": b"POST /api/free HTTP/1.1\r\nHost: g\r\n"
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": b"POST /api/free HTTP/1.0\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "space before the colon": b"POST /api/free HTTP/1.1\r\nHost: g\r\n"
    b"Content-Length : 4\r\n\r\nabcd",
    "a folded line": b"GET /api/free HTTP/1.1\r\nHost: g\r\nX-A: b\r\n c\r\n\r\n",
    "a folded length": b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length:\r\n 4\r\n\r\nabcd",
    "a lone CR": b"GET /api/free HTTP/1.1\r\nHost: g\r\nX-A: b\rX-B: c\r\n\r\n",
    "a NUL": b"GET /api/free HTTP/1.1\r\nHost: g\r\nX-A: b\x00c\r\n\r\n",
    "no colon": b"GET /api/free HTTP/1.1\r\nHost: g\r\nnonsense\r\n\r\n",
    "no version": b"GET /api/free\r\nHost: g\r\n\r\n",
    "a strange version": b"GET /api/free HTTP/1.9\r\nHost: g\r\n\r\n",
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_an_ambiguous_head_is_refused_and_nothing_after_it_is_read_as_a_request(play, kind):
    refused(play, AMBIGUOUS[kind], 400, "bad-request")


@pytest.mark.parametrize("hosts", [[], ["Host: a", "Host: b"], ["Host: a", "host: a"]])
def test_a_request_has_exactly_one_host(play, hosts):
    raw = "\r\n".join(["GET /api/free HTTP/1.1", *hosts, "", ""]).encode()
    refused(play, raw, 400, "bad-target")


@pytest.mark.parametrize(
    "line", ["GET http://127.0.0.1/api/free", "CONNECT 127.0.0.1:80", "GET //api/free", "GET *"]
)
def test_a_target_that_is_no_path_is_refused_and_the_connection_kept(play, line):
    with RawClient(play.port) as client:
        client.send(f"{line} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        assert client.response()[0] in {400, 404}
        client.send(NEXT)
        assert client.response()[0] == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /api/nope", 404),
        ("DELETE /api/free", 405),
        ("GET /api/paid", 402),
    ],
)
def test_a_connection_goes_on_after_a_refusal(play, head, status):
    with RawClient(play.port) as client:
        for _ in range(3):
            client.send(f"{head} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            assert client.response()[0] == status
            client.send(NEXT)
            assert client.response()[0] == 200


def test_pipelined_requests_are_answered_in_their_order(play):
    with RawClient(play.port) as client:
        nope = NEXT.replace(b"free", b"nope")
        post = b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc"
        client.send((NEXT + nope + post) * 20)
        assert [client.response()[0] for _ in range(60)] == [200, 404, 200] * 20


def test_a_head_request_has_a_head_only(play):
    with RawClient(play.port) as client:
        for target, status in (("/api/free", 200), ("/api/paid", 402), ("/api/nope", 404)):
            client.send(f"HEAD {target} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            got, fields, _ = client.response("HEAD")
            assert got == status
            assert int(fields["content-length"]) > 0
        client.send(NEXT)
        assert client.response()[0] == 200


@pytest.mark.parametrize("target", ["/api/free", "/api/paid", "/api/nope"])
def test_an_http10_client_gets_its_answer_and_the_end_of_the_connection(play, target):
    with RawClient(play.port) as client:
        client.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert client.response()[0] in {200, 402, 404}
        assert client.is_closed()


def test_an_http10_client_that_asks_for_it_keeps_its_connection(play):
    with RawClient(play.port) as client:
        for _ in range(2):
            client.send(b"GET /api/free HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.response()[0] == 200


# --- bodies that are read before the verdict -----------------------------------------------------

LIMIT = 100_000


@pytest.mark.parametrize("version", VERSIONS)
def test_a_body_within_the_limit_is_read_and_its_call_served(play, version):
    reply = call(
        version,
        play.port,
        "POST",
        "/api/digest",
        paying(f"toy-digest-{version}"),
        body=b"x" * LIMIT,
    )
    assert reply.status == 200
    assert len(play.upstream.seen[-1].body) == LIMIT


@pytest.mark.parametrize("version", VERSIONS)
def test_a_body_over_the_limit_is_refused_by_its_length(play, version):
    before = play.upstream.connections
    fields = [("content-length", str(LIMIT + 1)), paying("toy-413")]
    if version == "h2":
        with H2Client(play.port) as client:
            stream_id = client.request("POST", "/api/digest", fields, end=False)
            assert client.response(stream_id).status == 413
    else:
        with RawClient(play.port) as client:
            lines = [f"{n}: {v}" for n, v in fields]
            head = "\r\n".join(["POST /api/digest HTTP/1.1", "Host: g", *lines, "", ""])
            client.send(head.encode())
            assert client.response()[0] == 413
    assert play.upstream.connections == before


@pytest.mark.parametrize("version", VERSIONS)
def test_a_body_over_the_limit_is_refused_while_it_is_read(play, version):
    before = play.upstream.connections
    if version == "h2":
        with H2Client(play.port) as client:
            stream_id = client.request("POST", "/api/digest", [paying("toy-413")], end=False)
            client.upload(stream_id, b"x" * (LIMIT + 1), end=False)
            assert client.response(stream_id).status == 413
    else:
        with RawClient(play.port) as client:
            client.send(
                b"POST /api/digest HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            client.send(b"%x\r\n" % (LIMIT + 1) + b"x" * (LIMIT + 1))
            assert client.response()[0] == 413
    assert play.upstream.connections == before


@pytest.mark.parametrize("version", VERSIONS)
def test_only_so_many_unpaid_bodies_are_held_at_once(play, version):
    engine = play.proxy.runtime.engine
    waiting = [RawClient(play.port) for _ in range(2)]
    for client in waiting:
        client.send(b"POST /api/digest HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nx")
    assert eventually(lambda: engine._unpaid_bodies.total() == 2)
    reply = call(version, play.port, "POST", "/api/digest", body=b"x" * 10)
    assert (reply.status, slug(reply.body)) == (503, "not-ready")
    assert reply.fields["retry-after"] == "1"
    waiting[0].close()
    assert eventually(lambda: engine._unpaid_bodies.total() == 1)
    assert call(version, play.port, "POST", "/api/digest", body=b"x" * 10).status == 402
    waiting[1].close()
    assert eventually(lambda: engine._unpaid_bodies.total() == 0)


def test_a_credential_in_half_a_head_is_in_no_log(play):
    with RawClient(play.port) as client:
        client.send(b"GET /api/paid HTTP/1.1\r\nAuthorization: Bearer marked-half-a-head")
    assert eventually(lambda: play.clients == 0)
    assert not [line for line in play.proxy.log if "marked-half-a-head" in line]
