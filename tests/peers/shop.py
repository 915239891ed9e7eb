"""A gateway that sells on a chain, and buyers who know nothing of its code."""

import asyncio
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.demo.chain import TOKEN_DECIMALS, TOKEN_NAME, TOKEN_VERSION, DemoChain
from tests.support.components import PEERS, PYMPP_PYTHON, need
from tests.support.evm import address, served
from tests.support.facilitator import STAND_IN_KEY, StandInFacilitator
from tests.support.process import free_port, process
from tests.support.proxy import config_text, running
from tests.support.upstream import Upstream, upstream

PRICE = 10_000
OTHER_PRICE = 20_000
PURSE = 1_000_000
ANSWER_S = 60
COMMANDS = {
    "mppx": ("node", str(PEERS / "mppx" / "client.mjs")),
    "pympp": (str(PYMPP_PYTHON), str(PEERS / "pympp" / "client.py")),
}
ROUTES = """\
  api:
    base_url: {upstream}
    routes:
      "GET /free": free
      "GET /paid": {{charge: "0.01"}}
      "GET /other": {{charge: "0.02"}}
      "GET /first": {{charge: "0.01", settle: before}}
      "POST /report": {{charge: "0.01", digest: true}}
  own:
    base_url: {upstream}
    requires_auth: true
    routes:
      "GET /paid": {{charge: "0.01"}}
"""
METHOD = """\
  demo:
    kind: evm
    chain_id: {chain_id}
    rpc_url: "{rpc_url}"
    token: {{address: "{token}", name: {name}, version: "{version}", decimals: {decimals}}}
    recipient: "{payee}"
    submit: {submit}
"""

_numbers = itertools.count()


def new_key() -> bytes:
    """Return a key that nothing else in this run has used."""
    return keccak256(f"peer test {os.getpid()} {next(_numbers)}".encode())


class Chain:
    """A demo chain on a loop of its own, for tests that are not coroutines."""

    def __init__(self, demo: DemoChain | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.demo = demo or DemoChain()
        self.run(self.demo.start)

    def run[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(ANSWER_S)

    def balance(self, owner: str) -> int:
        return self.run(lambda: self.demo.balance_of(owner))

    def close(self) -> None:
        self.run(self.demo.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()

    @contextmanager
    def facilitator(self) -> Iterator[tuple[StandInFacilitator, str]]:
        """Serve a stand-in facilitator beside the chain."""
        stand_in = StandInFacilitator(self.demo)
        self.run(lambda: self.demo.fund_gas(address(STAND_IN_KEY)))
        open_ = served(stand_in.serve)
        url = self.run(open_.__aenter__)
        try:
            yield stand_in, url
        finally:
            self.run(lambda: open_.__aexit__(None, None, None))


@dataclass
class Buyer:
    """One purse in the hands of one client program."""

    client: str
    key: bytes
    chain: Chain

    @property
    def environ(self) -> dict[str, str]:
        wallet = {
            "private_key": f"0x{self.key.hex()}",
            "chain_id": self.chain.demo.chain_id,
            "token": self.chain.demo.token_address,
            "name": TOKEN_NAME,
            "version": TOKEN_VERSION,
            "decimals": TOKEN_DECIMALS,
            "max_amount": "0.05",
        }
        return {**os.environ, "PEER_WALLET": json.dumps(wallet)}

    @property
    def balance(self) -> int:
        return self.chain.balance(address(self.key))

    def do(
        self, verb: str, *urls: str, method: str = "GET", body: str = "", authorization: str = ""
    ) -> list[dict]:
        """Run the client to its end and return the answers it saw.

        `authorization` is what it says to the upstream, in the field of that name.
        """
        done = subprocess.run(
            [*COMMANDS[self.client], verb, method, body, *urls],
            env={**self.environ, "PEER_AUTHORIZATION": authorization},
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@dataclass
class Shop:
    """A running gateway. `takings` is what its payee has."""

    url: str
    chain: Chain
    payee: str
    upstream: Upstream
    facilitator: StandInFacilitator | None

    @property
    def takings(self) -> int:
        return self.chain.balance(self.payee)

    def buyer(self, client: str) -> Buyer:
        need(client)
        buyer = Buyer(client, new_key(), self.chain)
        self.chain.run(lambda: self.chain.demo.mint(address(buyer.key), PURSE))
        return buyer


@contextmanager
def open_shop(
    chain: Chain, folder: Path, host: str, settlement: str, methods: str = METHOD
) -> Iterator[Shop]:
    """Run a gateway: `host` is addons or serve, `settlement` is own-key or facilitator."""
    with ExitStack() as stack:
        api = stack.enter_context(upstream())
        payee, stand_in = address(new_key()), None
        if settlement == "facilitator":
            stand_in, url = stack.enter_context(chain.facilitator())
            submit = f'{{facilitator: "{url}"}}'
        else:
            gas_key = new_key()
            chain.run(lambda: chain.demo.fund_gas(address(gas_key)))
            submit = f'{{private_key: "0x{gas_key.hex()}"}}'
        method = methods.format(
            chain_id=chain.demo.chain_id,
            rpc_url=chain.demo.rpc_url,
            token=chain.demo.token_address,
            name=TOKEN_NAME,
            version=TOKEN_VERSION,
            decimals=TOKEN_DECIMALS,
            payee=payee,
            submit=submit,
        )
        text = config_text(ROUTES.format(upstream=api.url), method, store=folder / "gateway.db")
        start = _in_mitmproxy if host == "addons" else _as_process
        yield Shop(stack.enter_context(start(text, folder)), chain, payee, api, stand_in)


@contextmanager
def _in_mitmproxy(text: str, _: Path) -> Iterator[str]:
    with running(text) as proxy:
        yield proxy.url


@contextmanager
def _as_process(text: str, folder: Path) -> Iterator[str]:
    config, port = folder / "gateway.yaml", free_port()
    config.write_text(text)
    with process("mpp-gateway", "serve", "--config", str(config), "--port", str(port)) as served_by:
        served_by.wait_for_text("serving on")
        yield f"http://127.0.0.1:{port}"
