"""The demo: a chain, an API, the gateway and a buyer in one process, and one paid call."""

import asyncio
import json
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from mpp_gateway.cli.exits import CANNOT_START, INTERRUPTED, OK
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.config import load_text
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.demo.api import KEY, SampleApi
from mpp_gateway.demo.chain import TOKEN_DECIMALS, TOKEN_NAME, TOKEN_VERSION, DemoChain
from mpp_gateway.demo.shop import Shop, open_shop
from mpp_gateway.engine.server import Server, StartFailed
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.money import format_minor, parse_minor
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.rails.evm.payer import Purse, pay

# Keys of a chain that ends with the process: published on purpose, worth nothing elsewhere.
BUYER_KEY = keccak256(b"mpp-gateway demo buyer")
GAS_KEY = keccak256(b"mpp-gateway demo gas")
PAYEE = checksum(address_of(keccak256(b"mpp-gateway demo payee")))
PURSE_MINOR = 100_000_000
PRICE = "0.01"
PATH = "/weather/now/Oslo"

CONFIG = """\
title: Demo weather
realm: 127.0.0.1
secret_key: ${SECRET}
listen: 127.0.0.1:${PORT}
store: sqlite:///${STORE}
methods:
  evm:
    chain_id: ${CHAIN_ID}
    rpc_url: ${RPC_URL}
    token: {address: "${TOKEN}", name: ${TOKEN_NAME}, version: "${TOKEN_VERSION}", decimals: 6}
    recipient: "${PAYEE}"
    submit: {private_key: "${GAS_KEY}"}
services:
  weather:
    title: Weather
    base_url: ${API}
    auth: {bearer: "${API_KEY}"}
    routes:
      "GET /status": free
      "GET /now/:city": {charge: "0.01"}
      "GET /stream": {charge: "0.01"}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts of the demo that the buyer looks at."""

    chain: DemoChain
    domain: Eip712Domain
    url: str


async def run(*, once: bool, port: int) -> int:
    """Run the demo; returns 0 only if the payee got exactly the price. Errors: `CommandFailed`."""
    print("Starting a chain, an API and the gateway ...", flush=True)
    try:
        folder = tempfile.TemporaryDirectory(prefix="mpp-gateway-demo-")
    except OSError as error:
        raise CommandFailed(f"no temporary folder can be made: {error}", CANNOT_START) from None
    with folder as name:
        async with DemoChain() as chain, SampleApi() as api:
            await chain.mint(checksum(address_of(BUYER_KEY)), PURSE_MINOR)
            await chain.fund_gas(checksum(address_of(GAS_KEY)))
            server = Server(_config(chain, api, Path(name), port))
            started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(server.run(started.set_result))
            serving.add_done_callback(lambda _: started.done() or started.cancel())
            try:
                await asyncio.wait({started})
                if started.cancelled():
                    return _failed(serving)
                domain = Eip712Domain(TOKEN_NAME, TOKEN_VERSION, chain.chain_id, chain.token)
                stage = Stage(chain, domain, f"http://127.0.0.1:{started.result()}")
                await _show(stage)
                if not once:
                    _invite(stage, await open_shop(chain, api, Path(name), started.result() + 1))
                    await serving
            except aiohttp.ClientError as error:
                if server.is_stopping:
                    return INTERRUPTED
                raise CommandFailed(f"the demo cannot go on: {error}") from None
            finally:
                if not started.done():
                    serving.cancel()
                elif not serving.done():
                    server.drain(1.0)
                await asyncio.wait({serving})
    return OK


def _failed(serving: asyncio.Task[None]) -> int:
    error = serving.exception()
    if error is None:
        return INTERRUPTED
    if not isinstance(error, StartFailed):
        raise error
    raise CommandFailed(str(error), CANNOT_START)


def _config(chain: DemoChain, api: SampleApi, folder: Path, port: int) -> GatewayConfig:
    environ = {
        "SECRET": secrets.token_hex(32),
        "PORT": str(port),
        "STORE": str(folder / "gateway.db"),
        "CHAIN_ID": str(chain.chain_id),
        "RPC_URL": chain.rpc_url,
        "TOKEN": chain.token_address,
        "TOKEN_NAME": TOKEN_NAME,
        "TOKEN_VERSION": TOKEN_VERSION,
        "PAYEE": PAYEE,
        "GAS_KEY": f"0x{GAS_KEY.hex()}",
        "API": api.url,
        "API_KEY": KEY,
    }
    return load_text(CONFIG, "demo.yaml", environ)


async def _show(stage: Stage) -> None:
    """Pay once and show it. Errors: `CommandFailed`, unless the payee gets exactly the price."""
    price_minor = parse_minor(PRICE, TOKEN_DECIMALS)
    before = await _balances(stage)
    async with aiohttp.ClientSession() as session:
        _say(f"1. Ask without paying: GET {PATH}")
        async with session.get(stage.url + PATH) as response:
            if response.status != 402:
                said = await response.text()
                raise CommandFailed(f"expected 402, and the answer is {response.status}: {said}")
            challenge = Challenge.parse(response.headers["WWW-Authenticate"])
            print(f"   HTTP {response.status}, WWW-Authenticate: Payment …, decoded:")
        _print_challenge(challenge)
        _say("2. Sign an authorization (EIP-3009): no gas, no account, no API key")
        credential = pay(challenge, Purse(stage.domain, price_minor), BUYER_KEY, int(time.time()))
        _print_json(credential.payload)
        _say("3. Ask again with `Authorization: Payment …`")
        headers = {"Authorization": credential.format()}
        async with session.get(stage.url + PATH, headers=headers) as response:
            answer = await response.text()
            print(f"   HTTP {response.status}: {answer}")
            receipt = response.headers.get("Payment-Receipt")
            status = response.status
    if receipt is not None:
        parsed = Receipt.parse(receipt)
        print("   Payment-Receipt, decoded:")
        _print_json({"reference": parsed.reference, "timestamp": parsed.timestamp, **parsed.extra})
    after = await _balances(stage)
    _say("4. Who has what, on the chain")
    for name, old, new in zip(("buyer", "payee"), before, after, strict=True):
        change = _units(new - old, sign=True)
        print(f"   {name}: {_units(old):>12} -> {_units(new):>12}  ({change})")
    moved = (after[0] - before[0], after[1] - before[1])
    adds_up = status == 200 and receipt is not None and moved == (-price_minor, price_minor)
    if not adds_up:
        raise CommandFailed(f"the payee did not get exactly {PRICE} for an answer with a receipt")
    print(f"\nThe payee got exactly {PRICE}.", flush=True)


def _invite(stage: Stage, shop: Shop) -> None:
    node = stage.chain.rpc_url
    _say("Try it (Ctrl-C stops)")
    print(f"   curl -i {stage.url}/weather/status                 # free")
    print(f"   curl -i {stage.url}{PATH}               # 402 and what to pay")
    print(f"   curl {stage.url}/llms.txt                       # what is for sale")
    print(f"   export MPP_PRIVATE_KEY=0x{BUYER_KEY.hex()}")
    print(f"   {_command()} pay {stage.url}/weather/stream --rpc-url {node} --max 0.10")
    _say("Sell an API of your own on this chain (the file sells the sample API; put in yours)")
    print(f"   export {' '.join(f'{name}={value}' for name, value in shop.environ.items())}")
    print(f"   {_command()} serve --config {shlex.quote(str(shop.file))}")
    note = "# in another terminal, with the key above"
    print(f"   {_command()} pay {shop.url} --rpc-url {node} --max 0.10   {note}")
    print(flush=True)


def _command() -> str:
    """Return what runs `mpp-gateway` as it is printed, in a shell that stands where we do."""
    if shutil.which("mpp-gateway"):
        return "mpp-gateway"
    script = Path(sys.executable).with_name("mpp-gateway")
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


async def _balances(stage: Stage) -> tuple[int, int]:
    buyer = await stage.chain.balance_of(checksum(address_of(BUYER_KEY)))
    return buyer, await stage.chain.balance_of(PAYEE)


def _print_challenge(challenge: Challenge) -> None:
    _print_json(
        {
            "id": challenge.id,
            "realm": challenge.realm,
            "method": challenge.method,
            "intent": challenge.intent,
            "expires": challenge.expires,
            "request": challenge.request_object,
        }
    )


def _print_json(value: Any) -> None:
    for line in json.dumps(value, indent=2).split("\n"):
        print(f"   {line}")


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _units(minor: int, *, sign: bool = False) -> str:
    text = format_minor(abs(minor), TOKEN_DECIMALS)
    if sign:
        return f"{'+' if minor > 0 else '-'}{text}"
    return text
