"""What the design rests on, as the pinned mitmproxy does it. A failure here means: design anew."""

import asyncio
import contextlib
import re
from contextlib import contextmanager

import pytest
from mitmproxy import ctx, exceptions, http, options
from mitmproxy.proxy.layers import http as stock_http
from mitmproxy.tools.dump import DumpMaster

from mpp_gateway.addons.runtime import Runtime
from tests.support.client import RawClient
from tests.support.proxy import Proxy
from tests.support.scene import eventually
from tests.support.upstream import OK, answering, upstream

GET = b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n"
REFUSAL = b"refused by the addon"


class Lazy:
    """An addon of the test; `load` makes the stock proxy comparable to ours."""

    def load(self, loader):
        ctx.options.update(connection_strategy="lazy")


@contextmanager
def stock(addon, respond=OK, **more):
    """Run mitmproxy as it comes, in front of an upstream, with one addon of the test."""
    with upstream(respond, **more) as server:
        proxy = Proxy(Runtime(), [addon], f"reverse:{server.url}")
        proxy.start()
        try:
            yield proxy, server
        finally:
            proxy.stop()


def refuse(flow):
    flow.response = http.Response.make(402, REFUSAL)


@pytest.mark.parametrize("error", [RuntimeError, exceptions.AddonHalt])
@pytest.mark.parametrize("hook", ["requestheaders", "request"])
def test_fact_1_an_addon_that_raises_lets_the_request_through(error, hook):
    class Broken(Lazy):
        pass

    def broken(self, flow):
        raise error

    setattr(Broken, hook, broken)
    with stock(Broken()) as (proxy, server), RawClient(proxy.port) as client:
        client.send(GET)
        assert client.response()[0] == 200
        assert server.heads == 1


def test_fact_2_the_defaults_dial_early_and_tunnel_and_an_addon_can_change_them():
    seen = {}

    class Setter(Lazy):
        def load(self, loader):
            names = ("connection_strategy", "block_global", "rawtcp", "stream_large_bodies")
            seen.update({name: getattr(ctx.options, name) for name in names})
            ctx.options.update(connection_strategy="lazy", block_global=False, rawtcp=False)

    with stock(Setter()) as (proxy, _):
        assert seen == {
            "connection_strategy": "eager",
            "block_global": True,
            "rawtcp": True,
            "stream_large_bodies": None,
        }
        assert proxy.master.options.connection_strategy == "lazy"
        assert not proxy.master.options.rawtcp


def test_fact_3_the_mode_can_be_changed_only_when_the_sockets_listen_already():
    nowhere = "reverse:http://127.0.0.1:1"

    class Early(Lazy):
        def running(self):
            # First in the chain: the proxy server has not heard yet that everything runs.
            (self.first,) = ctx.master.addons.get("proxyserver").servers
            self.was_listening = self.first.is_running
            ctx.options.update(mode=[nowhere])

    addon = Early()
    with stock(addon) as (proxy, server):
        servers = proxy.master.addons.get("proxyserver").servers

        def led_to():
            return [s.mode.address for s in servers if s.is_running]

        assert addon.was_listening
        assert led_to() == [("127.0.0.1", server.port)], "too early, and in vain"
        proxy.call(lambda: proxy.master.options.update(mode=[f"{nowhere}@0"]))
        assert eventually(lambda: led_to() == [("127.0.0.1", 1)])


def test_fact_4_an_early_refusal_waits_for_the_body_and_says_continue():
    class Refuser(Lazy):
        def requestheaders(self, flow):
            refuse(flow)

    with stock(Refuser()) as (proxy, _), RawClient(proxy.port) as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.head()[0] == 100
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        client.send(b"hello")
        assert client.response()[0] == 402


def test_fact_5_a_response_set_in_responseheaders_is_followed_by_the_upstreams_body():
    class Refuser(Lazy):
        def responseheaders(self, flow):
            flow.response = http.Response.make(402, b"")

    with stock(Refuser()) as (proxy, _), RawClient(proxy.port) as client:
        client.send(GET)
        assert client.head()[0] == 402
        assert client.exactly(11) == b'{"ok":true}'


def test_fact_5_the_upstreams_body_piles_up_while_responseheaders_waits():
    written = []
    size = 32 * 1024 * 1024

    class Slow(Lazy):
        def __init__(self):
            self.go = asyncio.Event()

        async def responseheaders(self, flow):
            await self.go.wait()

    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
        written.append(size)
        return True

    slow = Slow()
    with stock(slow, respond) as (proxy, _), RawClient(proxy.port) as client:
        client.send(GET)
        assert eventually(lambda: written == [size])
        proxy.call(slow.go.set)
        assert client.head()[0] == 200


def test_fact_6_a_103_is_taken_for_the_final_answer():
    respond = answering(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, keep=True)
    with stock(Lazy(), respond) as (proxy, _), RawClient(proxy.port) as client:
        client.send(GET)
        assert client.head()[0] == 103
        client.socket.settimeout(0.2)
        with pytest.raises((TimeoutError, EOFError)):
            client.head()


def test_fact_6_a_101_opens_a_tunnel_past_every_hook():
    async def respond(_, reader, writer):
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        )
        await writer.drain()
        writer.write(b"echo:" + await reader.readexactly(5))
        await writer.drain()
        await reader.read()

    with stock(Lazy(), respond) as (proxy, _), RawClient(proxy.port) as client:
        client.send(GET)
        assert client.head()[0] == 101
        client.send(b"hello")
        assert client.exactly(10) == b"echo:hello"


@pytest.mark.parametrize("first", [b"M-SEARCH * HTTP/1.1\r\n", b"\r\n" + GET, b"\x16\x03\x01\x02"])
def test_fact_7_a_test_of_three_letters_sends_others_to_the_stock_layers(first):
    stock_layers = []

    class Claims(Lazy):
        def next_layer(self, data):
            client_bytes = data.data_client()
            if client_bytes and re.match(rb"[A-Z]{3}", client_bytes):
                data.layer = stock_http.HttpLayer(data.context, stock_http.HTTPMode.transparent)
            elif client_bytes:
                stock_layers.append(client_bytes)

    with stock(Claims()) as (proxy, _), RawClient(proxy.port) as client:
        client.send(first)
        assert eventually(lambda: bool(stock_layers))


def test_fact_8_a_stream_callable_that_raises_runs_neither_response_nor_error():
    ran = []

    class Streams(Lazy):
        def responseheaders(self, flow):
            flow.response.stream = self.broken

        def broken(self, data):
            raise RuntimeError

        def response(self, flow):
            ran.append("response")

        def error(self, flow):
            ran.append("error")

    with stock(Streams()) as (proxy, _), RawClient(proxy.port) as client:
        client.send(GET)
        assert client.head()[0] == 200
        assert eventually(lambda: any("has crashed" in line for line in proxy.log))
        assert ran == []


def test_fact_8_only_error_runs_when_the_client_leaves_while_a_hook_waits():
    ran = []

    class Slow(Lazy):
        def __init__(self):
            self.go = asyncio.Event()

        async def request(self, flow):
            ran.append("request")
            await self.go.wait()

        def response(self, flow):
            ran.append("response")

        def error(self, flow):
            ran.append("error")

    slow = Slow()
    with stock(slow) as (proxy, server):
        with RawClient(proxy.port) as client:
            client.send(GET)
            assert eventually(lambda: ran == ["request"])
        connections = proxy.master.addons.get("proxyserver").connections
        assert eventually(lambda: not connections)
        proxy.call(slow.go.set)
        assert eventually(lambda: ran == ["request", "error"])
        assert server.heads == 0


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


def test_fact_10_a_copy_of_a_flow_carries_its_metadata():
    from mitmproxy.test import tflow

    flow = tflow.tflow()
    flow.metadata["verdict"] = "paid"
    assert flow.copy().metadata == {"verdict": "paid"}
    assert http.HTTPFlow.from_state(flow.get_state()).metadata == {"verdict": "paid"}


def test_fact_11_a_stock_master_runs_every_event_past_thirty_addons():
    async def count():
        master = DumpMaster(options.Options(), with_termlog=False, with_dumper=False)
        with contextlib.suppress(AttributeError):
            return len(master.addons.chain)

    assert asyncio.run(count()) >= 28
