"""Who takes an answer in crumbs holds an upstream for no longer than who takes nothing of it."""

import contextlib
import socket

import pytest

from mpp_gateway.engine import backpressure
from tests.inproc.test_engine_backpressure import Fountain, drain, expected
from tests.inproc.test_engine_farewells import limit
from tests.inproc.test_engine_uploads import handlers, upstream_writers
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import eventually, paying, scene

CRUMB_BYTES = 256
"""At one in five milliseconds half of `PACE`, and far more than `SLOW_PACE`."""
PACE, SLOW_PACE = 100_000, 1000
UNREAD_S = 0.5
SEGMENT_BYTES, SOCKET_BYTES = 1000, 8 * 1024
IDLE = "idle_s: 0.2"
"""Shorter than a client's patience: here its own clock counts, not the upstream's."""
BODY_BYTES = 1024 * 1024
GET = f"GET /api/paid HTTP/1.1\r\nHost: g\r\n{': '.join(paying())}\r\n\r\n".encode()
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000


@pytest.fixture
def narrow(monkeypatch):
    """Sockets that take in next to nothing at once, so that each crumb is seen to leave."""

    def connect(address, timeout):
        client = socket.socket()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        client.settimeout(timeout)
        client.connect(address)
        return client

    monkeypatch.setattr(socket, "create_connection", connect)


def narrow_down(play) -> None:
    """Do the same to the gateway's end of the connection."""
    assert eventually(lambda: play.clients == 1)

    def change() -> None:
        raw = client_writer(play).get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)

    play.proxy.call(change)


def client_writer(play):
    (handler,) = handlers(play)
    return handler.transports[handler.client].writer


def crumb(raw: socket.socket) -> bytes:
    """Take a crumb of what is there by now."""
    raw.settimeout(1)
    with contextlib.suppress(TimeoutError, ConnectionError):
        return raw.recv(CRUMB_BYTES)
    return b""


def test_an_answer_that_is_taken_in_crumbs_is_given_up(narrow):
    with scene(Fountain(), timeouts=IDLE) as play:
        limit(play, unread_s=UNREAD_S, download_bytes_per_s=PACE)
        with RawClient(play.port) as client:
            narrow_down(play)
            client.send(GET)
            client.head()
            taken = len(client.buffer)

            def is_cut() -> bool:
                nonlocal taken
                piece = crumb(client.socket)
                taken += len(piece)
                return not piece

            assert eventually(is_cut)
            assert taken < BODY_BYTES
            assert eventually(lambda: not upstream_writers(play))
        assert play.ends_as("toy-1", "settled")


def test_an_answer_that_is_taken_at_a_pace_is_whole_however_long_that_lasts(narrow):
    with scene(Fountain(BODY_BYTES), timeouts=IDLE) as play:
        limit(play, unread_s=UNREAD_S, download_bytes_per_s=SLOW_PACE)
        with RawClient(play.port) as client:
            narrow_down(play)
            client.send(GET)
            client.head()

            def takes_a_crumb() -> bool:
                client.buffer += crumb(client.socket)
                return False

            assert not eventually(takes_a_crumb, wait_s=4 * UNREAD_S)
            # What the gateway has for it has waited all the while.
            assert 4 * CRUMB_BYTES < len(client.buffer) < backpressure.UNTAKEN_BYTES * 2
            client.socket.settimeout(10)
            assert drain(client, BODY_BYTES) == expected(BODY_BYTES)


def test_an_h2_answer_whose_window_opens_byte_by_byte_is_given_up():
    with scene(BIG) as play:
        limit(play, unread_s=UNREAD_S)
        with H2Client(play.port, takes_all=False) as client:
            stream = client.request("GET", "/api/paid", [paying()])
            got = client.streams[stream]
            client.socket.settimeout(0.005)

            def is_given_up() -> bool:
                with contextlib.suppress(TimeoutError):
                    client.receive()
                    return got.reset is not None
                client.h2.increment_flow_control_window(1, stream)
                client.flush()
                return False

            assert eventually(is_given_up)
            assert 65535 < len(got.body) < 70_000
            assert eventually(lambda: not play.open_books)


def test_what_was_taken_quickly_pays_for_no_long_pause():
    with scene(BIG) as play:
        limit(play, unread_s=UNREAD_S)
        with H2Client(play.port, takes_all=False) as client:
            stream = client.request("GET", "/api/free")
            for size in range(100_000, 190_000, 10_000):
                client.h2.increment_flow_control_window(10_000, stream)
                client.flush()
                while len(client.streams[stream].body) < size - 40_000:
                    assert client.receive()
            # Worth a minute and a half, were it all counted.
            assert client.response(stream).reset is not None


def test_h2_answers_that_share_a_slow_line_are_all_whole():
    pace, beats = 20_000, 40
    with scene(BIG) as play:
        limit(play, unread_s=UNREAD_S, download_bytes_per_s=pace)
        with H2Client(play.port, takes_all=False) as client:
            streams = [client.request("GET", "/api/free") for _ in range(4)]
            client.socket.settimeout(0.05)
            for _ in range(beats):
                with contextlib.suppress(TimeoutError):
                    while client.receive():
                        pass
                for stream in streams:
                    # Half of the pace for one of them, twice the pace for all.
                    client.h2.increment_flow_control_window(pace // 40, stream)
                client.flush()
            client.socket.settimeout(10)
            client.takes_all = True
            for stream in streams:
                client.h2.increment_flow_control_window(2**20, stream)
            client.flush()
            for stream in streams:
                got = client.response(stream)
                assert (got.reset, len(got.body)) == (None, 200_000)


def test_an_h2_answer_that_leaves_the_socket_in_crumbs_is_given_up(narrow):
    with scene(Fountain(), timeouts=IDLE) as play:
        limit(play, unread_s=UNREAD_S, download_bytes_per_s=PACE)
        with H2Client(play.port) as client:
            narrow_down(play)
            stream = client.request("GET", "/api/paid", [paying()])
            client.open_window(stream, 2**30)
            assert eventually(lambda: bool(upstream_writers(play)))
            taken = 0

            def is_given_up() -> bool:
                nonlocal taken
                taken += len(crumb(client.socket))
                return not upstream_writers(play)

            assert eventually(is_given_up)
            assert CRUMB_BYTES < taken < BODY_BYTES


@pytest.mark.parametrize("pace", [PACE, SLOW_PACE])
def test_the_last_bytes_of_a_connection_have_to_be_taken_at_a_pace_too(narrow, pace):
    with scene(Fountain()) as play:
        limit(play, unread_s=UNREAD_S, download_bytes_per_s=pace)
        with RawClient(play.port) as client:
            narrow_down(play)
            client.send(GET)
            client.head()
            transport = client_writer(play).transport
            held = transport.get_write_buffer_size

            def hang_up() -> int:
                (handler,) = handlers(play)
                handler.close_connection(handler.client)
                return held()

            assert eventually(lambda: held() > backpressure.UNTAKEN_BYTES)
            left = play.proxy.call(hang_up)
            taken = 0

            def is_over() -> bool:
                nonlocal taken
                piece = crumb(client.socket)
                taken += len(piece)
                return not piece

            assert eventually(is_over)
            assert not held()
            assert (taken >= left) == (pace == SLOW_PACE)
