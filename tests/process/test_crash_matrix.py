"""The gateway is killed at every named point of an exchange: nobody pays twice or for nothing.

Each row is one payment. Its process dies by SIGKILL at a point, once or twice, and is started
again; the buyer presents the same credential until it has a final answer. Then the chain, the store
and the upstream have to tell the same story.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from mpp_gateway.failpoints import FailPoint
from mpp_gateway.ledger.states import TRANSITIONS, State
from tests.support.deaths import BODY, Buyer, House, Seen, house
from tests.support.evm import address, asking
from tests.support.launcher import Trap
from tests.support.paid import PRICE, receipt_of, wait_until
from tests.support.stores import Place, PostgresPlace, SqlitePlace
from tests.support.x402 import settled

P = FailPoint
STORES = ("sqlite", "postgres")

PAID = "claimed verified settling settled"
AGAIN = "credited settled"
"""What was paid and not handed over is a credit, and the credit is spent."""
FOUND = f"claimed verified settling unknown {AGAIN}"
OWED = f"{PAID} {AGAIN}"
OWED_TWICE = f"{PAID} {AGAIN} {AGAIN}"
REFUNDED = f"{PAID} refunding refunded"
NEVER_SENT = f"claimed verified settling unknown released {PAID}"


@dataclass(frozen=True)
class Row:
    """One payment and the deaths of its gateway."""

    way: str
    deaths: tuple[Trap, ...]
    journey: str
    """The states that the payment goes through, by the journal."""
    runs: int = 1
    """How often the upstream does the work, all in all."""
    first: str = "cut"
    """What the buyer's first try got: `cut`, a `head`, an `answer`, a status."""
    last: str = "answer"
    """What it has in the end; a status where the first try's answer was the one paid for."""
    at_start: bool = False
    """The second death is at the start after the first one."""

    def __str__(self) -> str:
        return f"{self.way}: {', then '.join(map(str, self.deaths))}".replace(" ", "_")


def row(way: str, *deaths: FailPoint | Trap, journey: str, **more) -> Row:
    traps = tuple(d if isinstance(d, Trap) else Trap(d) for d in deaths)
    return Row(way, traps, journey, **more)


def once(after: FailPoint, point: FailPoint, nth: int = 1) -> Trap:
    return Trap(point, nth, after)


GIVEN_UP = f"claimed released {PAID}"
HELD = f"claimed verified released {PAID}"
UNHEARD = {"first": "any", "last": "402"}
"""The first try may have been told of the refund, or not."""
ROWS = (
    # Nothing is written, then a claim, then a hold: at most the claim is given up.
    row("pays", P.BEFORE_CLAIMED, journey=PAID),
    row("pays", once(P.BEFORE_CLAIMED, P.COMMITTING), journey=PAID),
    row("pays", once(P.BEFORE_CLAIMED, P.COMMITTED), journey=GIVEN_UP),
    row("pays", P.AFTER_CLAIMED, journey=GIVEN_UP),
    row("pays", P.BEFORE_VERIFIED, journey=GIVEN_UP),
    row("pays", P.AFTER_VERIFIED, journey=HELD),
    row("pays", P.UPSTREAM_ANSWERED, journey=HELD, runs=2),
    row("pays", P.BEFORE_SETTLING, journey=HELD, runs=2),
    # Only the chain knows. What was never sent is given back when it no longer can be.
    row("pays", P.AFTER_SETTLING, journey=NEVER_SENT, runs=2),
    row("pays", once(P.AFTER_SETTLING, P.COMMITTING, 2), journey=NEVER_SENT, runs=2),
    row("pays", once(P.AFTER_SETTLING, P.COMMITTED, 2), journey=FOUND, runs=2),
    row("pays", P.LEASED, journey=FOUND, runs=2),
    row("pays", P.SENT, journey=FOUND, runs=2),
    row("pays", P.MINED, journey=FOUND, runs=2),
    row("pays", P.BEFORE_SETTLED, journey=FOUND, runs=2),
    row("pays", once(P.BEFORE_SETTLED, P.COMMITTING), journey=FOUND, runs=2),
    row("its nonce is used elsewhere", P.LOST, journey=NEVER_SENT, runs=2),
    row("the node takes nothing", P.RETURNED, journey=NEVER_SENT, runs=2),
    row("gas rises", P.LEASED, P.REPLACED, journey=FOUND, runs=2, at_start=True),
    # Paid, and not handed over: a credit.
    row("pays", once(P.BEFORE_SETTLED, P.COMMITTED), journey=OWED, runs=2),
    row("pays", P.AFTER_SETTLED, journey=OWED, runs=2),
    row("pays", P.HEAD_DUE, journey=OWED, runs=2),
    # On its way: whoever has not all of it is owed it.
    row("pays slowly", P.BODY_PIECE, journey=OWED, runs=2, first="head"),
    row("pays in halves", Trap(P.BODY_PIECE, 2), journey=OWED, runs=2, first="head"),
    row("pays slowly", P.ANSWER_PASSED, journey=OWED, runs=2, first="answer"),
    row("pays", P.BEFORE_DELIVERED, journey=OWED, runs=2, first="answer"),
    row("pays", P.AFTER_DELIVERED, journey=PAID, first="answer", last="402"),
    # Twice.
    row("pays", P.SENT, P.BEFORE_CREDITED, journey=FOUND, runs=2, at_start=True),
    row("pays", P.SENT, P.AFTER_CREDITED, journey=FOUND, runs=2, at_start=True),
    row("pays", P.AFTER_SETTLED, P.AFTER_CLAIMED, journey=OWED_TWICE, runs=2),
    row("pays", P.AFTER_CLAIMED, P.SENT, journey=f"claimed released {FOUND}", runs=2),
    row("pays beside another", P.AFTER_SETTLED, P.TAKEN_UP, journey=OWED, runs=2, at_start=True),
    # With `settle: before` the money moves while the upstream is not asked yet: that it is held and
    # that it is about to move is one write.
    row("pays first", P.BEFORE_SETTLING, journey=GIVEN_UP),
    row("pays first", once(P.BEFORE_SETTLING, P.COMMITTING), journey=GIVEN_UP),
    row("pays first", once(P.BEFORE_SETTLING, P.COMMITTED), journey=NEVER_SENT),
    row("pays first", P.AFTER_SETTLING, journey=NEVER_SENT),
    row("pays first", P.SENT, journey=FOUND),
    row("pays first", P.AFTER_SETTLED, journey=OWED),
    row("pays first", P.UPSTREAM_ANSWERED, journey=OWED, runs=2),
    row("pays first", P.HEAD_DUE, journey=OWED, runs=2),
    # By x402, where no challenge names the call: the claim alone keeps its payment to one.
    row("pays by x402", P.AFTER_CLAIMED, journey=GIVEN_UP),
    row("pays by x402", P.AFTER_VERIFIED, journey=HELD),
    row("pays by x402", P.AFTER_SETTLING, journey=NEVER_SENT, runs=2),
    row("pays by x402", P.SENT, journey=FOUND, runs=2),
    row("pays by x402", P.AFTER_SETTLED, journey=OWED, runs=2),
    # The upstream fails.
    row("upstream fails", P.BEFORE_RELEASED, journey=HELD, runs=2),
    row("upstream fails", P.AFTER_RELEASED, journey=HELD, runs=2),
    row("pays first, upstream fails", P.BEFORE_CREDITED, journey=OWED, runs=2),
    row("pays first, upstream fails", P.AFTER_CREDITED, journey=OWED, runs=2),
    row("redeems", P.AFTER_CLAIMED, journey=OWED_TWICE, runs=2, first="502"),
    row("redeems", once(P.BEFORE_CLAIMED, P.COMMITTING), journey=OWED, runs=2, first="502"),
    # Settling is refused, or its outcome is not known in time.
    row("refused", P.BEFORE_RELEASED, journey=NEVER_SENT, runs=2),
    row("refused", P.AFTER_RELEASED, journey=f"claimed verified settling released {PAID}", runs=2),
    row("late", P.BEFORE_UNKNOWN, journey=FOUND, runs=2),
    row("late", P.AFTER_UNKNOWN, journey=FOUND, runs=2),
    row("later", P.BEFORE_CREDITED, journey=FOUND, runs=2, first="503"),
    row("later", P.AFTER_CREDITED, journey=FOUND, runs=2, first="503"),
    # The client has left.
    row("leaves", P.AFTER_SETTLED, journey=OWED, runs=2),
    row("leaves", P.AFTER_CREDITED, journey=OWED, runs=2),
    # Under an Idempotency-Key.
    row("keeps", P.BODY_PIECE, journey=OWED, runs=2, first="head"),
    row("keeps", P.BEFORE_KEPT, journey=OWED, runs=2, first="answer"),
    row("keeps", once(P.BEFORE_KEPT, P.COMMITTING), journey=OWED, runs=2, first="answer"),
    row("keeps", P.AFTER_KEPT, journey=PAID, first="answer"),
    # Money that is owed back is sent back once.
    row("is refunded", P.BEFORE_REFUNDING, journey=OWED, runs=2),
    row("is refunded", P.AFTER_REFUNDING, journey=REFUNDED, last="402"),
    row("is refunded", once(P.AFTER_REFUNDING, P.LEASED), journey=REFUNDED, **UNHEARD),
    row("is refunded", once(P.AFTER_REFUNDING, P.SENT), journey=REFUNDED, **UNHEARD),
    row("is refunded", P.BEFORE_REFUNDED, journey=REFUNDED, **UNHEARD),
    row("is refunded", P.AFTER_REFUNDED, journey=REFUNDED, **UNHEARD),
)  # fmt: skip


# How each way goes, up to a death. `arm` sets the trap.

type Arm = Callable[[], None]


def pays(buyer: Buyer, arm: Arm) -> Seen:
    arm()
    return buyer.presents()


def pays_slowly(buyer: Buyer, arm: Arm, first_bytes: int = 0) -> Seen:
    """The rest of the body comes when the buyer has what is before it."""
    buyer.house.upstream.first_bytes = first_bytes
    arm()
    client = buyer.send()
    seen = buyer.read_head(client, first_bytes)
    buyer.house.upstream.rest.set()
    return buyer.read(client, seen)


def pays_in_halves(buyer: Buyer, arm: Arm) -> Seen:
    return pays_slowly(buyer, arm, first_bytes=5)


def beside_another(buyer: Buyer, arm: Arm) -> Seen:
    """Somebody else's call waits for the upstream all the while."""
    buyer.house.upstream.is_shut.add("/beside")
    other = buyer.companion("beside")
    waiting = other.send()
    wait_until(lambda: other.row().get("state") == State.VERIFIED, "the other one is held")
    seen = pays(buyer, arm)
    other.read(waiting)
    return seen


def nonce_used_elsewhere(buyer: Buyer, arm: Arm) -> Seen:
    """Somebody has the gas key too, and uses the nonce that the gateway believes to be next."""
    other, demo = buyer.companion("paid"), buyer.house.chain.demo
    assert other.comes_back().status == 200
    buyer.house.chain.run(demo.transfer(buyer.house.gas_key, address(buyer.key), 0))
    return pays(buyer, arm)


def faulty(method: str, fault: str) -> Callable[[Buyer, Arm], Seen]:
    def way(buyer: Buyer, arm: Arm) -> Seen:
        buyer.house.paid.node.faults[method] = fault
        return pays(buyer, arm)

    return way


def later(buyer: Buyer, arm: Arm) -> Seen:
    """The node says what became of the payment after the buyer was told that nobody knows."""
    seen = faulty("eth_getTransactionReceipt", "500")(buyer, arm)
    buyer.house.heal()
    return seen


def upstream_fails(buyer: Buyer, arm: Arm) -> Seen:
    buyer.house.upstream.fails = True
    return pays(buyer, arm)


def redeems(buyer: Buyer, arm: Arm) -> Seen:
    """It has a credit, and dies when it presents it."""
    seen = upstream_fails(buyer, lambda: None)
    buyer.house.upstream.fails = False
    wait_until(lambda: buyer.row()["state"] == State.CREDITED, "there is a credit")
    assert str(pays(buyer, arm)) == "cut"
    return seen


def leaves(buyer: Buyer, arm: Arm) -> Seen:
    upstream = buyer.house.upstream
    upstream.is_shut.add("/paid")
    arm()
    client = buyer.send()
    wait_until(lambda: buyer.runs, "the upstream is at it")
    client.close()
    upstream.is_shut.clear()
    return Seen()


WAYS: dict[str, tuple[str, Callable[[Buyer, Arm], Seen]]] = {
    "pays": ("paid", pays),
    "pays by x402": ("paid", pays),
    "pays slowly": ("paid", pays_slowly),
    "pays in halves": ("paid", pays_in_halves),
    "pays beside another": ("paid", beside_another),
    "pays first": ("first", pays),
    "its nonce is used elsewhere": ("paid", nonce_used_elsewhere),
    "the node takes nothing": (
        "paid",
        faulty("eth_sendRawTransaction", "error: insufficient funds for gas"),
    ),
    "gas rises": ("paid", pays),
    "upstream fails": ("paid", upstream_fails),
    "pays first, upstream fails": ("first", upstream_fails),
    "redeems": ("first", redeems),
    "refused": ("paid", faulty("eth_estimateGas", "error: out of range")),
    "late": ("brief", faulty("eth_getTransactionReceipt", "500")),
    "later": ("brief", later),
    "leaves": ("paid", leaves),
    "keeps": ("paid", pays_slowly),
    "is refunded": ("refunded", upstream_fails),
}


@pytest.fixture(scope="module")
def houses(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], House]]:
    """One house for each kind of store, built when it is first asked for."""
    with ExitStack() as stack:
        built: dict[str, House] = {}

        def build(kind: str) -> House:
            if kind not in built:
                folder = tmp_path_factory.mktemp(kind)
                place: Place = SqlitePlace(folder / "gateway.db")
                if kind == "postgres":
                    place = PostgresPlace(request.getfixturevalue("postgres").database())
                built[kind] = stack.enter_context(house(folder, place))
            return built[kind]

        yield build


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_killed_anywhere_it_charges_once_and_owes_nobody(houses, kind, row: Row):
    home: House = houses(kind)
    home.serve()
    path, way = WAYS[row.way]
    keyed = ("Idempotency-Key: one-call",) if row.way.startswith("keeps") else ()
    buyer = Buyer(home, path, keyed, by_x402=row.way == "pays by x402")
    payee = address(home.gas_key) if path == "refunded" else home.paid.payee
    earned = home.chain.balance(payee)

    seen = way(buyer, lambda: home.gateway.arm(row.deaths[0]))
    home.gateway.died_at(row.deaths[0])
    assert row.first in (str(seen), "any")
    assert_told_nothing_else_than_paid(seen)
    die_again(row, buyer)
    home.serve()
    if row.journey.startswith(NEVER_SENT.removesuffix(PAID)):
        home.end_the_chain_time()
    last = buyer.comes_back()

    assert str(last) == row.last, (last, buyer.journey(), buyer.row(), buyer.runs)
    everyone = [buyer, *buyer.companions]
    for one in buyer.companions:
        assert one.comes_back().status in (200, 402)
    wait_until(lambda: all(one.is_over() for one in everyone), "nothing is owed any more")
    price = 0 if row.journey == REFUNDED else PRICE
    assert (buyer.spent, buyer.journey(), buyer.runs) == (price, row.journey, row.runs)
    assert home.chain.balance(payee) == earned + sum(one.spent for one in everyone)
    if row.last == "answer":
        answered = 200, last.fields, b""
        x402 = "payment-response" in last.fields
        tx_hash = settled(answered)["transaction"] if x402 else receipt_of(answered).reference
        mined = home.chain.transaction(tx_hash)
        assert mined is not None
        assert mined["status"] == "0x1"
        assert last.body == BODY
    assert_it_buys_no_more(buyer)
    home.verify_books()


def die_again(row: Row, buyer: Buyer) -> None:
    """Go through the second death, if there is one."""
    if len(row.deaths) == 1:
        return
    home, (_, second) = buyer.house, row.deaths
    home.upstream.reset()
    home.heal()
    if row.at_start:
        if row.way == "gas rises":
            home.paid.node.lies.update(asking(10**13))
        home.start_and_die(second)
        return
    home.serve()
    home.gateway.arm(second)
    while not home.gateway.is_over():
        buyer.presents()
    home.gateway.died_at(second)


def assert_told_nothing_else_than_paid(seen: Seen) -> None:
    """A receipt is on a 2xx alone, and a 2xx has one."""
    receipt = "payment-receipt" in seen.fields or "payment-response" in seen.fields
    assert receipt == (seen.status == 200)


def assert_it_buys_no_more(buyer: Buyer) -> None:
    runs, spent = buyer.runs, buyer.spent
    again = buyer.presents()
    assert again.status == 402 or "idempotent-replayed" in again.fields or again.status == 409
    assert (buyer.runs, buyer.spent) == (runs, spent)


@pytest.mark.parametrize("kind", STORES)
def test_after_all_of_them_the_gas_key_has_no_gap(houses, kind):
    """Run alone it says nothing; after the rows it says that each left the nonces as they were."""
    home: House = houses(kind)
    home.serve()
    count, rows = home.nonces()
    assert [nonce for nonce, _ in rows] == list(range(count))
    assert {state for _, state in rows} <= {"done", "lost"}


def test_every_point_has_a_row():
    """Each row asserts that its process died there."""
    assert {trap.point for row in ROWS for trap in row.deaths} == set(FailPoint)


def test_every_transition_has_a_row():
    """Each row asserts its journey."""
    seen = {move for row in ROWS for move in itertools.pairwise(row.journey.split())}
    table = {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert {(State(a), State(b)) for a, b in seen} == table
