"""A house whose gateway dies at a named point and is started again, and buyers who come back."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpp_gateway.ledger.book import Line, balances, standing
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.credential import Credential
from tests.support.client import RawClient
from tests.support.evm import address, now
from tests.support.launcher import Launcher, Mortal, Trap, launching
from tests.support.paid import PURSE_MINOR, ChainThread, Paid, fresh_key, paid_parts
from tests.support.process import free_port
from tests.support.stores import Place
from tests.support.x402 import as_x402

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "GET /first": {charge: "0.01", settle: before}
      "GET /brief": {charge: "0.01", timeouts: {settle_s: 1}}
      "GET /refunded": {charge: "0.01", settle: before, on_failure: refund, recipient: "GAS KEY"}
      "GET /beside": {charge: "0.01"}
"""
BODY = b'{"ok":true}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n"
FAILURE = b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nfail"
COMES_BACK_S = 0.02
"""A buyer may ask as often as it likes; `Retry-After` says when it is worth it."""


class Upstream:
    """Answers every request, in two parts if a test says so: the second when it is told."""

    def __init__(self) -> None:
        self.served: dict[str, int] = {}
        """How often each payer's request was answered, by its path and query."""
        self.fails = False
        self.first_bytes: int | None = None
        self.rest = threading.Event()
        self.is_shut: set[str] = set()

    def reset(self) -> None:
        self.fails = False
        self.first_bytes = None
        self.rest.clear()
        self.is_shut.clear()

    async def __call__(self, seen, reader, writer) -> bool:
        self.served[seen.target] = self.served.get(seen.target, 0) + 1
        while seen.target.split("?")[0] in self.is_shut:  # noqa: ASYNC110 - as below
            await asyncio.sleep(COMES_BACK_S / 4)
        if self.fails:
            writer.write(FAILURE)
            await writer.drain()
            return False
        whole = HEAD + BODY
        cut = len(whole) if self.first_bytes is None else len(HEAD) + self.first_bytes
        writer.write(whole[:cut])
        await writer.drain()
        if cut == len(whole):
            return True
        while not self.rest.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(COMES_BACK_S / 4)
        writer.write(whole[cut:])
        await writer.drain()
        return True


@dataclass
class Seen:
    """What a client got: nothing (`cut`), a `head` with less than its body, or the whole."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    def __str__(self) -> str:
        if not self.status:
            return "cut"
        if self.status == 200:
            return "answer" if self.is_whole else "head"
        return str(self.status)


@dataclass
class Buyer:
    """One payer, one payment, one call, and as many tries as it takes."""

    house: "House"
    path: str
    fields: tuple[str, ...] = ()
    key: bytes = b""
    """Of a payer who has bought before; else it is a new one with a full purse."""
    credential: Credential | None = None
    by_x402: bool = False
    companions: list["Buyer"] = field(default_factory=list)
    """Others who buy in the same test."""

    def __post_init__(self) -> None:
        if not self.key:
            self.key = fresh_key("payer")
            demo = self.house.chain.demo
            self.house.chain.run(demo.mint(address(self.key), PURSE_MINOR))
        # Its own query tells its runs of the upstream from everybody else's.
        self.target = f"/api/{self.path}?payer={self.account[-8:]}"
        self.house.paid.key = self.key
        self.credential = self.house.paid.buy(self.target)

    @property
    def account(self) -> str:
        return address(self.key).lower()

    @property
    def spent(self) -> int:
        return PURSE_MINOR - self.house.chain.balance(address(self.key))

    @property
    def runs(self) -> int:
        """How often the upstream has done this call."""
        return self.house.upstream.served.get(self.target.removeprefix("/api"), 0)

    def send(self, port: int = 0) -> RawClient:
        client = RawClient(port or self.house.port)
        self.ask(client)
        return client

    def ask(self, client: RawClient) -> None:
        assert self.credential is not None
        payment = f"Authorization: {self.credential.format()}"
        if self.by_x402:
            payment = f"PAYMENT-SIGNATURE: {as_x402(self.credential)}"
        lines = [
            f"GET {self.target} HTTP/1.1",
            "Host: x",
            payment,
            *self.fields,
            "",
            "",
        ]
        client.send("\r\n".join(lines).encode())

    def companion(self, path: str) -> "Buyer":
        """Return another buyer of the same test."""
        self.companions.append(Buyer(self.house, path))
        return self.companions[-1]

    def read_head(self, client: RawClient, more_bytes: int = 0) -> Seen:
        """Read a head and so much of its body, or nothing if it never comes."""
        seen = Seen()
        with suppress(EOFError, ConnectionError):
            seen.status, seen.fields, _ = client.head()
            seen.body = client.exactly(more_bytes)
        return seen

    def read(self, client: RawClient, seen: Seen | None = None) -> Seen:
        """Read what there is to come."""
        seen = seen or Seen()
        try:
            if not seen.status:
                seen.status, seen.fields, _ = client.head()
            size = int(seen.fields.get("content-length", "0"))
            while len(seen.body) < size:
                seen.body += client.exactly(1)
            seen.is_whole = True
        except (EOFError, ConnectionError):
            pass
        finally:
            client.close()
        return seen

    def presents(self, port: int = 0) -> Seen:
        """Present the payment, once."""
        try:
            client = self.send(port)
        except ConnectionError:
            return Seen()
        return self.read(client)

    def comes_back(self) -> Seen:
        """Present it, as the documentation says, until there is an answer that is final."""
        end = time.monotonic() + 60
        while True:
            seen = self.presents()
            if seen.status not in (409, 503) or "retry-after" not in seen.fields:
                return seen
            assert time.monotonic() < end, (seen, self.house.gateway.output())
            time.sleep(COMES_BACK_S)

    # What the store says

    def row(self) -> dict[str, Any]:
        (row,) = self.house.exchanges(self.account) or ({},)
        return row

    def journey(self) -> str:
        """The states that its payment went through."""
        lines = self.house.lines(self.account)
        return " ".join(line.after for line in lines)

    def is_over(self) -> bool:
        """Whether nobody owes anybody anything."""
        row = self.row()
        state = row.get("state")
        return state == State.REFUNDED or (state == State.SETTLED and row["due_s"] is None)


@dataclass
class House:
    """One store for many deaths: each test has a payer of its own there."""

    launcher: Launcher
    paid: Paid
    upstream: Upstream
    place: Place
    port: int
    config: str
    mortal: Mortal | None = None

    @property
    def chain(self) -> ChainThread:
        return self.paid.chain

    @property
    def gateway(self) -> Mortal:
        assert self.mortal is not None
        return self.mortal

    @property
    def gas_key(self) -> bytes:
        found = re.search(r'private_key: "0x([0-9a-f]{64})"', self.config)
        assert found
        return bytes.fromhex(found[1])

    def serve(self) -> None:
        """See that a gateway runs that nothing is going to kill."""
        self.upstream.reset()
        self.heal()
        if self.mortal is None or self.mortal.is_over():
            self.mortal = self.launcher.serve(self.config, self.port).started()

    def heal(self) -> None:
        self.paid.node.faults.clear()
        self.paid.node.lies.clear()

    def start_and_die(self, trap: Trap) -> None:
        self.mortal = self.launcher.serve(self.config, self.port, trap)
        self.mortal.died_at(trap)

    def end_the_chain_time(self) -> None:
        """Let the node's blocks be later than any authorization that it has seen."""
        later = hex(now() + 100_000)
        self.paid.node.lies["eth_getBlockByNumber"] = lambda block: block | {"timestamp": later}

    def exchanges(self, account: str | None = None) -> list[dict[str, Any]]:
        rows = self.place.rows("SELECT * FROM exchanges ORDER BY id")
        return [row for row in rows if account is None or account in row["account"].lower()]

    def lines(self, account: str | None = None) -> list[Line]:
        ids = {row["id"] for row in self.exchanges(account)}
        rows = self.place.rows("SELECT * FROM journal ORDER BY seq")
        return [
            Line(
                row["seq"],
                row["exchange_id"],
                row["attempt"],
                State(row["from_state"]) if row["from_state"] else None,
                State(row["to_state"]),
                int(row["amount_minor"]) if row["amount_minor"] else None,
            )
            for row in rows
            if row["exchange_id"] in ids
        ]

    def verify_books(self) -> None:
        """Assert that the journal alone gives what the table says, for every exchange."""
        rows, lines = self.exchanges(), self.lines()
        assert standing(lines) == {row["id"]: row["state"] for row in rows}
        sums: dict[State, int] = {}
        for row in rows:
            state = State(row["state"])
            sums[state] = sums.get(state, 0) + int(row["amount_minor"])
        assert balances(lines) == sums

    def nonces(self) -> tuple[int, list[tuple[int, str]]]:
        """Return the chain's count for the gas key, and what the store has of it."""
        demo = self.chain.demo
        sender = bytes.fromhex(address(self.gas_key)[2:])
        count = self.chain.run(demo.run(lambda node: node.nonce(sender)))
        rows = self.place.rows("SELECT nonce, state FROM submissions ORDER BY nonce")
        return count, [(row["nonce"], row["state"]) for row in rows]


@contextmanager
def house(folder: Path, place: Place, timeouts: str = "connect_s: 5") -> Iterator[House]:
    """Build everything but the gateway."""
    with ExitStack() as stack:
        more = "limits: {unpaid_per_minute: 0}"
        parts = paid_parts(
            folder,
            routes=ROUTES,
            place=place,
            timeouts=timeouts,
            more=more,
            method_more=", x402: true",
        )
        paid = stack.enter_context(parts)
        upstream = Upstream()
        paid.upstream._respond = upstream
        launcher = stack.enter_context(launching(folder))
        paid._port = free_port()
        home = House(launcher, paid, upstream, place, paid._port, paid.config)
        # Refunds are made from the account that was paid.
        home.config = paid.config.replace("GAS KEY", address(home.gas_key))
        yield home
