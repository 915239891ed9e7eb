"""A gateway on Base Sepolia in small, the official facilitator, and buyers who speak x402."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpp_gateway.protocol import permit2
from mpp_gateway.rails.evm import abi
from tests.peers.shop import ANSWER_S, Chain, new_key
from tests.support import usdc
from tests.support.components import PEERS, X402, X402_PYTHON, need
from tests.support.evm import address
from tests.support.evm_permits import APPROVE, FOREVER
from tests.support.process import Process, free_port
from tests.support.proxy import Proxy, config_text, running
from tests.support.upstream import OK, Seen, Upstream, upstream

PRICE = 10_000
OTHER_PRICE = 20_000
PURSE = 1_000_000
COMMANDS = {
    "x402": (str(X402_PYTHON), str(X402 / "client.py")),
    "@x402/fetch": ("node", str(X402 / "client.mjs")),
    "mppx": ("node", str(PEERS / "mppx" / "x402.mjs")),
    "v1": (str(X402_PYTHON), str(X402 / "client_v1.py")),
}
ROUTES = """\
  api:
    base_url: {upstream}
    routes:
      "GET /free": free
      "GET /paid": {{charge: "0.01"}}
      "GET /other": {{charge: "0.02"}}
      "GET /first": {{charge: "0.01", settle: before}}
      "GET /stream": {{charge: "0.01"}}
      "GET /broken": {{charge: "0.01"}}
      "POST /report": {{charge: "0.01"}}
"""
BY_USE = """\
      "GET /used": {{charge: "0.01", upto: true}}
"""
USED = 4_200
METHOD = """\
  base:
    kind: evm
    chain_id: {chain_id}
    {rpc}
    token: {{address: "{token}", name: {name}, version: "{version}", decimals: 6}}
    recipient: "{payee}"
    submit: {submit}
{more}"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
SAID = b'\r\nSettlement-Overrides: {"amount":"%d"}\r\n' % USED
POLL_S = 0.01


@contextmanager
def usdc_chain(more: Mapping[bytes, bytes] | None = None) -> Iterator[Chain]:
    chain = Chain(usdc.UsdcChain(more))
    try:
        yield chain
    finally:
        chain.close()


@dataclass
class Official:
    """The official Python facilitator, in a process of its own."""

    url: str
    process: Process

    def asked(self, path: str) -> int:
        """Return how often it was asked that."""
        return self.process.output().split().count(path)


@contextmanager
def official_facilitator(chain: Chain, folder: Path, *, confirm_s: int = 30) -> Iterator[Official]:
    """Run one; what is in no block after `confirm_s` it calls pending."""
    need("x402")
    key, port = new_key(), free_port()
    chain.run(lambda: chain.demo.fund_gas(address(key)))
    site = {
        "private_key": f"0x{key.hex()}",
        "rpc_url": chain.demo.rpc_url,
        "network": f"eip155:{usdc.CHAIN_ID}",
        "port": port,
        "confirm_s": confirm_s,
    }
    environ = {**os.environ, "FACILITATOR_SITE": json.dumps(site)}
    command = [str(X402_PYTHON), str(X402 / "facilitator.py")]
    started = Process(command, environ, folder / "facilitator.log")
    try:
        started.wait_for_port(port)
        yield Official(f"http://127.0.0.1:{port}", started)
    finally:
        started.stop()


class Storyteller:
    """An upstream that tells half of a story, and the rest when it is let."""

    def __init__(self) -> None:
        self.released = threading.Event()

    async def __call__(self, seen: Seen, _: asyncio.StreamReader, writer: Any) -> bool:
        if seen.target == "/broken":
            writer.write(BROKEN)
        elif seen.target == "/used":
            writer.write(OK.replace(b"\r\n", SAID, 1))
        elif seen.target != "/stream":
            writer.write(OK)
        else:
            writer.write(HEAD + _chunk(b"data: once\n\n"))
            await writer.drain()
            while not self.released.is_set():  # noqa: ASYNC110 - set from another thread
                await asyncio.sleep(POLL_S)
            writer.write(_chunk(b"data: upon a time\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass
class Shop:
    """A running gateway. `takings` is what its payee has."""

    chain: Chain
    proxy: Proxy
    upstream: Upstream
    storyteller: Storyteller
    payee: str
    purses: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def takings(self) -> int:
        return self.chain.balance(self.payee)

    def buyer(self, client: str = "x402", minor: int = PURSE) -> "Buyer":
        need("x402" if client == "v1" else client)
        buyer = Buyer(client, new_key(), self)
        self.chain.run(lambda: self.chain.demo.mint(address(buyer.key), minor))
        return buyer


@dataclass
class Buyer:
    """One purse in the hands of one client program."""

    client: str
    key: bytes
    shop: Shop

    @property
    def balance(self) -> int:
        return self.shop.chain.balance(address(self.key))

    def start(self, verb: str, *paths: str, method: str = "GET", body: str = "") -> Any:
        wallet = {
            "private_key": f"0x{self.key.hex()}",
            "chain_id": usdc.CHAIN_ID,
            "token": usdc.ADDRESS,
            "name": usdc.NAME,
            "version": usdc.VERSION,
            "decimals": 6,
            "max_amount": "0.05",
        }
        return subprocess.Popen(
            [*COMMANDS[self.client], verb, method, body, *[self.shop.url + p for p in paths]],
            env={**os.environ, "PEER_WALLET": json.dumps(wallet)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def do(self, verb: str, *paths: str, method: str = "GET", body: str = "") -> list[dict]:
        """Run the client to its end and return the answers it saw."""
        client = self.start(verb, *paths, method=method, body=body)
        out, err = client.communicate(timeout=ANSWER_S)
        assert client.returncode == 0, err
        return json.loads(out)


def allowed(shop: Shop, client: str) -> Buyer:
    """Return a buyer who lets Permit2 move its tokens."""
    buyer, demo = shop.buyer(client), shop.chain.demo
    payload = APPROVE + abi.address_word(permit2.ADDRESS) + abi.uint_word(FOREVER)
    shop.chain.run(lambda: demo.fund_gas(address(buyer.key)))
    shop.chain.run(lambda: demo.run(lambda n: demo._transact(n, demo.token, payload, 0, buyer.key)))
    return buyer


@contextmanager
def open_shop(
    chain: Chain,
    folder: Path,
    facilitator: Official | None,
    *,
    more: str = "",
    with_rpc: bool = True,
    by_use: bool = False,
) -> Iterator[Shop]:
    """Run a gateway that settles itself, or through `facilitator`; `more` is of the method."""
    with ExitStack() as stack:
        storyteller, payee = Storyteller(), address(new_key())
        api = stack.enter_context(upstream(storyteller))
        if facilitator is not None:
            submit = f'{{facilitator: "{facilitator.url}"}}'
        else:
            gas_key = new_key()
            chain.run(lambda: chain.demo.fund_gas(address(gas_key)))
            submit = f'{{private_key: "0x{gas_key.hex()}", max_fee_gwei: "100"}}'
        method = METHOD.format(
            chain_id=usdc.CHAIN_ID,
            rpc=f'rpc_url: "{chain.demo.rpc_url}"' if with_rpc else "",
            token=usdc.ADDRESS,
            name=usdc.NAME,
            version=usdc.VERSION,
            payee=payee,
            submit=submit,
            more=more,
        )
        routes = ROUTES + (BY_USE if by_use else "")
        text = config_text(routes.format(upstream=api.url), method, store=folder / "gateway.db")
        proxy = stack.enter_context(running(text))
        stack.callback(storyteller.released.set)
        yield Shop(chain, proxy, api, storyteller, payee)
