"""A buyer who lost the answer to a paid request gets it again; nothing is charged or run twice."""

import asyncio
import contextlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from mpp_gateway.ledger.sql import StoreUnavailable
from tests.inproc.test_engine_departure import ENDINGS, Held
from tests.inproc.test_engine_farewells import window
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import VERSIONS, Reply, call, eventually, paying, scene
from tests.support.toy_rail import RECEIPT
from tests.support.upstream import OK

BOTH = pytest.mark.parametrize("version", VERSIONS)
KEY = ("Idempotency-Key", "one")
OTHER_KEY = ("Idempotency-Key", "two")
SMALL = "idempotency: {answer_bytes: 1000}"


def counting():
    """An upstream whose answers differ: the first one is not the second."""
    answers = 0

    async def respond(_, __, writer):
        nonlocal answers
        answers += 1
        body = b"answer %d" % answers
        writer.write(
            b"HTTP/1.1 201 Created\r\nX-Own: %d\r\nContent-Length: %d\r\n\r\n%b"
            % (answers, len(body), body)
        )
        await writer.drain()
        return True

    return respond


def post(version, play, *fields, body=b"do it", proof="toy-1", target="/api/paid", method="POST"):
    """Call, and ask again while an answer is still on its way into the store."""
    reply = Reply()

    def is_there() -> bool:
        nonlocal reply
        reply = call(version, play.port, method, target, paying(proof), *fields, body=body)
        return reply.status != 409 or (reply.body and slug(reply) != "payment-in-progress")

    assert eventually(is_there)
    return reply


def slug(reply) -> str:
    return json.loads(reply.body)["type"].rsplit(":", 1)[1]


@BOTH
@pytest.mark.parametrize("body", [b"do it", b""])
def test_the_same_request_again_gets_the_same_answer_and_runs_nothing(version, body):
    with scene(counting()) as play:
        first = post(version, play, KEY, body=body)
        again = post(version, play, KEY, body=body)
        assert (first.status, first.body) == (201, b"answer 1")
        assert (again.status, again.body, again.complete) == (201, b"answer 1", True)
        assert again.fields["x-own"] == "1"
        assert again.fields["payment-receipt"] == first.fields["payment-receipt"] == RECEIPT
        assert again.fields["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.fields
        assert again.fields["cache-control"] == "private"
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])
        assert post(version, play, KEY, body=body).body == b"answer 1"


def test_an_answer_is_kept_though_it_came_before_the_end_of_the_stream():
    """The last byte that was announced has come: the upstream waits for nothing more."""
    with scene(counting()) as play:
        with H2Client(play.port) as client:
            fields = (paying("toy-1"), KEY, ("content-length", "5"))
            stream_id = client.request("POST", "/api/paid", fields, end=False)
            client.upload(stream_id, b"do it", end=False)
            assert client.response(stream_id).body == b"answer 1"
        again = post("h2", play, KEY)
        assert (again.status, again.body) == (201, b"answer 1")
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])


@BOTH
@pytest.mark.parametrize("route", ["first", "digest", "paid"])
def test_it_holds_however_the_route_takes_its_money(version, route):
    method = "GET" if route == "first" else "POST"
    with scene(counting()) as play:
        body = b"" if route == "first" else b"do it"
        asked = {"target": f"/api/{route}", "method": method, "body": body}
        assert post(version, play, KEY, **asked).status == 201
        again = post(version, play, KEY, **asked)
        assert (again.status, again.body) == (201, b"answer 1")
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])


@BOTH
@pytest.mark.parametrize("body", [b"do that", b"", b"do it " * 1000])
def test_another_body_under_the_same_key_is_refused_and_told_nothing(version, body):
    with scene(counting(), more=SMALL) as play:
        assert post(version, play, KEY).status == 201
        refused = post(version, play, KEY, body=body)
        assert (refused.status, slug(refused)) == (409, "idempotency-key-reused")
        assert b"answer 1" not in refused.everything
        assert "www-authenticate" not in refused.fields
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])


@BOTH
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"fields": (OTHER_KEY,)}, 409),
        ({"fields": ()}, 402),
        ({"target": "/api/paid?x=1"}, 402),
        ({"method": "PUT"}, 402),
    ],
)
def test_neither_another_key_nor_another_request_is_told_what_was_answered(version, change, status):
    with scene(counting()) as play:
        assert post(version, play, KEY).status == 201
        more = {name: value for name, value in change.items() if name != "fields"}
        refused = post(version, play, *change.get("fields", (KEY,)), **more)
        assert refused.status == status
        assert b"answer 1" not in refused.everything
        assert play.upstream.heads == 1


@BOTH
def test_another_payment_under_the_same_key_is_a_call_of_its_own(version):
    with scene(counting()) as play:
        assert post(version, play, KEY).body == b"answer 1"
        assert post(version, play, KEY, proof="toy-2").body == b"answer 2"
        assert post(version, play, KEY).body == b"answer 1"
        assert play.rail.settled == ["toy-1", "toy-2"]


def long_answer(size: int, *, chunked: bool = False):
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size) if chunked else b"x" * size
    return b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, body)


@BOTH
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 409)])
def test_an_answer_too_long_to_be_kept_is_409_with_its_receipt(version, chunked, size, status):
    with scene(long_answer(size, chunked=chunked), more=SMALL) as play:
        assert len(post(version, play, KEY).body) == size
        again = post(version, play, KEY)
        assert again.status == status
        if status == 409:
            assert slug(again) == "answer-not-kept"
            assert json.loads(again.body)["receipt"] == RECEIPT
            assert "payment-receipt" not in again.fields
        else:
            assert again.body == b"x" * size
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])


@BOTH
def test_a_request_body_too_long_to_be_compared_is_not_answered_from_what_is_kept(version):
    with scene(counting(), more=SMALL) as play:
        assert post(version, play, KEY, body=b"x" * 1001).status == 201
        again = post(version, play, KEY, body=b"x" * 1001)
        assert (again.status, slug(again)) == (409, "answer-not-kept")
        assert play.upstream.heads == 1


@BOTH
def test_a_credit_is_worth_a_call_whatever_the_key(version):
    failed = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nhm"
    answers = [failed, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]

    async def respond(_, __, writer):
        writer.write(answers.pop(0))
        await writer.drain()

    with scene(respond) as play:
        asked = {"target": "/api/first", "method": "GET", "body": b""}
        assert post(version, play, KEY, **asked).status == 502
        assert play.ends_as("toy-1", "credited")
        assert post(version, play, KEY, **asked).body == b"hi"
        assert post(version, play, KEY, **asked).body == b"hi"
        assert (play.upstream.heads, play.rail.settled) == (2, ["toy-1"])


@BOTH
def test_ten_copies_at_once_run_the_upstream_once(version):
    with scene(counting()) as play:

        def copy(_):
            return call(version, play.port, "POST", "/api/paid", paying(), KEY, body=b"do it")

        with ThreadPoolExecutor(10) as pool:
            copies = list(pool.map(copy, range(10)))
        assert {c.status for c in copies} <= {201, 409}
        assert {c.body for c in copies if c.status == 201} == {b"answer 1"}
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])
        assert post(version, play, KEY).body == b"answer 1"


@BOTH
@pytest.mark.parametrize("keys", [["a", "b"], [""], ["x" * 256]])
def test_a_key_that_is_none_is_400_before_anything_is_claimed(version, keys):
    with scene(counting()) as play:
        refused = post(version, play, *(("Idempotency-Key", key) for key in keys))
        assert refused.status == 400
        assert (play.upstream.heads, play.states()) == (0, [])


def test_without_keeping_a_used_payment_is_one_whatever_the_key():
    with scene(counting(), more="idempotency: {keep_s: 0}") as play:
        assert post("http/1.1", play, KEY).status == 201
        assert post("http/1.1", play, KEY).status == 402


@BOTH
def test_two_buyers_under_one_key_are_two_to_the_upstream(version):
    """They share the seller's account there: one would be given what the other one asked for."""
    with scene(counting()) as play:
        for proof in ("toy-1", "toy-2"):
            assert post(version, play, KEY, proof=proof).status == 201
        keys = [seen.get("idempotency-key") for seen in play.upstream.seen]
        assert len(set(keys)) == 2
        assert "one" not in keys


def test_each_try_of_one_payment_has_the_same_key_at_the_upstream():
    answers = [b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", OK]

    async def respond(_, __, writer):
        writer.write(answers.pop(0))
        await writer.drain()

    with scene(respond) as play:
        assert post("http/1.1", play, KEY).status == 500
        assert play.ends_as("toy-1", "released")
        assert post("http/1.1", play, KEY).status == 200
        first, second = (seen.get("idempotency-key") for seen in play.upstream.seen)
        assert first == second


def test_a_free_call_has_its_key_as_it_stands():
    with scene(counting()) as play:
        call("http/1.1", play.port, "POST", "/api/free", KEY, body=b"do it")
        assert play.upstream.seen[0].get("idempotency-key") == "one"


def test_what_is_kept_is_forgotten_in_its_time():
    with scene(counting(), more="idempotency: {keep_s: 100}") as play:
        executor = play.proxy.runtime.serving.executor
        answers, now_s = executor._answers, executor.clock()
        assert post("http/1.1", play, KEY).status == 201
        assert play.proxy.call(lambda: answers.purge(now_s + 99)) == 0
        executor.clock = lambda: now_s + 1000
        assert slug(post("http/1.1", play, KEY)) == "answer-not-kept"
        assert play.proxy.call(lambda: answers.purge(now_s + 1000)) == 1


def test_a_free_route_knows_no_keys():
    with scene(counting()) as play:
        for number in (1, 2):
            reply = call("http/1.1", play.port, "POST", "/api/free", KEY, body=b"do it")
            assert reply.body == b"answer %d" % number


class Caller:
    """Asks under a key, and hangs up in one of the ways there are."""

    def __init__(self, play, ending: str, target: str = "/api/paid") -> None:
        self.ending = ending
        self.client = H2Client(play.port) if ending.startswith("h2") else RawClient(play.port)
        if isinstance(self.client, H2Client):
            self.stream = self.client.request("GET", target, [paying(), KEY])
        else:
            fields = "".join(f"{name}: {value}\r\n" for name, value in (paying(), KEY))
            self.client.send(f"GET {target} HTTP/1.1\r\nHost: g\r\n{fields}\r\n".encode())
        assert eventually(lambda: play.upstream.heads == 1)

    def hang_up(self) -> None:
        if self.ending == "h2 reset":
            self.client.reset(self.stream)
            other = self.client.request("GET", "/api/nothing-here")
            assert self.client.response(other).status == 404
        elif self.ending == "half closed":
            self.client.socket.shutdown(1)
        else:
            self.client.close()


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_who_leaves_before_the_answer_finds_it_when_it_comes_back(ending, target):
    held = Held(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    with scene(held) as play:
        caller = Caller(play, ending, target)
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        held.answer()
        assert eventually(lambda: play.orphans == 0)
        again = post("http/1.1", play, KEY, method="GET", target=target, body=b"")
        assert (again.status, again.body) == (200, b"hi")
        assert again.fields["idempotent-replayed"] == "true"
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])
        assert play.state("toy-1") == "settled"
        caller.client.close()


class InParts:
    """An upstream that gives the head and half of the body, and the rest when it is told to."""

    def __init__(self, rest: bytes) -> None:
        self._rest = rest
        self._loop: asyncio.AbstractEventLoop | None = None
        self._may = asyncio.Event()

    async def __call__(self, _, __, writer):
        self._loop = asyncio.get_running_loop()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await writer.drain()
        await self._may.wait()
        writer.write(self._rest)
        await writer.drain()
        return False

    @property
    def began(self) -> bool:
        """Whether it has been asked: the head is counted a moment earlier."""
        return self._loop is not None

    def go_on(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._may.set)


class Later(InParts):
    """An upstream that gives all of its answer when it is told to."""

    def __init__(self) -> None:
        super().__init__(OK)

    async def __call__(self, _, __, writer):
        self._loop = asyncio.get_running_loop()
        await self._may.wait()
        writer.write(self._rest)
        await writer.drain()
        return False


def half_read(caller: Caller) -> bool:
    if isinstance(caller.client, H2Client):
        return caller.client.receive() and caller.client.streams[caller.stream].body == b"half"
    return caller.client.head()[0] == 200 and caller.client.exactly(4) == b"half"


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_leaves_in_mid_answer_finds_all_of_it_when_it_comes_back(ending):
    upstream = InParts(b"+all")
    with scene(upstream) as play:
        caller = Caller(play, ending)
        assert eventually(lambda: half_read(caller))
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        upstream.go_on()
        assert eventually(lambda: play.orphans == 0)
        again = post("http/1.1", play, KEY, method="GET", body=b"")
        assert (again.status, again.body) == (200, b"half+all")
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])
        caller.client.close()


class Breaking(Held):
    """One that hangs up after each answer, whole or not."""

    async def __call__(self, *connection):
        await super().__call__(*connection)
        return False


AS_WITHOUT_A_KEY = pytest.mark.parametrize(
    ("target", "state"), [("/api/paid", "credited"), ("/api/first", "settled")]
)
"""What a client that leaves has of a good answer: a credit, unless it had paid before."""


@AS_WITHOUT_A_KEY
def test_an_answer_that_breaks_off_with_nobody_there_is_what_it_is_without_a_key(target, state):
    held = Breaking(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    with scene(held) as play:
        caller = Caller(play, "closed", target)
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        held.answer()
        assert eventually(lambda: not play.open_books)
        assert play.state("toy-1") == state
        assert play.rail.settled == ["toy-1"]


def test_an_answer_too_long_to_keep_with_nobody_there_is_a_credit():
    held = Held(long_answer(5000))
    with scene(held, more=SMALL) as play:
        caller = Caller(play, "closed")
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        held.answer()
        assert play.ends_as("toy-1", "credited")
        assert eventually(lambda: not play.open_books)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_retry_while_the_answer_is_still_read_is_told_to_wait_for_it(ending):
    upstream = InParts(b"+all")
    with scene(upstream) as play:
        caller = Caller(play, ending)
        assert eventually(lambda: half_read(caller))
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        early = call("http/1.1", play.port, "GET", "/api/paid", paying(), KEY)
        assert (early.status, slug(early)) == (409, "payment-in-progress")
        assert int(early.fields["retry-after"]) > 0
        upstream.go_on()
        assert post("http/1.1", play, KEY, method="GET", body=b"").body == b"half+all"
        caller.client.close()


def test_an_answer_that_breaks_off_before_a_client_is_not_waited_for():
    upstream = InParts(b"")
    with scene(upstream) as play:
        caller = Caller(play, "closed")
        assert eventually(lambda: half_read(caller))
        upstream.go_on()
        assert eventually(lambda: not play.open_books)
        again = post("http/1.1", play, KEY, method="GET", body=b"")
        assert (again.status, slug(again)) == (409, "answer-not-kept")
        caller.client.close()


@pytest.mark.parametrize("body", [b"x" * 5000, None])
def test_a_call_that_cannot_be_kept_is_the_credit_that_it_is_without_a_key(body):
    """Its body is too long to be compared again, or was not all there: nobody got the answer."""
    upstream = Later()
    size = len(body) if body else 100
    with scene(upstream, more=SMALL, read_body=False) as play:
        client = RawClient(play.port)
        fields = "".join(f"{name}: {value}\r\n" for name, value in (paying(), KEY))
        head = f"POST /api/paid HTTP/1.1\r\nHost: g\r\n{fields}Content-Length: {size}\r\n\r\n"
        client.send(head.encode() + (body or b"half"))
        assert eventually(lambda: play.upstream.heads == 1)
        client.close()
        assert eventually(lambda: play.orphans == 1)
        upstream.go_on()
        assert play.ends_as("toy-1", "credited")


@AS_WITHOUT_A_KEY
def test_an_answer_that_the_store_refuses_with_nobody_there_is_what_it_is_without(target, state):
    held = Held(OK)
    with scene(held) as play:

        async def full(_):
            raise StoreUnavailable("disk full")

        play.proxy.runtime.serving.executor._answers.keep = full
        caller = Caller(play, "closed", target)
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        held.answer()
        assert eventually(lambda: not play.open_books)
        assert play.state("toy-1") == state


class InSteps(Later):
    """An upstream that gives half of its answer when it is told to, and then no more."""

    async def __call__(self, _, __, writer):
        self._loop = asyncio.get_running_loop()
        await self._may.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await writer.drain()
        await asyncio.Event().wait()


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_while_nobody_has_had_the_answer_a_restart_would_make_it_a_credit(target):
    upstream = InSteps()
    with scene(upstream) as play:
        caller = Caller(play, "closed", target)
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        upstream.go_on()
        assert play.ends_as("toy-1", "settled")
        exchanges = play.proxy.runtime.serving.exchanges
        far_s = 2**40
        assert len(play.proxy.call(lambda: exchanges.sweep(far_s))) == 1
        assert play.state("toy-1") == "credited"


def test_nobody_waits_for_ever_for_an_upstream_that_drips():
    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        return False

    with scene(respond, timeouts="first_byte_s: 1, idle_s: 1") as play:
        for ending in ("closed", "h2 reset"):
            caller = Caller(play, ending)
            caller.hang_up()
            assert eventually(lambda: play.orphans == 0)
            assert eventually(lambda: not play.open_books)
            caller.client.close()


def test_answers_given_again_wait_for_a_client_that_takes_none():
    """Each costs its buyer nothing: a hundred at once would be free memory."""
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000
    with scene(big) as play:
        assert len(post("h2", play, KEY, body=b"").body) == 900_000
        with H2Client(play.port) as client:
            window(client, 0)
            asked = [
                client.request("POST", "/api/paid", [paying(), KEY, ("content-length", "0")])
                for _ in range(20)
            ]
            client.ping()
            while not all(client.streams[stream].status for stream in asked):
                assert client.receive()
            statuses = Counter(client.streams[s].status for s in asked)
            assert statuses[200] <= 2
            assert statuses[503] >= 18


def test_no_more_is_kept_than_there_is_room_for():
    with scene(counting(), more="idempotency: {total_bytes: 12}") as play:
        for proof, status in (("toy-1", 201), ("toy-2", 409)):
            assert post("http/1.1", play, KEY, proof=proof).status == 201
            assert post("http/1.1", play, KEY, proof=proof).status == status


def test_what_is_forgotten_makes_room_again():
    with scene(counting(), more="idempotency: {total_bytes: 12, keep_s: 100}") as play:
        executor = play.proxy.runtime.serving.executor
        now_s = executor.clock()
        assert post("http/1.1", play, KEY).status == 201
        assert play.proxy.call(lambda: executor._answers.purge(now_s + 1000)) == 1
        for _ in range(2):
            assert post("http/1.1", play, KEY, proof="toy-2").body == b"answer 2"


def test_a_charged_404_is_repeated_without_a_receipt_as_it_was():
    routes = '      "GET /paid": {charge: "0.01", charge_on: [404]}'
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    with scene(missing, routes=routes) as play:
        for _ in range(2):
            reply = post("http/1.1", play, KEY, method="GET", body=b"")
            assert (reply.status, reply.body) == (404, b"no")
            assert "payment-receipt" not in reply.fields
        assert play.upstream.heads == 1


def test_a_head_is_repeated_with_the_length_it_told():
    with scene(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n") as play:
        for _ in range(2):
            reply = post("http/1.1", play, KEY, method="HEAD", body=b"")
            assert reply.fields["content-length"] == "5000"
        assert play.upstream.heads == 1


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_what_is_pipelined_behind_a_call_under_a_key_is_not_run_for_a_client_that_left(target):
    upstream = InParts(b"+all")
    with scene(upstream) as play:
        caller = Caller(play, "closed", target)
        assert eventually(lambda: half_read(caller))
        for number in range(2, 6):
            field = ": ".join(paying(f"toy-{number}"))
            caller.client.send(f"GET /api/paid HTTP/1.1\r\nHost: g\r\n{field}\r\n\r\n".encode())
        caller.hang_up()
        assert eventually(lambda: play.orphans == 1)
        upstream.go_on()
        assert eventually(lambda: play.orphans == 0 and not play.open_books)
        assert eventually(lambda: play.clients == 0)
        assert (play.upstream.heads, play.rail.settled) == (1, ["toy-1"])
        assert play.states() == ["settled"]


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
@pytest.mark.parametrize("why", ["slow", "full", "broken"])
def test_asking_and_hanging_up_runs_the_upstream_no_oftener_with_a_key(target, why):
    """A credit for each try would sell a seller's work for one payment without end."""
    runs_max = 2 if target == "/api/paid" else 1

    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        writer.write(b"hi" if why == "full" else b"h")
        await writer.drain()
        if why == "slow":
            await asyncio.Event().wait()
        return False

    gate = Later()

    async def held(seen, reader, writer):
        gate._loop = asyncio.get_running_loop()
        await gate._may.wait()
        gate._may.clear()
        return await respond(seen, reader, writer)

    room = "idempotency: {total_bytes: 0}" if why == "full" else ""
    with scene(held, more=room, timeouts="first_byte_s: 1, idle_s: 1") as play:
        for number in range(1, 5):
            client = RawClient(play.port)
            fields = "".join(f"{n}: {v}\r\n" for n, v in (paying(), ("Idempotency-Key", "k")))
            client.send(f"GET {target} HTTP/1.1\r\nHost: g\r\n{fields}\r\n".encode())
            if number > runs_max:
                assert client.response()[0] in (402, 409)
                client.close()
                continue
            assert eventually(lambda number=number: play.upstream.heads == number and gate.began)
            client.close()
            assert eventually(lambda: play.orphans == 1)
            gate.go_on()
            assert eventually(lambda: play.orphans == 0 and not play.open_books)
        assert (play.upstream.heads, play.rail.settled) == (runs_max, ["toy-1"])
