"""The private parts of mitmproxy and of h2 that we rely on are still there."""

import asyncio
import inspect
from collections import defaultdict, deque

import h11._receivebuffer
import pytest
from mitmproxy import connection, options, version
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands, context, events, layer, server
from mitmproxy.proxy.layers import http as stock
from mitmproxy.proxy.layers import tls
from mitmproxy.proxy.layers.http import _http1, _http2, _http_h2
from mitmproxy.test import taddons, tflow

from mpp_gateway.addons.host import Host
from mpp_gateway.engine import backpressure
from tests.support.client import RawClient
from tests.support.scene import eventually, scene


@pytest.fixture
def around():
    with taddons.context(Proxyserver()) as tctx:
        found = context.Context(tflow.tclient_conn(), tctx.options)
        found.server = connection.Server(address=("127.0.0.1", 1))
        yield found


def test_the_version_is_one_that_this_was_written_for():
    assert version.VERSION.startswith("12.2.")


def test_the_handler_of_a_client_is_found_and_is_what_we_take_it_for():
    with scene() as play, RawClient(play.port) as client:
        client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
        assert client.response()[0] == 200
        handlers = play.proxy.master.addons.get("proxyserver").connections
        ((identity, handler),) = handlers.items()
        assert identity == handler.client.id
        assert Host._handler.__name__ == "_handler"
        assert isinstance(handler.max_conns, defaultdict)
        assert handler.max_conns["anywhere"]._value > 5
        assert len(handler.transports) == 2, "the client's and the upstream's"
        for peer, transport in handler.transports.items():
            assert isinstance(transport.reader, backpressure.GatedReader)
            assert backpressure.reader_of(peer) is transport.reader
            is_client = peer is handler.client
            kind = backpressure.CountingWriter if is_client else backpressure.PatientWriter
            assert isinstance(transport.writer, kind)
            assert isinstance(transport.writer._writer, asyncio.StreamWriter)


def test_a_close_that_meets_bytes_on_their_way_in_is_a_close_all_the_same():
    """mitmproxy's reader is cancelled where it does not look: it leaves the socket open."""
    with scene() as play, RawClient(play.port) as client:
        client.send(b"POST /api/digest HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nx")
        places = play.proxy.runtime.engine._unpaid_bodies
        assert eventually(lambda: places.total() == 1)
        ((_, handler),) = play.proxy.master.addons.get("proxyserver").connections.items()
        play.proxy.call(handler._server_event_lock.acquire)
        client.send(b"y")
        assert eventually(lambda: bool(handler._server_event_lock._waiters))

        def close() -> None:
            handler.close_connection(handler.client)
            handler._server_event_lock.release()

        play.proxy.call(close)
        assert client.is_closed()
        assert eventually(lambda: play.clients == 0 and not places)
        assert play.complaints == []


def test_the_reader_is_taken_from_the_transport_once_and_after_the_hook():
    source = inspect.getsource(server.ConnectionHandler.handle_connection)
    assert source.count(".reader") == 1
    assert "await reader.read(65535)" in source
    opening = inspect.getsource(server.ConnectionHandler.open_connection)
    assert opening.index("ServerConnectedHook") < opening.index("self.handle_connection(")
    assert opening.index("ServerConnectHook(") < opening.index("asyncio.open_connection(")
    assert "if err := command.connection.error" in opening


def test_one_lock_is_held_while_any_socket_of_a_client_drains():
    """Hence a writer of ours, which is looked up anew for each use."""
    draining = inspect.getsource(server.ConnectionHandler.drain_writers)
    assert "async with self._drain_lock" in draining
    assert "await transport.writer.drain()" in draining
    sending = inspect.getsource(server.ConnectionHandler.server_event)
    assert "writer = self.transports[command.connection].writer" in sending


def test_a_layer_that_waits_shows_it(around):
    child = layer.NextLayer(around)
    assert child._paused is None
    assert isinstance(child._paused_event_queue, deque)
    list(child.handle_event(events.Start()))
    assert child._paused is None
    asked = list(child.handle_event(events.DataReceived(around.client, b"x")))
    assert child._paused.command is asked[0]
    list(child.handle_event(events.DataReceived(around.client, b"y")))
    assert [event.data for event in child._paused_event_queue] == [b"y"]


def test_the_http_layer_keeps_its_books_where_we_read_them(around):
    http_layer = stock.HttpLayer(around, stock.HTTPMode.transparent)
    assert http_layer.connections == {}
    assert http_layer.streams == {}
    assert http_layer.command_sources == {}
    assert isinstance(http_layer.waiting_for_establishment, defaultdict)
    for name in ("get_connection", "make_stream", "event_to_child", "register_connection"):
        assert callable(getattr(http_layer, name))
    assert issubclass(events.Wakeup, events.CommandCompleted)
    assert {"delay"} <= set(inspect.signature(commands.RequestWakeup).parameters)


def test_http1_has_the_joints_that_we_bend(around):
    for role in (_http1.Http1Server, _http1.Http1Client):
        for name in ("read_headers", "read_body", "mark_done", "send", "wait", "done"):
            assert callable(getattr(role, name))
    peer = _http1.Http1Server(around)
    assert isinstance(peer.buf, h11._receivebuffer.ReceiveBuffer)
    assert (peer.request_done, peer.response_done, peer.stream_id) == (False, False, 1)
    assert _http1.Http1Client(around).stream_id is None
    peer.buf += b"\r\n"
    assert peer.buf.maybe_extract_lines() == []


def test_http2_has_the_joints_that_we_bend(around):
    peer = _http2.Http2Server(around)
    assert isinstance(peer.h2_conn, _http_h2.BufferedH2Connection)
    assert peer.h2_conn.stream_buffers == {}
    assert peer.streams == {}
    for name in ("handle_h2_event", "is_closed"):
        assert callable(getattr(peer, name))
    assert callable(peer.h2_conn.acknowledge_received_data)


def test_a_stream_has_the_states_that_we_replace():
    for name in (
        "state_wait_for_request_headers",
        "state_consume_request_body",
        "state_stream_request_body",
        "state_wait_for_response_headers",
        "state_stream_response_body",
        "state_done",
        "state_errored",
        "handle_protocol_error",
    ):
        assert callable(getattr(stock.HttpStream, name))


def test_the_chain_of_addons_can_be_put_in_order():
    source = inspect.getsource(AddonManager)
    assert "self.chain" in source
    manager = AddonManager(type("M", (), {"options": options.Options()})())
    assert manager.chain == []
    assert manager.get("nobody") is None


def test_a_tls_layer_tells_when_its_handshake_is_over():
    assert "tunnel_state" in tls.ClientTLSLayer.__mro__[2].__annotations__ or hasattr(
        tls.ClientTLSLayer, "tunnel_state"
    )


def test_connections_are_forgotten_when_both_sides_are_gone():
    with scene() as play:
        with RawClient(play.port) as client:
            client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
            assert client.response()[0] == 200
        assert eventually(lambda: play.clients == 0)
