"""What may not be passed on yet stays with its sender: the gateway's memory does not grow."""

import asyncio
import contextlib
import gc
import hashlib
import time
import tracemalloc

import pytest

from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, eventually, paying, scene
from tests.support.toy_rail import RECEIPT, ToyRail
from tests.support.upstream import OK

BODY_BYTES = 100 * 1024 * 1024
PIECE = bytes(range(256)) * 256
GROWTH_BYTES = 4 * 1024 * 1024
PEAK_BYTES = 8 * 1024 * 1024
"""With what the test's own client and upstream hold, which live in the same process."""
LAST_BYTES = 1024 * 1024
QUIET_S = 0.3
EVENT = b"data: " + b"x" * 4088 + b"\n\n"
EVENTS = 6 * 1024
LAST = b"data: last\n\n"


class Fountain:
    """An upstream that writes a large body as fast as it is taken, and counts."""

    def __init__(self, size=BODY_BYTES):
        self.size = size
        self.written = 0

    async def __call__(self, _, __, writer):
        writer.transport.set_write_buffer_limits(high=65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size)
        while self.written < self.size:
            writer.write(PIECE)
            await writer.drain()
            self.written += len(PIECE)
        return True

    def is_blocked(self) -> bool:
        before = self.written
        return not eventually(lambda: self.written != before, QUIET_S)


def drain(client, size) -> str:
    digest = hashlib.sha256(client.buffer)
    left = size - len(client.buffer)
    while left:
        piece = client.socket.recv(min(left, 1 << 20))
        assert piece, f"cut with {left} bytes to come"
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def drain_h2(client, stream_id) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    stream = client.streams[stream_id]
    while not stream.ended:
        digest.update(stream.body)
        size += len(stream.body)
        stream.body = b""
        assert client.receive()
    digest.update(stream.body)
    return size + len(stream.body), digest.hexdigest()


def expected(size) -> str:
    digest = hashlib.sha256()
    for _ in range(size // len(PIECE)):
        digest.update(PIECE)
    return digest.hexdigest()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_answer_waits_at_the_upstream_while_settlement_is_held(version):
    rail, fountain = ToyRail(hold_settle=True), Fountain()
    with scene(fountain, rail=rail) as play:
        gc.collect()
        tracemalloc.start()
        try:
            if version == "h2":
                client = H2Client(play.port, timeout_s=30)
                client.request("GET", "/api/paid", [paying()])
            else:
                client = RawClient(play.port, timeout_s=30)
                client.send(
                    b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n"
                )
            assert eventually(lambda: rail.settled == ["toy-1"])
            assert eventually(fountain.is_blocked)
            assert fountain.written < BODY_BYTES // 2
            assert tracemalloc.get_traced_memory()[1] < GROWTH_BYTES
            play.let_go()
            if version == "h2":
                assert drain_h2(client, 1) == (BODY_BYTES, expected(BODY_BYTES))
            else:
                assert client.head()[0] == 200
                assert drain(client, BODY_BYTES) == expected(BODY_BYTES)
            assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
        finally:
            tracemalloc.stop()
        client.close()


SETTLE_S = 3


def test_a_hundred_mebibytes_wait_for_a_settlement_of_three_seconds():
    rail, fountain = ToyRail(settle_s=SETTLE_S), Fountain()
    with scene(fountain, rail=rail) as play, RawClient(play.port, timeout_s=30) as client:
        gc.collect()
        tracemalloc.start()
        try:
            began = time.monotonic()
            client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n")
            assert eventually(fountain.is_blocked)
            assert fountain.written < BODY_BYTES // 2
            client.buffer = client.socket.recv(1)
            assert rail.answered == ["toy-1"], "a byte came before the verdict"
            assert time.monotonic() - began >= SETTLE_S
            assert tracemalloc.get_traced_memory()[1] < GROWTH_BYTES
            status, fields, _ = client.head()
            assert (status, fields["payment-receipt"]) == (200, RECEIPT)
            assert drain(client, BODY_BYTES) == expected(BODY_BYTES)
            assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
        finally:
            tracemalloc.stop()


class Ticker:
    """An upstream with a stream of events: many at once, and one more when it is told to."""

    def __init__(self):
        self.written = 0
        self.more = None

    async def __call__(self, _, __, writer):
        self.more = asyncio.Event()
        writer.transport.set_write_buffer_limits(high=65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(EVENTS):
            writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
            await writer.drain()
            self.written += len(EVENT)
        await self.more.wait()
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LAST), LAST))
        await writer.drain()
        return True

    def is_blocked(self) -> bool:
        before = self.written
        return before > 0 and not eventually(lambda: self.written != before, QUIET_S)


def test_a_stream_of_events_waits_for_a_settlement_of_three_seconds_and_then_flows():
    rail, ticker = ToyRail(settle_s=SETTLE_S), Ticker()
    with scene(ticker, rail=rail) as play, H2Client(play.port, timeout_s=30) as client:
        gc.collect()
        tracemalloc.start()
        try:
            began = time.monotonic()
            stream = client.streams[client.request("GET", "/api/paid", [paying()])]
            assert eventually(ticker.is_blocked)
            assert ticker.written < EVENTS * len(EVENT) // 2
            while not stream.status and not stream.body:
                assert client.receive()
            assert rail.answered == ["toy-1"], "a byte came before the verdict"
            assert time.monotonic() - began >= SETTLE_S
            assert (stream.status, stream.fields["payment-receipt"]) == (200, RECEIPT)
            assert tracemalloc.get_traced_memory()[1] < GROWTH_BYTES
            size = 0
            while size < EVENTS * len(EVENT):
                assert stream.body or client.receive()
                size, stream.body = size + len(stream.body), b""
            # All that there is has come, and the last one is not made yet.
            play.upstream._loop.call_soon_threadsafe(ticker.more.set)
            while not stream.ended:
                assert client.receive()
            assert (size, stream.body) == (EVENTS * len(EVENT), LAST)
            assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
        finally:
            tracemalloc.stop()


class Drain:
    """An upstream that takes a large body, and counts."""

    def __init__(self):
        self.taken = 0
        self.digest = hashlib.sha256()

    async def __call__(self, seen, reader, writer):
        while self.taken < BODY_BYTES:
            piece = await reader.read(65536)
            if not piece:
                return False
            self.digest.update(piece)
            self.taken += len(piece)
        writer.write(OK)
        await writer.drain()
        return True


@pytest.mark.parametrize("route", ["free", "paid"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_upload_reaches_the_upstream_before_its_end_and_is_held_by_nobody(version, route):
    taker = Drain()
    with scene(taker, read_body=False) as play:
        client = (H2Client if version == "h2" else RawClient)(play.port, timeout_s=30)
        with client:
            send, status = uploader(client, route)
            gc.collect()
            tracemalloc.start()
            try:
                for _ in range((BODY_BYTES - LAST_BYTES) // len(PIECE)):
                    send(PIECE)
                assert eventually(lambda: taker.taken > BODY_BYTES - 2 * LAST_BYTES)
                for _ in range(LAST_BYTES // len(PIECE)):
                    send(PIECE)
                assert status() == 200
                assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
            finally:
                tracemalloc.stop()
        assert (taker.taken, taker.digest.hexdigest()) == (BODY_BYTES, expected(BODY_BYTES))


def uploader(client, route):
    """Begin a large upload; return how to send a piece of it, and how to get the status."""
    if isinstance(client, H2Client):
        fields = [("content-length", str(BODY_BYTES)), paying()]
        stream_id = client.request("POST", f"/api/{route}", fields, end=False)

        def send(piece):
            assert client.upload(stream_id, piece, end=False) == len(piece)

        def status():
            client.h2.end_stream(stream_id)
            client.flush()
            return client.response(stream_id).status

        return send, status
    head = f"POST /api/{route} HTTP/1.1\r\nHost: g\r\nContent-Length: {BODY_BYTES}\r\n"
    client.send(f"{head}{': '.join(paying())}\r\n\r\n".encode())
    return client.send, lambda: client.response()[0]


def test_an_h2_client_that_takes_nothing_holds_its_upstream_back_and_nobody_else():
    fountain = Fountain()

    async def respond(seen, reader, writer):
        if seen.target == "/free?quick":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            return True
        return await fountain(seen, reader, writer)

    with scene(respond) as play, H2Client(play.port, takes_all=False, timeout_s=30) as client:
        gc.collect()
        tracemalloc.start()
        try:
            slow = client.request("GET", "/api/free")
            client.head(slow)
            assert eventually(fountain.is_blocked)
            assert fountain.written < BODY_BYTES // 2
            assert tracemalloc.get_traced_memory()[0] < GROWTH_BYTES
        finally:
            tracemalloc.stop()
        quick = client.request("GET", "/api/free?quick")
        assert client.response(quick).body == b"hi"
        client.takes_all = True
        client.open_window(slow, 2**30)
        assert drain_h2(client, slow) == (BODY_BYTES, expected(BODY_BYTES))


def test_a_slow_http1_client_holds_its_upstream_back():
    fountain = Fountain()
    with scene(fountain) as play, RawClient(play.port, timeout_s=30) as client:
        client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
        client.head()
        assert eventually(fountain.is_blocked)
        assert fountain.written < BODY_BYTES // 2
        assert drain(client, BODY_BYTES) == expected(BODY_BYTES)


def test_pipelined_requests_wait_with_their_client():
    held = asyncio.Event()

    async def respond(_, __, writer):
        await held.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return True

    with scene(respond) as play, RawClient(play.port) as client:
        client.socket.settimeout(0.3)
        line = b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n" * 2000
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * 1024 * 1024:
                sent += client.socket.send(line)
        assert sent < 32 * 1024 * 1024


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("route", ["free", "paid"])
def test_the_first_event_of_a_stream_arrives_before_the_second_is_made(version, route):
    rail = ToyRail(hold_settle=True)
    more: list[asyncio.Event] = []

    async def respond(_, __, writer):
        more.append(asyncio.Event())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await more[0].wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await writer.drain()
        return True

    with scene(respond, rail=rail) as play:
        fields = [paying()]
        if version == "h2":
            client = H2Client(play.port)
            stream_id = client.request("GET", f"/api/{route}", fields)
        else:
            client = RawClient(play.port)
            client.send(
                f"GET /api/{route} HTTP/1.1\r\nHost: g\r\n{': '.join(fields[0])}\r\n\r\n".encode()
            )
        if route == "paid":
            assert eventually(lambda: rail.settled == ["toy-1"])
            play.let_go()
        if version == "h2":
            stream = client.streams[stream_id]
            while stream.body != b"data: 1\n\n":
                assert client.receive()
        else:
            assert client.head()[0] == 200
            assert client.line() == b"9"
            assert client.exactly(11) == b"data: 1\n\n\r\n"
        play.upstream._loop.call_soon_threadsafe(more[0].set)
        if version == "h2":
            assert client.response(stream_id).body == b"data: 1\n\ndata: 2\n\n"
        else:
            assert client.line() == b"9"
            assert client.exactly(16) == b"data: 2\n\n\r\n0\r\n\r\n"
        client.close()
