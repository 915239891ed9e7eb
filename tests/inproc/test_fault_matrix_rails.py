"""The fault matrix of the Stripe and Tempo rails: down, slow, or a word lost, question by question.

Each row is a payment of its own through a real gateway. Whatever goes wrong, at most one price
moves, and who has paid it gets the upstream's answer for it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import pytest

from mpp_gateway.gateway import serving
from mpp_gateway.protocol.credential import Credential
from tests.support import stripe_shop, tempo
from tests.support.anvil import new_key
from tests.support.evm import now
from tests.support.paid import Response, slug_of, wait_until
from tests.support.stripe_server import stand_in_stripe

SETTLE_S = 2
NOWHERE = "http://127.0.0.1:1"
ASKS_MAX = 3
CHARGED, HELD, PULL, PUSH = "stripe", "stripe, held", "tempo, pull", "tempo, push"


@dataclass(frozen=True)
class Expected:
    """What the buyer is told, what is on the books, how many prices have moved, and what the same
    credential gets when the fault is gone: `served`, or a word that stays."""

    told: str
    state: str
    moved: int
    again: str


UNTRIED = Expected("503 rail-unavailable", "released", 0, "served")
DECLINED = Expected("402 verification-failed", "released", 0, "served")
SERVED = Expected("200", "settled", 1, "402 invalid-challenge")
OPEN = Expected("503 settlement-unknown", "unknown", 0, "503 settlement-unknown")
MOVED = Expected("503 settlement-unknown", "unknown", 1, "served")
SOUGHT = Expected("503 settlement-unknown", "released", 1, "served")
"""The buyer has sent it, and it could not be looked for."""
KEPT = replace(UNTRIED, again="503 rail-unavailable")
"""Stripe keeps its failure for the key."""
OWED = Expected("502 upstream-failed", "refunding", 1, "402 invalid-challenge")
OWED_BACK = replace(OWED, moved=0)
"""The refund is made, and nobody has said so."""

SEND, RECEIPT, BLOCK = "eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_getBlockByNumber"
BALANCE, TRIAL = "eth_call balanceOf", "eth_call"
DEAD, SLOW, BUSY = ("refuse",), ("hang",), ("429",)
NO_ENTRY, DECLINE, KEEPS = ("401",), ("402",), ("500",)
MUTE = ("reset", "409")
LOST = ("lost", "late", "garbage")
STRIPE = (*DEAD, *SLOW, *BUSY, *NO_ENTRY, *DECLINE, *KEEPS, *MUTE, *LOST)
SHAPE, NULL = ("shape",), ("null",)
SILENT = ("500", "garbage", "no-result", "reset", "error: overloaded")
NODE = (*DEAD, *SLOW, *SILENT, *SHAPE)
SENT = ("lost", "twice")
UNSENT = ("swallow", *SHAPE)

# In which setup, when, what is asked, how it fails: what comes of it.
LINES: list[tuple[str, str, tuple[str, ...], tuple[str, ...], Expected]] = [
    (CHARGED, "settle", ("create",), (*DEAD, *BUSY, *NO_ENTRY), UNTRIED),
    (CHARGED, "settle", ("create",), (*SLOW, *MUTE, *KEEPS), OPEN),
    (CHARGED, "settle", ("create",), DECLINE, DECLINED),
    (CHARGED, "settle", ("create",), LOST, MOVED),
    (CHARGED, "refund", ("refunds",), (*SLOW, *BUSY, *NO_ENTRY, *DECLINE, *MUTE, *LOST), OWED),
    (CHARGED, "refund", ("refund",), (*SLOW, *BUSY, *NO_ENTRY, *DECLINE, *MUTE), OWED),
    (CHARGED, "refund", ("refund",), LOST, OWED_BACK),
    (HELD, "check", ("create",), (*DEAD, *SLOW, *BUSY, *NO_ENTRY, *MUTE, *LOST), UNTRIED),
    (HELD, "check", ("create",), DECLINE, DECLINED),
    (HELD, "check", ("create",), KEEPS, KEPT),
    (HELD, "settle", ("capture",), (*DEAD, *BUSY, *NO_ENTRY), UNTRIED),
    (HELD, "settle", ("capture",), (*SLOW, *MUTE, *KEEPS), OPEN),
    (HELD, "settle", ("capture",), DECLINE, DECLINED),
    (HELD, "settle", ("capture",), LOST, MOVED),
    (PULL, "check", (RECEIPT, BALANCE, BLOCK), NODE, UNTRIED),
    (PULL, "check", (TRIAL,), (*DEAD, *SLOW, *SILENT), UNTRIED),
    (PULL, "settle", (SEND,), DEAD, UNTRIED),
    (PULL, "settle", (SEND,), (*SLOW, *SILENT, *UNSENT), OPEN),
    (PULL, "settle", (SEND,), SENT, SERVED),
    (PULL, "settle", (RECEIPT,), (*SLOW, *SILENT, *SHAPE, *NULL), MOVED),
    (PUSH, "check", (RECEIPT, BLOCK), NODE, SOUGHT),
    (PUSH, "check", (RECEIPT,), NULL, SOUGHT),
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    setup: str
    at: str
    name: str
    kind: str
    expected: Expected

    def __str__(self) -> str:
        return f"{self.setup}: {self.at} {self.name} {self.kind}".replace(" ", "_")


ROWS = [
    Row(setup, at, name, kind, expected)
    for setup, at, names, kinds, expected in LINES
    for name, kind in product(names, kinds)
]


class Lane(Protocol):
    """A gateway for the rows of one setup."""

    shop: Any

    def buy(self) -> Credential: ...

    def strike(self, row: Row, credential: Credential) -> None:
        """Let the fault of a row come when the payment is where the row says."""

    def calm(self) -> None:
        """End every fault."""

    def moved(self, credential: Credential) -> int:
        """Return how many prices have moved."""

    def state(self, credential: Credential) -> str: ...


class StripeLane:
    def __init__(self, folder: Path, stack: ExitStack, setup: str) -> None:
        self.server = stack.enter_context(stand_in_stripe())
        method = "capture: manual" if setup == HELD else ""
        self.shop = stack.enter_context(
            stripe_shop.stripe_shop(self.server, folder, method=method, settle_s=SETTLE_S)
        )
        self.rail = self.shop.rail
        self._addresses = self.rail._client._sdk._requestor._options.base_addresses
        self._good = dict(self._addresses)

    def buy(self) -> Credential:
        return self.shop.buy()[0]

    def strike(self, row: Row, credential: Credential) -> None:
        if row.at == "refund":
            self.shop.keeper.answers("500 no")
        if row.kind != "refuse":
            self.server.faults[row.name] = row.kind
        elif row.at == "check" or not self.rail.capabilities.can_verify_without_moving_money:
            self._addresses["api"] = NOWHERE
        else:
            self.shop.keeper.before = self._go_away

    async def _go_away(self) -> None:
        self.shop.keeper.before = None
        self._addresses["api"] = NOWHERE

    def calm(self) -> None:
        self._addresses.update(self._good)
        self.server.closing.set()
        self.shop.calm()
        self.shop.call(lambda: self.rail.maintain(now()))
        self.shop.resolve()

    def moved(self, credential: Credential) -> int:
        sums = self.server.sums(credential.payload["spt"])
        left = sums.get("charged", 0) - sums.get("refunded", 0)
        assert left % stripe_shop.PRICE == 0
        assert sums.get("charged", 0) <= stripe_shop.PRICE
        return int(left // stripe_shop.PRICE)

    def state(self, credential: Credential) -> str:
        return str(self.shop.row(credential.payload["spt"])["state"])


class TempoLane:
    def __init__(self, folder: Path, stack: ExitStack, setup: str) -> None:
        timeouts = f"connect_s: 1, first_byte_s: 5, settle_s: {SETTLE_S}"
        self.shop = stack.enter_context(tempo.tempo_shop(folder, timeouts=timeouts))
        self.is_push = setup == PUSH
        self.rail = self.shop.proxy.runtime.serving.rails["tempo"]
        self._rpc = self.rail._node._rpc
        self._url = self._rpc._url
        self._before = 0

    def buy(self) -> Credential:
        self.shop.key = new_key()
        self.shop.anvil.fund(tempo.address_of(self.shop.key), tempo.PURSE)
        self._before = self.shop.balance()
        if not self.is_push:
            return self.shop.buy()
        challenge = self.shop.challenge()
        return tempo.push(challenge, self.shop.key, self.shop.transfer(challenge))

    def strike(self, row: Row, credential: Credential) -> None:
        node = self.shop.node

        def begin() -> None:
            if row.kind == "refuse":
                self._rpc._url = NOWHERE
            else:
                node.faults[row.name] = row.kind

        async def before() -> None:
            self.shop.keeper.before = None
            begin()

        if row.at == "check":
            begin()
        elif row.name == RECEIPT:
            node.then[SEND] = begin
        else:
            self.shop.keeper.before = before

    def calm(self) -> None:
        self._rpc._url = self._url
        self.shop.node.faults.clear()
        self.shop.node.then.clear()
        self.shop.keeper.before = None

    def moved(self, credential: Credential) -> int:
        got = self.shop.balance() - self._before
        assert got % tempo.PRICE == 0
        return int(got // tempo.PRICE)

    def state(self, credential: Credential) -> str:
        challenge_id = credential.challenge.id
        found = [r["state"] for r in self.shop.rows() if r["proof_id"].endswith(challenge_id)]
        return str(found[0]) if found else "none"


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Lane]]:
    """One gateway for each setup, built when it is first asked for."""
    built: dict[str, Lane] = {}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        # What is done every 15 seconds is told to hurry, or would end a question in between.
        patch.setattr(serving, "MAINTENANCE_S", 10**6)

        def lane(setup: str) -> Lane:
            if setup not in built:
                kind = StripeLane if setup in (CHARGED, HELD) else TempoLane
                built[setup] = kind(tmp_path_factory.mktemp("lane"), stack, setup)
            return built[setup]

        yield lane


def word_of(answer: Response) -> str:
    return str(answer[0]) if answer[0] == 200 else f"{answer[0]} {slug_of(answer)}"


def asked_again(lane: Lane, credential: Credential) -> Response:
    """Present it until there is an answer that no fault of before is behind."""
    for _ in range(ASKS_MAX):
        answer = lane.shop.send(credential)
        if answer[0] not in (409, 503):
            break
    return answer


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_fault_of_the_rail_moves_at_most_one_price_and_who_paid_it_is_served(lanes, row):
    lane: Lane = lanes(row.setup)
    lane.calm()
    credential, hits = lane.buy(), lane.shop.hits
    lane.strike(row, credential)

    first = lane.shop.send(credential)
    wait_until(lambda: lane.state(credential) == row.expected.state, f"{row.expected.state}")
    if row.at == "refund":  # it is tried by itself, after the answer
        wait_until(lambda: lane.moved(credential) == row.expected.moved, f"{row.expected.moved}")
    seen = word_of(first), lane.state(credential), lane.moved(credential)
    leaked = first[0] != 200 and first[2] in (b"served", b'{"ok":true}')
    lane.calm()
    again = asked_again(lane, credential)

    said = "served" if again[0] == 200 else word_of(again)
    assert (*seen, said) == (
        row.expected.told,
        row.expected.state,
        row.expected.moved,
        row.expected.again,
    )
    assert not leaked
    served = (first[0] == 200) + (again[0] == 200)
    assert served <= 1
    assert lane.moved(credential) == (served if row.at != "refund" else 0)
    asked_early = row.at == "settle" and row.setup in (HELD, PULL)
    at_most = served + int(asked_early or row.at == "refund")
    assert served <= lane.shop.hits - hits <= at_most


QUESTIONS = {
    (CHARGED, "settle", "create"): STRIPE,
    (CHARGED, "refund", "refunds"): set(STRIPE) - {*DEAD, *KEEPS},
    (CHARGED, "refund", "refund"): set(STRIPE) - {*DEAD, *KEEPS},
    (HELD, "check", "create"): STRIPE,
    (HELD, "settle", "capture"): STRIPE,
    (PULL, "check", RECEIPT): NODE,
    (PULL, "check", BALANCE): NODE,
    (PULL, "check", BLOCK): NODE,
    (PULL, "check", TRIAL): set(NODE) - {*SHAPE},  # what a trial returns is nothing to read
    (PULL, "settle", SEND): {*NODE, *SENT, *UNSENT},
    (PULL, "settle", RECEIPT): {*NODE, *NULL} - {*DEAD},  # a node that is gone fails at the sending
    (PUSH, "check", RECEIPT): {*NODE, *NULL},
    (PUSH, "check", BLOCK): NODE,
}
"""Every question of a path, and every way in which it can fail. A dead Stripe fails at the charge,
and a 500 for a refund is kept under its key for a day."""


def test_the_matrix_has_a_row_for_every_fault_of_every_question():
    rows: dict[tuple[str, str, str], set[str]] = {}
    for row in ROWS:
        rows.setdefault((row.setup, row.at, row.name), set()).add(row.kind)
    assert rows == {cell: set(kinds) for cell, kinds in QUESTIONS.items()}
    assert len({str(row) for row in ROWS}) == len(ROWS)
