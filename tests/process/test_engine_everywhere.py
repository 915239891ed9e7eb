"""What the engine promises holds in each of the three commands that users start.

The engine's own tests run it in a proxy of their making. Here each command runs twice, as a
process: in clear text for HTTP/1.1, and with the file's certificate for h2.
"""

import asyncio
import hashlib
import json
import os
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import self_signed
from tests.support.client import RawClient, get
from tests.support.h2client import H2Client
from tests.support.process import START_S, Process, free_port, process
from tests.support.proxy import config_text
from tests.support.scene import (
    UPSTREAM_SECRET,
    VERSIONS,
    Reply,
    call,
    eventually,
    is_free_of_marks,
    marked,
    services,
)
from tests.support.toy_rail import TOY_METHOD
from tests.support.upstream import Upstream, upstream

TOOLS = ("mitmdump", "mitmweb", "serve")
UPLOAD_BYTES = 100 * 1024 * 1024
HEAD_BYTES = 16_384
BODY_BYTES = 100_000
KEPT_BYTES = 65_536
FREE_BYTES = 8 * 1024 * 1024
GET_FREE = b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n"
LIMITS = f"limits: {{head_bytes: {HEAD_BYTES}, request_body_bytes: {BODY_BYTES}}}"
ROUTES = """      "GET /free": free
      "POST /free": free
      "POST /paid": {charge: "0.01"}
      "POST /bound": {charge: "0.01", digest: true}
      "GET /fault/*": {free: true, timeouts: {first_byte_s: 0.5}}
      "GET /events": free
      "GET /go": free"""
GONE = '  gone:\n    base_url: http://127.0.0.1:%d\n    routes: {"GET /free": free}'

FAULTS = {
    "101": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nmarked-upstream-body",
        (502, "upstream-switched-protocols"),
    ),
    "garbage": (b"SSH-2.0-marked-upstream-body\r\n\r\n", (502, "upstream-malformed")),
    "silence": (b"", (504, "upstream-timed-out")),
}
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + marked()
EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EVENTS = 3


class Goods:
    """What the upstream answers, by the path; each event waits for a request that lets it go."""

    def __init__(self) -> None:
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))

    async def __call__(self, seen, _, writer) -> bool:
        path, _, query = seen.target.partition("?")
        place = path.rpartition("/")[2]
        if place == "events":
            await self._tell_events(query, writer)
        elif place == "go":
            self._turns[query].release()
            writer.write(marked())
        elif place == "early-hints":
            writer.write(EARLY_HINTS)
        elif place in FAULTS:
            writer.write(FAULTS[place][0])
            if place == "silence":
                await asyncio.Event().wait()
            await writer.drain()
            return False
        else:
            writer.write(marked(digest_of(seen.body)))
        await writer.drain()
        return True

    async def _tell_events(self, name, writer) -> None:
        writer.write(EVENTS_HEAD)
        for number in range(EVENTS):
            await self._turns[name].acquire()
            event = event_of(number)
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def event_of(number: int) -> bytes:
    return b"data: %d\n\n" % number


def digest_of(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@dataclass
class Gateway:
    """One command: its port in clear text, its port with TLS, and what is behind them."""

    plain_port: int
    tls_port: int
    upstream: Upstream
    gone_port: int
    certificate: Path

    def port(self, version: str) -> int:
        return self.tls_port if version == "h2" else self.plain_port

    def call(self, version: str, method: str, target: str, **more) -> Reply:
        return call(version, self.port(version), method, target, **more)


def command(tool: str, config: Path, port: int) -> tuple[str, ...]:
    if tool == "serve":
        return ("mpp-gateway", "serve", "--config", str(config))
    # Without a port mitmproxy opens its own, 8080, before the gateway has its say: one at a time.
    place = ("--listen-host", "127.0.0.1", "--listen-port", str(port))
    script = (tool, "-s", "addons/gateway.py", "--set", f"gateway_config={config}", *place)
    web = ("--web-port", str(free_port()), "--no-web-open-browser")
    return (*script, *web) if tool == "mitmweb" else script


@contextmanager
def nobody() -> Iterator[int]:
    """A port on which nothing listens, and which nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory) -> Iterator[dict[str, Gateway]]:
    """All commands, started together; none may have crashed or told the secret at the end."""
    folder = tmp_path_factory.mktemp("everywhere")
    _, certificate = self_signed(folder)
    tls = f"tls: {{cert: {certificate}, key: {folder / 'upstream.key'}}}"
    started: list[tuple[Process, int]] = []
    found: dict[str, Gateway] = {}
    with ExitStack() as stack:
        api = stack.enter_context(upstream(Goods()))
        gone = stack.enter_context(nobody())
        for tool in TOOLS:
            ports = (free_port(), free_port())
            for port, security in zip(ports, ("", tls), strict=True):
                config = folder / f"{tool}-{port}.yaml"
                more = "\n".join((f"listen: 127.0.0.1:{port}", LIMITS, security))
                sold = f"{services(api.url, ROUTES)}\n{GONE % gone}"
                store = config.with_suffix(".db")
                config.write_text(config_text(sold, TOY_METHOD, store=store, more=more))
                run = stack.enter_context(process(*command(tool, config, port)))
                started.append((run, port))
            found[tool] = Gateway(*ports, api, gone, certificate)
        for run, port in started:
            run.wait_for_port(port)
            assert eventually(
                lambda run=run: "is open" in run.output() or "serving on" in run.output(), START_S
            )
        yield found
        for run, _ in started:
            assert run.popen.poll() is None, run.output()
            run.popen.terminate()
        for run, _ in started:
            run.popen.wait(START_S)
            for mark in ("Traceback", "has crashed", UPSTREAM_SECRET):
                assert mark not in run.output()


@pytest.fixture(params=TOOLS)
def gateway(request, gateways) -> Gateway:
    return gateways[request.param]


def slug(body: bytes) -> str:
    return json.loads(body)["type"].replace("/", ":").rpartition(":")[2]


def assert_is_ours(reply: Reply, gateway: Gateway) -> None:
    """Our problem document, with nothing in it of an upstream, its address or of mitmproxy."""
    assert reply.fields["content-type"] == "application/problem+json"
    assert is_free_of_marks(reply)
    everything = reply.everything.lower()
    ports = (str(gateway.upstream.port), str(gateway.gone_port))
    for leak in ("mitmproxy", "127.0.0.1", "localhost", "errno", "html", *ports):
        assert leak.encode() not in everything, leak


# --- what comes from the client ------------------------------------------------------------------


def test_h2_is_spoken_under_the_files_certificate(gateway):
    with H2Client(gateway.tls_port) as client:
        shown = client.socket.getpeercert(binary_form=True)
    assert ssl.DER_cert_to_PEM_cert(shown) == gateway.certificate.read_text()


def test_a_call_is_asked_to_pay_before_its_upload_and_never_told_to_continue(gateway):
    fields = f"Expect: 100-continue\r\nContent-Length: {UPLOAD_BYTES}"
    with RawClient(gateway.plain_port) as client:
        client.send(f"POST /api/paid HTTP/1.1\r\nHost: g\r\n{fields}\r\n\r\n".encode())
        status, fields, _ = client.response()
        assert (status, fields["connection"]) == (402, "close")
        assert fields["www-authenticate"].startswith("Payment ")


def test_an_h2_call_is_asked_to_pay_before_its_upload(gateway):
    with H2Client(gateway.tls_port) as client:
        fields = [("content-length", str(UPLOAD_BYTES)), ("expect", "100-continue")]
        stream = client.response(client.request("POST", "/api/paid", fields, end=False))
        assert (stream.status, stream.interim) == (402, [])
        assert client.response(client.request("GET", "/api/free")).status == 200


def test_a_refused_small_body_keeps_the_connection(gateway):
    with RawClient(gateway.plain_port) as client:
        head = f"POST /api/paid HTTP/1.1\r\nHost: g\r\nContent-Length: {KEPT_BYTES}\r\n\r\n"
        client.send(head.encode() + b"x" * KEPT_BYTES + GET_FREE)
        assert [client.response()[0], client.response()[0]] == [402, 200]


def test_a_refused_body_keeps_an_h2_connection(gateway):
    with H2Client(gateway.tls_port) as client:
        fields = [("content-length", str(KEPT_BYTES))]
        refused = client.request("POST", "/api/paid", fields, end=False)
        client.upload(refused, b"x" * KEPT_BYTES)
        assert client.response(refused).status == 402
        assert client.response(client.request("GET", "/api/free")).status == 200


def test_a_head_over_the_cap_is_refused(gateway):
    assert get(gateway.plain_port, "/api/free", f"X: {'a' * (HEAD_BYTES - 1000)}")[0] == 200
    status, _, body = get(gateway.plain_port, "/api/free", f"X: {'a' * HEAD_BYTES}")
    assert (status, slug(body)) == (431, "head-too-large")


def test_a_head_over_the_cap_ends_an_h2_connection(gateway):
    with H2Client(gateway.tls_port) as client:
        fields = [(f"x-{number}", "a" * 1000) for number in range(20)]
        stream = client.response(client.request("GET", "/api/free", fields))
        assert client.closed
        assert client.goaway is not None
        assert stream.status == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bound_body_over_the_limit_is_refused_and_one_within_it_is_bound(gateway, version):
    over = gateway.call(version, "POST", "/api/bound", body=b"x" * (BODY_BYTES + 1))
    assert (over.status, slug(over.body)) == (413, "content-too-large")
    within = gateway.call(version, "POST", "/api/bound", body=b"x" * BODY_BYTES)
    assert within.status == 402
    assert "digest=" in within.fields["www-authenticate"]


STRANGERS = {
    "M-SEARCH": b"M-SEARCH * HTTP/1.1\r\nHost: 239.255.255.250:1900\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
    "h2c": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "nul": b"\x00" * 20 + b"\r\n\r\n",
    "CONNECT": b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_answered_by_us(gateway, kind):
    before = gateway.upstream.connections
    with RawClient(gateway.plain_port) as client:
        client.send(STRANGERS[kind])
        reply = Reply(*client.response())
    assert 400 <= reply.status < 500
    assert_is_ours(reply, gateway)
    assert gateway.upstream.connections == before


def test_line_breaks_without_end_are_ours_to_refuse(gateway):
    with RawClient(gateway.plain_port) as client:
        client.send(b"\r\n" * 1000 + GET_FREE)
        reply = Reply(*client.response())
    assert reply.status == 400
    assert_is_ours(reply, gateway)


@pytest.mark.parametrize("prefix", [b"\r\n", b"\r\n" * 8])
def test_early_line_breaks_do_not_change_who_serves(gateway, prefix):
    with RawClient(gateway.plain_port) as client:
        client.send(prefix + GET_FREE)
        assert client.response()[0] == 200
        client.send(GET_FREE.replace(b"/free", b"/nope"))
        assert_is_ours(Reply(*client.response()), gateway)


def test_a_target_that_names_a_host_is_refused(gateway):
    before = gateway.upstream.heads
    reply = Reply(*get(gateway.plain_port, f"{gateway.upstream.url}/free"))
    assert reply.status == 400
    assert_is_ours(reply, gateway)
    assert gateway.upstream.heads == before


@pytest.mark.parametrize("version", VERSIONS)
def test_another_method_is_told_which_are_allowed(gateway, version):
    reply = gateway.call(version, "DELETE", "/api/free")
    assert reply.status == 405
    assert {"GET", "POST"} <= set(reply.fields["allow"].split(", "))
    assert_is_ours(reply, gateway)


# --- what comes from the upstream ----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_upstream_is_answered_for(gateway, fault, version):
    reply = gateway.call(version, "GET", f"/api/fault/{fault}")
    assert (reply.status, slug(reply.body)) == FAULTS[fault][1]
    assert_is_ours(reply, gateway)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upstream_that_is_gone_is_answered_for(gateway, version):
    reply = gateway.call(version, "GET", "/gone/free")
    assert (reply.status, slug(reply.body)) == (502, "upstream-refused")
    assert_is_ours(reply, gateway)


@pytest.mark.parametrize("version", VERSIONS)
def test_early_hints_are_swallowed(gateway, version):
    reply = gateway.call(version, "GET", "/api/fault/early-hints")
    assert (reply.status, reply.complete) == (200, True)
    assert "link" not in reply.fields


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_free_body_streams_through_whole(gateway, version):
    """The upstream has its head while the client still holds back the second half."""
    body = os.urandom(FREE_BYTES)
    first, second = body[: FREE_BYTES // 2], body[FREE_BYTES // 2 :]
    before = gateway.upstream.heads

    def has_begun() -> bool:
        return gateway.upstream.heads == before + 1

    if version == "h2":
        with H2Client(gateway.tls_port) as client:
            length = ("content-length", str(FREE_BYTES))
            stream_id = client.request("POST", "/api/free", [length], end=False)
            client.upload(stream_id, first, end=False)
            assert eventually(has_begun)
            client.upload(stream_id, second)
            stream = client.response(stream_id)
            answer = (stream.status, stream.body)
    else:
        with RawClient(gateway.plain_port) as client:
            head = f"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: {FREE_BYTES}\r\n\r\n"
            client.send(head.encode() + first)
            assert eventually(has_begun)
            client.send(second)
            status, _, got = client.response()
            answer = (status, got)
    assert answer == (200, digest_of(body))


@pytest.mark.parametrize("version", VERSIONS)
def test_events_arrive_one_by_one(gateway, version):
    """The upstream tells none before the client, who has the last one, lets the next one go."""
    name = f"{version.replace('/', '-')}-{gateway.port(version)}"

    def let_go() -> None:
        assert get(gateway.plain_port, f"/api/go?{name}")[0] == 200

    if version == "h2":
        with H2Client(gateway.tls_port) as client:
            stream_id = client.request("GET", f"/api/events?{name}")
            stream = client.head(stream_id)
            assert (stream.status, stream.body) == (200, b"")
            for number in range(EVENTS):
                let_go()
                told = b"".join(map(event_of, range(number + 1)))
                while stream.body != told:
                    assert client.receive()
            assert client.response(stream_id).ended
    else:
        with RawClient(gateway.plain_port) as client:
            client.send(f"GET /api/events?{name} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            assert client.head()[0] == 200
            for number in range(EVENTS):
                let_go()
                size = int(client.line(), 16)
                assert client.exactly(size) == event_of(number)
                client.exactly(2)
            assert client.line() == b"0"
