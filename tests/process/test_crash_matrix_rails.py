"""Gateways that sell through Stripe and on Tempo are killed at the named points of an exchange.

As in `test_crash_matrix.py`: each row is one payment whose process dies by SIGKILL and is started
again; the buyer presents the same credential. Nobody pays twice, and who has paid has its call.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from mpp_gateway.failpoints import FailPoint
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from tests.support import stripe_shop, tempo
from tests.support import upstream as upstreams
from tests.support.anvil import CHAIN_ID, PATH_USD, address, anvil, new_key
from tests.support.client import RawClient, get
from tests.support.deaths import Seen
from tests.support.evm import now
from tests.support.launcher import Launcher, Mortal, Trap, launching
from tests.support.paid import Gatekeeper, serve, wait_until
from tests.support.process import free_port
from tests.support.proxy import config_text
from tests.support.stores import Place, PostgresPlace, SqlitePlace
from tests.support.stripe_server import stand_in_stripe

P = FailPoint
CHARGED, HELD = "stripe", "stripe, held"
PULL, FIRST, PUSH = "tempo, pull", "tempo, settled first", "tempo, push"
TRIES_MAX = 200
OPEN_TRIES = 3
BODY = b"served"

PAID = "claimed verified settling settled"
AGAIN = "credited settled"
GIVEN_UP = f"claimed released {PAID}"
LET_GO = f"claimed verified released {PAID}"
FOUND = f"claimed verified settling unknown {AGAIN}"
OWED = f"{PAID} {AGAIN}"
NEVER_SENT = f"claimed verified settling unknown released {PAID}"
OPEN = "claimed verified settling unknown"
REFUNDED = f"{PAID} refunding refunded"


@dataclass(frozen=True)
class Row:
    """One payment and the death of its gateway; see `test_crash_matrix.Row`."""

    setup: str
    point: FailPoint
    journey: str
    runs: int = 1
    last: str = "answer"
    paid: int = 1
    fails: bool = False
    """The upstream fails until the gateway has died."""

    def __str__(self) -> str:
        return f"{self.setup}: {self.point}".replace(" ", "_")


ROWS = (
    # Stripe charges before the upstream is asked.
    Row(CHARGED, P.AFTER_CLAIMED, GIVEN_UP),
    Row(CHARGED, P.BEFORE_SETTLING, GIVEN_UP),
    # The token is gone with the process: that nothing was charged is believed after an hour.
    Row(CHARGED, P.AFTER_SETTLING, OPEN, runs=0, last="503", paid=0),
    Row(CHARGED, P.BEFORE_SETTLED, FOUND),
    Row(CHARGED, P.AFTER_SETTLED, OWED),
    Row(CHARGED, P.UPSTREAM_ANSWERED, OWED, runs=2),
    Row(CHARGED, P.HEAD_DUE, OWED, runs=2),
    Row(CHARGED, P.BEFORE_DELIVERED, OWED, runs=2),
    Row(CHARGED, P.AFTER_DELIVERED, PAID, last="402"),
    Row(CHARGED, P.BEFORE_REFUNDING, OWED, runs=2, fails=True),
    Row(CHARGED, P.AFTER_REFUNDING, REFUNDED, last="402", paid=0, fails=True),
    Row(CHARGED, P.BEFORE_REFUNDED, REFUNDED, last="402", paid=0, fails=True),
    Row(CHARGED, P.AFTER_REFUNDED, REFUNDED, last="402", paid=0, fails=True),
    # Held on the card first: what was held is captured later, by the same credential.
    Row(HELD, P.BEFORE_VERIFIED, GIVEN_UP),
    Row(HELD, P.AFTER_VERIFIED, LET_GO),
    Row(HELD, P.UPSTREAM_ANSWERED, LET_GO, runs=2),
    Row(HELD, P.BEFORE_SETTLING, LET_GO, runs=2),
    Row(HELD, P.AFTER_SETTLING, OPEN, last="503", paid=0),
    Row(HELD, P.BEFORE_SETTLED, FOUND, runs=2),
    Row(HELD, P.AFTER_SETTLED, OWED, runs=2),
    Row(HELD, P.AFTER_RELEASED, LET_GO, runs=2, fails=True),
    # A signed transaction is in memory alone.
    Row(PULL, P.BEFORE_VERIFIED, GIVEN_UP),
    Row(PULL, P.AFTER_VERIFIED, LET_GO),
    Row(PULL, P.UPSTREAM_ANSWERED, LET_GO, runs=2),
    Row(PULL, P.AFTER_SETTLING, NEVER_SENT, runs=2),
    Row(PULL, P.BEFORE_SETTLED, FOUND, runs=2),
    Row(PULL, P.AFTER_SETTLED, OWED, runs=2),
    Row(PULL, P.HEAD_DUE, OWED, runs=2),
    Row(PULL, P.AFTER_DELIVERED, PAID, last="402"),
    Row(FIRST, P.AFTER_SETTLING, NEVER_SENT),
    Row(FIRST, P.BEFORE_SETTLED, FOUND),
    Row(FIRST, P.AFTER_SETTLED, OWED),
    Row(FIRST, P.BEFORE_CREDITED, OWED, runs=2, fails=True),
    # What the buyer has sent is there, whatever dies here.
    Row(PUSH, P.AFTER_CLAIMED, GIVEN_UP),
    Row(PUSH, P.BEFORE_SETTLING, GIVEN_UP),
    Row(PUSH, P.AFTER_SETTLING, FOUND),
    Row(PUSH, P.BEFORE_SETTLED, FOUND),
    Row(PUSH, P.AFTER_SETTLED, OWED),
)
NARROW = tuple(row for row in ROWS if row.point in (P.AFTER_SETTLING, P.BEFORE_SETTLED))
"""What is played on PostgreSQL too: where only the rail knows what became of the money."""


@dataclass
class Home:
    """One gateway's surroundings, for many deaths."""

    launcher: Launcher
    place: Place
    upstream: upstreams.Upstream
    keeper: Gatekeeper
    config: str
    pay: Callable[[Challenge], Credential]
    paid: Callable[[Credential], int]
    """How many prices have moved for a credential."""
    end_chain_time: Callable[[], None] = lambda: None
    heal: Callable[[], None] = lambda: None
    port: int = field(default_factory=free_port)
    mortal: Mortal | None = None
    _buyers: Any = field(default_factory=lambda: itertools.count(1))

    def serve(self) -> Mortal:
        self.heal()
        if self.mortal is None or self.mortal.is_over():
            self.mortal = self.launcher.serve(self.config, self.port).started()
        return self.mortal

    def buy(self) -> tuple[Credential, str]:
        """Return a credential, and the target that it is good for: nobody else's."""
        target = f"/api/paid?buyer={next(self._buyers)}"
        status, fields, _ = get(self.port, target)
        assert status == 402
        return self.pay(Challenge.parse(fields["www-authenticate"])), target

    def send(self, credential: Credential, target: str) -> Seen:
        seen = Seen()
        try:
            with RawClient(self.port) as client:
                fields = "Host: gateway.test", f"Authorization: {credential.format()}"
                client.send("\r\n".join((f"GET {target} HTTP/1.1", *fields, "", "")).encode())
                seen.status, seen.fields, seen.body = client.response()
                seen.is_whole = True
        except (EOFError, ConnectionError):
            pass
        return seen

    def comes_back(self, credential: Credential, target: str, *, stays_open: bool) -> Seen:
        """Present it until there is an answer that is final, or the outcome stays open."""
        for _ in range(OPEN_TRIES if stays_open else TRIES_MAX):
            seen = self.send(credential, target)
            if seen.status not in (409, 503):
                break
        return seen

    def runs(self, target: str) -> int:
        query = target.partition("?")[2]
        return sum(seen.target.endswith(f"?{query}") for seen in self.upstream.seen)

    def journey(self, credential: Credential) -> str:
        rows = self.place.rows("SELECT exchange_id, to_state FROM journal ORDER BY seq")
        (own,) = {
            row["id"]
            for row in self.place.rows("SELECT * FROM exchanges")
            if self.is_of(row, credential)
        }
        return " ".join(row["to_state"] for row in rows if row["exchange_id"] == own)

    @staticmethod
    def is_of(row: dict[str, Any], credential: Credential) -> bool:
        spt = credential.payload.get("spt")
        if spt is not None:
            return bool(row["proof_id"] == stripe_shop.proof_id_of(spt))
        return str(row["proof_id"]).endswith(credential.challenge.id)


@contextmanager
def home(setup: str, launcher: Launcher, place: Place) -> Iterator[Home]:
    keeper = Gatekeeper()
    with ExitStack() as stack:
        up = stack.enter_context(upstreams.upstream(keeper))
        of_stripe = setup in (CHARGED, HELD)
        method, more = (_stripe if of_stripe else _tempo)(stack, setup)
        price = "1.00" if of_stripe else "0.01"
        routes = f'    routes: {{"GET /paid": {{charge: "{price}"}}}}'
        first_byte_s = 60 if setup == FIRST else 5
        times = f"timeouts: {{connect_s: 1, first_byte_s: {first_byte_s}, settle_s: 4}}\n"
        text = config_text(
            f"  api:\n    base_url: {up.url}\n{routes}",
            method,
            store=place.url,
            more=f"{times}limits: {{unpaid_per_minute: 0}}",
        )
        yield Home(launcher, place, up, keeper, text, **more)
        keeper.opened.set()


def _stripe(stack: ExitStack, setup: str) -> tuple[str, dict[str, Any]]:
    server = stack.enter_context(stand_in_stripe())

    def paid(credential: Credential) -> int:
        sums = server.sums(credential.payload["spt"])
        assert sums.get("charged", 0) <= stripe_shop.PRICE
        assert sums.get("held", stripe_shop.PRICE) == stripe_shop.PRICE
        return (sums.get("charged", 0) - sums.get("refunded", 0)) // stripe_shop.PRICE

    def pay(challenge: Challenge) -> Credential:
        return Credential(challenge, {"spt": server.mint(stripe_shop.PRICE)})

    method = stripe_shop.method_text(server, "capture: manual" if setup == HELD else "")
    return method, {"pay": pay, "paid": paid}


def _tempo(stack: ExitStack, setup: str) -> tuple[str, dict[str, Any]]:
    chain, payee = anvil(), address(new_key())
    thread = tempo.TempoThread(chain)
    stack.callback(thread.close)
    node = tempo.TempoNode(chain)
    node.url = serve(stack, thread, node.serve)
    keys: dict[str, bytes] = {}

    def pay(challenge: Challenge) -> Credential:
        key = keys[challenge.id] = new_key()
        chain.fund(tempo.address_of(key), tempo.PURSE)
        if setup != PUSH:
            return tempo.pull(challenge, key)
        transaction = tempo.signed(key, tempo.moves(challenge, key))
        chain.ask("eth_sendRawTransaction", "0x" + transaction.raw.hex())
        wait_until(lambda: chain.receipt(transaction.tx_hash), "the block")
        return tempo.push(challenge, key, transaction.tx_hash)

    def paid(credential: Credential) -> int:
        key = keys[credential.challenge.id]
        # Fees are far below a price: what is gone is prices, and less than one more.
        spent = tempo.PURSE - chain.balance(tempo.address_of(key))
        return spent // tempo.PRICE

    def end_chain_time() -> None:
        late = hex(now() + 100_000)
        node.lies["eth_getBlockByNumber"] = lambda block: block | {"timestamp": late}

    method = (
        f'  tempo: {{chain_id: {CHAIN_ID}, rpc_url: "{node.url}", currency:'
        f' "0x{PATH_USD.hex()}", recipient: "{payee}"}}\n'
    )
    return method, {
        "pay": pay,
        "paid": paid,
        "end_chain_time": end_chain_time,
        "heal": node.lies.clear,
    }


@pytest.fixture(scope="module")
def homes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str, str], Home]]:
    """One home for each setup and kind of store, built when it is first asked for."""
    with ExitStack() as stack:
        built: dict[tuple[str, str], Home] = {}
        launcher = stack.enter_context(launching(tmp_path_factory.mktemp("launcher")))

        def build(setup: str, kind: str) -> Home:
            if (setup, kind) not in built:
                place: Place = SqlitePlace(tmp_path_factory.mktemp(kind) / "gateway.db")
                if kind == "postgres":
                    place = PostgresPlace(request.getfixturevalue("postgres").database())
                built[setup, kind] = stack.enter_context(home(setup, launcher, place))
            return built[setup, kind]

        yield build


PLAYED = [("sqlite", row) for row in ROWS] + [("postgres", row) for row in NARROW]


@pytest.mark.parametrize(("kind", "row"), PLAYED, ids=str)
def test_killed_anywhere_a_rail_charges_once_and_owes_nobody(homes, kind: str, row: Row):
    house: Home = homes(row.setup, kind)
    gateway = house.serve()
    house.keeper.answers("500 no" if row.fails else "200 OK", body=BODY)
    credential, target = house.buy()
    trap = Trap(row.point)
    gateway.arm(trap)

    first = house.send(credential, target)
    gateway.died_at(trap)
    assert ("payment-receipt" in first.fields) == (first.status == 200)
    house.keeper.answers("200 OK", body=BODY)
    if row.journey == NEVER_SENT:
        house.end_chain_time()
        house.mortal = house.launcher.serve(house.config, house.port).started()
    else:
        house.serve()
    last = house.comes_back(credential, target, stays_open=row.last == "503")

    assert str(last) == row.last, (last, house.journey(credential))
    wait_until(lambda: house.journey(credential) == row.journey, "its books are closed")
    assert (house.paid(credential), house.runs(target)) == (row.paid, row.runs)
    if row.last == "answer":
        assert last.body == BODY
    again = house.send(credential, target)
    assert again.status == (503 if row.last == "503" else 402)
    assert (house.paid(credential), house.runs(target)) == (row.paid, row.runs)
