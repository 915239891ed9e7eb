"""An upstream connection that carries nothing is let go; one that carries something never is."""

import asyncio

import pytest

from tests.inproc.test_engine_farewells import limit
from tests.inproc.test_engine_uploads import upstream_writers
from tests.support.certificates import self_signed
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, eventually, paying, scene
from tests.support.toy_rail import ToyRail
from tests.support.upstream import OK

IDLE_S = 0.2
CALLS = 20


class Asker:
    """One connection in either version of HTTP, and one call at a time on it."""

    def __init__(self, version, port):
        self.client = H2Client(port) if version == "h2" else RawClient(port)

    def ask(self, method="GET", target="/api/free") -> int:
        self.send(method, target)
        return self.status()

    def send(self, method, target) -> None:
        if isinstance(self.client, H2Client):
            self.stream = self.client.request(method, target, [paying()])
            return
        head = f"{method} {target} HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n"
        self.client.send(f"{head}{': '.join(paying())}\r\n\r\n".encode())

    def status(self) -> int:
        if isinstance(self.client, H2Client):
            return self.client.response(self.stream).status
        return self.client.response()[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()


def test_connections_of_many_calls_at_once_are_closed_while_their_client_stays():
    arrived, go = [], asyncio.Event()

    async def respond(seen, _, writer):
        arrived.append(seen)
        if len(arrived) == CALLS:
            go.set()
        await go.wait()
        writer.write(OK)
        await writer.drain()
        return True

    with scene(respond) as play:
        limit(play, upstream_idle_s=IDLE_S)
        with Asker("h2", play.port) as asker:
            streams = [asker.client.request("GET", "/api/free") for _ in range(CALLS)]
            for stream in streams:
                assert asker.client.response(stream).status == 200
            assert play.upstream.connections == CALLS

            def are_closed() -> bool:
                assert asker.ask(target="/api/nothing-here") == 404
                return not upstream_writers(play)

            assert eventually(are_closed)
            assert asker.ask() == 200
            assert play.upstream.connections == CALLS + 1


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_idle_connection_is_closed_and_the_next_call_has_another(version, tls, tmp_path):
    context, trusted = self_signed(tmp_path)
    more = {"ssl_verify_upstream_trusted_ca": str(trusted), "upstream_ssl": context} if tls else {}
    with scene(**more) as play:
        limit(play, upstream_idle_s=IDLE_S)
        with Asker(version, play.port) as asker:
            for calls in (1, 2):
                assert asker.ask("POST") == 200
                assert play.upstream.connections == calls
                assert eventually(lambda: not upstream_writers(play))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_that_is_used_now_and_then_stays(version):
    with scene() as play:
        limit(play, upstream_idle_s=IDLE_S)
        with Asker(version, play.port) as asker:
            for _ in range(20):
                assert asker.ask() == 200
                assert not eventually(lambda: False, wait_s=IDLE_S / 4)
            assert play.upstream.connections == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_no_call_is_lost_to_a_connection_that_was_about_to_be_closed(version):
    with scene() as play:
        limit(play, upstream_idle_s=0.02)
        with Asker(version, play.port) as asker:
            for call in range(100):
                # A POST is not sent again: one that meets a closed connection is a 502.
                assert asker.ask("POST") == 200
                assert not eventually(lambda: False, wait_s=0.01 + call % 7 * 0.005)
            assert 1 < play.upstream.connections < 100


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upstream_that_takes_its_time_is_not_idle(version):
    go, waiting = asyncio.Event(), []

    async def respond(seen, _, writer):
        waiting.append(seen)
        await go.wait()
        go.clear()
        writer.write(OK.removesuffix(b"}"))
        await writer.drain()
        waiting.append(seen)
        await go.wait()
        writer.write(b"}")
        await writer.drain()
        return True

    with scene(respond) as play:
        limit(play, upstream_idle_s=IDLE_S)
        with Asker(version, play.port) as asker:
            asker.send("POST", "/api/free")
            for step in (1, 2):
                assert eventually(lambda step=step: len(waiting) == step)
                assert not eventually(lambda: not upstream_writers(play), wait_s=3 * IDLE_S)
                play.upstream._loop.call_soon_threadsafe(go.set)
            assert asker.status() == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_whose_answer_waits_for_its_settlement_is_not_idle(version):
    rail = ToyRail(hold_settle=True)
    with scene(rail=rail) as play:
        limit(play, upstream_idle_s=IDLE_S)
        with Asker(version, play.port) as asker:
            asker.send("POST", "/api/paid")
            assert eventually(lambda: rail.settled == ["toy-1"])
            assert not eventually(lambda: not upstream_writers(play), wait_s=3 * IDLE_S)
            play.let_go()
            assert asker.status() == 200
            assert eventually(lambda: not upstream_writers(play))


@pytest.mark.parametrize("version", VERSIONS)
def test_no_timer_is_left_of_a_client_that_leaves(version):
    def timers() -> list[str]:
        names = [task.get_name() for task in asyncio.all_tasks()]
        return [name for name in names if name.startswith("wakeup timer")]

    with scene() as play:
        with Asker(version, play.port) as asker:
            assert asker.ask() == 200
            assert play.proxy.call(timers)
        assert eventually(lambda: play.clients == 0)
        assert eventually(lambda: not play.proxy.call(timers))
