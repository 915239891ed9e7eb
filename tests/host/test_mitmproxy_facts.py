"""What the design rests on, as the pinned mitmproxy does it. A failure here means: design anew."""

import asyncio
import os
import re
import tracemalloc
from collections import Counter

import pytest
from mitmproxy import addonmanager, ctx, exceptions, http
from mitmproxy.addons import script
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import http as stock_http

from tests.support.client import RawClient, get
from tests.support.process import free_port, process
from tests.support.scene import eventually
from tests.support.stock import GET, REFUSAL, Lazy, refuse, stock
from tests.support.upstream import OK, answering

SETTINGS = """\
from mitmproxy import ctx


def load(loader):
    ctx.options.update(connection_strategy="lazy", block_global=False, rawtcp=False)


def running():
    print(ctx.options.connection_strategy, ctx.options.block_global, ctx.options.rawtcp, flush=True)
"""
REFUSES = """\
from mitmproxy import http


def request(flow):
    flow.response = http.Response.make(402)
"""


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


def test_fact_1_a_script_that_breaks_at_its_reload_leaves_no_gate(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ReloadInterval", 0.01)
    path = tmp_path / "gate.py"
    path.write_text(REFUSES)
    with stock(Lazy(), scripts=[str(path)]) as (proxy, server):
        assert eventually(lambda: get(proxy.port, "/x")[0] == 402)
        assert server.heads == 0
        path.write_text("not Python at all")
        os.utime(path, (2**31, 2**31))
        assert eventually(lambda: get(proxy.port, "/x")[0] == 200)
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


def test_fact_2_what_load_sets_beats_what_the_user_set(tmp_path):
    path, port = tmp_path / "settings.py", free_port()
    path.write_text(SETTINGS)
    users = ("connection_strategy=eager", "block_global=true", "rawtcp=true")
    asked = [word for option in users for word in ("--set", option)]
    with process("mitmdump", "-p", str(port), *asked, "-s", str(path)) as mitmdump:
        mitmdump.wait_for_text("lazy False False")


def test_fact_2_a_threshold_for_streaming_makes_an_early_refusal_hang():
    class Refuser(Lazy):
        def requestheaders(self, flow):
            refuse(flow)

    with (
        stock(Refuser(), stream_large_bodies="1") as (proxy, _),
        RawClient(proxy.port, timeout_s=0.2) as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\nhello")
        assert eventually(lambda: any("has crashed" in line for line in proxy.log))
        with pytest.raises(TimeoutError):
            client.socket.recv(1)


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


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_fact_5_a_response_set_in_responseheaders_is_followed_by_the_upstreams_body(tls, tmp_path):
    class Refuser(Lazy):
        def responseheaders(self, flow):
            refuse(flow)

    with (
        stock(Refuser(), tls=tmp_path if tls else None) as (proxy, _),
        RawClient(proxy.port) as client,
    ):
        client.send(GET)
        status, fields, _ = client.head()
        assert (status, fields["content-length"]) == (402, str(len(REFUSAL)))
        # Our head, their body: the caller who was refused has it all the same.
        assert client.exactly(11) == b'{"ok":true}'


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_fact_5_the_tail_of_such_a_refusal_breaks_the_next_answer(tls, tmp_path):
    class Refuser(Lazy):
        def responseheaders(self, flow):
            flow.response = http.Response.make(402, b"")

    with (
        stock(Refuser(), tls=tmp_path if tls else None) as (proxy, _),
        RawClient(proxy.port) as client,
    ):
        client.send(GET)
        assert client.response()[::2] == (402, b"")
        client.send(GET)
        assert client.head()[2].startswith(b'{"ok":true}HTTP/1.1 402 ')


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_fact_5_the_upstreams_body_piles_up_while_responseheaders_waits(tls, tmp_path):
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
    with (
        stock(slow, respond, tls=tmp_path if tls else None) as (proxy, _),
        RawClient(proxy.port) as client,
    ):
        tracemalloc.start()
        try:
            client.send(GET)
            assert eventually(lambda: written == [size])
            assert eventually(lambda: tracemalloc.get_traced_memory()[0] > size * 3 // 4)
        finally:
            tracemalloc.stop()
        proxy.call(slow.go.set)
        assert client.head()[0] == 200


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_fact_5_a_streamed_tail_is_whole_when_the_upstream_closes_at_once(tls, tmp_path):
    """Reported of an older mitmproxy, over TLS: the last bytes were lost."""
    size = 4 * 1024 * 1024

    class Streams(Lazy):
        def responseheaders(self, flow):
            flow.response.stream = True

    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    with stock(Streams(), answering(raw), tls=tmp_path if tls else None) as (proxy, _):
        for _ in range(3):
            assert len(get(proxy.port, "/x")[2]) == size


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


def raises(data):
    raise RuntimeError


class Promise:
    """What a coroutine function returns, without the warning that nobody awaited it."""

    def __await__(self):
        yield


def promises(data):
    return Promise()


@pytest.mark.parametrize("broken", [raises, promises])
def test_fact_8_a_stream_callable_that_raises_or_waits_runs_neither_response_nor_error(broken):
    ran = []

    class Streams(Lazy):
        def responseheaders(self, flow):
            flow.response.stream = broken

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


def test_fact_10_a_copy_of_a_flow_carries_its_metadata():
    from mitmproxy.test import tflow

    flow = tflow.tflow()
    flow.metadata["verdict"] = "paid"
    assert flow.copy().metadata == {"verdict": "paid"}
    assert http.HTTPFlow.from_state(flow.get_state()).metadata == {"verdict": "paid"}


def test_fact_11_every_event_of_a_request_asks_every_one_of_thirty_addons(monkeypatch):
    asked = []
    iterate = addonmanager.AddonManager._iter_hooks

    def counted(self, addon, event):
        asked.append(event.name)
        return iterate(self, addon, event)

    with stock(Lazy()) as (proxy, _), RawClient(proxy.port) as client:
        addons = len(proxy.master.addons.chain)
        client.send(GET)
        assert client.response()[0] == 200
        monkeypatch.setattr(addonmanager.AddonManager, "_iter_hooks", counted)
        client.send(GET)
        assert client.response()[0] == 200
        seen = Counter(asked)
    hooks = ("requestheaders", "request", "responseheaders", "response")
    # After each of the four there is an `update`, for the views of mitmweb and the console.
    assert seen == {**dict.fromkeys(hooks, addons), "update": 4 * addons}
    assert addons >= 28


def test_fact_11_a_layer_of_our_own_answers_without_asking_any_addon(monkeypatch):
    class Constant(layer.Layer):
        def _handle_event(self, event):
            if isinstance(event, events.DataReceived):
                yield commands.SendData(self.context.client, OK)

    class Installs(Lazy):
        asked = 0

        def next_layer(self, data):
            data.layer = Constant(data.context)

        def requestheaders(self, flow):
            self.asked += 1

    addon = Installs()
    with stock(addon) as (proxy, server), RawClient(proxy.port) as client:
        for _ in range(3):
            client.send(GET)
            assert client.response()[0] == 200
    assert (addon.asked, server.connections) == (0, 0)
