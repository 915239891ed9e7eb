"""Every TCP connection is ours: whatever its first bytes are, the stock layers never see it."""

import contextlib
import socket
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers import http as stock_http
from mitmproxy.proxy.layers import tcp, tls, udp

from mpp_gateway.engine.layers import GatewayLayer, GuardedClientTLSLayer
from tests.support.client import RawClient
from tests.support.h2client import H2Client, tls_context
from tests.support.scene import eventually, scene

GET = b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n"
OURS = (GatewayLayer, GuardedClientTLSLayer)
STOCK = (stock_http.HttpLayer, tcp.TCPLayer, udp.UDPLayer, tls.ClientTLSLayer)


class Spy:
    """Sees every layer that is installed, wherever from."""

    def __init__(self):
        self.installed = []

    def next_layer(self, data: layer.NextLayer) -> None:
        if data.layer is not None:
            self.installed.append(data.layer)

    def strangers(self):
        return [x for x in self.installed if isinstance(x, STOCK) and not isinstance(x, OURS)]


@pytest.fixture(scope="module")
def play():
    spy = Spy()
    from mpp_gateway.addons.build import build_addons

    with scene(addons=lambda runtime: [*build_addons(runtime), spy]) as found:
        found.spy = spy
        yield found


@pytest.fixture(autouse=True)
def nothing_slips_through(request, play):
    play.spy.installed.clear()
    yield
    assert play.spy.strangers() == []
    assert play.complaints == []


def wrapped(port, *alpn) -> RawClient:
    client = RawClient(port)
    client.socket = tls_context(*alpn).wrap_socket(client.socket, server_hostname="g")
    return client


STRANGERS = {
    "ssdp": b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
    "h2c": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "http/2 in plain text": b"GET /api/free HTTP/2.0\r\nHost: g\r\n\r\n",
    "http/0.9": b"GET /api/free\r\n\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n\r\n",
    "socks": b"\x05\x01\x00\r\n\r\n",
    "mqtt": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\r\n\r\n",
    "nul": b"\x00" * 20 + b"\r\n\r\n",
    "smtp": b"EHLO x\r\n\r\n",
    "rtsp": b"OPTIONS rtsp://x/ RTSP/1.0\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_gets_our_refusal_or_a_clean_close(play, kind):
    before = play.upstream.connections
    with RawClient(play.port) as client:
        client.send(STRANGERS[kind])
        answer = client.rest() if kind != "ssdp" else client.response()[2]
        assert b"mitmproxy" not in answer
        assert not answer or b"problem" in answer
    assert play.upstream.connections == before


@pytest.mark.parametrize("prefix", [b"\r\n", b"\n", b"\r\n" * 8, b"\n" * 8])
def test_early_line_breaks_do_not_change_who_serves(play, prefix):
    with RawClient(play.port) as client:
        client.send(prefix + GET)
        assert client.response()[0] == 200


@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
@pytest.mark.parametrize("at_once", [9, 1])
def test_empty_lines_without_a_request_end_the_connection(play, line, at_once):
    with RawClient(play.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket.settimeout(10)
        for _ in range(9 // at_once):
            client.send(line * at_once)
        assert client.response()[0] == 400
        assert client.is_closed()


def test_each_request_may_have_a_few_empty_lines_before_it(play):
    with RawClient(play.port) as client:
        for _ in range(9):
            client.send(b"\r\n" * 2 + GET)
            assert client.response()[0] == 200


@pytest.mark.parametrize("secure", [False, True])
def test_a_request_that_comes_byte_by_byte_is_ours(play, secure):
    with wrapped(play.port, "http/1.1") if secure else RawClient(play.port) as client:
        (client.socket).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET:
            client.send(bytes([byte]))
        assert client.response()[0] == 200


def test_a_client_hello_that_comes_byte_by_byte_is_ours(play):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = tls_context("http/1.1").wrap_bio(incoming, outgoing, server_hostname="g")
    with RawClient(play.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def flush():
            for byte in outgoing.read():
                client.send(bytes([byte]))

        def until_done(step):
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    flush()
                    incoming.write(client.socket.recv(65536))
                else:
                    flush()
                    return result

        until_done(inner.do_handshake)
        until_done(lambda: inner.write(GET))
        assert until_done(lambda: inner.read(65536)).startswith(b"HTTP/1.1 200")
    assert any(isinstance(x, GuardedClientTLSLayer) for x in play.spy.installed)


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2", "http/1.1"), ("spdy/3",)])
def test_tls_is_ours_whatever_protocol_it_offers(play, alpn):
    if alpn and alpn[0] == "h2":
        with H2Client(play.port) as client:
            assert client.response(client.request("GET", "/api/free")).status == 200
    else:
        with wrapped(play.port, *alpn) as client:
            client.send(GET)
            assert client.response()[0] == 200
    assert [type(x) for x in play.spy.installed if isinstance(x, OURS)][-1] is GatewayLayer


def test_tls_inside_tls_is_refused_and_not_unwrapped(play):
    with wrapped(play.port, "http/1.1") as client:
        client.send(b"\x16\x03\x01\x00\x05hello\r\n\r\n")
        assert b" 400 " in client.rest()


def test_a_broken_client_hello_is_closed(play):
    with RawClient(play.port) as client:
        client.send(b"\x16\x03\x01\x00\x05hello" + b"\xff" * 100)
        client.rest()


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_are_answered_by_us_or_closed(play, data):
    before = play.upstream.connections
    with RawClient(play.port) as client:
        client.send(data)
        with contextlib.suppress(OSError):  # the gateway may have hung up before
            client.socket.shutdown(socket.SHUT_WR)
        try:
            answer = client.rest()
        except ConnectionResetError:
            answer = b""
        assert b"mitmproxy" not in answer
    assert play.upstream.connections == before
    assert play.spy.strangers() == []


def test_connections_are_forgotten_when_their_clients_leave(play):
    assert eventually(lambda: play.clients == 0)
