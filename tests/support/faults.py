"""One payment, one fault in its way: what the buyer is told, what the store and the chain say."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpp_gateway.protocol.credential import Credential
from tests.support.evm import FaultyNode, address, now
from tests.support.facilitator import STAND_IN_KEY, StandInFacilitator
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Gatekeeper,
    Paid,
    Response,
    chain,
    fresh_key,
    method_text,
    serve,
    slug_of,
    wait_until,
)
from tests.support.proxy import Proxy, config_text, running
from tests.support.stores import SqlitePlace
from tests.support.upstream import upstream
from tests.support.x402 import as_x402, decoded

MPP, X402 = "mpp", "x402"
KEY, ASKED, BLIND = "own key", "facilitator and node", "facilitator alone"
ON_SUCCESS, BEFORE = "paid", "first"
NOWHERE = "http://127.0.0.1:1"
TRIES_MAX = 40
REACH_S = 3
OPEN_TRIES = 2
ROUTES = """
      "GET /paid": {charge: "0.01"}
      "GET /first": {charge: "0.01", settle: before}"""


@dataclass(frozen=True)
class Expected:
    """What a fault leads to. `again` is what the same credential gets when the fault is gone."""

    state: str
    status: int
    slug: str
    retry_after: bool
    challenge: bool
    receipt: bool
    moved: int
    again: str


@dataclass(frozen=True)
class Row:
    """`kind` of fault at `name`, a method or a path, when the payment is at `at`.

    check: from the start. early: likewise, and somebody else has submitted the payment before.
    settle: from when the money is about to move. judge: after it has moved by another hand, or
    without a word, when the chain is asked about it.
    """

    setup: str
    target: str
    at: str
    name: str
    kind: str
    expected: Expected
    is_slow: bool = False
    """It ends when a deadline does."""
    wire: str = MPP
    """In which form the payment comes."""

    def __str__(self) -> str:
        form = "" if self.wire == MPP else f"{self.wire}, "
        return f"{form}{self.setup}: {self.target} {self.at} {self.name} {self.kind}"


@dataclass(frozen=True)
class Seen:
    """What came of a row."""

    first: Expected
    hits: int
    leaked: bool
    served: int
    moved: int
    spent: Response


class Lane:
    """A rail with a service of its own: rows are played on it, each with a payer of its own."""

    def __init__(self, paid: Paid, number: int, setup: str) -> None:
        self.paid, self.setup = paid, setup
        self._number = number
        self._rail: Any = None
        self._urls: list[tuple[Any, str]] = []

    def open(self, proxy: Proxy) -> None:
        self.paid.proxy = proxy
        self._rail = proxy.runtime.serving.rails[f"m{self._number}"]
        if self.paid.facilitator is not None:
            (place,) = self._rail._settler.facilitators.places
            self._urls.append((place.client, place.client._url))
        if self._rail._chain is not None:
            provider = self._rail._chain._rpc
            self._urls.append((provider, provider._url))

    def path(self, row: Row) -> str:
        return f"/lane{self._number}/{row.target}"

    def calm(self) -> None:
        """End every fault."""
        paid = self.paid
        for faults in (paid.node.faults, paid.node.then):
            faults.clear()
        if paid.facilitator is not None:
            paid.facilitator.faults.clear()
            paid.facilitator.then.clear()
        for place, url in self._urls:
            place._url = url
        paid.keeper.before = None

    def buy(self, target: str) -> Credential:
        """Return a good credential of a new payer."""
        self.calm()
        self.paid.key = fresh_key("payer")
        self.paid.chain.run(self.paid.chain.demo.mint(address(self.paid.key), PURSE_MINOR))
        self.paid.keeper.answers("200 OK", "X-Upstream: marked", body=b"marked")
        if self.paid.facilitator is None:
            # As after a start: what is asked now and then is asked of every row.
            self._rail._settler._submitter._floor = None
            self._forget_prices()
        return self.paid.buy(target)

    def _forget_prices(self) -> None:
        """Let what gas costs be asked again: it is once a second."""
        if self.setup == KEY:
            self._rail._settler._submitter.gas._seen = None

    def send(self, credential: Credential, row: Row) -> Response:
        """Present the payment in the row's form."""
        path = self.path(row)
        if row.wire == MPP:
            return self.paid.send(credential, path)
        return self.paid.ask(path, f"PAYMENT-SIGNATURE: {as_x402(credential)}")

    def moved(self) -> int:
        """Return how many prices the payer has paid."""
        spent = PURSE_MINOR - self.paid.purse()
        assert spent % PRICE == 0
        return spent // PRICE

    def row_of(self, credential: Credential) -> dict[str, Any]:
        nonce = credential.payload["nonce"].removeprefix("0x")
        with closing(sqlite3.connect(self.paid.store, timeout=5)) as db:
            db.row_factory = sqlite3.Row
            found = db.execute(
                "SELECT * FROM exchanges WHERE proof_id LIKE ?", (f"%{nonce}%",)
            ).fetchall()
        return dict(found[0]) if found else {"state": "none", "id": ""}

    def was_credited(self, credential: Credential) -> bool:
        with closing(sqlite3.connect(self.paid.store, timeout=5)) as db:
            found = db.execute(
                "SELECT 1 FROM journal WHERE exchange_id = ? AND from_state = 'credited'",
                (self.row_of(credential)["id"],),
            ).fetchone()
        return found is not None

    def begin_fault(self, row: Row, credential: Credential) -> None:
        """Let the fault of `row` come when the payment is where `row.at` says."""
        if row.kind == "front-run" or row.at == "early":
            self._let_front_run(row, credential)
        if row.kind == "front-run":
            return
        strike = self._strike(row)
        if row.at in ("check", "early"):
            strike()
        elif row.at == "judge":
            self._let_settling_fail(credential, strike)
        elif row.kind == "refuse" and (self.setup, row.name) in PREDECESSOR:
            last = PREDECESSOR[self.setup, row.name]
            then = self.paid.facilitator.then if last.startswith("/") else self.paid.node.then
            then[last] = strike
        elif row.name in ONLY_SETTLING:
            strike()
        else:
            self._before_settling(strike)

    def _before_settling(self, strike: Callable[[], None]) -> None:
        async def before() -> None:
            self.paid.keeper.before = None
            self._forget_prices()
            strike()

        self.paid.keeper.before = before

    def _let_front_run(self, row: Row, credential: Credential) -> None:
        if row.at in ("check", "early"):
            self.paid.pay_early(credential)
        elif self.setup == KEY:
            self.paid.node.then["eth_estimateGas"] = lambda: self.paid.submit(credential)
        else:
            self.paid.facilitator.then["/settle"] = lambda: self.paid.submit(credential)

    def _let_settling_fail(self, credential: Credential, strike: Callable[[], None]) -> None:
        if self.paid.facilitator is not None:
            self.paid.facilitator.faults["/settle"] = "lost"  # and no transaction is named
            self.paid.facilitator.then["/settle"] = strike
            return

        async def front_run() -> None:
            await self.paid.submit(credential)
            strike()

        self.paid.node.then["eth_estimateGas"] = front_run

    def _strike(self, row: Row) -> Callable[[], None]:
        if row.kind == "refuse":
            at_facilitator = row.name.startswith("/")
            place, _ = self._urls[0 if at_facilitator else -1]
            return lambda: setattr(place, "_url", NOWHERE)
        faults = self.paid.node.faults
        if row.name.startswith("/"):
            faults = self.paid.facilitator.faults
        return lambda: faults.__setitem__(row.name, row.kind)

    def play(self, row: Row) -> Seen:
        """Pay with the fault in the way, then again without it, then once more."""
        paid = self.paid
        path = self.path(row)
        credential = self.buy(path)
        hits = paid.hits
        self.begin_fault(row, credential)
        answer = self.send(credential, row)
        self._reaches(credential, row.expected.state)
        state, moved = self.row_of(credential)["state"], self.moved()
        hits = paid.hits - hits
        self.calm()
        paid.keeper.answers("200 OK", body=b"served")
        served = int(answer[0] == 200 and answer[2] == b"marked")
        again = self._again(credential, row)
        word = f"{again[0]} {'' if again[0] == 200 else slug_of(again)}".strip()
        if again[0] == 200:
            assert again[2] == b"served"
            served += 1
            word = "served as credit" if self.was_credited(credential) else "served"
        first = Expected(state, *shown(answer), moved, word)
        leaked = answer[0] != 200 and (b"marked" in answer[2] or "x-upstream" in answer[1])
        spent = self.send(credential, row)
        return Seen(first, hits, leaked, served, self.moved(), spent)

    def listen(self) -> dict[str, set[str]]:
        """Return what is asked in which part of a payment in which nothing goes wrong, but that
        somebody else submits it."""
        node, facilitator = self.paid.node, self.paid.facilitator
        heard: dict[str, set[str]] = {}

        def note(part: str) -> None:
            paths = [path for path, _ in facilitator.asked] if facilitator else []
            heard[part] = heard.get(part, set()) | {*node.named, *paths}
            node.named.clear()
            if facilitator:
                facilitator.asked.clear()

        async def settling() -> None:
            note("check")
            self._forget_prices()

        async def front_run() -> None:
            note("settle")
            await self.paid.submit(credential)
            node.named.clear()

        # Paid without a fault, then paid by another hand when the settlement is under way.
        for at in ("settle", "judge"):
            credential = self.buy(f"/lane{self._number}/paid")
            note("nothing")
            self.paid.keeper.before = settling
            if at == "judge" and facilitator is not None:
                facilitator.then["/settle"] = front_run
            elif at == "judge":
                node.then["eth_estimateGas"] = front_run
            self.paid.send(credential, f"/lane{self._number}/paid")
            note(at)
        credential = self.buy(f"/lane{self._number}/paid")
        self.paid.pay_early(credential)
        note("nothing")
        self.paid.send(credential, f"/lane{self._number}/paid")
        note("early")
        del heard["nothing"]
        return heard

    def _reaches(self, credential: Credential, state: str) -> None:
        try:
            wait_until(lambda: self.row_of(credential)["state"] == state, state, REACH_S)
        except AssertionError:
            return  # what it is instead is compared

    def _again(self, credential: Credential, row: Row) -> Response:
        """Present the credential until the answer is a last one, or stays open as expected."""
        for tries in range(TRIES_MAX):
            if tries:  # what is done every 15 seconds is told to hurry
                self.paid.proxy.call(lambda: self._rail.maintain(now()))
            answer = self.send(credential, row)
            if answer[0] not in (409, 503):
                break
            if row.expected.again.startswith("503") and tries + 1 >= OPEN_TRIES:
                break
        return answer


ONLY_SETTLING = {
    "/settle",
    "eth_estimateGas",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
}
"""What is not asked before the money is about to move: its fault may stand from the start."""
PREDECESSOR = {
    (KEY, "eth_estimateGas"): "eth_getBalance",
    (KEY, "eth_sendRawTransaction"): "eth_estimateGas",
    (KEY, "eth_getTransactionReceipt"): "eth_sendRawTransaction",
    (ASKED, "/settle"): "/verify",
    (ASKED, "eth_getTransactionReceipt"): "/settle",
    (BLIND, "/settle"): "/verify",
}
"""What is asked last before: a place that is to be gone for the one must be there for the other."""


def shown(answer: Response) -> tuple[int, str, bool, bool, bool]:
    """Return status, problem, and whether Retry-After, a challenge and a receipt are there."""
    status, headers, _ = answer
    slug = "" if status == 200 else slug_of(answer)
    retry_after, challenge = "retry-after" in headers, "www-authenticate" in headers
    told = headers.get("payment-response")
    receipt = decoded(told)["success"] if told else "payment-receipt" in headers
    return status, slug, retry_after, challenge, receipt


@contextmanager
def lanes(folder: Path, setups: Sequence[str], settle_s: int) -> Iterator[list[Lane]]:
    """Run one gateway with a lane for each of `setups`."""
    thread, place = chain(), SqlitePlace(folder / "gateway.db")
    found: list[Lane] = []
    methods, services = "", []
    with ExitStack() as stack:
        for number, setup in enumerate(setups):
            node, keeper = FaultyNode(thread.demo), Gatekeeper()
            node.url = serve(stack, thread, node.serve)
            up = stack.enter_context(upstream(keeper))
            gas_key, payee = fresh_key("gas"), address(fresh_key("payee"))
            submit, facilitator = f'private_key: "0x{gas_key.hex()}"', None
            thread.run(thread.demo.fund_gas(address(gas_key)))
            if setup != KEY:
                thread.run(thread.demo.fund_gas(address(STAND_IN_KEY)))
                facilitator = StandInFacilitator(thread.demo)
                submit = f'facilitator: "{serve(stack, thread, facilitator.serve)}"'
            text = method_text(thread, node, payee, submit, setup != BLIND, ", x402: true")
            methods += text.replace("  evm: {", f"  m{number}: {{kind: evm, ")
            more = f"base_url: {up.url}\n    methods: [m{number}]\n    routes:{ROUTES}"
            services.append(f"  lane{number}:\n    {more}")
            paid = Paid(thread, node, up, keeper, place, payee, b"", "", facilitator)
            found.append(Lane(paid, number, setup))
        times = f"timeouts: {{connect_s: 1, first_byte_s: 20, settle_s: {settle_s}}}"
        text = config_text("\n".join(services), methods, store=place.url, more=times)
        proxy = stack.enter_context(running(text))
        for lane in found:
            lane.open(proxy)
        yield found
        for lane in found:
            lane.calm()
        assert not found[0].paid.crashes()
