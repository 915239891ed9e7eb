"""Two gateway processes on one store and one gas key: one payment buys one call, in any weather."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from itertools import product

from tests.support.client import RawClient
from tests.support.deaths import Buyer, House, Seen, house
from tests.support.launcher import Mortal
from tests.support.paid import PRICE, at_once, slug_of
from tests.support.process import free_port
from tests.support.stores import Place, PostgresPlace, SqlitePlace

COPIES = 1_000
CLIENTS = 20
PAYERS = 20
PAYMENTS = {SqlitePlace: 10, PostgresPlace: 2}
"""Of each payer."""
SEED = 402
COMES_BACK_S = 0.2
"""A buyer may ask as often as it likes; it is the machine that would have no time for the rest."""

WEATHER = {
    "eth_sendRawTransaction": (
        (8, "lost"), (8, "twice"), (2, "reset"), (2, "500"), (2, "garbage"), (1, "no-result"),
        (2, "error: nonce too low"), (2, "error: insufficient funds for gas"),
    ),
    "eth_getTransactionReceipt": (
        (5, "500"), (5, "reset"), (5, "garbage"), (5, "lost"), (1, "hang"),
    ),
    "eth_estimateGas": ((2, "500"), (2, "reset"), (1, "hang")),
    "eth_getTransactionCount": ((5, "500"), (5, "garbage")),
    "eth_call": ((1, "500"), (1, "lost")),
}  # fmt: skip
"""What goes wrong with how many of a hundred questions."""


class Weather(dict[str, str]):
    """Stands for `FaultyNode.faults`: each question has a fault of its own, by a fixed seed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str]] = Counter()
        self._random = random.Random(SEED)  # noqa: S311 - what goes wrong is no secret

    def get(self, method: str, default=None):
        drawn = self._random.randrange(100)
        for percent, fault in WEATHER.get(method, ()):
            drawn -= percent
            if drawn < 0 and not (fault == "hang" and self.seen[method, fault]):
                self.seen[method, fault] += 1
                return fault
        return default


@contextmanager
def two_of_them(home: House) -> Iterator[tuple[Mortal, Mortal]]:
    first, second = (home.launcher.serve(home.config, free_port()) for _ in range(2))
    yield first.started(), second.started()


def told(seen: Seen) -> tuple[int, str]:
    """Return status and problem of an answer; assert that it is one or the other."""
    if seen.status == 200:
        return 200, ""
    return seen.status, slug_of((seen.status, seen.fields, seen.body))


def test_of_a_thousand_copies_over_two_processes_one_is_accepted(tmp_path, place: Place):
    with house(tmp_path, place) as home, two_of_them(home) as processes:
        home.port = home.paid._port = processes[0].port
        buyer = Buyer(home, "paid")
        by_x402 = copy(buyer)
        by_x402.by_x402 = True  # the same signature in its other form

        def send(one: Buyer, port: int) -> list[tuple[int, str]]:
            return [told(seen) for seen in copies(one, port, COPIES // CLIENTS)]

        ports = [process.port for process in processes] * (CLIENTS // 4)
        forms = product((buyer, by_x402), ports)
        answers = at_once([lambda one=one, port=port: send(one, port) for one, port in forms])
        counted = Counter(answer for some in answers for answer in some)

        assert counted.total() == COPIES
        assert counted.pop((200, "")) == 1
        assert set(counted) <= {(402, "invalid-challenge"), (409, "payment-in-progress")}
        assert (buyer.runs, buyer.spent, buyer.journey()) == (1, PRICE, ONCE)
        assert home.chain.balance(home.paid.payee) == PRICE
        home.verify_books()


ONCE = "claimed verified settling settled"


def copies(buyer: Buyer, port: int, count: int) -> Iterator[Seen]:
    """Present the payment so often, on one connection as long as it lasts."""
    client = RawClient(port)
    for _ in range(count):
        buyer.ask(client)
        seen = Seen(*client.response(), is_whole=True)
        yield seen
        if "close" in seen.fields.get("connection", ""):
            client.close()
            client = RawClient(port)
    client.close()


def test_two_processes_settle_with_one_key_in_any_weather(tmp_path, place: Place):
    each = PAYMENTS[type(place)]
    with house(tmp_path, place, timeouts="connect_s: 5, settle_s: 4") as home:
        weather = Weather()
        with two_of_them(home) as processes:
            home.port = home.paid._port = processes[0].port
            payers = [[Buyer(home, "paid")] for _ in range(PAYERS)]
            for some in payers:
                some += [Buyer(home, "paid", key=some[0].key) for _ in range(each - 1)]
            home.paid.node.faults = weather

            def shop(some: list[Buyer], first: int) -> list[Seen]:
                return [insist(one, processes[(first + n) % 2].port) for n, one in enumerate(some)]

            works = [lambda some=s, n=n: shop(some, n) for n, s in enumerate(payers)]
            answers = [seen for some in at_once(works) for seen in some]
            home.paid.node.faults = {}
            for process in processes:
                assert process.stop() == 0
        # What the weather has left open is mended at the next start, or by the upkeep after it.
        home.serve()
        count, rows = home.nonces()

        assert Counter(seen.status for seen in answers) == {200: PAYERS * each}
        assert [some[0].spent for some in payers] == [each * PRICE] * PAYERS
        assert home.chain.balance(home.paid.payee) == PAYERS * each * PRICE
        assert [nonce for nonce, _ in rows][:count] == list(range(count))
        assert {state for nonce, state in rows if nonce < count} <= {"done", "lost"}
        assert {state for nonce, state in rows if nonce >= count} <= {"free"}
        home.verify_books()
        assert weather.seen.total() > PAYERS * each // 2, weather.seen


def insist(buyer: Buyer, port: int) -> Seen:
    """Present the payment until it has bought its call, whatever is said of it meanwhile."""
    while True:
        seen = buyer.presents(port)
        if told(seen) in {(200, ""), (402, "invalid-challenge")}:
            return seen
        time.sleep(COMES_BACK_S)
