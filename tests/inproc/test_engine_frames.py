"""HTTP/2 frames of no use run out of patience; those that an honest client sends never do."""

import contextlib
import socket

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from hyperframe.frame import (
    AltSvcFrame,
    DataFrame,
    ExtensionFrame,
    PingFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from mpp_gateway.engine.h2connection import ClientConnection, TooMuch
from mpp_gateway.engine.patience import FramePatience
from tests.inproc.test_engine_crumbs import drained, timed
from tests.inproc.test_engine_farewells import window
from tests.support.scene import eventually

FREE = 200
HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", "g"), (":path", "/")]
FRAMES = {
    "a window of the connection": lambda _: WindowUpdateFrame(0, window_increment=1),
    "a window of a closed stream": lambda closed: WindowUpdateFrame(closed, window_increment=1),
    "a reset of a closed stream": lambda closed: RstStreamFrame(closed, error_code=8),
    "no data on a closed stream": lambda closed: DataFrame(closed, data=b""),
    "another way to reach somebody": lambda closed: AltSvcFrame(closed, origin=b"", field=b"x"),
    "a type that nobody knows": lambda _: ExtensionFrame(0xEE, 0, flag_byte=0),
}


class Counting(FramePatience):
    """Counts the frames that it had to look at."""

    seen = 0

    def receive(self, frame, events):
        self.seen += 1
        return super().receive(frame, events)


class Pair:
    """The gateway's side of a connection and a client's, with no network and no time between."""

    def __init__(self):
        self.patience = Counting(FREE, lambda: 0.0)
        config = h2.config.H2Configuration(client_side=False, header_encoding=False)
        self.gateway = ClientConnection(config, 65536, lambda *_: None, self.patience)
        self.client = h2.connection.H2Connection()
        self.gateway.initiate_connection()
        self.client.initiate_connection()

    def ask(self) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, HEAD, end_stream=True)
        self.to_gateway()
        self.gateway.send_headers(stream, [(":status", "200")])
        return stream

    def to_gateway(self) -> None:
        events = self.gateway.receive_data(self.client.data_to_send())
        assert not any(isinstance(event, TooMuch) for event in events)

    def to_client(self) -> list[h2.events.DataReceived]:
        events = self.client.receive_data(self.gateway.data_to_send())
        return [event for event in events if isinstance(event, h2.events.DataReceived)]


def reads_as_the_library(client, stream, size):
    client.acknowledge_received_data(size, stream)


def reads_piece_by_piece(client, stream, size):
    for at in range(0, size, 4096):
        piece = min(4096, size - at)
        client.increment_flow_control_window(piece)
        client.increment_flow_control_window(piece, stream)


def reads_and_measures(client, stream, size):
    reads_as_the_library(client, stream, size)
    client.ping(b"8 octets")


@pytest.mark.parametrize("kind", FRAMES)
def test_a_flood_of_it_ends_its_connection(kind):
    with timed() as (play, client, _):
        closed = client.request("GET", "/api/nothing-here")
        assert client.response(closed).status == 404
        client.socket.settimeout(10)
        with contextlib.suppress(OSError):  # it may be closed in mid-flood
            client.socket.sendall(FRAMES[kind](closed).serialize() * 2 * FREE)
        drained(client)
        assert client.goaway in {h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None}
        assert client.closed
        assert eventually(lambda: play.clients == 0)


@pytest.mark.parametrize("kind", FRAMES)
def test_a_few_of_it_that_are_late_cost_nothing(kind):
    with timed(frames=5) as (_, client, now_s):
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(40):
            now_s[0] += 0.1
            closed = client.request("GET", "/api/nothing-here")
            assert client.response(closed).status == 404
            client.socket.sendall(FRAMES[kind](closed).serialize())


def test_nothing_is_read_of_what_follows_the_last_straw():
    pair = Pair()
    pair.to_gateway()
    before = pair.patience.seen
    events = pair.gateway.receive_data(PingFrame(0, b"8 octets").serialize() * 5000)
    assert [type(event) for event in events] == [TooMuch]
    assert pair.patience.seen - before <= FREE


@pytest.mark.parametrize("read", [reads_as_the_library, reads_piece_by_piece, reads_and_measures])
def test_who_reads_a_hundred_megabytes_is_let_in_peace(read):
    pair = Pair()
    stream = pair.ask()
    for _ in range(1600):
        pair.gateway.send_data(stream, bytes(65536))
        while pieces := pair.to_client():
            for piece in pieces:
                read(pair.client, stream, piece.flow_controlled_length)
            pair.to_gateway()
    assert not pair.gateway.stream_buffers


def test_who_reads_late_and_piece_by_piece_is_let_in_peace():
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**23})
    pair.client.increment_flow_control_window(2**23)
    stream = pair.ask()
    for _ in range(64):
        pair.gateway.send_data(stream, bytes(65536))
    for piece in pair.to_client():
        reads_piece_by_piece(pair.client, stream, piece.flow_controlled_length)
    pair.to_gateway()


def test_who_takes_in_a_chat_of_small_events_is_let_in_peace():
    pair = Pair()
    stream = pair.ask()
    for _ in range(20 * FREE):
        pair.gateway.send_data(stream, b"x" * 20)
        for piece in pair.to_client():
            reads_piece_by_piece(pair.client, stream, piece.flow_controlled_length)
            pair.client.ping(b"8 octets")
        pair.to_gateway()


def test_who_gave_an_answer_up_may_say_so_for_each_of_its_frames_under_way():
    pair = Pair()
    stream = pair.ask()
    pair.to_client()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**23})
    pair.client.increment_flow_control_window(2**23)
    pair.to_gateway()
    pair.client.reset_stream(stream)
    for _ in range(128):
        pair.gateway.send_data(stream, bytes(65536))
    pair.to_client()
    pair.to_gateway()


def test_who_opens_a_window_with_each_request_is_let_in_peace():
    with timed(frames=5) as (_, client, __):
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(FREE):
            stream = client.request("GET", "/api/nothing-here")
            client.open_window(stream, 2**16)
            assert client.response(stream).status == 404


def test_who_gives_up_every_second_request_is_let_in_peace():
    with timed(frames=10) as (_, client, now_s):
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(FREE):
            now_s[0] += 0.1
            client.reset(client.request("GET", "/api/free"))
            assert client.response(client.request("GET", "/api/free")).status == 200


def test_who_opens_a_window_by_one_byte_at_a_time_is_no_reader():
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    stream = pair.ask()
    pair.gateway.send_data(stream, bytes(100_000))
    frame = WindowUpdateFrame(stream, window_increment=1).serialize()
    taken = 0
    while taken < 5000 and pair.gateway.receive_data(frame) == []:
        taken += bool(pair.gateway.data_to_send())
    assert 100 < taken < 3 * FREE


def test_a_window_opened_too_wide_costs_as_much_as_a_reset():
    with timed(frames=20) as (_, client, __):
        client.socket.settimeout(10)
        window(client, 2**31 - 1)
        with contextlib.suppress(OSError):
            for _ in range(40):
                stream = client.request("GET", "/api/free")
                client.socket.sendall(WindowUpdateFrame(stream, window_increment=1).serialize())
        drained(client)
        assert client.goaway in {h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None}
        assert client.closed
