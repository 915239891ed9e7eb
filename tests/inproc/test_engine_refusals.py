"""A refusal comes before the upload, and costs the gateway next to nothing."""

import pytest

from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, paying, scene
from tests.support.upstream import OK

UPLOAD_BYTES = 100 * 1024 * 1024
PIECE = b"x" * 65536
NO_ERROR = 0
REFUSED = [("/api/paid", 402), ("/api/nope", 404), ("/api/free/nope", 404)]


def head(method, target, *fields):
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: g", *fields, "", ""]).encode()


@pytest.mark.parametrize(("target", "status"), REFUSED)
def test_a_refusal_does_not_wait_for_the_body(target, status):
    with scene() as play, RawClient(play.port) as client:
        client.send(head("POST", target, f"Content-Length: {UPLOAD_BYTES}"))
        got, fields, _ = client.response()
        assert got == status
        assert fields["connection"] == "close"
        assert play.upstream.connections == 0


@pytest.mark.parametrize("target", ["/api/paid", "/api/nope"])
@pytest.mark.parametrize(
    "framing", ["Content-Length: 70000", "Transfer-Encoding: chunked", "Content-Length: 5"]
)
def test_a_refused_client_is_never_told_to_continue(target, framing):
    with scene() as play, RawClient(play.port) as client:
        client.send(head("POST", target, framing, "Expect: 100-continue"))
        status, _, raw = client.head()
        assert status in {402, 404}
        assert b"100 Continue" not in raw


def test_an_admitted_client_is_told_to_continue_and_its_body_streams_through():
    with scene() as play, RawClient(play.port) as client:
        client.send(
            head(
                "POST",
                "/api/paid",
                "Content-Length: 5",
                "Expect: 100-continue",
                "Authorization: Bearer toy-1",
            )
        )
        assert client.head()[0] == 100
        client.send(b"hello")
        assert client.response()[0] == 200
        (seen,) = play.upstream.seen
        assert (seen.body, seen.get("expect")) == (b"hello", None)


@pytest.mark.parametrize("size", [0, 1, 65536])
@pytest.mark.parametrize("target", ["/api/paid", "/api/nope"])
def test_a_refusal_keeps_the_connection_of_a_small_body(size, target):
    with scene() as play, RawClient(play.port) as client:
        client.send(head("POST", target, f"Content-Length: {size}") + b"x" * size)
        status, fields, _ = client.response()
        assert status in {402, 404}
        assert "connection" not in fields
        client.send(head("GET", "/api/free"))
        assert client.response()[0] == 200


def test_what_follows_a_refused_body_is_read_as_the_next_request_and_not_as_body():
    inner = head("GET", "/api/nope")
    with scene() as play, RawClient(play.port) as client:
        client.send(head("POST", "/api/paid", f"Content-Length: {len(inner)}") + inner)
        assert client.response()[0] == 402
        client.send(head("GET", "/api/free"))
        assert client.response()[0] == 200


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 65537"], b"x" * 65537),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_a_refusal_of_a_large_or_unbounded_body_closes_the_connection(fields, body):
    with scene() as play, RawClient(play.port) as client:
        client.send(head("POST", "/api/paid", *fields))
        status, got, _ = client.response()
        assert (status, got["connection"]) == (402, "close")
        client.send(body)
        assert client.is_closed()


def upload_until_closed(client) -> int:
    sent = 0
    while sent < UPLOAD_BYTES:
        try:
            client.send(PIECE)
        except (ConnectionError, TimeoutError):
            break
        sent += len(PIECE)
    return sent


@pytest.mark.parametrize(
    "framing", [f"Content-Length: {UPLOAD_BYTES}", "Transfer-Encoding: chunked"]
)
def test_a_refused_upload_over_http1_is_discarded_up_to_a_bound(framing):
    with scene() as play, RawClient(play.port) as client:
        client.send(head("POST", "/api/paid", framing))
        if "chunked" in framing:
            client.send(b"%x\r\n" % UPLOAD_BYTES)
        assert client.response()[0] == 402
        # What the gateway takes, and what the two socket buffers hold on top of it.
        bound = play.proxy.runtime.engine.limits.discard_bytes + 8 * 1024 * 1024
        assert upload_until_closed(client) < bound


@pytest.mark.parametrize(("target", "status"), REFUSED)
def test_a_refused_upload_over_http2_is_reset_without_an_error(target, status):
    with scene() as play, H2Client(play.port) as client:
        stream_id = client.request(
            "POST", target, [("content-length", str(UPLOAD_BYTES))], end=False
        )
        stream = client.response(stream_id)
        assert (stream.status, stream.ended) == (status, True)
        while stream.reset is None and client.receive():
            pass
        assert stream.reset == NO_ERROR
        again = client.request("GET", "/api/free")
        assert client.response(again).status == 200
        assert play.upstream.heads == 1


def test_an_upload_that_races_its_refusal_over_http2_is_bounded_by_the_window():
    with scene() as play, H2Client(play.port) as client:
        stream_id = client.request("POST", "/api/paid", end=False)
        sent = client.upload(stream_id, PIECE * 160)
        assert sent <= play.proxy.runtime.engine.limits.backlog_bytes
        assert client.response(stream_id).status == 402


def test_an_upload_waits_with_its_client_while_the_payment_is_being_checked():
    from tests.support.toy_rail import ToyRail

    rail = ToyRail(hold_verify=True)
    with scene(rail=rail, read_body=True) as play, RawClient(play.port) as client:
        total = 16 * 1024 * 1024
        client.send(
            head("POST", "/api/paid", f"Content-Length: {total}", "Authorization: Bearer toy-1")
        )
        client.socket.settimeout(0.3)
        sent = 0
        try:
            while sent < total:
                sent += client.socket.send(PIECE[: total - sent])
        except TimeoutError:
            pass
        assert sent < total, "the gateway took a whole upload that nobody has paid for"
        play.let_go()
        client.socket.settimeout(10)
        while sent < total:
            sent += client.socket.send(PIECE[: total - sent])
        assert client.response()[0] == 200
        assert len(play.upstream.seen[0].body) == total


def test_an_h2_upload_waits_with_its_client_while_the_payment_is_being_checked():
    from tests.support.toy_rail import ToyRail

    rail = ToyRail(hold_verify=True)
    with scene(rail=rail) as play, H2Client(play.port) as client:
        total = 2 * 1024 * 1024
        limit = play.proxy.runtime.engine.limits.backlog_bytes
        stream_id = client.request("POST", "/api/paid", [paying()], end=False)
        # The server's settings must be in before its window means anything.
        while client.h2.local_flow_control_window(stream_id) != limit and client.receive():
            pass
        body = b"x" * total
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.upload(stream_id, body)
        assert client.h2.local_flow_control_window(stream_id) == 0
        other = client.request("GET", "/api/free")
        client.socket.settimeout(10)
        assert client.response(other).status == 200, "one slow payment held up another stream"
        play.let_go()
        client.upload(stream_id, body[limit:])
        assert client.response(stream_id).status == 200
        assert len(play.upstream.seen[1].body) == total


@pytest.mark.parametrize("version", VERSIONS)
def test_a_free_upload_of_100_mib_streams_through(version):
    import hashlib

    digest = hashlib.sha256()
    taken = 0

    async def respond(seen, reader, writer):
        nonlocal taken
        length = int(seen.get("content-length"))
        while taken < length:
            piece = await reader.read(262144)
            if not piece:
                return False
            digest.update(piece)
            taken += len(piece)
        writer.write(OK)
        await writer.drain()
        return True

    with scene(respond, read_body=False) as play:
        if version == "h2":
            with H2Client(play.port) as client:
                fields = [("content-length", str(UPLOAD_BYTES))]
                stream_id = client.request("POST", "/api/free", fields, end=False)
                client.upload(stream_id, PIECE * (UPLOAD_BYTES // len(PIECE)))
                assert client.response(stream_id).status == 200
        else:
            with RawClient(play.port, timeout_s=30) as client:
                client.send(head("POST", "/api/free", f"Content-Length: {UPLOAD_BYTES}"))
                for _ in range(UPLOAD_BYTES // len(PIECE)):
                    client.send(PIECE)
                assert client.response()[0] == 200
        expected = hashlib.sha256(PIECE * (UPLOAD_BYTES // len(PIECE))).hexdigest()
        assert (taken, digest.hexdigest()) == (UPLOAD_BYTES, expected)
