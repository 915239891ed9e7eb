"""What a visitor of the demo needs to sell an API on its chain: a file, and a key that has gas."""

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.demo.api import KEY, SampleApi
from mpp_gateway.demo.chain import TOKEN_NAME, TOKEN_VERSION, DemoChain

# Not the demo gateway's own: two gateways that send with one key take each other's nonces.
SELLER_KEY = keccak256(b"mpp-gateway demo seller")

CONFIG = """\
# Sells the sample API on the chain of the demo. Both end with the demo, and this file with them:
# copy it, and put in your own API, routes and prices.
title: My shop
secret_key: ${MPP_SECRET_KEY}
listen: 127.0.0.1:%(port)d
store: %(store)s
methods:
  evm:
    chain_id: %(chain_id)d
    rpc_url: %(rpc_url)s
    token: {address: "%(token)s", name: %(name)s, version: "%(version)s", decimals: 6}
    recipient: "%(recipient)s" # gets the money
    submit: {private_key: "${MPP_GAS_KEY}"} # pays the gas; has plenty on this chain
services:
  mine:
    base_url: %(api)s # the sample API
    auth: {bearer: "${API_KEY}"} # added to what goes to the API
    routes:
      "GET /status": free
      "GET /now/:city": {charge: "0.02"}
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A configuration that is ready to be served, without a key in it."""

    file: Path
    url: str
    environ: Mapping[str, str]


async def open_shop(chain: DemoChain, api: SampleApi, folder: Path, port: int) -> Shop:
    """Give the visitor's key gas and write a configuration that sells `api` into `folder`."""
    owner = checksum(address_of(SELLER_KEY))
    await chain.fund_gas(owner)
    port = _free(port)
    file = folder / "gateway.yaml"
    values = {
        "port": port,
        "store": json.dumps(f"sqlite:///{folder / 'shop.db'}"),
        "chain_id": chain.chain_id,
        "rpc_url": chain.rpc_url,
        "token": chain.token_address,
        "name": TOKEN_NAME,
        "version": TOKEN_VERSION,
        "recipient": owner,
        "api": api.url,
    }
    file.write_text(CONFIG % values, encoding="utf-8")
    # In the environment, not in the file: killed, the demo leaves no key behind.
    environ = {
        "MPP_SECRET_KEY": secrets.token_hex(32),
        "MPP_GAS_KEY": f"0x{SELLER_KEY.hex()}",
        "API_KEY": KEY,
    }
    return Shop(file, f"http://127.0.0.1:{port}/mine/now/Oslo", environ)


def _free(wanted: int) -> int:
    """Return `wanted`, or a port that was free a moment ago if somebody has that one."""
    try:
        with socket.create_server(("127.0.0.1", wanted)) as probe:
            return int(probe.getsockname()[1])
    except (OSError, OverflowError):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return int(probe.getsockname()[1])
