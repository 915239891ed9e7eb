"""What every server under test sells, and the buyers' side of it."""

import json
import time
from pathlib import Path

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.rails.evm.payer import Purse, pay

CHAIN_ID = 31_337
TOKEN = bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3")
NAME, VERSION, DECIMALS = "Demo Dollar", "1", 6
RECIPIENT = "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00"
PRICE = "0.01"
PURSE = Purse(Eip712Domain(NAME, VERSION, CHAIN_ID, TOKEN), 10_000)
SIGNING_KEY = "bench-only-bench-only-bench-only-bench"

GATEWAY = """\
realm: 127.0.0.1
secret_key: {key}
store: sqlite:///{store}
methods:
  evm:
    chain_id: {chain_id}
    token: {{address: "{token}", name: {name}, version: "{version}", decimals: {decimals}}}
    recipient: "{recipient}"
    submit: {{facilitator: "{standins}"}}
services:
  api:
    base_url: {standins}
    routes:
      "GET /free": free
      "GET /paid": {{charge: "{price}"}}
"""


def gateway_config(standins: str, store: Path) -> str:
    """Return the configuration of our gateway."""
    return GATEWAY.format(
        key=SIGNING_KEY,
        store=store,
        chain_id=CHAIN_ID,
        token=checksum(TOKEN),
        name=NAME,
        version=VERSION,
        decimals=DECIMALS,
        recipient=RECIPIENT,
        standins=standins,
        price=PRICE,
    )


def mppx_site(standins: str, port: int) -> str:
    """Return the same for tests/peers/mppx/proxy.mjs."""
    token = {"address": checksum(TOKEN), "name": NAME, "version": VERSION, "decimals": DECIMALS}
    return json.dumps(
        {
            "chain_id": CHAIN_ID,
            "facilitator": standins,
            "port": port,
            "price": PRICE,
            "recipient": RECIPIENT,
            "secret_key": SIGNING_KEY,
            "token": token,
            "upstream": standins,
        }
    )


def credentials(challenges: list[str], batch: int) -> list[str]:
    """Return one signed credential for each challenge, every one from a purse of its own."""
    now_s = int(time.time())
    return [
        pay(Challenge.parse(text), PURSE, keccak256(f"{batch}/{number}".encode()), now_s).format()
        for number, text in enumerate(challenges)
    ]
