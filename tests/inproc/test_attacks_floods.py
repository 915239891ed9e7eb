"""What a second independent attack found: memory and time that nobody paid for."""

import asyncio
import contextlib
import socket
import struct
import threading

import hyperframe.frame

from mpp_gateway.addons.build import build_addons
from tests.inproc.test_engine_farewells import window
from tests.support.client import RawClient
from tests.support.clock import Clock
from tests.support.h2client import H2Client
from tests.support.scene import call, eventually, paying, scene
from tests.support.upstream import OK

QUIET_S = 0.3
PIPELINED = b"GET /openapi.json HTTP/1.1\r\nHost: g\r\n\r\n"


def held_bytes(play) -> int:
    """How much of its answers the gateway holds for its one client."""

    return play.proxy.call(lambda: held_on_loop(play))


def held_on_loop(play) -> int:
    held = 0
    for handler in play.proxy.master.addons.get("proxyserver").connections.values():
        if io := handler.transports.get(handler.client):
            held += io.writer.transport.get_write_buffer_size()
    return held


def narrow(port: int) -> socket.socket:
    """A client that can take in next to nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    return client


def test_answers_to_pipelined_requests_that_nobody_reads_are_not_made():
    with scene() as play:
        clock = Clock(play.proxy)
        client = narrow(play.port)
        client.sendall(PIPELINED * 7000)
        limits = play.proxy.runtime.engine.limits
        # No further answer is made once so much waits.
        assert eventually(lambda: held_bytes(play) > limits.backlog_bytes)
        most = 0

        def is_given_up() -> bool:
            nonlocal most
            most = max(most, held_bytes(play))
            clock.advance(limits.unread_s / 3)
            return play.clients == 0

        assert eventually(is_given_up)
        assert most < 1024 * 1024
        client.close()


def test_a_paid_request_behind_a_flood_is_not_run_for_a_client_that_left():
    with scene() as play:
        client = narrow(play.port)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        paid = b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n"
        client.sendall(PIPELINED * 900 + paid)  # one read takes it all
        assert eventually(lambda: play.clients == 1)
        assert eventually(lambda: held_bytes(play) > 256 * 1024)
        client.close()
        assert eventually(lambda: play.clients == 0)
        # Longer than the pause after which the gateway looks again.
        assert not eventually(lambda: play.upstream.heads > 0, wait_s=2.0)
        assert play.rail.settled == []


def test_pipelined_requests_that_are_read_are_all_answered():
    with scene() as play, RawClient(play.port) as client:
        client.send(PIPELINED * 400)
        for _ in range(400):
            assert client.response()[0] == 200


def test_an_upstream_that_takes_nothing_holds_no_socket_once_it_is_given_up():
    async def respond(_, __, ___):
        await asyncio.Event().wait()

    with scene(respond, read_body=False, timeouts="first_byte_s: 60") as play:
        clock = Clock(play.proxy)
        upstreams = []

        def remember() -> None:
            for handler in play.proxy.master.addons.get("proxyserver").connections.values():
                upstreams.extend(
                    io.writer.transport
                    for connection, io in handler.transports.items()
                    if connection is not handler.client and io.writer
                )

        def upload() -> None:
            with contextlib.suppress(OSError):  # the gateway gives it up half-way
                client.socket.sendall(b"x" * 64_000_000)

        client = RawClient(play.port)
        client.send(b"POST /api/free HTTP/1.1\r\nHost: g\r\nContent-Length: 64000000\r\n\r\n")
        assert eventually(lambda: play.upstream.heads == 1)
        play.proxy.call(remember)
        sender = threading.Thread(target=upload)
        sender.start()

        def is_stuck() -> bool:
            """Whether the kernel, too, takes nothing more of it."""
            unsent = upstreams[0].get_write_buffer_size()
            return unsent > 0 and not eventually(
                lambda: upstreams[0].get_write_buffer_size() != unsent, QUIET_S
            )

        assert eventually(is_stuck)

        def is_given_up() -> bool:
            clock.advance(61)  # whatever was taken meanwhile began the wait anew
            return upstreams[0].is_closing()

        assert eventually(is_given_up)
        assert eventually(lambda: upstreams[0].get_write_buffer_size() == 0)
        with contextlib.suppress(OSError):  # the gateway may have hung up, and ended the sender
            client.socket.shutdown(socket.SHUT_RDWR)
        sender.join()
        client.close()


def test_trailers_without_end_fill_no_memory():
    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n")
        try:
            while True:
                writer.write(b"X: " + b"y" * 60_000)
                await writer.drain()
        except ConnectionError:
            return False

    with scene(respond) as play:
        reply = call("http/1.1", play.port, "GET", "/api/free", paying())
        assert (reply.status, reply.complete) == (200, False)
        assert eventually(lambda: not play.open_books)


CALLS = 60
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000
"""The gateway holds `CALLS` of these for a client without making their upstreams wait."""


def test_a_flood_of_window_updates_keeps_nobody_waiting():
    with scene(SMALL) as play, H2Client(play.port) as client:
        window(client, 0)
        for _ in range(CALLS):
            client.request("GET", "/api/free")
        assert eventually(lambda: play.upstream.heads == CALLS)
        assert eventually(lambda: not play.open_books)
        walks = []

        def watch() -> None:
            (handler,) = play.proxy.master.addons.get("proxyserver").connections.values()
            layer = handler.layer
            while not hasattr(layer, "streams"):
                layer = getattr(layer, "layer", None) or layer.child_layer
            connection = layer.connections[handler.client].h2_conn
            update = connection.stream_window_updated
            connection.stream_window_updated = lambda s: walks.append(s) or update(s)

        play.proxy.call(watch)
        frame = hyperframe.frame.WindowUpdateFrame(0, window_increment=1).serialize()
        client.socket.sendall(frame * 1000)  # not more than such answers are worth
        other = client.request("GET", "/api/nothing-here")
        assert client.head(other).status == 404
        # One for each read of the gateway's, and TLS has it read 16 KiB at a time.
        assert CALLS <= len(walks) < CALLS * 20


def test_a_buyer_who_reads_slowly_gets_the_whole_answer():
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000
    with scene(big, timeouts="idle_s: 5") as play:
        clock = Clock(play.proxy)
        client = RawClient(play.port)
        client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n")
        assert client.head()[0] == 200
        pauses = 0

        async def pause() -> bool:
            """Let `idle_s` pass if there is something to take; one step, so that it stays so."""
            nonlocal pauses
            if is_waiting := held_on_loop(play) > 0:
                pauses += 1
                await clock.advance_on_loop(6)
            return is_waiting

        for _ in range(8):
            assert eventually(lambda: play.proxy.call(pause) or not play.open_books)
            assert len(client.exactly(1_000_000)) == 1_000_000
        assert pauses > 0
        client.close()


class Gate:
    """Something that waits on a loop of its own until a test lets it go."""

    def __init__(self) -> None:
        self.entered = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: asyncio.Event | None = None

    async def wait(self) -> None:
        self._loop, self._open = asyncio.get_running_loop(), asyncio.Event()
        self.entered = True
        await self._open.wait()

    def let_go(self) -> None:
        assert self._loop is not None
        assert self._open is not None
        self._loop.call_soon_threadsafe(self._open.set)


def test_hanging_up_while_an_addon_is_slow_costs_the_price_all_the_same():
    in_addon, at_upstream = Gate(), Gate()

    class Slow:
        async def request(self, _) -> None:
            await in_addon.wait()

    async def respond(_, __, writer):
        await at_upstream.wait()
        writer.write(OK)
        await writer.drain()

    with scene(respond, addons=lambda runtime: [*build_addons(runtime), Slow()]) as play:
        client = RawClient(play.port)
        client.send(
            b"POST /api/paid HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n"
            b"Authorization: Bearer toy-1\r\n\r\nhi"
        )
        assert eventually(lambda: in_addon.entered and at_upstream.entered)
        client.close()
        assert eventually(lambda: play.orphans == 1)
        in_addon.let_go()
        at_upstream.let_go()
        assert play.ends_as("toy-1", "credited")
        assert play.rail.settled == ["toy-1"]
