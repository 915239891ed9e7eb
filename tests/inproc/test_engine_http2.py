"""Many requests on one HTTP/2 connection neither wait for nor harm each other."""

import asyncio

import pytest

from tests.support.client import RawClient
from tests.support.clock import Clock
from tests.support.h2client import H2Client
from tests.support.scene import eventually, paying, scene
from tests.support.toy_rail import ToyRail
from tests.support.upstream import OK

CROWD = 20


def test_twenty_slow_calls_on_one_connection_are_at_the_upstream_at_once():
    barrier = asyncio.Barrier(CROWD)

    async def respond(_, __, writer):
        await barrier.wait()  # opens only when all of them are here
        writer.write(OK)
        await writer.drain()
        return True

    with scene(respond) as play, H2Client(play.port) as client:
        streams = [client.request("GET", "/api/free") for _ in range(CROWD)]
        assert [client.response(stream).status for stream in streams] == [200] * CROWD
        assert play.upstream.connections == CROWD


def test_a_connection_that_serves_many_calls_one_by_one_opens_few_upstream_connections():
    with scene() as play, H2Client(play.port) as client:
        for _ in range(300):
            assert client.response(client.request("GET", "/api/free")).status == 200
        assert play.upstream.connections <= 2


def test_one_failed_call_leaves_the_others_alone():
    async def respond(seen, _, writer):
        if seen.target == "/free?bad":
            return False
        writer.write(OK)
        await writer.drain()
        return True

    with scene(respond) as play, H2Client(play.port) as client:
        targets = ["/api/free", "/api/free?bad", "/api/nope", "/api/free"]
        streams = [client.request("GET", target) for target in targets]
        assert [client.response(s).status for s in streams] == [200, 502, 404, 200]
        assert client.response(client.request("GET", "/api/free")).status == 200


def test_a_reset_by_the_client_ends_an_upstream_call_that_nobody_pays_for():
    ended = asyncio.Event()

    async def respond(_, reader, __):
        await reader.read(1)
        ended.set()

    with scene(respond) as play, H2Client(play.port) as client:
        stream = client.request("GET", "/api/free")
        assert eventually(lambda: play.upstream.heads == 1)
        client.reset(stream)
        assert eventually(ended.is_set)


def test_a_reset_while_settling_leaves_a_credit():
    rail = ToyRail(hold_settle=True)
    with scene(rail=rail) as play, H2Client(play.port) as client:
        stream = client.request("GET", "/api/paid", [paying()])
        assert eventually(lambda: rail.settled == ["toy-1"])
        client.reset(stream)
        other = client.request("GET", "/api/free")
        assert client.response(other).status == 200
        play.let_go()
        assert play.ends_as("toy-1", "credited")


@pytest.mark.parametrize("secure", [False, True])
def test_a_connection_lives_on_when_an_older_alarm_rings(secure, monkeypatch):
    """Alarms cannot be called off: one that a nearer deadline replaced must ring unheard."""
    calls = []

    async def respond(seen, _, writer):
        calls.append(seen)
        keeps = len(calls) % 2 == 1
        writer.write(OK if keeps else OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await writer.drain()
        return keeps

    # A call on a kept connection sets a far alarm; the next one needs a new connection, and soon.
    timeouts = "connect_s: 0.1, first_byte_s: 0.3, idle_s: 0.3"
    with scene(respond, timeouts=timeouts) as play:
        Clock(play.proxy)  # it stands still: alarms ring, and no call is late
        client = H2Client(play.port) if secure else RawClient(play.port)

        def ask():
            if secure:
                return client.response(client.request("GET", "/api/free")).status
            client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
            return client.response()[0]

        woken = count_alarms(monkeypatch)
        assert ask() == 200
        assert eventually(lambda: ask() == 200 and len(woken) >= 6)
        client.close()


def count_alarms(monkeypatch):
    """Count the alarms that ring at the gateway's layers."""
    from mitmproxy.proxy import server

    woken = []
    wakeup = server.ConnectionHandler.wakeup

    async def counted(self, request):
        await wakeup(self, request)
        woken.append(request)

    monkeypatch.setattr(server.ConnectionHandler, "wakeup", counted)
    return woken


def test_a_hook_that_outlasts_a_deadline_does_not_make_the_gateway_spin(monkeypatch):
    from mpp_gateway.addons.build import build_addons

    class Slow:
        def __init__(self):
            self.go = asyncio.Event()

        async def request(self, flow):
            await self.go.wait()

    slow = Slow()
    held = asyncio.Event()

    async def respond(_, __, ___):
        await held.wait()

    with (
        scene(
            respond,
            addons=lambda runtime: [*build_addons(runtime), slow],
            timeouts="connect_s: 0.2, first_byte_s: 0.2, idle_s: 0.2",
        ) as play,
        RawClient(play.port) as client,
    ):
        woken = count_alarms(monkeypatch)
        client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
        client.socket.settimeout(0.8)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert len(woken) < 5
        play.proxy.call(slow.go.set)
        client.socket.settimeout(10)
        assert client.response()[0] == 504
