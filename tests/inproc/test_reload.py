"""A script that is reloaded while paid calls are under way: each one comes to its proper end."""

import asyncio
import threading

import pytest

from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.runtime import Runtime
from tests.support.client import RawClient
from tests.support.scene import call, eventually, paying, scene
from tests.support.upstream import OK


class Held:
    """An upstream that answers when it is told to, and in one go from then on."""

    def __init__(self, answer: bytes = OK) -> None:
        self.may_answer = threading.Event()
        self._answer = answer

    async def respond(self, _, __, writer) -> None:
        await asyncio.to_thread(self.may_answer.wait, 20)
        writer.write(self._answer)
        await writer.drain()


def reload(play) -> Runtime:
    """Do as mitmproxy does with a script whose file has changed; return what the new self has."""
    old, fresh = play.proxy.runtime, Runtime(None, play.rail.build)
    fresh.configure(old.config)
    addons = build_addons(fresh)

    async def swap() -> None:
        master = play.proxy.master
        for addon in play.proxy.addons:
            master.addons.remove(addon)
        for place, addon in enumerate(addons):
            master.addons.register(addon)
            master.addons.chain.insert(1 + place, addon)
        addons[0].running()
        await addons[0].opening

    play.proxy.call(swap)
    play.proxy.addons = addons
    assert fresh.serving is not None, fresh.failure
    return fresh


def ask(port: int, path: str, token: str) -> RawClient:
    client = RawClient(port)
    head = f"GET /api/{path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n\r\n"
    client.send(head.encode())
    return client


@pytest.mark.parametrize("path", ["paid", "first"])
def test_a_paid_call_under_way_is_served_and_settled_by_who_took_it(path):
    held = Held()
    with scene(held.respond) as play:
        old = play.proxy.runtime.serving
        client = ask(play.port, path, "toy-1")
        assert eventually(lambda: play.upstream.heads == 1)
        reload(play)
        held.may_answer.set()
        status, fields, _ = client.response()
        client.close()
        assert status == 200
        assert "payment-receipt" in fields
        assert play.ends_as("toy-1", "settled")
        assert play.rail.settled == ["toy-1"]
        # Its former self is let go of once nothing of it is under way.
        assert eventually(lambda: old.database._closed)
        assert call("http/1.1", play.port, "GET", "/api/paid", paying("toy-2")).status == 200
        assert play.rail.settled == ["toy-1", "toy-2"]


def test_a_call_that_fails_after_a_reload_gives_the_money_back():
    held = Held(b"not HTTP at all\r\n\r\n")
    with scene(held.respond) as play:
        clients = [ask(play.port, "paid", "toy-1"), ask(play.port, "first", "toy-2")]
        assert eventually(lambda: play.upstream.heads == 2)
        reload(play)
        held.may_answer.set()
        assert [client.response()[0] for client in clients] == [502, 502]
        assert play.ends_as("toy-1", "released")
        assert play.ends_as("toy-2", "credited")
        for client in clients:
            client.close()


def test_what_a_former_self_has_under_way_buys_nothing_from_its_new_self():
    held = Held()
    with scene(held.respond) as play:
        client = ask(play.port, "paid", "toy-1")
        assert eventually(lambda: play.upstream.heads == 1)
        reload(play)
        assert call("http/1.1", play.port, "GET", "/api/paid", paying("toy-1")).status == 409
        held.may_answer.set()
        assert client.response()[0] == 200
        client.close()
        assert play.upstream.heads == 1


def test_a_stop_does_not_wait_for_what_a_former_self_has_under_way():
    held = Held()
    with scene(held.respond) as play:
        client = ask(play.port, "paid", "toy-1")
        assert eventually(lambda: play.upstream.heads == 1)
        reload(play)
        play.proxy.stop()
        held.may_answer.set()
        client.close()
        assert play.state("toy-1") == "verified"
