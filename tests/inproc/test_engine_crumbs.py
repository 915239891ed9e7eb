"""Who sends a body in crumbs pays with patience, or has it gathered; who chats is not disturbed."""

import asyncio
import contextlib
import socket

import h2.errors
import hyperframe.frame
import pytest

from mpp_gateway.addons.build import build_addons
from mpp_gateway.engine.backpressure import SLOW_BYTES
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import eventually, scene
from tests.support.upstream import OK

FRAMES = 6000
FREE = 200 * 8
"""So many empty crumbs are put up with at once; these here have some bytes, and cost less."""
CHUNKS = 20_000


class Sink:
    """An upstream that keeps a chunked body as it comes, and answers at its end."""

    def __init__(self):
        self.taken = b""

    async def __call__(self, _, reader, writer):
        while not self.taken.endswith(b"\r\n0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                return False
            self.taken += data
        writer.write(OK)
        await writer.drain()
        return False


class Held:
    """Keeps every request waiting for its verdict."""

    async def requestheaders(self, _) -> None:
        await asyncio.Event().wait()


def drained(client: H2Client) -> None:
    while client.receive():
        pass


@contextlib.contextmanager
def timed(respond=OK, frames=200, **more):
    """A gateway whose clock goes on as it is told to."""
    now_s = [0.0]
    with scene(respond, more=f"limits: {{http2_control_frames: {frames}}}", **more) as play:

        def set_clock() -> None:
            play.proxy.runtime.engine.clock = lambda: now_s[0]

        play.proxy.call(set_clock)
        with H2Client(play.port) as client:
            yield play, client, now_s


@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize("more", [(), (Held(),)], ids=["forwarded", "held"])
def test_a_flood_of_crumbs_ends_its_connection(size, more):
    sink = Sink()
    addons = lambda runtime: [*build_addons(runtime), *more]  # noqa: E731 - used once
    with scene(sink, read_body=False, addons=addons) as play, H2Client(play.port) as client:
        stream = client.request("POST", "/api/free", end=False)
        frame = hyperframe.frame.DataFrame(stream, data=b"x" * size).serialize()
        with contextlib.suppress(OSError):  # it may be closed in mid-flood
            client.socket.sendall(frame * FRAMES)
        drained(client)
        assert client.goaway in {h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None}
        assert client.closed
        assert sink.taken.count(b"x" * size + b"\r\n") < 1.5 * FREE
        assert eventually(lambda: play.clients == 0)


def test_a_chat_in_small_frames_goes_on_for_ever():
    sink = Sink()
    with timed(sink, read_body=False) as (play, client, now_s):
        stream = client.request("POST", "/api/free", end=False)
        assert eventually(lambda: play.upstream.heads == 1)
        for sent in range(1, FRAMES + 1):
            now_s[0] += 1 / 50
            assert client.upload(stream, b"x" * 20, end=False) == 20
            if sent % 50 == 0:
                assert eventually(lambda sent=sent: sink.taken.count(b"x") == sent * 20)
        client.h2.end_stream(stream)
        client.flush()
        assert client.response(stream).status == 200


def test_many_uploads_of_one_small_frame_each_are_no_flood():
    frames = 5
    with timed(frames=frames) as (_, client, __):
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(10 * frames * 8):
            stream = client.request("POST", "/api/free", end=False)
            client.h2.send_data(stream, b"x")
            client.h2.end_stream(stream)
            client.flush()
            assert client.response(stream).status == 200


def test_the_small_ends_of_big_pieces_are_no_flood():
    with timed() as (play, client, _):
        streams = [client.request("POST", "/api/free", end=False) for _ in range(2)]
        for _ in range(FREE):
            for piece in (b"x" * 200, b"y"):
                for stream in streams:
                    assert client.upload(stream, piece, end=False) == len(piece)
        for stream in streams:
            client.h2.end_stream(stream)
            client.flush()
            assert client.response(stream).status == 200
        assert [len(seen.body) for seen in play.upstream.seen] == [FREE * 201] * 2


def test_data_pays_for_no_pings():
    with timed() as (_, client, __):
        stream = client.request("POST", "/api/free", end=False)
        data = hyperframe.frame.DataFrame(stream, data=b"x" * 1000).serialize()
        ping = hyperframe.frame.PingFrame(0, b"8 octets").serialize()
        with contextlib.suppress(OSError):
            client.socket.sendall((data * 5 + ping * 20) * 12)
        drained(client)
        assert client.goaway == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def test_an_upload_in_chunks_of_one_byte_goes_on_in_pieces():
    sink = Sink()
    with scene(sink, read_body=False) as play, RawClient(play.port) as client:
        client.send(b"POST /api/free HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n")
        assert eventually(lambda: sink.taken.endswith(b"0\r\n\r\n"))
        assert sink.taken.count(b"x") == CHUNKS
        assert sink.taken.count(b"\r\n") < CHUNKS / 10


def test_no_single_turn_is_spent_on_thousands_of_chunks():
    sink = Sink()
    with scene(sink, read_body=False) as play, RawClient(play.port) as client:
        client.send(b"POST /api/free HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"1;y\r\nx\r\n" * CHUNKS + b"0\r\n\r\n")
        assert eventually(lambda: sink.taken.endswith(b"0\r\n\r\n"))
        assert sink.taken.count(b"x") == CHUNKS
        # A read or two of any size, and the rest in small ones.
        assert sink.taken.count(b"\r\n") > (8 * CHUNKS - 2 * 65536) / SLOW_BYTES
