"""What an upstream does wrong is answered by us, tells nothing about it, and costs nobody money."""

import asyncio
import contextlib
import json
import socket
import threading
from contextlib import contextmanager

import pytest

from tests.support.certificates import self_signed
from tests.support.client import RawClient
from tests.support.process import free_port
from tests.support.scene import (
    UPSTREAM_SECRET,
    VERSIONS,
    call,
    eventually,
    is_free_of_marks,
    marked,
    paying,
    read_reply,
    scene,
)
from tests.support.upstream import OK, answering

QUICK = "connect_s: 0.3, first_byte_s: 0.3, idle_s: 0.3"
"""Only for what never comes: on a laden machine anything else may take longer."""


def answers(raw):
    return answering(raw)


async def says_nothing(_, __, ___):
    await asyncio.Event().wait()


def assert_is_ours(reply, status, slug, play):
    """Our problem document, with nothing in it of the upstream, its address or of mitmproxy."""
    document = json.loads(reply.body)
    assert (reply.status, document["type"].rpartition(":")[2]) == (status, slug)
    assert reply.fields["content-type"] == "application/problem+json"
    assert is_free_of_marks(reply)
    everything = reply.everything.lower()
    for leak in ("mitmproxy", "127.0.0.1", "localhost", "errno", str(play.upstream.port), "html"):
        assert leak.encode() not in everything, leak
    assert UPSTREAM_SECRET.encode() not in everything
    assert "payment-receipt" not in reply.fields


HEAD = b"HTTP/1.1 200 OK\r\nX-Marked: marked-upstream-field\r\n"
FAULTS = {
    "closes without a word": (answers(b""), 502, "upstream-cut"),
    "cut in the head": (answers(HEAD), 502, "upstream-cut"),
    "garbage": (answers(b"marked-upstream-body \x00\xff\r\n\r\n"), 502, "upstream-malformed"),
    "garbage without end": (answers(b"\xff" * 200_000), 502, "upstream-malformed"),
    "an empty line": (answers(b"\r\n\r\n"), 502, "upstream-malformed"),
    "a bad length": (answers(HEAD + b"Content-Length: x\r\n\r\n"), 502, "upstream-malformed"),
    "two lengths": (
        answers(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        502,
        "upstream-malformed",
    ),
    "length and chunks": (
        answers(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        502,
        "upstream-malformed",
    ),
    "a coding we cannot undo": (
        answers(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        502,
        "upstream-malformed",
    ),
    "a folded line": (
        answers(HEAD + b"X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        502,
        "upstream-malformed",
    ),
    "a lone CR": (
        answers(HEAD + b"X-Cr: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"),
        502,
        "upstream-malformed",
    ),
    "a strange status": (answers(b"HTTP/1.1 999 X\r\n\r\n"), 502, "upstream-malformed"),
    "a huge head": (answers(HEAD + b"X-A: " + b"a" * 300_000), 502, "upstream-malformed"),
    "an unasked 101": (
        answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nmarked-upstream-body"),
        502,
        "upstream-switched-protocols",
    ),
    "a 402 of its own": (
        answers(b"HTTP/1.1 402 Payment Required\r\nWWW-Authenticate: Payment x\r\n\r\n"),
        502,
        "upstream-refused",
    ),
    "silence": (says_nothing, 504, "upstream-timed-out"),
    "a 103 and silence": (
        answering(
            b"HTTP/1.1 103 Early Hints\r\nX-Marked: marked-upstream-field\r\n\r\n", keep=True
        ),
        504,
        "upstream-timed-out",
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_upstream_is_answered_for_and_the_payment_is_released(version, fault):
    respond, status, slug = FAULTS[fault]
    with scene(respond, timeouts=QUICK if status == 504 else "") as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert_is_ours(reply, status, slug, play)
        assert play.ends_as("toy-1", "released")
        assert play.rail.settled == []


@contextmanager
def nobody():
    """A port on which nothing listens."""
    yield free_port()


@contextmanager
def full_backlog():
    """A port that completes no handshake: its queue of connections is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield server.getsockname()[1]
        for client in waiting:
            client.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("where", "status", "slug"),
    [(nobody, 502, "upstream-refused"), (full_backlog, 504, "upstream-timed-out")],
)
def test_an_upstream_that_takes_no_connection_costs_nothing(version, where, status, slug):
    timeouts, url = QUICK if status == 504 else "", "http://127.0.0.1"
    with where() as port, scene(timeouts=timeouts, base_url=f"{url}:{port}") as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert_is_ours(reply, status, slug, play)
        assert str(port).encode() not in reply.everything
        assert play.ends_as("toy-1", "released")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upstream_that_is_back_serves_the_next_request_of_the_same_connection(version):
    from tests.support.h2client import H2Client
    from tests.support.upstream import upstream

    port = free_port()
    with scene(base_url=f"http://127.0.0.1:{port}") as play:
        if version == "h2":
            client = H2Client(play.port)
            ask = lambda: client.response(client.request("GET", "/api/free")).status  # noqa: E731
        else:
            client = RawClient(play.port)

            def ask():
                client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
                return client.response()[0]

        assert [ask(), ask()] == [502, 502]
        with upstream(port=port):
            assert ask() == 200
        client.close()


@contextmanager
def speaks_first(data):
    """A port that says `data` to whoever connects."""

    def serve(server):
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                client.sendall(data)
                open_.append(client)

    open_ = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("version", VERSIONS)
def test_tls_to_an_upstream_that_speaks_plain_text_fails_closed(version):
    with speaks_first(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        url = f"https://127.0.0.1:{port}"
        with scene(base_url=url) as play:
            reply = call(version, play.port, "GET", "/api/paid", paying())
            assert_is_ours(reply, 502, "upstream-tls-failed", play)
            assert play.ends_as("toy-1", "released")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upstream_with_a_certificate_that_nobody_vouches_for_gets_no_request(version, tmp_path):
    context, _ = self_signed(tmp_path)
    with scene(marked(), upstream_ssl=context) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert_is_ours(reply, 502, "upstream-tls-failed", play)
        assert play.upstream.seen == []
        assert play.ends_as("toy-1", "released")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upstream_with_a_trusted_certificate_is_served_over_tls(version, tmp_path):
    context, trusted = self_signed(tmp_path)
    more = {"ssl_verify_upstream_trusted_ca": str(trusted)}
    with scene(marked(), upstream_ssl=context, **more) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert reply.status == 200
        assert play.upstream.seen[0].get("authorization") == f"Bearer {UPSTREAM_SECRET}"


CUTS = {
    "short of its length": answers(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"),
    "in a chunk": answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\npart"),
    "between chunks": answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
    ),
    "bad chunk": answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n"
    ),
    "idle": answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", keep=True),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_client_sees_that_an_answer_was_cut(version, cut):
    with scene(CUTS[cut], timeouts="idle_s: 0.3" if cut == "idle" else "") as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert reply.status == 200
        assert reply.body == b"part"
        assert not reply.complete


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("interim", [[100], [102], [103], [100, 103, 103, 102], [103] * 3000])
def test_interim_answers_are_swallowed(version, interim):
    lines = b"".join(b"HTTP/1.1 %d Wait\r\nLink: x\r\n\r\n" % status for status in interim)
    with scene(answers(lines + marked())) as play:
        reply = call(version, play.port, "GET", "/api/paid", paying())
        assert (reply.status, reply.complete) == (200, True)
        assert "link" not in reply.fields
        assert play.ends_as("toy-1", "settled")


def test_nobody_can_ask_the_upstream_to_switch_protocols():
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    with scene() as play:
        assert call("http/1.1", play.port, "GET", "/api/free", *fields).status == 200
        (seen,) = play.upstream.seen
        assert seen.get("upgrade") is None
        assert seen.get("connection") is None


# --- stale connections ---------------------------------------------------------------------------


def hangs_up_on_the_second(seen_so_far):
    """Serve one request on the first connection, and hang up when the next one comes on it."""

    async def respond(seen, _, writer):
        seen_so_far.append(seen)
        if len(seen_so_far) == 2:
            return False
        writer.write(OK)
        await writer.drain()
        return True

    return respond


def ask(client, method, target="/api/free", body=b""):
    client.send(
        f"{method} {target} HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return read_reply(client, method)


def test_an_idempotent_request_on_a_stale_connection_is_sent_once_more():
    so_far = []
    with scene(hangs_up_on_the_second(so_far)) as play, RawClient(play.port) as client:
        assert ask(client, "GET").status == 200
        assert ask(client, "GET").status == 200
        assert [seen.connection for seen in so_far] == [1, 1, 2]


@pytest.mark.parametrize(("method", "body"), [("POST", b"x"), ("POST", b""), ("PUT", b"x")])
def test_a_request_that_may_have_had_an_effect_is_never_sent_twice(method, body):
    so_far = []
    with scene(hangs_up_on_the_second(so_far)) as play, RawClient(play.port) as client:
        assert ask(client, "GET").status == 200
        assert ask(client, method, body=body).status == 502
        assert len(so_far) == 2


def test_a_fresh_connection_that_is_hung_up_on_is_not_tried_again():
    with scene(answers(b"")) as play:
        assert call("http/1.1", play.port, "GET", "/api/free").status == 502
        assert play.upstream.heads == 1


def test_a_stale_connection_is_retried_once_and_not_for_ever():
    async def respond(seen, _, writer):
        if seen.connection > 1 or play.upstream.heads > 1:
            return False
        writer.write(OK)
        await writer.drain()
        return True

    with scene(respond) as play, RawClient(play.port) as client:
        assert ask(client, "GET").status == 200
        assert ask(client, "GET").status == 502
        assert play.upstream.heads == 3


def test_a_paid_call_on_a_stale_connection_is_paid_once():
    so_far = []
    with scene(hangs_up_on_the_second(so_far)) as play, RawClient(play.port) as client:
        assert ask(client, "GET").status == 200
        client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n")
        assert client.response()[0] == 200
        assert play.rail.settled == ["toy-1"]
        assert len(so_far) == 3


def test_a_client_that_leaves_while_the_upstream_is_silent_is_not_charged():
    with scene(says_nothing, timeouts="first_byte_s: 0.3") as play:
        client = RawClient(play.port)
        client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n")
        assert eventually(lambda: play.upstream.heads == 1)
        client.close()
        assert play.ends_as("toy-1", "released")
        assert play.rail.settled == []


# --- trailers ------------------------------------------------------------------------------------

TRAILING = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\n"
    b"X-Sum: 7\r\nPayment-Receipt: forged\r\nSet-Cookie: a=b\r\nContent-Length: 9\r\n\r\n"
)


def test_trailers_of_an_answer_pass_and_forged_receipts_do_not():
    with scene(answering(TRAILING, keep=True)) as play, RawClient(play.port) as client:
        for _ in range(2):
            client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
            status, fields, body = client.response()
            assert (status, body, fields["x-sum"]) == (200, b"hi", "7")
            assert not {"payment-receipt", "set-cookie", "content-length"} & set(fields)
        assert play.upstream.connections == 1


def test_trailers_of_an_answer_pass_over_http2_and_forged_receipts_do_not():
    from tests.support.h2client import H2Client

    with scene(answering(TRAILING, keep=True)) as play, H2Client(play.port) as client:
        stream = client.response(client.request("GET", "/api/free"))
        assert (stream.status, stream.body, stream.ended) == (200, b"hi", True)
        assert stream.trailers == {"x-sum": "7"}


def test_trailers_of_a_request_pass_and_credentials_in_them_do_not():
    with scene() as play, RawClient(play.port) as client:
        for _ in range(2):
            client.send(
                b"POST /api/free HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\nhi\r\n0\r\nX-Sum: 7\r\nAuthorization: Bearer x\r\nHost: evil\r\n\r\n"
            )
            assert client.response()[0] == 200
        for seen in play.upstream.seen:
            assert (seen.body, seen.trailers) == (b"hi", [("x-sum", "7")])


def test_trailers_of_an_http2_request_pass():
    from tests.support.h2client import H2Client

    with scene() as play, H2Client(play.port) as client:
        stream_id = client.request("POST", "/api/free", end=False)
        client.upload(stream_id, b"hi", end=False)
        client.h2.send_headers(stream_id, [("x-sum", "7"), ("authorization", "x")], end_stream=True)
        client.flush()
        assert client.response(stream_id).status == 200
        (seen,) = play.upstream.seen
        assert (seen.body, seen.trailers) == (b"hi", [("x-sum", "7")])
