"""Fact 9: what the pinned mitmproxy makes of an upstream that fails or is slow, and of a stop."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from mitmproxy.proxy import server as stock_server

from mpp_gateway.addons.runtime import Runtime
from tests.support.client import RawClient
from tests.support.process import free_port, process
from tests.support.proxy import Proxy
from tests.support.scene import eventually
from tests.support.stock import GET, Lazy, refuse, stock
from tests.support.upstream import OK, answering, upstream

YEAR_S = 365 * 24 * 3600
TCP_TIMEOUT_S = 600
"""mitmproxy's default of `tcp_timeout`, its only deadline."""
TURNS = 20


def test_fact_9_error_cannot_replace_the_page_that_names_the_upstream():
    class Replaces(Lazy):
        def error(self, flow):
            refuse(flow)

    addon = Replaces()
    proxy = Proxy(Runtime(), [addon], "reverse:http://127.0.0.1:1")
    proxy.start()
    try:
        with RawClient(proxy.port) as client:
            client.send(GET)
            status, fields, body = client.response()
            assert (status, b"127.0.0.1" in body) == (502, True)
            assert "mitmproxy" in fields["server"]
    finally:
        proxy.stop()


def test_fact_9_a_stale_connection_gives_502():
    async def respond(seen, _, writer):
        if seen.target == "/stale":
            return False
        writer.write(OK)
        await writer.drain()
        return True

    with stock(Lazy(), respond) as (proxy, server), RawClient(proxy.port) as client:
        client.send(GET)
        assert client.response()[0] == 200
        client.send(GET.replace(b"/x", b"/stale"))
        assert client.response()[0] == 502
        assert server.heads == 2


def test_fact_9_trailers_hang():
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"
    with stock(Lazy(), answering(raw, keep=True)) as (proxy, _), RawClient(proxy.port) as client:
        client.send(GET)
        assert eventually(lambda: any("has crashed" in line for line in proxy.log))
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)


class Loop:
    """The clock of a proxy's event loop and of its watchdogs, for a test to put forward."""

    def __init__(self, proxy, monkeypatch):
        self.proxy = proxy
        self.ahead_s = 0
        self.time = proxy.loop.time
        proxy.call(lambda: setattr(proxy.loop, "time", lambda: self.time() + self.ahead_s))
        watch = SimpleNamespace(time=lambda: time.time() + self.ahead_s)
        monkeypatch.setattr(stock_server, "time", watch)

    def forward(self, seconds):
        """Let `seconds` pass and every timer that was due in them go off."""
        canary = asyncio.Event()

        async def pass_time():
            self.proxy.loop.call_later(seconds - 1, canary.set)
            self.ahead_s += seconds
            await canary.wait()
            for _ in range(TURNS):  # for what the timers woke, and what that wakes
                await asyncio.sleep(0)

        self.proxy.call(pass_time)


class Silent:
    """An upstream that stops at one point of its answer until it is told to go on."""

    def __init__(self, after):
        self.raw, self.after = OK, after
        self.go = None
        self.asked = False

    async def __call__(self, _, __, writer):
        self.go = asyncio.Event()
        writer.write(self.raw[: self.after])
        await writer.drain()
        self.asked = True
        await self.go.wait()
        writer.write(self.raw[self.after :])
        await writer.drain()
        return True


@pytest.mark.parametrize("after", [0, 9, len(OK) - 1], ids=["head", "half a head", "body"])
def test_fact_9_an_upstream_that_is_silent_for_a_year_is_waited_for(after, monkeypatch):
    silent = Silent(after)
    # Without the deadline for a client that does nothing, there is none.
    with (
        stock(Lazy(), silent, tcp_timeout=10 * YEAR_S) as (proxy, server),
        RawClient(proxy.port) as client,
    ):
        loop = Loop(proxy, monkeypatch)
        client.send(GET)
        assert eventually(lambda: silent.asked)
        loop.forward(YEAR_S)
        server._loop.call_soon_threadsafe(silent.go.set)
        assert client.response()[::2] == (200, b'{"ok":true}')
        assert server.connections == 1


def test_fact_9_an_upstream_that_takes_no_connection_is_waited_for(monkeypatch):
    opened, go = [], asyncio.Event()
    connect = asyncio.open_connection

    async def unanswered(*address, **more):
        opened.append(address)
        await go.wait()
        return await connect(*address, **more)

    with (
        stock(Lazy(), tcp_timeout=10 * YEAR_S) as (proxy, _),
        RawClient(proxy.port) as client,
    ):
        monkeypatch.setattr(asyncio, "open_connection", unanswered)
        loop = Loop(proxy, monkeypatch)
        client.send(GET)
        assert eventually(lambda: bool(opened))
        loop.forward(YEAR_S)
        proxy.call(go.set)
        assert client.response()[0] == 200


def test_fact_9_the_only_deadline_closes_the_clients_connection_without_a_word(monkeypatch):
    ran = []

    class Listens(Lazy):
        def response(self, flow):
            ran.append("response")

        def error(self, flow):
            ran.append(flow.error.msg)

    silent = Silent(0)
    with stock(Listens(), silent) as (proxy, _), RawClient(proxy.port) as client:
        assert proxy.master.options.tcp_timeout == TCP_TIMEOUT_S
        loop = Loop(proxy, monkeypatch)
        client.send(GET)
        assert eventually(lambda: silent.asked)
        loop.forward(TCP_TIMEOUT_S - 10)
        assert ran == []
        loop.forward(20)
        assert client.rest() == b""
        assert eventually(lambda: ran == ["Client disconnected."])


def test_fact_9_a_stop_cuts_the_request_that_is_under_way():
    silent = Silent(0)
    with upstream(silent) as server:
        port = free_port()
        mode = ("--mode", f"reverse:{server.url}", "--listen-host", "127.0.0.1", "-p", str(port))
        with process("mitmdump", *mode) as mitmdump:
            mitmdump.wait_for_port(port)
            with RawClient(port) as client:
                client.send(GET)
                assert eventually(lambda: silent.asked)
                assert mitmdump.stop() == 0
                assert client.rest() == b""
