"""An upload waits for its upstream, its client has so much time for it, and nobody else waits."""

import asyncio
import contextlib
import gc
import hashlib
import socket
import time
import tracemalloc

import hyperframe.frame
import pytest
from mitmproxy.proxy import server

from mpp_gateway.engine import backpressure
from mpp_gateway.events import UpstreamFailed
from tests.inproc.test_engine_farewells import limit
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, eventually, paying, scene
from tests.support.upstream import OK

UPLOAD_BYTES = 64 * 1024 * 1024
PIECE = bytes(range(256)) * 256
HELD_BYTES = 1024 * 1024
GROWTH_BYTES = 3 * 1024 * 1024
"""With what the test's own client and upstream hold, which live in the same process."""
SLOW_BYTES = 32 * 1024 * 1024
QUIET_S = 0.3
FRAMES = 10_000
CRUMB = b"abc"


class Stuck:
    """An upstream that takes nothing of an upload until it is told to; then it takes it whole.

    It pauses for `pause_s` after each piece.
    """

    def __init__(self, pause_s=0.0):
        self.pause_s = pause_s
        self.go = None
        self.writer = None
        self.digest = hashlib.sha256()
        self.is_gone = False

    async def __call__(self, seen, reader, writer):
        if seen.method == "GET":
            writer.write(OK)
            await writer.drain()
            return True
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        self.go, self.writer = asyncio.Event(), writer
        await self.go.wait()
        left = int(seen.get("content-length"))
        while left:
            piece = await reader.read(min(left, 65536))
            if not piece:
                self.is_gone = True
                return False
            self.digest.update(piece)
            left -= len(piece)
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        writer.write(OK)
        await writer.drain()
        return False

    def tell(self, play, what) -> None:
        play.upstream._loop.call_soon_threadsafe(what)


class Upload:
    """One upload in either version of HTTP; `push` sends until nothing more is taken."""

    def __init__(self, play, version, target="/api/free", size=UPLOAD_BYTES):
        self.version, self.size, self.sent = version, size, 0
        if version == "h2":
            self.client = H2Client(play.port)
            fields = [("content-length", str(size)), paying()]
            self.stream = self.client.request("POST", target, fields, end=False)
        else:
            self.client = RawClient(play.port)
            head = f"POST {target} HTTP/1.1\r\nHost: g\r\nContent-Length: {size}\r\n"
            self.client.send(f"{head}{': '.join(paying())}\r\n\r\n".encode())

    def push(self, patience_s=QUIET_S) -> None:
        self.client.socket.settimeout(patience_s)
        with contextlib.suppress(TimeoutError):
            while self.sent < self.size:
                begin = self.sent % len(PIECE)
                self.sent += self._send(PIECE[begin : begin + self.size - self.sent])

    def _send(self, data) -> int:
        if self.version != "h2":
            return self.client.socket.send(data)
        window = 0
        while not window:
            limits = self.client.h2.max_outbound_frame_size, len(data)
            window = min(self.client.h2.local_flow_control_window(self.stream), *limits)
            if not window:
                assert self.client.receive()
        self.client.h2.send_data(self.stream, data[:window])
        self.client.flush()
        return window

    def drip(self) -> bool:
        """Send one byte; False once there is an answer."""
        if self.version == "h2":
            stream = self.client.streams[self.stream]
            self.client.socket.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                self.client.receive()
            if not stream.ended and stream.reset is None:
                self.client.upload(self.stream, b"x", end=False)
            return not stream.status
        self.client.socket.settimeout(0.02)
        with contextlib.suppress(TimeoutError):
            self.client.buffer += self.client.socket.recv(65536)
        if not self.client.buffer:
            with contextlib.suppress(ConnectionError):  # it has its answer, which is read next
                self.client.send(b"x")
        return not self.client.buffer

    def answer(self) -> tuple[int, bytes]:
        self.client.socket.settimeout(10)
        if self.version == "h2":
            if self.sent == self.size:
                self.client.h2.end_stream(self.stream)
                self.client.flush()
            stream = self.client.response(self.stream)
            return stream.status, stream.body
        status, _, body = self.client.response()
        return status, body

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()


def handlers(play):
    return play.proxy.master.addons.get("proxyserver").connections.values()


def upstream_writers(play) -> list:
    def look():
        return [
            io.writer
            for handler in handlers(play)
            for connection, io in handler.transports.items()
            if connection is not handler.client and io.writer
        ]

    return play.proxy.call(look)


def is_full(play) -> bool:
    return any(writer.is_full for writer in upstream_writers(play))


def is_free_of_uploads(play) -> bool:
    """Whether neither a socket nor a task is left of an upload."""

    def names():
        return [task.get_name() for task in asyncio.all_tasks()]

    kinds = ("upstream takes nothing", "server connection")
    left = [name for name in play.proxy.call(names) if name.startswith(kinds)]
    return not left and not upstream_writers(play) and not play.open_books


def nothing_went_wrong(play) -> bool:
    gc.collect()
    return not [line for line in play.proxy.log if "never retrieved" in line]


@pytest.fixture
def told(monkeypatch):
    """What is told to the layers of a client when an upstream takes again."""
    events = []
    tell = server.ConnectionHandler.server_event

    async def listen(self, event):
        if isinstance(event, backpressure.UpstreamTakes):
            events.append(event)
        await tell(self, event)

    monkeypatch.setattr(server.ConnectionHandler, "server_event", listen)
    return events


# --- who waits, and who does not -----------------------------------------------------------------


@pytest.mark.parametrize("target", ["/api/paid", "/api/first", "/api/free"])
def test_a_call_is_answered_while_an_upload_beside_it_is_stuck(target):
    with scene(Stuck(), read_body=False) as play, Upload(play, "h2") as upload:
        upload.push()
        assert eventually(lambda: is_full(play))
        client = upload.client
        client.socket.settimeout(10)
        beside = client.request("GET", target, [paying()])
        assert client.response(beside).status == 200
        assert is_full(play)
        if target != "/api/free":
            assert play.ends_as("toy-1", "settled")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_that_nobody_takes_is_held_by_its_sender(version):
    with scene(Stuck(), read_body=False) as play, Upload(play, version) as upload:
        gc.collect()
        tracemalloc.start()
        try:
            upload.push()
            assert eventually(lambda: is_full(play))
            upload.push()
            assert upload.sent < upload.size
            (writer,) = upstream_writers(play)
            held = play.proxy.call(
                lambda: writer.transport.get_write_buffer_size() + len(writer._held)
            )
            assert backpressure.UNTAKEN_BYTES < held < HELD_BYTES
            assert tracemalloc.get_traced_memory()[1] < GROWTH_BYTES
        finally:
            tracemalloc.stop()


def test_what_comes_in_crumbs_for_a_stuck_upstream_is_held_in_one_piece():
    with scene(Stuck(), read_body=False) as play:
        limit(play, backlog_bytes=1024 * 1024, http2_control_frames=FRAMES)
        with Upload(play, "h2") as upload:
            while eventually(lambda: not is_full(play), QUIET_S):
                upload.sent += upload._send(PIECE)
            assert upload.client.h2.local_flow_control_window(upload.stream) > FRAMES * len(CRUMB)
            frame = hyperframe.frame.DataFrame(upload.stream, data=CRUMB).serialize()
            (writer,) = upstream_writers(play)
            before = len(writer._held)
            gc.collect()
            tracemalloc.start()
            try:
                upload.client.socket.settimeout(10)
                upload.client.socket.sendall(frame * FRAMES)
                assert eventually(
                    lambda: len(writer._held) >= before + FRAMES * len(CRUMB), wait_s=30
                )
                grown = lambda: tracemalloc.get_traced_memory()[0]  # noqa: E731 - used once
                assert eventually(lambda: grown() < FRAMES * 30, wait_s=3)
            finally:
                tracemalloc.stop()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_to_a_slow_upstream_is_whole(version, told):
    stuck = Stuck(pause_s=0.002)
    with scene(stuck, read_body=False) as play:
        with Upload(play, version, size=SLOW_BYTES) as upload:
            upload.push()
            assert eventually(lambda: is_full(play))
            stuck.tell(play, stuck.go.set)
            upload.push(patience_s=30)
            assert upload.answer()[0] == 200
        expected = hashlib.sha256(PIECE * (SLOW_BYTES // len(PIECE)))
        assert stuck.digest.hexdigest() == expected.hexdigest()
        assert len(told) > 1
        assert eventually(lambda: is_free_of_uploads(play))


# --- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/api/free", "/api/paid"])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_that_nobody_takes_ends_with_its_deadline(version, target):
    with scene(Stuck(), read_body=False, timeouts="first_byte_s: 0.5") as play:
        with Upload(play, version, target) as upload:
            with contextlib.suppress(ConnectionError):
                upload.push()
            assert upload.answer()[0] == 504
            assert eventually(lambda: is_free_of_uploads(play))
        assert eventually(lambda: play.clients == 0)
        assert nothing_went_wrong(play)


def test_bytes_that_drip_in_win_no_time_for_a_stuck_upstream():
    with scene(Stuck(), read_body=False, timeouts="first_byte_s: 2") as play:
        limit(play, backlog_bytes=1024 * 1024)
        with Upload(play, "h2") as upload:
            while eventually(lambda: not is_full(play), QUIET_S):
                upload.sent += upload._send(PIECE)
            assert eventually(lambda: not upload.drip())
            assert upload.answer()[0] == 504
        assert eventually(lambda: is_free_of_uploads(play))


@pytest.mark.parametrize("target", ["/api/free", "/api/paid"])
@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_left_of_a_client_that_leaves_in_a_stuck_upload(version, target):
    # What an HTTP/1 client does is not looked at while it has to wait: its deadline ends it.
    patience = "first_byte_s: 1" if version != "h2" or target == "/api/paid" else ""
    with scene(Stuck(), read_body=False, timeouts=patience) as play:
        with Upload(play, version, target) as upload:
            upload.push()
            assert eventually(lambda: is_full(play) or bool(patience))
        assert eventually(lambda: is_free_of_uploads(play))
        assert eventually(lambda: play.clients == 0)
        assert nothing_went_wrong(play)


@pytest.mark.parametrize("way", ["abort", "close"])
@pytest.mark.parametrize("target", ["/api/free", "/api/paid"])
@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_left_of_an_upstream_that_dies_in_a_stuck_upload(version, target, way):
    stuck = Stuck()
    with scene(stuck, read_body=False) as play:
        with Upload(play, version, target) as upload:
            upload.push()
            assert eventually(lambda: is_full(play))
            die = stuck.writer.close if way == "close" else stuck.writer.transport.abort
            stuck.tell(play, die)
            if version == "h2":
                assert upload.answer()[0] == 502
            else:
                # An answer in mid-upload; what the client has sent since may reset it.
                with contextlib.suppress(ConnectionError, EOFError):
                    assert upload.answer()[0] == 502
            assert eventually(lambda: is_free_of_uploads(play))
        assert eventually(lambda: play.clients == 0)
        assert play.state("toy-1") == (None if target == "/api/free" else "released")
        assert nothing_went_wrong(play)


# --- how long a client may take ------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_that_drips_is_given_up(version):
    stuck = Stuck()
    with scene(stuck, read_body=False) as play:
        limit(play, body_s=0.5)
        with Upload(play, version) as upload:
            assert eventually(lambda: stuck.go is not None)
            stuck.tell(play, stuck.go.set)
            assert eventually(lambda: not upload.drip())
            status, body = upload.answer()
            assert status == 408
            assert b"urn:mpp-gateway:problem:request-timeout" in body
            assert eventually(lambda: stuck.is_gone)
            assert eventually(lambda: is_free_of_uploads(play))


@pytest.mark.parametrize(("target", "state"), [("paid", "released"), ("first", "credited")])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_that_is_paid_for_and_drips_is_its_clients_delay(version, target, state):
    stuck = Stuck()
    routes = """      "POST /paid": {charge: "0.01"}
      "POST /first": {charge: "0.01", settle: before}"""
    heard = []
    more = {"timeouts": "connect_s: 0.5, first_byte_s: 0.5", "sink": heard.append}
    with (
        scene(stuck, read_body=False, routes=routes, **more) as play,
        Upload(play, version, f"/api/{target}") as upload,
    ):
        assert eventually(lambda: stuck.go is not None)
        stuck.tell(play, stuck.go.set)
        assert eventually(lambda: not upload.drip())
        status, body = upload.answer()
        assert status == 408
        assert b"urn:mpp-gateway:problem:request-timeout" in body
        assert play.ends_as("toy-1", state)
        assert eventually(lambda: stuck.is_gone and is_free_of_uploads(play))
    assert not [event for event in heard if isinstance(event, UpstreamFailed)]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_without_a_byte_is_given_up(version):
    with scene(Stuck(), read_body=False) as play:
        limit(play, body_s=0.3)
        with Upload(play, version) as upload:
            assert upload.answer()[0] == 408
            assert eventually(lambda: is_free_of_uploads(play))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_that_keeps_its_pace_may_take_long(version):
    stuck = Stuck()
    with scene(stuck, read_body=False) as play:
        limit(play, body_s=1.0, upload_bytes_per_s=1)
        with Upload(play, version, size=20) as upload:
            assert eventually(lambda: stuck.go is not None)
            stuck.tell(play, stuck.go.set)
            began = time.monotonic()
            while upload.sent < upload.size:
                assert upload.drip()
                upload.sent += 1
                # Longer, in all, than the grace.
                assert not eventually(lambda: False, wait_s=0.05)
            assert time.monotonic() - began > 1.0
            assert upload.answer()[0] == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_we_make_wait_loses_no_time_by_it(version):
    stuck = Stuck()
    with scene(stuck, read_body=False) as play:
        limit(play, body_s=2.0, upload_bytes_per_s=10**9)
        with Upload(play, version, size=16 * 1024 * 1024) as upload:
            upload.push()
            assert eventually(lambda: is_full(play))
            assert not eventually(lambda: False, wait_s=2.5)
            stuck.tell(play, stuck.go.set)
            upload.push(patience_s=30)
            assert upload.answer()[0] == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_a_slow_upload_that_is_paid_for_has_the_time_of_its_payment(version):
    stuck = Stuck()
    with scene(stuck, read_body=False) as play:
        limit(play, body_s=0.2)
        with Upload(play, version, "/api/paid", size=20) as upload:
            assert eventually(lambda: stuck.go is not None)
            stuck.tell(play, stuck.go.set)
            while upload.sent < upload.size:
                assert upload.drip()
                upload.sent += 1
                assert not eventually(lambda: False, wait_s=0.03)
            assert upload.answer()[0] == 200
            assert play.ends_as("toy-1", "settled")
