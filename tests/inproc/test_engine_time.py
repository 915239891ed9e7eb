"""A client connection that carries no request does not stay open for ever."""

import asyncio
import contextlib
import json
import socket
import time

import pytest

from mpp_gateway.addons.build import build_addons
from tests.inproc.test_engine_farewells import limit
from tests.support.client import RawClient
from tests.support.clock import Clock
from tests.support.h2client import H2Client, tls_context
from tests.support.scene import VERSIONS, WAIT_S, call, eventually, scene
from tests.support.upstream import OK

HEAD_S = 30
KEEP_ALIVE_S = 60
STEPS = 8
"""In so many the time of a limit passes."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, PING, GOAWAY, CONTINUATION = 4, 1, 6, 7, 9
END_STREAM = 0x1
GET = b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n"
UPLOAD = b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: 100000000\r\n\r\n"


@contextlib.contextmanager
def patient(respond=OK, keep_alive_s=KEEP_ALIVE_S, **more):
    """Run a gateway and its clock; a keep-alive far away shows that the head was at fault."""
    limits = f"limits: {{head_s: {HEAD_S}, keep_alive_s: {keep_alive_s}}}"
    with scene(respond, more=limits, **more) as play:
        yield play, Clock(play.proxy)


def frame(kind, stream_id=0, payload=b"", flags=0, length=None):
    size = len(payload) if length is None else length
    return size.to_bytes(3) + bytes([kind, flags]) + stream_id.to_bytes(4) + payload


def secure(port, alpn):
    raw = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    return tls_context(alpn).wrap_socket(raw, server_hostname="gateway.test")


def goaways(data):
    """Return the error codes of the GOAWAY frames in `data`."""
    codes = []
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3])
        if data[3] == GOAWAY:
            codes.append(int.from_bytes(data[13:17]))
        data = data[end:]
    return codes


def until_closed(client, clock, limit_s, drip=b""):
    """Return all that comes until the end; time passes, and `drip` is sent, while nothing comes."""
    data, end = b"", time.monotonic() + WAIT_S
    while time.monotonic() < end:
        client.settimeout(0.02)
        try:
            more = client.recv(65536)
        except TimeoutError:
            client.settimeout(WAIT_S)
            with contextlib.suppress(OSError):
                client.sendall(drip)
            clock.advance(limit_s / STEPS)
            continue
        except OSError:
            return data
        if not more:
            return data
        data += more
    pytest.fail("the gateway keeps the connection open")


OPEN_HEAD = frame(HEADERS, 1, b"\x82", END_STREAM)
UNFINISHED = {
    "nothing": (b"", b""),
    "half a preface": (PREFACE[:9], b""),
    "an open header block": (PREFACE + frame(SETTINGS) + OPEN_HEAD, b""),
    "half a frame's head": (PREFACE + frame(SETTINGS) + OPEN_HEAD[:5], b""),
    "half a frame": (PREFACE + frame(SETTINGS) + frame(HEADERS, 1, b"\x82", 5, length=100), b""),
    "dripping continuations": (
        PREFACE + frame(SETTINGS) + OPEN_HEAD,
        frame(CONTINUATION, 1, b"\x82"),
    ),
    "a dripping frame": (
        PREFACE + frame(SETTINGS) + frame(HEADERS, 1, b"\x82", 5, length=9000),
        b"\x82",
    ),
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_an_h2_head_that_does_not_end_is_given_up(kind):
    sent, drip = UNFINISHED[kind]
    with patient(keep_alive_s=3600) as (play, clock), secure(play.port, "h2") as client:
        client.sendall(sent)
        assert goaways(until_closed(client, clock, HEAD_S, drip)) == [0]
        assert clock.passed_s < 2 * HEAD_S
        assert play.upstream.connections == 0


@pytest.mark.parametrize("partial", [OPEN_HEAD, frame(HEADERS, 3, b"\x82", 5, length=100)])
def test_an_h2_head_that_does_not_end_is_given_up_beside_an_open_stream_too(partial):
    partial = partial[:5] + (3).to_bytes(4) + partial[9:]
    with patient(keep_alive_s=3600) as (play, clock), H2Client(play.port) as client:
        client.request("POST", "/api/free", end=False)
        assert eventually(lambda: play.upstream.heads == 1)
        client.socket.sendall(partial)
        assert goaways(until_closed(client.socket, clock, HEAD_S)) == [0]


@pytest.mark.parametrize("cut_at", [5, 12])
def test_a_slow_h2_upload_is_no_head(cut_at):
    times = f"first_byte_s: {3 * KEEP_ALIVE_S}"
    with patient(timeouts=times) as (play, clock), H2Client(play.port) as client:
        limit(play, body_s=10**6)  # the pace of an upload is another matter
        stream_id = client.request("POST", "/api/free", end=False)
        assert eventually(lambda: play.upstream.heads == 1)
        # What answers the settings must be out before a frame is cut in two.
        backlog_bytes = play.proxy.runtime.engine.limits.backlog_bytes
        while client.h2.local_flow_control_window(stream_id) != backlog_bytes and client.receive():
            pass
        for part, end in ((b"x" * 100, False), (b"y" * 100, True)):
            client.h2.send_data(stream_id, part, end_stream=end)
            data = client.h2.data_to_send()
            client.ping(then=data[:cut_at])
            clock.advance(2 * max(HEAD_S, KEEP_ALIVE_S))
            client.socket.sendall(data[cut_at:])
        assert client.response(stream_id).status == 200
        assert client.goaway is None
        assert play.upstream.seen[0].body == b"x" * 100 + b"y" * 100


def test_an_idle_h2_connection_is_closed():
    with patient() as (play, clock), H2Client(play.port) as client:
        assert client.response(client.request("GET", "/api/free")).status == 200
        assert goaways(until_closed(client.socket, clock, KEEP_ALIVE_S)) == [0]


def test_pings_do_not_keep_an_idle_h2_connection():
    with patient() as (play, clock), secure(play.port, "h2") as client:
        ping = frame(PING, payload=b"12345678")
        client.sendall(PREFACE + frame(SETTINGS))
        assert goaways(until_closed(client, clock, KEEP_ALIVE_S, ping)) == [0]
        assert clock.passed_s < 2 * KEEP_ALIVE_S
    with patient() as (play, clock), secure(play.port, "h2") as client:
        client.sendall(PREFACE + frame(SETTINGS) + ping[:12])
        assert goaways(until_closed(client, clock, KEEP_ALIVE_S, ping[12:] + ping[:12])) == [0]
        assert clock.passed_s < 2 * KEEP_ALIVE_S


@pytest.mark.parametrize("answered", [0, 1, 3])
def test_an_idle_http1_connection_is_closed_without_a_word(answered):
    with patient() as (play, clock), secure(play.port, "http/1.1") as client:
        client.sendall(GET * answered)
        assert eventually(lambda: play.upstream.heads == answered and not play.open_books)
        data = until_closed(client, clock, KEEP_ALIVE_S)
        assert data.count(b"HTTP/1.1 ") == data.count(b"HTTP/1.1 200 OK") == answered


def test_an_idle_http1_connection_is_closed_in_clear_text_too():
    with patient() as (play, clock), RawClient(play.port) as client:
        client.send(GET)
        assert client.response()[0] == 200
        assert until_closed(client.socket, clock, KEEP_ALIVE_S) == b""


HALF_HEADS = [b"GET /api/free HT", b"\r\n", b"G", GET + b"GET /api"]


@pytest.mark.parametrize("half", HALF_HEADS)
def test_an_http1_head_that_does_not_end_is_given_up(half):
    """The clock of the wall: the alarm rings by itself."""
    with scene(more="limits: {head_s: 0.3}") as play, RawClient(play.port) as client:
        client.send(half)
        if half.startswith(GET):
            assert client.response()[0] == 200
        status, _, body = client.response()
        assert (status, json.loads(body)["type"]) == (
            408,
            "urn:mpp-gateway:problem:request-timeout",
        )
        assert client.is_closed()
        assert play.upstream.connections == half.count(GET)


def test_mitmproxy_does_not_close_a_connection_that_we_keep():
    with patient(keep_alive_s=3600) as (play, _):
        assert play.proxy.master.options.tcp_timeout > 3600


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_that_waits_for_its_answer_is_not_idle(version):
    held = asyncio.Event()

    async def respond(_, __, writer):
        await held.wait()
        writer.write(OK)
        await writer.drain()
        return True

    with patient(respond, timeouts=f"first_byte_s: {3 * KEEP_ALIVE_S}") as (play, clock):
        client = H2Client(play.port) if version == "h2" else RawClient(play.port)
        with client:
            if version == "h2":
                stream_id = client.request("GET", "/api/free")
            else:
                client.send(GET)
            assert eventually(lambda: play.upstream.heads == 1)
            for _ in range(STEPS):
                clock.advance(2 * KEEP_ALIVE_S / STEPS)
            play.upstream._loop.call_soon_threadsafe(held.set)
            if version == "h2":
                assert client.response(stream_id).status == 200
            else:
                assert client.response()[0] == 200


def test_a_stop_amid_an_upload_that_nobody_reads_is_no_crash():
    held = asyncio.Event()

    async def respond(*_):
        await held.wait()

    with contextlib.ExitStack() as after:
        with scene(respond, read_body=False) as play:
            client = after.enter_context(RawClient(play.port))
            client.send(UPLOAD)
            client.socket.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while True:
                    client.socket.send(b"x" * 65536)
        # The proxy is gone, and its client was there until the end.
        assert play.complaints == []


@pytest.mark.parametrize("sent", [GET, UPLOAD])
def test_a_client_that_leaves_while_a_failure_is_noted_is_no_crash(sent):
    """As at a shutdown: both sides are gone before the answer's head could be sent."""

    class Slow:
        def __init__(self):
            self.reached, self.left = asyncio.Event(), asyncio.Event()
            self.go, self.passed = asyncio.Event(), asyncio.Event()

        def client_disconnected(self, client):
            self.left.set()

        async def error(self, flow):
            self.reached.set()
            await self.go.wait()
            self.passed.set()

    async def respond(*_):
        return False

    slow = Slow()
    addons = lambda runtime: [*build_addons(runtime), slow]  # noqa: E731 - used once
    with scene(respond, read_body=False, addons=addons) as play:
        with RawClient(play.port) as client:
            client.send(sent)
            assert eventually(slow.reached.is_set)
        assert eventually(slow.left.is_set)
        play.proxy.call(slow.go.set)
        assert eventually(slow.passed.is_set)
        assert call("http/1.1", play.port, "GET", "/api/nope").status == 404
        assert play.complaints == []
