"""A store that fails at every moment of a payment: 503 and not 402, one price at most, no restart.

Both stores, through a real gateway, on a real chain. When the fault is gone, the same credential
gets its answer.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mpp_gateway import events
from mpp_gateway.gateway import executor
from mpp_gateway.ledger import database as databases
from mpp_gateway.ledger import postgres as postgres_store
from mpp_gateway.ledger import sqlite as sqlite_store
from tests.support.client import RawClient
from tests.support.evm import now
from tests.support.line import line_to
from tests.support.paid import PRICE, Paid, paid_gateway, refused, wait_until
from tests.support.postgres import QUICK, serving
from tests.support.storefaults import (
    ON_POSTGRES,
    ON_SQLITE,
    PLACES,
    StoreFault,
    by_line,
)
from tests.support.stores import PostgresPlace, SqlitePlace

MOMENTS = ("claim", "hold", "settle", "record", "deliver")
"""Before the claim; between claim and hold; before the settlement; once the money has moved; when
the answer goes out."""


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """What takes ten seconds takes one."""
    for name in ("WRITE_S", "SILENT_S", "INTERRUPT_S"):
        monkeypatch.setattr(databases, name, 1)
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_MS", 200)
    monkeypatch.setitem(postgres_store.SESSION, "lock_timeout", "200ms")
    monkeypatch.setitem(postgres_store.LINE, "connect_timeout", 2)
    monkeypatch.setattr(executor, "GIVE_UP_S", 0.2)
    monkeypatch.setattr(executor, "WRITE_AGAIN_S", 0.1)


@pytest.fixture(scope="module")
def own_server():
    """A server that may be stopped, and has few places."""
    quick = [setting for setting in QUICK if "max_connections" not in setting]
    with serving((*quick, f"max_connections={PLACES}")) as server:
        yield server


@pytest.fixture
def fault(request, tmp_path, own_server) -> Iterator[StoreFault]:
    name = request.param
    if name in ON_SQLITE:
        yield ON_SQLITE[name](SqlitePlace(tmp_path / "gateway.db"))
        return
    url = own_server.database()
    if name != "vanished":
        yield ON_POSTGRES[name](PostgresPlace(url), own_server)
        return
    with line_to(own_server.port) as line:
        yield ON_POSTGRES[name](by_line(line, url), own_server)


@contextmanager
def selling(tmp_path, fault: StoreFault) -> Iterator[Paid]:
    with paid_gateway(tmp_path, place=fault.place, timeouts="settle_s: 20") as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        fault.befalls(gateway)
        yield gateway


class Striking:
    """Begins the fault when the payment is at its moment, and once only."""

    def __init__(self, gateway: Paid, fault: StoreFault, moment: str) -> None:
        self.begun = threading.Event()
        self._fault = fault
        if moment == "claim":
            self.strike()
        elif moment == "hold":
            gateway.node.then["eth_getBalance"] = self.strike
        elif moment == "settle":
            gateway.keeper.before = self._before
        elif moment == "record":
            gateway.node.then["eth_sendRawTransaction"] = self.strike
        else:
            self._on_event(gateway, events.PaymentSettled)

    def strike(self) -> None:
        if not self.begun.is_set():
            self._fault.begin()
            self.begun.set()

    async def _before(self) -> None:
        self.strike()

    def _on_event(self, gateway: Paid, kind: type[events.Event]) -> None:
        reporter = gateway.proxy.runtime.reporter

        def sink(event: events.Event) -> None:
            if isinstance(event, kind):
                self.strike()

        reporter.sink = sink


ANSWERS = {
    "claim": (503, "not-ready", 0),
    "hold": (503, "not-ready", 0),
    "settle": (503, "not-ready", 0),
    "record": (503, "settlement-unknown", PRICE),
    "deliver": (200, "", PRICE),
}
"""What the buyer is told while the store fails, and what has moved."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", [*ON_SQLITE, *ON_POSTGRES], indirect=True, ids=str)
def test_a_store_that_fails_costs_nobody_money_and_no_restart(tmp_path, fault, moment):
    with selling(tmp_path, fault) as gateway:
        credential = gateway.buy()
        striking = Striking(gateway, fault, moment)
        client = pending(gateway, credential)
        try:
            wait_until(striking.begun.is_set, "the fault")
            assert gateway.ask("/api/free")[0] == 200
            answer = client.response()
        finally:
            client.close()
            gateway.keeper.before = None
        status, slug, moved = ANSWERS[moment]
        if moment == "record" and fault.is_over_at_once:
            status = 200  # the rail, which notes what it has sent, was the first to meet it
        assert answer[0] == status, answer
        if status == 503:
            refused(answer, slug, 503)
            assert answer[1]["retry-after"]
            assert b"marked" not in answer[2]
        else:
            assert (answer[2], "payment-receipt" in answer[1]) == (b"marked", True)
        assert gateway.balance() == moved
        wait_until(lambda: is_told(gateway, fault), "the log has it")
        fault.end()

        if status == 503:
            again = until_told(gateway, credential)
            assert (again[0], again[2]) == (200, b"marked")
        wait_until(lambda: is_delivered(gateway), "the delivery is noted")
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
        assert gateway.crashes() == []


def is_told(gateway: Paid, fault: StoreFault) -> bool:
    return any(word in line for word in fault.words for line in [*gateway.proxy.log])


def is_delivered(gateway: Paid) -> bool:
    return [row["due_s"] for row in gateway.rows()] == [None]


def until_told(gateway: Paid, credential):
    """Present it again as long as it is said to be open, or the store is said to be gone."""

    def told():
        answer = gateway.send(credential)
        if answer[0] in (409, 503):
            return None
        assert answer[0] != 402, answer
        return answer

    return wait_until(told, "a last answer")


def pending(gateway: Paid, credential) -> RawClient:
    client = RawClient(gateway.port)
    lines = ["GET /api/paid HTTP/1.1", "Host: x", f"Authorization: {credential.format()}", "", ""]
    client.send("\r\n".join(lines).encode())
    return client


@pytest.mark.parametrize("fault", ["locked", "no place", "down"], indirect=True, ids=str)
def test_a_process_that_cannot_open_its_store_says_so_and_sells_nothing(tmp_path, fault):
    """mitmproxy ends then, and so does `serve`: whoever started it tries again."""
    with paid_gateway(tmp_path, place=fault.place) as gateway:
        gateway.stop()
        fault.begin()
        gateway.start()
        wait_until(lambda: any("cannot open" in line for line in gateway.proxy.log), "a word")
        assert is_told(gateway, fault)
        wait_until(lambda: gateway.proxy.is_stopped, "it has ended")
        fault.end()
        gateway.stop()
        gateway.start()
        assert gateway.send(gateway.buy())[0] == 200


def test_a_settlement_that_could_not_be_recorded_is_known_where_no_chain_can_be_asked(tmp_path):
    """Only the gateway has heard that it was paid: what it forgets then is the buyer's money."""
    fault = ON_SQLITE["locked"](SqlitePlace(tmp_path / "gateway.db"))
    options = {"facilitator": True, "with_rpc": False, "place": fault.place}
    with paid_gateway(tmp_path, **options) as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        credential = gateway.buy()
        gateway.facilitator.then["/settle"] = fault.begin
        refused(gateway.send(credential), "settlement-unknown", 503)
        assert gateway.balance() == PRICE
        fault.end()
        again = until_told(gateway, credential)
        assert (again[0], again[2]) == (200, b"marked")
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


@pytest.mark.parametrize("was_made", [False, True], ids=["lost", "made"])
@pytest.mark.parametrize("moment", MOMENTS[:-1])
def test_a_commit_whose_answer_is_lost_binds_no_payment_to_a_request_that_is_over(
    tmp_path, own_server, moment, was_made
):
    """Nobody can say whether it was made. If so it is nobody's, and is taken back."""
    with (
        line_to(own_server.port) as line,
        paid_gateway(
            tmp_path, facilitator=True, place=by_line(line, own_server.database())
        ) as gateway,
    ):
        gateway.keeper.answers("200 OK", body=b"marked")
        credential = gateway.buy()
        database = gateway.proxy.runtime.serving.database
        gateway.proxy.call(lambda: database.read(lambda db: None))  # what a start asks is asked

        def arm() -> None:
            (line.die_after if was_made else line.die_before)(b"COMMIT")

        async def arm_then() -> None:
            arm()

        if moment == "claim":
            arm()
        elif moment == "settle":
            gateway.keeper.before = arm_then
        else:
            gateway.facilitator.then["/verify" if moment == "hold" else "/settle"] = arm
        answer = gateway.send(credential)
        gateway.keeper.before = None
        status, slug, moved = ANSWERS[moment]
        refused(answer, slug, status)
        assert b"marked" not in answer[2]
        assert (line.is_dead, gateway.balance()) == (True, moved)
        line.heal()
        again = until_told(gateway, credential)
        assert (again[0], again[2]) == (200, b"marked")
        wait_until(lambda: is_delivered(gateway), "the delivery is noted")
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_an_exchange_that_was_taken_over_while_it_settled_is_not_served_here_too(tmp_path):
    """What a restart beside us, or the sweeper, has made UNKNOWN is served by whoever asks next."""
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", body=b"marked")
        credential = gateway.buy()
        gateway.node.faults["eth_getTransactionReceipt"] = "500"
        client = pending(gateway, credential)
        gateway.reaches(settling=1)
        exchanges = gateway.proxy.runtime.serving.exchanges
        assert len(gateway.proxy.call(lambda: exchanges.sweep(now() + 1000))) == 1
        gateway.node.faults.clear()
        answer = client.response()
        refused(answer, "settlement-unknown", 503)
        assert b"marked" not in answer[2]
        client.close()
        assert gateway.send(credential)[0] == 200
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})
