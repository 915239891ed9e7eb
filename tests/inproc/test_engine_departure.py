"""A client that hangs up on a paid call does not make its seller work for nothing."""

import asyncio
import threading

import pytest

from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, call, eventually, paying, scene
from tests.support.upstream import OK

ENDINGS = ("closed", "half closed", "h2 closed", "h2 reset")
FAILED = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nhm"


class Held:
    """An upstream that answers each call with the next of `answers`, once it may."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.ended = threading.Event()
        self._may_answer = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def __call__(self, _, reader, writer):
        may = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), may))
        if self._may_answer:
            may.set()
        gone = asyncio.ensure_future(reader.read(1))
        go = asyncio.ensure_future(may.wait())
        await asyncio.wait({gone, go}, return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, go):
            task.cancel()
        await asyncio.gather(gone, go, return_exceptions=True)
        if not may.is_set():
            self.ended.set()
            return False
        answer = self.answers.pop(0)
        writer.write(answer)
        await writer.drain()
        return bool(answer)

    def hold(self) -> None:
        self._may_answer = False

    def answer(self) -> None:
        self._may_answer = True
        for loop, may in self._waiting:
            loop.call_soon_threadsafe(may.set)


class Caller:
    """Calls, and hangs up in one of the ways there are."""

    def __init__(self, play, ending: str, target: str = "/api/paid", proof: str = "toy-1") -> None:
        self.play = play
        self.ending = ending
        self.client = H2Client(play.port) if ending.startswith("h2") else RawClient(play.port)
        heads = play.upstream.heads
        if isinstance(self.client, H2Client):
            self.stream = self.client.request("GET", target, [paying(proof)])
        else:
            field = ": ".join(paying(proof))
            self.client.send(f"GET {target} HTTP/1.1\r\nHost: g\r\n{field}\r\n\r\n".encode())
        assert eventually(lambda: play.upstream.heads == heads + 1)

    def hang_up(self) -> None:
        if self.ending == "h2 reset":
            self.client.reset(self.stream)
            # The connection lives on: an answer to another call shows that the reset has arrived.
            other = self.client.request("GET", "/api/nothing-here")
            assert self.client.response(other).status == 404
        elif self.ending == "half closed":
            self.client.socket.shutdown(1)
        else:
            self.client.close()


def hung_up(play, ending: str, target: str = "/api/paid", proof: str = "toy-1") -> Caller:
    """Return a caller whose hanging up the gateway has noticed, before any answer has come."""
    caller = Caller(play, ending, target, proof)
    caller.hang_up()
    if target != "/api/free":
        assert eventually(lambda: play.orphans == 1)
    return caller


@pytest.mark.parametrize("ending", ENDINGS)
def test_asking_and_hanging_up_runs_the_upstream_twice_for_one_payment_at_the_most(ending):
    held = Held(OK, OK, OK)
    with scene(held) as play:
        for _ in range(2):
            held.hold()
            caller = hung_up(play, ending)
            held.answer()
            assert eventually(lambda: play.rail.settled == ["toy-1"])
            assert eventually(lambda: play.state("toy-1") in {"credited", "settled"})
            assert eventually(lambda: not play.open_books)
            caller.client.close()
        assert play.state("toy-1") == "settled"
        assert call("http/1.1", play.port, "GET", "/api/paid", paying()).status == 402
        assert play.rail.settled == ["toy-1"]
        assert play.upstream.heads == 2


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_hung_up_on_a_good_answer_has_paid_and_may_ask_once_more(ending):
    held = Held(OK, OK)
    with scene(held) as play:
        hung_up(play, ending)
        held.answer()
        assert play.ends_as("toy-1", "credited")
        assert eventually(lambda: not play.open_books)
        assert call("http/1.1", play.port, "GET", "/api/paid", paying()).status == 200
        assert play.ends_as("toy-1", "settled")
        assert play.rail.settled == ["toy-1"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_hung_up_on_a_failure_pays_nothing(ending):
    held = Held(FAILED, OK)
    with scene(held) as play:
        hung_up(play, ending)
        held.answer()
        assert play.ends_as("toy-1", "released")
        assert play.rail.settled == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_hung_up_on_an_upstream_that_never_answers_pays_nothing(ending):
    held = Held()
    with scene(held, timeouts="first_byte_s: 0.4") as play:
        caller = Caller(play, ending)
        caller.hang_up()
        assert play.ends_as("toy-1", "released")
        assert play.rail.settled == []
        assert eventually(held.ended.is_set)
        caller.client.close()
        assert eventually(lambda: play.clients == 0)


def test_a_call_paid_ahead_that_met_a_failure_is_a_credit_although_nobody_waited():
    held = Held(FAILED, OK)
    with scene(held) as play:
        hung_up(play, "closed", "/api/first")
        held.answer()
        assert play.ends_as("toy-1", "credited")
        assert call("http/1.1", play.port, "GET", "/api/first", paying()).status == 200
        assert play.rail.settled == ["toy-1"]


def test_a_call_paid_ahead_that_was_answered_is_spent_although_nobody_read_it():
    held = Held(OK, OK)
    with scene(held) as play:
        hung_up(play, "closed", "/api/first")
        held.answer()
        assert eventually(lambda: not play.open_books)
        assert play.state("toy-1") == "settled"
        assert call("http/1.1", play.port, "GET", "/api/first", paying()).status == 402


def test_a_body_held_back_does_not_make_an_upstream_work_for_nothing():
    """Some upstreams answer a GET without reading the one byte that was announced."""
    held = Held(OK)
    with scene(held, read_body=False) as play:
        client = RawClient(play.port)
        field = ": ".join(paying())
        head = f"GET /api/paid HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\n{field}\r\n\r\n"
        client.send(head.encode())
        assert eventually(lambda: play.upstream.heads == 1)
        client.close()
        assert eventually(lambda: play.orphans == 1)
        held.answer()
        assert play.ends_as("toy-1", "credited")
        assert play.rail.settled == ["toy-1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_payment_waits_while_its_abandoned_call_is_under_way(version):
    held = Held(OK, OK)
    with scene(held) as play:
        hung_up(play, "closed")
        assert call(version, play.port, "GET", "/api/paid", paying()).status == 409
        held.answer()
        assert play.ends_as("toy-1", "credited")
        assert play.upstream.heads == 1


def test_calls_abandoned_together_are_settled_each():
    held = Held(*[OK] * 5)
    with scene(held) as play:
        client = H2Client(play.port)
        for number in range(5):
            client.request("GET", "/api/paid", [paying(f"toy-{number}")])
        assert eventually(lambda: play.upstream.heads == 5)
        client.close()
        assert eventually(lambda: play.orphans == 5)
        held.answer()
        for number in range(5):
            assert play.ends_as(f"toy-{number}", "credited")
        assert sorted(play.rail.settled) == [f"toy-{number}" for number in range(5)]
        assert eventually(lambda: play.clients == 0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_free_call_ends_with_its_client(ending):
    held = Held()
    with scene(held) as play:
        hung_up(play, ending, "/api/free")
        assert eventually(held.ended.is_set)


def test_a_stale_connection_is_not_tried_again_for_nobody():
    held = Held(OK, b"")
    with scene(held) as play, RawClient(play.port) as client:
        held.answer()
        client.send(b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n")
        assert client.response()[0] == 200
        held.hold()
        client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer toy-1\r\n\r\n")
        assert eventually(lambda: play.upstream.heads == 2)
        client.close()
        assert eventually(lambda: play.orphans == 1)
        held.answer()
        assert play.ends_as("toy-1", "released")
        assert play.upstream.connections == 1
