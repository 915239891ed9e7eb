"""A gateway that takes real payments: a chain in a thread, an upstream, a buyer with a purse."""

import asyncio
import atexit
import functools
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.demo.chain import (
    CHAIN_ID,
    TOKEN_DECIMALS,
    TOKEN_NAME,
    TOKEN_VERSION,
    DemoChain,
)
from mpp_gateway.protocol import base64url, eip3009
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.payer import Purse, pay
from tests.support import upstream as upstreams
from tests.support.client import get
from tests.support.evm import FaultyNode, address, now, served, settings_of
from tests.support.facilitator import STAND_IN_KEY, StandInFacilitator, submit
from tests.support.proxy import Proxy, config_text, running
from tests.support.stores import Place, SqlitePlace

PRICE = 10_000
DEAR = 90_000
PURSE_MINOR = 1_000_000
WAIT_S = 60
POLL_S = 0.01
CORE = "https://paymentauth.org/problems/"
OURS = "urn:mpp-gateway:problem:"

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "GET /dear": {charge: "0.09"}
      "POST /paid": {charge: "0.01"}
      "GET /item/:id": {charge: "0.01"}
      "POST /bound": {charge: "0.01", digest: true}
      "GET /first": {charge: "0.01", settle: before}
      "GET /first2": {charge: "0.01", settle: before}
      "GET /teapot": {charge: "0.01", charge_on: [404]}
      "GET /free": free
"""

type Response = tuple[int, dict[str, str], bytes]

_numbers = itertools.count()


class ChainThread:
    """A demo chain in a loop and a thread of its own; `run` asks it from any other thread."""

    def __init__(self, chain_id: int = CHAIN_ID) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.demo: DemoChain = DemoChain(chain_id=chain_id)
        self.run(self.demo.start())

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def balance(self, owner: str) -> int:
        return self.run(self.demo.balance_of(owner))

    def transaction(self, tx_hash: str) -> dict[str, Any] | None:
        return self.run(self.demo.run(lambda node: node.receipt(tx_hash)))

    def advance(self, seconds: int) -> None:
        """Mine a block that far in the future."""
        self.run(self.demo.run(lambda node: setattr(node, "_clock", lambda: now() + seconds)))
        self.run(self.demo.fund_gas("0x" + "11" * 20))

    def close(self) -> None:
        self.run(self.demo.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)


@functools.cache
def chain(chain_id: int = CHAIN_ID) -> ChainThread:
    """Return the one chain of this test process; every test has its own payer and payee on it."""
    thread = ChainThread(chain_id)
    atexit.register(thread.close)
    return thread


@contextmanager
def own_chain(chain_id: int = CHAIN_ID) -> Iterator[ChainThread]:
    """A chain for a test that changes its clock (`advance`)."""
    thread = ChainThread(chain_id)
    try:
        yield thread
    finally:
        thread.close()


def fresh_key(what: str) -> bytes:
    """Return a key that no other test of the process has."""
    return keccak256(f"{what} {os.getpid()} {next(_numbers)} {time.time_ns()}".encode())


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Return what `condition` returns once it is true; polled, with a bound."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"never happened: {what}")


def at_once[T](calls: list[Callable[[], T]]) -> list[T]:
    """Run all `calls` at the same time and return what they returned, in order."""
    barrier = threading.Barrier(len(calls))

    def started(call: Callable[[], T]) -> T:
        barrier.wait(WAIT_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.result(WAIT_S) for f in [pool.submit(started, call) for call in calls]]


class Gatekeeper:
    """An upstream's responder that a test can change, and hold shut, while it serves."""

    def __init__(self) -> None:
        self.raw: bytes = upstreams.OK
        self.keeps = True
        self.before: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.opened = threading.Event()
        self.opened.set()

    async def __call__(self, seen, reader, writer) -> bool:
        raw, keeps = self.raw, self.keeps
        if self.before is not None:
            await self.before()
        while not self.opened.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(POLL_S)
        writer.write(raw)
        await writer.drain()
        return keeps

    def answers(self, status: str, *fields: str, body: bytes = b"x", keeps: bool = True) -> None:
        lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
        self.raw, self.keeps = "\r\n".join(lines).encode("latin-1") + body, keeps


@dataclass
class Paid:
    """One test's gateway with everything around it."""

    chain: ChainThread
    node: FaultyNode
    upstream: upstreams.Upstream
    keeper: Gatekeeper
    place: Place
    payee: str
    key: bytes
    config: str
    facilitator: StandInFacilitator | None = None
    proxy: Proxy | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    _port: int = 0

    @property
    def store(self) -> Path:
        """The file of the store, where it is one."""
        assert isinstance(self.place, SqlitePlace)
        return self.place.path

    @property
    def port(self) -> int:
        return self.proxy.port if self.proxy else self._port

    # The buyer

    def ask(self, target: str = "/api/paid", *fields: str, method: str = "GET", body: bytes = b""):
        """Send a request as it stands."""
        return get(self.port, target, *fields, method=method, body=body)

    def challenge(
        self, target: str = "/api/paid", *fields: str, method: str = "GET", body: bytes = b""
    ) -> Challenge:
        status, headers, answer = self.ask(target, *fields, method=method, body=body)
        assert status == 402, (status, answer)
        return Challenge.parse(headers["www-authenticate"])

    def sign(self, challenge: Challenge, key: bytes | None = None, **purse: Any) -> Credential:
        domain = settings_of(self.chain.demo).domain
        return pay(challenge, Purse(domain, PURSE_MINOR, **purse), key or self.key, now())

    def resign(
        self, credential: Credential, key: bytes | None = None, **changes: Any
    ) -> Credential:
        """Return the credential with a changed authorization under a valid signature."""
        return resigned(self.chain.demo, credential, key or self.key, **changes)

    def buy(
        self, target: str = "/api/paid", *, method: str = "GET", body: bytes = b""
    ) -> Credential:
        """Return a credential that is good for the request."""
        return self.sign(self.challenge(target, method=method, body=body))

    def send(
        self,
        credential: Credential | str,
        target: str = "/api/paid",
        *fields: str,
        method: str = "GET",
        body: bytes = b"",
    ) -> Response:
        text = credential if isinstance(credential, str) else credential.format()
        return self.ask(target, f"Authorization: {text}", *fields, method=method, body=body)

    # What came of it

    def balance(self) -> int:
        """Return what the payee got."""
        return self.chain.balance(self.payee)

    def purse(self) -> int:
        return self.chain.balance(address(self.key))

    def states(self) -> dict[str, int]:
        """Return how many exchanges are in which state, as the file has it."""
        return dict(Counter(row["state"] for row in self.rows()))

    def rows(self) -> list[dict[str, Any]]:
        return self.place.rows(
            "SELECT * FROM exchanges ORDER BY"
            " (SELECT min(seq) FROM journal WHERE exchange_id = exchanges.id)"
        )

    def journal(self) -> list[tuple[str, str]]:
        rows = self.place.rows("SELECT from_state, to_state FROM journal ORDER BY seq")
        return [(row["from_state"], row["to_state"]) for row in rows]

    def reaches(self, **states: int) -> None:
        """Wait until the store has exactly these states."""
        wait_until(lambda: self.states() == states, f"{states}, but {self.states()}")

    @property
    def hits(self) -> int:
        """Return how many requests reached the upstream."""
        return len(self.upstream.seen)

    @property
    def clients(self) -> int:
        """Return how many client connections the gateway knows of."""
        assert self.proxy is not None
        assert self.proxy.master is not None
        return len(self.proxy.master.addons.get("proxyserver").connections)

    def untouched(self, **states: int) -> None:
        """Assert that nothing was delivered and nothing was paid."""
        assert self.hits == 0
        assert self.balance() == 0
        assert self.states() == states

    def crashes(self) -> list[str]:
        assert self.proxy is not None
        words = ("Traceback", "crash", "refused: ", "failed;", "failed in the rail")
        return [line for line in self.proxy.log if any(word in line for word in words)]

    # The gateway itself

    def stop(self) -> None:
        assert self.proxy is not None
        self.stack.close()
        self.proxy = None

    def start(self, config: str | None = None) -> None:
        self.proxy = self.stack.enter_context(running(config or self.config))

    def move_money_away(self, minor: int = PURSE_MINOR) -> None:
        """Let the payer spend its purse elsewhere, on the chain."""
        self.chain.run(self.spend(minor))

    async def spend(self, minor: int = PURSE_MINOR) -> None:
        """As `move_money_away`, for the loop of the chain."""
        stranger = address(fresh_key("stranger"))
        await self.chain.demo.fund_gas(address(self.key))
        await self.chain.demo.transfer(self.key, stranger, minor)

    def pay_early(self, credential: Credential) -> str:
        """Let a stranger submit the payment that he has seen; return the transaction."""
        return self.chain.run(self.submit(credential))

    async def submit(self, credential: Credential) -> str:
        """As `pay_early`, for the loop of the chain."""
        key = fresh_key("stranger")
        await self.chain.demo.fund_gas(address(key))
        payload = abi.transfer_with_authorization(Authorization.from_payload(credential.payload))
        return await submit(self.chain.demo, payload, key)

    async def submit_from_elsewhere(self, credential: Credential) -> str:
        """As `pay_early`, for any other loop: an upstream in league with the stranger."""
        work = asyncio.run_coroutine_threadsafe(self.submit(credential), self.chain.loop)
        return await asyncio.wrap_future(work)

    async def spend_from_elsewhere(self) -> None:
        """As `spend`, for any other loop: an upstream that helps a cheating buyer."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.spend(), self.chain.loop))


def resigned(demo: DemoChain, credential: Credential, key: bytes, **changes: Any) -> Credential:
    """Return `credential` with members of its authorization changed and signed by `key`."""
    from mpp_gateway.crypto.secp256k1 import sign

    domain = changes.pop("domain", settings_of(demo).domain)
    unsigned = replace(Authorization.from_payload(credential.payload), **changes)
    signed = replace(unsigned, signature=sign(eip3009.digest(unsigned, domain), key))
    return replace(credential, payload=signed.to_payload(), source=None)


def token_of(members: Any) -> str:
    """Return `Payment <token>` of any JSON value, well-formed or not as a credential."""
    raw = members if isinstance(members, bytes) else json.dumps(members).encode()
    return "Payment " + base64url.encode(raw)


def slug_of(response: Response) -> str:
    """Return the problem's slug; asserts that the answer is a whole problem document."""
    status, headers, body = response
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    document = json.loads(body)
    assert document["status"] == status
    base = CORE if document["type"].startswith(CORE) else OURS
    return document["type"].removeprefix(base)


def refused(response: Response, slug: str, status: int = 402) -> dict[str, Any]:
    """Assert that the answer is this refusal; a 402 must carry a fresh challenge, others none."""
    assert (response[0], slug_of(response)) == (status, slug)
    assert "payment-receipt" not in response[1]
    if status == 402:
        fresh = Challenge.parse_all(response[1]["www-authenticate"].split("\n"))
        assert fresh
    else:
        assert "www-authenticate" not in response[1]
    return json.loads(response[2])


def receipt_of(response: Response) -> Receipt:
    return Receipt.parse(response[1]["payment-receipt"])


def method_text(
    paid_chain: ChainThread,
    node: FaultyNode,
    payee: str,
    submit: str,
    with_rpc: bool,
    more: str = "",
) -> str:
    demo = paid_chain.demo
    rpc = f'rpc_url: "{node.url}", ' if with_rpc else ""
    return (
        f"  evm: {{chain_id: {demo.chain_id}, {rpc}token: {{address: "
        f'"{demo.token_address}", name: {TOKEN_NAME}, version: "{TOKEN_VERSION}", decimals:'
        f' {TOKEN_DECIMALS}}}, recipient: "{payee}", submit: {{{submit}}}{more}}}\n'
    )


@contextmanager
def paid_parts(
    tmp_path: Path,
    *,
    routes: str = ROUTES,
    facilitator: bool = False,
    with_rpc: bool = True,
    timeouts: str = "",
    more: str = "",
    services: str = "",
    auth: str = "auth: {bearer: marked-upstream-secret}",
    submit_more: str = "",
    method_more: str = "",
    purse_minor: int = PURSE_MINOR,
    thread: ChainThread | None = None,
    place: Place | None = None,
    pays_itself: bool = False,
) -> Iterator[Paid]:
    """Run everything but the gateway; `Paid.config` is the file that it would serve."""
    thread = thread or chain()
    key, gas_key = fresh_key("payer"), fresh_key("gas")
    payee = address(gas_key if pays_itself else fresh_key("payee"))
    thread.run(thread.demo.mint(address(key), purse_minor))
    thread.run(thread.demo.fund_gas(address(gas_key)))
    node = FaultyNode(thread.demo)
    keeper = Gatekeeper()
    with ExitStack() as stack:
        node.url = serve(stack, thread, node.serve)
        stand_in = None
        submit = f'private_key: "0x{gas_key.hex()}"{submit_more}'
        if facilitator:
            thread.run(thread.demo.fund_gas(address(STAND_IN_KEY)))
            stand_in = StandInFacilitator(thread.demo)
            submit = f'facilitator: "{serve(stack, thread, stand_in.serve)}"'
        up = stack.enter_context(upstreams.upstream(keeper))
        place = place or SqlitePlace(tmp_path / "gateway.db")
        text = config_text(
            f"  api:\n    base_url: {up.url}\n    {auth}\n    routes:{routes}{services}",
            method_text(thread, node, payee, submit, with_rpc, method_more),
            store=place.url,
            more=f"timeouts: {{{timeouts}}}\n{more}" if timeouts else more,
        )
        # Last in, first out: a keeper that is still shut would hold the stopping proxy.
        paid = Paid(thread, node, up, keeper, place, payee, key, text, stand_in)
        stack.callback(keeper.opened.set)
        yield paid


def serve(stack: ExitStack, thread: ChainThread, handler: Callable[..., Any]) -> str:
    context = served(handler)
    url: str = thread.run(context.__aenter__())
    stack.callback(lambda: thread.run(context.__aexit__(None, None, None)))
    return url


@contextmanager
def paid_gateway(tmp_path: Path, **options: Any) -> Iterator[Paid]:
    """Run a gateway that sells `ROUTES` of an upstream for real (demo) money."""
    with paid_parts(tmp_path, **options) as paid:
        paid.start()
        try:
            yield paid
        finally:
            paid.keeper.opened.set()
            paid.node.faults.clear()
            paid.node.lies.clear()
            if paid.facilitator is not None:
                paid.facilitator.fault = ""
            paid.stack.close()
