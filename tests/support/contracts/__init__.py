"""Stand-ins for contracts that are elsewhere on real chains; `scripts/compile-token` makes them."""

import json
from pathlib import Path

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.demo.chain import DEPLOYER_KEY, DemoChain

HERE = Path(__file__).parent
NAMES = ("wallet", "permit2", "upto", "exact")


def bytecode(name: str) -> bytes:
    return bytes.fromhex(json.loads((HERE / f"{name}.json").read_text())["bytecode"][2:])


async def deploy(chain: DemoChain, name: str) -> bytes:
    """Put a contract on the demo chain; return its address."""
    payload = bytecode(name)

    def work(node):
        receipt = node.receipt(chain._transact(node, None, payload, 0, DEPLOYER_KEY))
        assert receipt is not None
        assert receipt["status"] == "0x1"
        return parse_address(receipt["contractAddress"])

    return await chain.run(work)


async def tell(
    chain: DemoChain, contract: bytes, payload: bytes, key: bytes = DEPLOYER_KEY
) -> None:
    """Call a function of a contract, from the account of `key`."""
    await chain.run(lambda node: chain._transact(node, contract, payload, 0, key))
