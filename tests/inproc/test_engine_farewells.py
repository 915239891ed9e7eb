"""How a client may leave, or stay without taking anything: nothing is lost, and nothing kept."""

import asyncio
import dataclasses
import socket
import ssl

import h2.errors
import h2.settings
import hyperframe.frame
import pytest
from mitmproxy.proxy import events, server

from mpp_gateway.addons.build import build_addons
from tests.support.client import RawClient
from tests.support.clock import Clock
from tests.support.h2client import H2Client, tls_context
from tests.support.scene import call, eventually, paying, scene
from tests.support.upstream import OK

BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
FIRST_WINDOW = 65_535
"""What a stream takes of itself (RFC 9113 section 6.9.2)."""
DIGEST = b"POST /api/digest HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\n"


def limit(play, **limits) -> None:
    """Give connections that are still to come other limits."""

    def change() -> None:
        engine = play.proxy.runtime.engine
        engine.limits = dataclasses.replace(engine.limits, **limits)

    play.proxy.call(change)


async def silent(_, reader, __):
    await reader.read()


# --- news that gets lost -------------------------------------------------------------------------


@pytest.fixture
def lost_news(monkeypatch):
    """As when mitmproxy cancels the task that is about to tell the layers of a client's end."""
    tell = server.ConnectionHandler.server_event

    async def lose(self, event):
        if isinstance(event, events.ConnectionClosed) and event.connection is self.client:
            raise asyncio.CancelledError("Error sending data: [Errno 32] Broken pipe")
        await tell(self, event)

    monkeypatch.setattr(server.ConnectionHandler, "server_event", lose)


def test_places_for_bodies_come_free_although_the_clients_end_is_told_to_nobody(lost_news):
    with scene(more="limits: {unpaid_bodies: 3}") as play:
        clients = [RawClient(play.port) for _ in range(3)]
        for client in clients:
            client.send(DIGEST)
        refusal = ("POST", "/api/digest", paying())
        assert eventually(
            lambda: call("http/1.1", play.port, *refusal, body=b"hello").status == 503
        )
        for client in clients:
            client.close()
        assert eventually(
            lambda: call("http/1.1", play.port, *refusal, body=b"hello").status == 200
        )
        assert eventually(lambda: not play.open_books)


@pytest.mark.parametrize("target", ["/api/paid", "/api/first", "/api/free"])
def test_books_are_closed_although_the_clients_end_is_told_to_nobody(lost_news, target):
    with scene(silent, timeouts="first_byte_s: 0.3") as play:
        client = RawClient(play.port)
        client.send(
            f"GET {target} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n".encode()
        )
        assert eventually(lambda: play.upstream.heads == 1)
        client.close()
        assert eventually(lambda: not play.open_books)
        assert eventually(lambda: play.clients == 0)
        ends = {"/api/paid": "released", "/api/first": "credited", "/api/free": None}
        assert play.state("toy-1") == ends[target]


class SlowToConnect:
    """Holds up every upstream connection; what is cancelled here is told to nobody either."""

    def __init__(self) -> None:
        self.waiting = 0

    async def server_connect(self, _) -> None:
        self.waiting += 1
        await asyncio.Event().wait()


def test_books_are_closed_although_the_end_of_a_connection_attempt_is_told_to_nobody():
    slow = SlowToConnect()

    def addons(runtime):
        return [*build_addons(runtime), slow]

    with scene(addons=addons) as play:
        client = RawClient(play.port)
        client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n")
        assert eventually(lambda: slow.waiting == 1)
        client.close()
        assert play.ends_as("toy-1", "released")
        assert eventually(lambda: not play.open_books)
        assert play.rail.settled == []


class FailingTls:
    """A client over memory, for a fatal alert cannot be sent otherwise."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.read, self.written = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = tls_context("http/1.1")
        self.tls = context.wrap_bio(self.read, self.written, server_hostname="gateway.test")
        while not self._shaken_hands():
            self.read.write(self.socket.recv(65536))

    def _shaken_hands(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def _flush(self) -> None:
        if data := self.written.read():
            self.socket.sendall(data)

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self._flush()

    def _read_on(self) -> None:
        while True:
            self.tls.read(65536)

    def fail(self) -> None:
        """Find a record that does not decrypt, say so, and hang up."""
        self.read.write(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
        with pytest.raises(ssl.SSLError, match=r"(?i)mac|decrypt"):
            self._read_on()
        self._flush()
        self.socket.close()


def test_a_fatal_alert_is_taken_for_leaving():
    with scene(more="limits: {unpaid_bodies: 1}") as play:
        client = FailingTls(play.port)
        client.send(DIGEST)
        refusal = ("POST", "/api/digest", paying())
        assert eventually(lambda: call("h2", play.port, *refusal, body=b"hello").status == 503)
        client.fail()
        assert eventually(lambda: call("h2", play.port, *refusal, body=b"hello").status == 200)


# --- HTTP/2 --------------------------------------------------------------------------------------


def goaway(client: H2Client, error_code: int = 0) -> None:
    frame = hyperframe.frame.GoAwayFrame(0, last_stream_id=0, error_code=error_code)
    client.socket.sendall(frame.serialize())


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_a_client_that_says_goodbye_gets_what_it_has_asked_for(target):
    arrived, answer = asyncio.Event(), []

    async def respond(_, __, writer):
        answer.append(asyncio.get_running_loop())
        await arrived.wait()
        writer.write(OK)
        await writer.drain()

    with scene(respond) as play, H2Client(play.port) as client:
        stream = client.request("GET", target, [paying()])
        assert eventually(lambda: bool(answer))
        goaway(client)
        client.ping()
        answer[0].call_soon_threadsafe(arrived.set)
        assert client.response(stream).status == 200
        assert play.ends_as("toy-1", "settled")


def test_a_client_that_goes_away_with_an_error_has_left():
    async def respond(_, reader, __):
        await reader.read()

    with scene(respond) as play, H2Client(play.port) as client:
        client.request("GET", "/api/free")
        assert eventually(lambda: play.upstream.heads == 1)
        goaway(client, error_code=1)
        assert eventually(lambda: not play.open_books)


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_a_reset_in_the_segment_of_its_request_is_heard(target):
    with scene() as play, H2Client(play.port) as client:
        assert client.receive()
        client.h2.config.validate_outbound_headers = False
        stream = client.h2.get_next_available_stream_id()
        name, value = paying()
        head = [(":method", "GET"), (":scheme", "https"), (":authority", "g"), (":path", target)]
        client.h2.send_headers(stream, [*head, (name.lower(), value)], end_stream=True)
        client.h2.reset_stream(stream, 8)
        client.flush()
        ends = {"/api/paid": "released", "/api/first": "credited"}
        assert play.ends_as("toy-1", ends[target])
        assert eventually(lambda: not play.open_books)
        again = call("http/1.1", play.port, "GET", target, paying())
        assert (again.status, play.upstream.heads) == (200, 1)


def window(client: H2Client, size: int) -> None:
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
    client.flush()


def test_an_answer_that_nobody_takes_is_given_up():
    with scene(BIG) as play:
        limit(play, unread_s=0.3)
        with H2Client(play.port) as client:
            window(client, 0)
            stream = client.request("GET", "/api/free")
            assert client.response(stream).reset is not None
            assert eventually(lambda: not play.open_books)
            other = client.request("GET", "/api/nothing-here")
            assert client.response(other).reset is not None


def test_an_answer_that_is_taken_slowly_is_whole():
    with scene(BIG) as play:
        clock, limits = Clock(play.proxy), play.proxy.runtime.engine.limits
        piece_s = 20_000 / limits.download_bytes_per_s
        with H2Client(play.port, takes_all=False) as client:
            stream = client.request("GET", "/api/free")
            got, size = client.streams[stream], FIRST_WINDOW
            assert eventually(lambda: not play.open_books)
            while not got.ended:
                while len(got.body) < min(size, 200_000):
                    assert client.receive()
                clock.advance(piece_s * 0.9)
                size += 20_000
                client.h2.increment_flow_control_window(20_000, stream)
                client.flush()
                if size >= 200_000:
                    client.response(stream)
            assert (got.reset, len(got.body)) == (None, 200_000)


def test_a_window_that_shrinks_below_nothing_costs_nobody_an_answer():
    with scene(BIG) as play, H2Client(play.port, takes_all=False) as client:
        stream = client.request("GET", "/api/free")
        got = client.streams[stream]
        while len(got.body) < 60_000:
            assert client.receive()
        window(client, 10)
        client.h2.ping(b"8 octets")
        client.flush()
        client.h2.increment_flow_control_window(300_000, stream)
        client.flush()
        assert len(client.response(stream).body) == 200_000


def test_an_answer_ends_although_its_window_is_below_nothing():
    ends, loops = asyncio.Event(), []

    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        loops.append(asyncio.get_running_loop())
        await ends.wait()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    with scene(respond) as play, H2Client(play.port, takes_all=False) as client:
        stream = client.request("GET", "/api/free")
        while client.streams[stream].body != b"hello":
            assert client.receive()
        window(client, 0)  # five bytes less than nothing are left
        client.ping()
        loops[0].call_soon_threadsafe(ends.set)
        client.h2.increment_flow_control_window(100, stream)
        client.flush()
        assert client.response(stream).ended


def test_a_bad_head_that_is_taken_back_at_once_ends_nothing_else():
    with scene() as play, H2Client(play.port) as client:
        assert client.receive()
        client.h2.config.validate_outbound_headers = False
        stream = client.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "ftp"), (":authority", "g"), (":path", "/")]
        client.h2.send_headers(stream, head, end_stream=True)
        client.h2.reset_stream(stream, 8)
        client.flush()
        assert client.response(client.request("GET", "/api/free")).status == 200


def test_pings_in_the_course_of_a_long_answer_are_good_manners():
    """A client that measures its round trips pings for as long as it is answered."""
    now_s = [0.0]
    with scene() as play:

        def slow_clock() -> None:
            play.proxy.runtime.engine.clock = lambda: now_s[0]

        play.proxy.call(slow_clock)
        with H2Client(play.port) as client:
            for _ in range(300):
                now_s[0] += 2
                client.ping()
            stream = client.request("GET", "/api/free")
            assert client.response(stream).status == 200


def test_pings_without_end_are_not():
    with scene() as play:
        Clock(play.proxy)
        with H2Client(play.port) as client:
            for _ in range(300):
                client.h2.ping(b"8 octets")
            client.flush()
            while client.receive():
                pass
            assert client.goaway == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


# --- HTTP/1 --------------------------------------------------------------------------------------


def test_a_closing_connection_that_nobody_reads_is_given_up():
    with scene(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000) as play:
        limit(play, unread_s=0.2)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", play.port))
        transports = []

        def remember() -> None:
            handler = next(iter(play.proxy.master.addons.get("proxyserver").connections.values()))
            transports.append(handler.transports[handler.client].writer.transport)

        client.sendall(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
        assert eventually(lambda: play.upstream.heads == 1)
        play.proxy.call(remember)
        assert eventually(lambda: transports[0].get_write_buffer_size() > 0)

        def hang_up() -> None:
            handler = next(iter(play.proxy.master.addons.get("proxyserver").connections.values()))
            handler.close_connection(handler.client)

        play.proxy.call(hang_up)
        assert eventually(lambda: play.clients == 0)
        assert eventually(lambda: transports[0].get_write_buffer_size() == 0)
        client.close()
