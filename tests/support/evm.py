"""A whole `evm` rail on a chain of its own, behind a node that can be told to misbehave."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.demo.chain import TOKEN_DECIMALS, TOKEN_NAME, TOKEN_VERSION, DemoChain
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sqlite import SqliteDriver
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.rails.base import Binding, Offer, Presented
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.facilitator import FacilitatorSettler
from mpp_gateway.rails.evm.facilitator_client import FacilitatorClient
from mpp_gateway.rails.evm.facilitators import Facilitators
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.own_key import OwnKeySettler
from mpp_gateway.rails.evm.payer import Purse, pay
from mpp_gateway.rails.evm.request import EvmSettings, Settler
from mpp_gateway.rails.evm.seller import EvmRail
from mpp_gateway.rails.evm.submissions import ONCE_SCHEMA, SUBMISSIONS_SCHEMA
from mpp_gateway.rails.payment_scheme import PaymentScheme

PAYER = keccak256(b"test payer")
GAS_KEY = keccak256(b"test gas key")
STRANGER = keccak256(b"test stranger")
PAYEE = "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00"
PRICE = 10_000
PURSE_MINOR = 1_000_000
BINDING = Binding(realm="api.example.com", scope="scope-of-this-test")
SCHEME = PaymentScheme(ChallengeKeys.from_secrets(["a secret of at least thirty-two bytes"]))
POLL_MS = 5
POLLS_MAX = 12_000
PATIENCE_S = 60
"""Of a rail whose limits nobody is meant to reach, however laden the machine is."""


def address(key: bytes) -> str:
    return checksum(address_of(key))


def now() -> int:
    return int(time.time())


def asking(base_fee_wei: int) -> dict[str, Callable[[Any], Any]]:
    """Return the lies of a node whose blocks have that base fee."""
    return {"eth_getBlockByNumber": lambda block: block | {"baseFeePerGas": hex(base_fee_wei)}}


async def until(condition, what: str) -> None:
    """Poll `condition`, which may be a coroutine function, a bounded number of times."""
    for _ in range(POLLS_MAX):
        held = condition()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        await asyncio.sleep(POLL_MS / 1000)
    raise AssertionError(f"never happened: {what}")


CANNED: dict[str, Callable[[], web.Response]] = {
    "swallow": lambda: web.json_response({"jsonrpc": "2.0", "id": 1, "result": "0x" + "00" * 32}),
    "500": lambda: web.Response(status=500, text="internal error"),
    "garbage": lambda: web.Response(text="<html>not json</html>", content_type="text/html"),
    "no-result": lambda: web.json_response({"jsonrpc": "2.0", "id": 1}),
    "shape": lambda: web.json_response({"jsonrpc": "2.0", "id": 1, "result": ["what"]}),
    "null": lambda: web.json_response({"jsonrpc": "2.0", "id": 1, "result": None}),
}


@dataclass
class FaultyNode:
    """Answers JSON-RPC as `chain` does. `faults` maps a method to what goes wrong with it.

    A call of the token may be named with its function: `eth_call balanceOf`.
    """

    chain: DemoChain
    faults: dict[str, str] = field(default_factory=dict)
    """hang, 500, garbage, no-result, shape (JSON that cannot be a result), null, reset (before
    forwarding), lost (after), or `error: text`; swallow: answered as if it had been sent on; twice:
    sent on again, as by a balancer that had no answer the first time."""
    calls: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    """The calls again, those of the token with their functions."""
    then: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """By name: what happens once when the node has done what was asked, and before it says so."""
    url: str = ""
    lies: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    """By method, what the node makes of the true result."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets go of the answers of `held error: text`."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        method = asked["method"]
        name = f"{method} {function_of(asked)}".strip()
        self.calls.append(method)
        self.named.append(name)
        fault = self.faults.get(name) or self.faults.get(method) or self.faults.get("*")
        if fault == "hang":
            await asyncio.Event().wait()
        if fault in CANNED:
            return CANNED[fault]()
        if fault and fault.startswith("held error: "):
            await self.released.wait()
            fault = fault.removeprefix("held ")
        if fault and fault.startswith("error: "):
            error = {"code": -32000, "message": fault.removeprefix("error: ")}
            return web.json_response({"jsonrpc": "2.0", "id": 1, "error": error})
        if fault == "twice":
            await self._ask(asked, name)
        if fault != "reset":
            answer = await self._ask(asked, name)
        if method in self.lies:
            members = json.loads(answer)
            members["result"] = self.lies[method](members["result"])
            answer = json.dumps(members).encode()
        if fault in ("reset", "lost"):
            request.transport.abort()
            return web.Response()
        return web.Response(body=answer, content_type="application/json")

    async def _ask(self, asked: dict[str, Any], name: str) -> bytes:
        answer = await self.chain.run(lambda _: json.dumps(self.chain._answer(asked)).encode())
        if name in self.then:
            happened = self.then.pop(name)()
            if asyncio.iscoroutine(happened):
                await happened
        return answer


def function_of(asked: dict[str, Any]) -> str:
    """Return the name of the token's function that an `eth_call` runs, else nothing."""
    if asked["method"] != "eth_call":
        return ""
    selector = bytes.fromhex(asked["params"][0]["data"][2:10])
    names = {
        abi.BALANCE_OF: "balanceOf",
        abi.AUTHORIZATION_STATE: "authorizationState",
        abi.TRANSFER_WITH_AUTHORIZATION: "transferWithAuthorization",
        abi.IS_VALID_SIGNATURE: "isValidSignature",
    }
    return names.get(selector, "")


@asynccontextmanager
async def served(handler, path: str = "/{_:.*}") -> AsyncIterator[str]:
    """Serve one POST handler on a free port; yield its URL."""
    app = web.Application()
    app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Bench:
    """Everything a test of the rail needs, connected."""

    chain: DemoChain
    node: FaultyNode
    settings: EvmSettings
    database: Database
    rail: EvmRail
    settler: Settler
    offer: Offer

    def challenge(self, entropy: bytes = b"0" * 16, offer: Offer | None = None) -> Challenge:
        ((_, text),) = self.rail.challenge(offer or self.offer, BINDING, now(), entropy)
        return Challenge.parse(text)

    def pay(self, entropy: bytes = b"0" * 16, key: bytes = PAYER) -> Credential:
        purse = Purse(self.settings.domain, PURSE_MINOR)
        return pay(self.challenge(entropy), purse, key, now())

    def read(self, credential: Credential) -> Presented:
        presented = self.rail.read(head(credential), (self.offer,), BINDING, now())
        assert presented is not None
        return presented

    def presented(self, entropy: bytes = b"0" * 16, key: bytes = PAYER) -> Presented:
        return self.read(self.pay(entropy, key))

    async def settle(self, presented: Presented):
        return await self.rail.settle(presented, presented.amount_minor, now())

    def allow(self, seconds: int = PATIENCE_S) -> None:
        """Let a call or a settlement take no longer from here on; short while a fault is on."""
        settler: Any = self.settler
        for holder in (settler, getattr(settler, "_submitter", settler)):
            holder._settings = dataclasses.replace(
                holder._settings, settle_s=seconds, facilitator_s=seconds
            )
        askers: list[Any] = [settler]
        if self.rail._chain is not None:
            askers.append(self.rail._chain._rpc)
        for asker in askers:
            asker._timeout = aiohttp.ClientTimeout(total=seconds)
            if session := getattr(asker, "_session", None):
                session._timeout = asker._timeout

    async def balances(self) -> tuple[int, int]:
        """Return what payer and payee hold."""
        payer = await self.chain.balance_of(address(PAYER))
        return payer, await self.chain.balance_of(PAYEE)

    def again(self) -> EvmRail:
        """Return the rail as another process has it, on the same store and node."""
        settings = self.settings
        client = ChainClient(self.node.url, settings.token, settings.rpc_s)
        settler = OwnKeySettler(settings, client, Inspector(client), self.database, GAS_KEY)
        return EvmRail("demo", settings, SCHEME, settler, client)

    async def offered_wei(self) -> list[int]:
        """Return the highest fee of every transaction that was ever signed, the newest last."""
        return await self.database.read(
            lambda db: [
                int(fee)
                for (fee,) in db.execute("SELECT max_fee_wei FROM broadcasts ORDER BY rowid")
            ]
        )

    async def submissions(self) -> list[tuple[int, str]]:
        return await self.database.read(
            lambda db: db.execute("SELECT nonce, state FROM submissions ORDER BY nonce").fetchall()
        )

    async def stored_signatures(self) -> int:
        return await self.database.read(
            lambda db: db.execute("SELECT count(*) FROM broadcasts").fetchone()[0]
        )


def head(credential: Credential) -> RequestHead:
    return RequestHead("GET", "/paid", (("Authorization", credential.format()),))


def settings_of(chain: DemoChain, **changes) -> EvmSettings:
    values = {
        "chain_id": chain.chain_id,
        "token": chain.token,
        "name": TOKEN_NAME,
        "version": TOKEN_VERSION,
        "decimals": TOKEN_DECIMALS,
        "recipient": bytes.fromhex(PAYEE[2:]),
        "settle_s": PATIENCE_S,
        "rpc_s": PATIENCE_S,
        "facilitator_s": PATIENCE_S,
    }
    return EvmSettings(**(values | changes))


@asynccontextmanager
async def bench(
    path: Path | str, *, facilitator: str | None = None, with_node: bool = True, **changes
) -> AsyncIterator[Bench]:
    """Open chain, node, store and rail. Without a `facilitator` URL our own key settles."""
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(DemoChain())
        await chain.mint(address(PAYER), PURSE_MINOR)
        await chain.fund_gas(address(GAS_KEY))
        node = FaultyNode(chain)
        node.url = await stack.enter_async_context(served(node.serve))
        database = Database(SqliteDriver(path), (SUBMISSIONS_SCHEMA, ONCE_SCHEMA))
        database.open()
        stack.push_async_callback(database.close)
        yield await _assemble(stack, chain, node, database, facilitator, with_node, changes)


async def _assemble(stack, chain, node, database, facilitator, with_node, changes) -> Bench:
    settings = settings_of(chain, **changes)
    client = ChainClient(node.url, settings.token, settings.rpc_s)
    settler: Settler
    if facilitator is not None:
        if callable(facilitator):
            facilitator = await stack.enter_async_context(facilitator(chain))
        inspector = Inspector(client) if with_node else None
        facilitators = Facilitators([FacilitatorClient(facilitator)])
        settler = FacilitatorSettler(facilitators, settings, inspector)
    else:
        settler = OwnKeySettler(settings, client, Inspector(client), database, GAS_KEY)
    rail = EvmRail("demo", settings, SCHEME, settler, client if with_node else None)
    stack.push_async_callback(rail.close)
    stack.push_async_callback(client.close)
    price = Amount(PRICE, Asset("usd", TOKEN_DECIMALS))
    return Bench(chain, node, settings, database, rail, settler, rail.offer(price, None, None))
