"""A chain for demos and tests: one process, JSON-RPC over real HTTP, a token that takes EIP-3009.

Blocks are mined at once when a transaction arrives and carry the time of the wall clock, so that
the time windows of authorizations mean here what they mean on a public chain.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, Self

from aiohttp import web
from eth_account import Account

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.demo.node import CALL_GAS, TIP_WEI, Node, RpcError, data, quantity
from mpp_gateway.rails.evm import abi

CHAIN_ID = 31_337
DEPLOYER_KEY = keccak256(b"mpp-gateway demo deployer")
"""Public on purpose: this key deploys and mints on chains that end with the process."""
ETHER = 10**18
FUNDED_WEI = 1_000_000 * ETHER
BODY_MAX = 1 << 20
ZERO_ADDRESS = bytes(20)

TOKEN_NAME = "Demo Dollar"  # noqa: S105 - the name of a token, not a secret
TOKEN_VERSION = "1"  # noqa: S105
TOKEN_DECIMALS = 6


def token_artifact() -> Mapping[str, Any]:
    """Return the compiled token: `abi`, `bytecode` and what it was compiled from."""
    text = resources.files(__package__).joinpath("token.json").read_text(encoding="utf-8")
    artifact: Mapping[str, Any] = json.loads(text)
    return artifact


def wall_clock() -> int:
    """Return the unix time in seconds."""
    return int(time.time())


class DemoChain:
    """`async with DemoChain() as chain:` serves `chain.rpc_url` and knows `chain.token`.

    The EVM runs in one worker thread, so requests are serialised and the event loop is free.
    """

    def __init__(
        self,
        *,
        chain_id: int = CHAIN_ID,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self.chain_id = chain_id
        self.token = b""
        self._host = host
        self._port = port
        self._clock = clock
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="demo-chain")
        self._deployer = Account.from_key(DEPLOYER_KEY)
        self._runner: web.AppRunner | None = None
        self._node: Node | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def rpc_url(self) -> str:
        """Address of the JSON-RPC endpoint."""
        return f"http://{self._host}:{self._port}"

    @property
    def token_address(self) -> str:
        """Address of the demo token, in EIP-55 form."""
        return checksum(self.token)

    async def start(self) -> None:
        """Mine the genesis block, deploy the token, open the port."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._create)
        app = web.Application(client_max_size=BODY_MAX)
        app.router.add_post("/{_:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Close the port and end the worker; the chain is forgotten."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._worker.shutdown()

    async def run[T](self, work: Callable[[Node], T]) -> T:
        """Run `work` on the node in its thread: the way to mine, to look, to change a setting."""
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, lambda: work(self._ready())
        )

    # What demos and tests ask for; addresses are text in any case

    async def balance_of(self, owner: str) -> int:
        """Return how many minor units of the token `owner` has."""
        return int.from_bytes(await self._call(abi.balance_of(parse_address(owner))))

    async def authorization_state(self, authorizer: str, nonce: bytes) -> bool:
        """Tell whether the nonce was used or cancelled (EIP-3009)."""
        payload = abi.authorization_state(parse_address(authorizer), nonce)
        return int.from_bytes(await self._call(payload)) != 0

    async def mint(self, to: str, minor: int) -> str:
        """Create `minor` units for `to`; return the transaction hash."""
        payload = abi.mint(parse_address(to), minor)
        return await self.run(
            lambda node: self._transact(node, self.token, payload, 0, DEPLOYER_KEY)
        )

    async def transfer(self, key: bytes, to: str, minor: int) -> str:
        """Move tokens of the owner of `key`, who needs gas, to `to`; return the hash."""
        payload = abi.transfer(parse_address(to), minor)
        return await self.run(lambda node: self._transact(node, self.token, payload, 0, key))

    async def fund_gas(self, to: str, wei: int = 10 * ETHER) -> str:
        """Give `to` ether for gas; return the transaction hash."""
        recipient = parse_address(to)
        return await self.run(lambda node: self._transact(node, recipient, b"", wei, DEPLOYER_KEY))

    async def gas_balance(self, owner: str) -> int:
        """Return the wei that `owner` has."""
        address = parse_address(owner)
        return await self.run(lambda node: node.balance(address))

    # Inside

    def _ready(self) -> Node:
        if self._node is None:
            raise RuntimeError("the demo chain is not started")
        return self._node

    def _create(self) -> None:
        deployer = parse_address(self._deployer.address)
        self._node = Node(self.chain_id, {deployer: FUNDED_WEI}, self._clock)
        bytecode = bytes.fromhex(token_artifact()["bytecode"][2:])
        tx_hash = self._transact(self._node, None, bytecode, 0, DEPLOYER_KEY)
        receipt = self._node.receipt(tx_hash)
        if receipt is None or receipt["status"] != "0x1":
            raise RuntimeError("the demo token was not deployed")
        self.token = parse_address(receipt["contractAddress"])

    def _transact(
        self, node: Node, to: bytes | None, payload: bytes, value: int, key: bytes
    ) -> str:
        account = Account.from_key(key)
        sender = parse_address(account.address)
        unsigned = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": node.nonce(sender, "pending"),
            "gas": node.estimate_gas(sender, to, payload, value),
            "maxFeePerGas": 2 * node.gas_price(),
            "maxPriorityFeePerGas": TIP_WEI,
            "value": value,
            "data": payload,
        }
        if to is not None:
            unsigned["to"] = to
        return node.send(bytes(account.sign_transaction(unsigned).raw_transaction))

    async def _call(self, payload: bytes) -> bytes:
        return await self.run(
            lambda node: node.call(ZERO_ADDRESS, self.token, payload, 0, "latest")
        )

    async def _serve(self, request: web.Request) -> web.Response:
        try:
            asked = json.loads(await request.read())
        except ValueError:
            return web.json_response(_failure(None, RpcError(-32700, "parse error")))
        loop = asyncio.get_running_loop()
        if isinstance(asked, list):
            answers = [await loop.run_in_executor(self._worker, self._answer, one) for one in asked]
            return web.json_response(answers)
        return web.json_response(await loop.run_in_executor(self._worker, self._answer, asked))

    def _answer(self, asked: Any) -> dict[str, Any]:
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return _failure(None, RpcError(-32600, "invalid request"))
        number = asked.get("id")
        method = METHODS.get(asked["method"])
        if method is None:
            return _failure(number, RpcError(-32601, f"no such method: {asked['method']}"))
        try:
            result = method(self._ready(), asked.get("params") or [])
        except RpcError as error:
            return _failure(number, error)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError):
            return _failure(number, RpcError(-32602, "invalid params"))
        return {"jsonrpc": "2.0", "id": number, "result": result}


def _failure(number: Any, error: RpcError) -> dict[str, Any]:
    shown: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        shown["data"] = error.data
    return {"jsonrpc": "2.0", "id": number, "error": shown}


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _tag(params: list[Any], place: int) -> str:
    tag = params[place] if len(params) > place else "latest"
    return str(tag.get("blockNumber", "latest")) if isinstance(tag, dict) else str(tag)


def _transaction_of(params: list[Any]) -> tuple[bytes, bytes | None, bytes, int]:
    asked = params[0]
    sender = parse_address(asked["from"]) if asked.get("from") else ZERO_ADDRESS
    to = parse_address(asked["to"]) if asked.get("to") else None
    payload = _bytes(asked.get("input") or asked.get("data") or "0x")
    return sender, to, payload, int(asked.get("value") or "0x0", 16)


def _eth_call(node: Node, params: list[Any]) -> str:
    sender, to, payload, value = _transaction_of(params)
    if to is None:
        raise RpcError(-32602, "eth_call needs `to`")
    gas = min(int(params[0].get("gas") or hex(CALL_GAS), 16), CALL_GAS)
    return data(node.call(sender, to, payload, value, _tag(params, 1), gas))


def _fee_history(node: Node, params: list[Any]) -> dict[str, Any]:
    count = min(int(str(params[0]), 0), 1024, node.height + 1)
    newest = node.number_of(str(params[1]))
    blocks = [node.block(hex(n)) for n in range(newest - count + 1, newest + 1) if n >= 0]
    fees = [block["baseFeePerGas"] for block in blocks if block is not None]
    percentiles = params[2] if len(params) > 2 and params[2] else []
    shown: dict[str, Any] = {
        "oldestBlock": quantity(newest - len(fees) + 1),
        "baseFeePerGas": [*fees, quantity(node.gas_price() - TIP_WEI)],
        "gasUsedRatio": [0 for _ in fees],
    }
    if percentiles:
        shown["reward"] = [[quantity(TIP_WEI) for _ in percentiles] for _ in fees]
    return shown


METHODS: Mapping[str, Callable[[Node, list[Any]], Any]] = {
    "web3_clientVersion": lambda _node, _: f"mpp-gateway-demo/1/{sys.platform}",
    "net_version": lambda node, _: str(node.chain_id),
    "eth_chainId": lambda node, _: quantity(node.chain_id),
    "eth_syncing": lambda _node, _: False,
    "eth_accounts": lambda _node, _: [],
    "eth_blockNumber": lambda node, _: quantity(node.height),
    "eth_gasPrice": lambda node, _: quantity(node.gas_price()),
    "eth_maxPriorityFeePerGas": lambda _node, _: quantity(TIP_WEI),
    "eth_feeHistory": _fee_history,
    "eth_getBalance": lambda node, p: quantity(node.balance(parse_address(p[0]), _tag(p, 1))),
    "eth_getCode": lambda node, p: data(node.code(parse_address(p[0]), _tag(p, 1))),
    "eth_getTransactionCount": lambda node, p: quantity(
        node.nonce(parse_address(p[0]), _tag(p, 1))
    ),
    "eth_getBlockByNumber": lambda node, p: node.block(_tag(p, 0), full=p[1:] == [True]),
    "eth_getBlockByHash": lambda node, p: node.block_by_hash(p[0], full=p[1:] == [True]),
    "eth_getTransactionByHash": lambda node, p: node.transaction(p[0]),
    "eth_getTransactionReceipt": lambda node, p: node.receipt(p[0]),
    "eth_getLogs": lambda node, p: node.logs(p[0]),
    "eth_call": _eth_call,
    "eth_estimateGas": lambda node, p: quantity(
        min(node.estimate_gas(*_transaction_of(p)), CALL_GAS)
    ),
    "eth_sendRawTransaction": lambda node, p: node.send(_bytes(p[0])),
}
