"""A node of an EVM chain as typed questions."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mpp_gateway.protocol import permit2
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Log
from mpp_gateway.rails.jsonrpc import (
    JsonRpc,
    RpcFailed,
    RpcRefused,
    hexadecimal,
    octets,
    quantity,
    sequence,
)


@dataclass(frozen=True, slots=True)
class Block:
    """Number and time (unix seconds) of a block, and what gas costs in it, in wei."""

    number: int
    time_s: int
    base_fee_wei: int


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction: whether it succeeded, and what it logged."""

    tx_hash: str
    succeeded: bool
    block_number: int
    logs: tuple[Log, ...]


class ChainClient:
    """Questions to one node about one token. Errors: `RpcFailed`, `RpcRefused`, nothing else."""

    def __init__(self, url: str, token: bytes, timeout_s: int = 10, confirmations: int = 1) -> None:
        self._rpc = JsonRpc(url, timeout_s)
        self._token = hexadecimal(token)
        self._confirmations = confirmations

    async def close(self) -> None:
        """Close the connections."""
        await self._rpc.close()

    async def chain_id(self) -> int:
        """Return the chain id of the node (EIP-695)."""
        return quantity(await self._rpc.ask("eth_chainId"))

    async def latest_block(self) -> Block:
        """Return the head of the chain."""
        return await self._block("latest")

    async def block(self, number: int) -> Block:
        """Return the block of that number."""
        return await self._block(hex(number))

    async def spender(self, sender: bytes, nonce: int, depth: int) -> str | None:
        """Return the transaction that used the nonce, `depth` blocks ago or more; None if none did.

        Finds the block by the sender's count, so the node has to know that for as long back.
        """
        high = (await self.latest_block()).number - depth

        async def is_used(number: int) -> bool:
            return nonce < await self.transaction_count(sender, hex(number))

        if high < 0 or not await is_used(high):
            return None
        step, low = 1, high - 1
        while low >= 0 and await is_used(low):
            high, step = low, 2 * step
            low = max(low - step, -1)
        while high - low > 1:
            middle = (low + high) // 2
            if await is_used(middle):
                high = middle
            else:
                low = middle
        return await self._transaction_of(sender, nonce, high)

    async def _transaction_of(self, sender: bytes, nonce: int, number: int) -> str:
        block = await self._rpc.ask("eth_getBlockByNumber", hex(number), True)
        for found in sequence(block.get("transactions") if isinstance(block, Mapping) else None):
            if not isinstance(found, Mapping) or octets(found.get("from")) != sender:
                continue
            if quantity(found.get("nonce")) == nonce and isinstance(found.get("hash"), str):
                return str(found["hash"]).lower()
        raise RpcFailed("eth_getBlockByNumber: the block lacks a transaction that it counts")

    async def _block(self, which: str) -> Block:
        block = await self._rpc.ask("eth_getBlockByNumber", which, False)
        if not isinstance(block, Mapping):
            raise RpcFailed("eth_getBlockByNumber: no block")
        fee = block.get("baseFeePerGas") or "0x0"
        return Block(quantity(block.get("number")), quantity(block.get("timestamp")), quantity(fee))

    async def tip_wei(self) -> int:
        """Return the priority fee that the node suggests."""
        return quantity(await self._rpc.ask("eth_maxPriorityFeePerGas"))

    async def gas_balance(self, address: bytes) -> int:
        """Return the wei of `address`."""
        return quantity(await self._rpc.ask("eth_getBalance", hexadecimal(address), "latest"))

    async def transaction_count(self, address: bytes, block: str) -> int:
        """Return the next nonce of `address` at `latest` or `pending`."""
        return quantity(await self._rpc.ask("eth_getTransactionCount", hexadecimal(address), block))

    async def has_code(self) -> bool:
        """Tell whether there is a contract at the token's address."""
        return len(octets(await self._rpc.ask("eth_getCode", self._token, "latest"))) > 0

    async def ask_token(self, payload: bytes) -> bytes:
        """Return what a function of the token answers; `RpcRefused` if it reverts."""
        call = {"to": self._token, "data": hexadecimal(payload)}
        return octets(await self._rpc.ask("eth_call", call, "latest"))

    async def balance_of(self, owner: bytes) -> int:
        """Return the minor units that `owner` has."""
        return int.from_bytes(await self._view(abi.balance_of(owner), "latest"))

    async def authorization_used(self, sender: bytes, nonce: bytes, block: str = "latest") -> bool:
        """Tell whether the nonce was used or cancelled as of `block`."""
        return int.from_bytes(await self._view(abi.authorization_state(sender, nonce), block)) != 0

    async def allowance(self, owner: bytes, spender: bytes) -> int:
        """Return the minor units that `spender` may move for `owner`."""
        return int.from_bytes(await self._view(abi.allowance(owner, spender), "latest"))

    async def permit_used(self, owner: bytes, nonce: int, block: str = "latest") -> bool:
        """Tell whether a nonce of Permit2 was used or given up as of `block`."""
        call = {
            "to": hexadecimal(permit2.ADDRESS),
            "data": hexadecimal(abi.nonce_bitmap(owner, nonce)),
        }
        word = octets(await self._rpc.ask("eth_call", call, block))
        if len(word) != abi.WORD:
            raise RpcFailed("eth_call: there is no Permit2 on this chain")
        return bool(int.from_bytes(word) >> (nonce & 0xFF) & 1)

    async def simulate(
        self,
        payload: bytes,
        submitter: bytes | None,
        gas: int | None = None,
        to: bytes | None = None,
    ) -> None:
        """Return if a call of the token, or of `to`, would succeed now; raises `RpcRefused`.

        With `gas`, that much of it would have to do.
        """
        called = self._token if to is None else hexadecimal(to)
        call = {"to": called, "data": hexadecimal(payload)}
        if submitter is not None:
            call["from"] = hexadecimal(submitter)
        if gas is not None:
            call["gas"] = hex(gas)
        await self._rpc.ask("eth_call", call, "latest")

    async def is_signed_by(self, wallet: bytes, digest: bytes, signature: bytes, gas: int) -> bool:
        """Ask the contract at `wallet` whether it takes a signature (ERC-1271), with bounded gas.

        False where there is no contract, or one that does not answer with the magic value.
        """
        if not octets(await self._rpc.ask("eth_getCode", hexadecimal(wallet), "latest")):
            return False
        payload = abi.is_valid_signature(digest, signature)
        call = {"to": hexadecimal(wallet), "data": hexadecimal(payload), "gas": hex(gas)}
        try:
            answer = octets(await self._rpc.ask("eth_call", call, "latest"))
        except RpcRefused as error:
            words = error.message.lower()
            if error.is_revert or "gas" in words or "opcode" in words:
                return False
            raise
        return answer == abi.IS_VALID_SIGNATURE.ljust(abi.WORD, b"\0")

    async def estimate_gas(self, to: bytes, payload: bytes, submitter: bytes) -> int:
        """Return the gas that a call needs; raises `RpcRefused` if it would revert."""
        call = {
            "from": hexadecimal(submitter),
            "to": hexadecimal(to),
            "data": hexadecimal(payload),
        }
        return quantity(await self._rpc.ask("eth_estimateGas", call))

    async def send(self, raw: bytes) -> None:
        """Broadcast a signed transaction."""
        await self._rpc.ask("eth_sendRawTransaction", hexadecimal(raw))

    async def receipt(self, tx_hash: str, *, is_deep: bool = True) -> TxReceipt | None:
        """Return what became of a transaction; None until it is `confirmations` blocks deep.

        Without `is_deep` any block will do.
        """
        found = await self._rpc.ask("eth_getTransactionReceipt", tx_hash)
        if found is None:
            return None
        if not isinstance(found, Mapping) or found.get("blockNumber") is None:
            return None
        logs = tuple(_log(log) for log in sequence(found.get("logs")))
        number, status = quantity(found.get("blockNumber")), quantity(found.get("status"))
        if is_deep and self._confirmations > 1:
            head = await self.latest_block()
            if head.number - number + 1 < self._confirmations:
                return None
        return TxReceipt(tx_hash, status == 1, number, logs)

    async def made_by(self, tx_hash: str) -> tuple[bytes, bytes, bytes] | None:
        """Return who has sent a transaction, to which contract, and with what call data."""
        found = await self._rpc.ask("eth_getTransactionByHash", tx_hash)
        if not isinstance(found, Mapping) or not found.get("to"):
            return None
        payload = found.get("input") or found.get("data")
        return octets(found.get("from")), octets(found.get("to")), octets(payload)

    async def logs(
        self,
        topics: Sequence[str | list[str] | None],
        first: int,
        last: int,
        of: bytes | None = None,
    ) -> tuple[Log, ...]:
        """Return the logs with `topics` from block `first` to `last`, both included.

        Those of the token, or of another contract.
        """
        where = {
            "address": self._token if of is None else hexadecimal(of),
            "topics": list(topics),
            "fromBlock": hex(max(first, 0)),
            "toBlock": hex(last),
        }
        return tuple(_log(log) for log in sequence(await self._rpc.ask("eth_getLogs", where)))

    async def _view(self, payload: bytes, block: str) -> bytes:
        call = {"to": self._token, "data": hexadecimal(payload)}
        word = octets(await self._rpc.ask("eth_call", call, block))
        # An empty answer means that there is no such function; reading it as zero would say
        # "unused" or "no balance" about a token that was never asked.
        if len(word) != abi.WORD:
            raise RpcFailed("eth_call: the token did not answer with one word")
        return word


async def gathered[A, B, C](
    first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B], third: Coroutine[Any, Any, C]
) -> tuple[A, B, C]:
    """Ask all at once; when every answer is there, raise the first failure in argument order.

    The order matters: a contract's refusal says more than a time-out of the question beside it.
    """
    answers = await asyncio.gather(first, second, third, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast("tuple[A, B, C]", tuple(answers))


def _log(value: Any) -> Log:
    if not isinstance(value, Mapping):
        raise RpcFailed("the node's answer has a log that is none")
    tx_hash = value.get("transactionHash")
    return Log(
        address=octets(value.get("address")),
        topics=tuple(octets(topic) for topic in sequence(value.get("topics"))),
        data=octets(value.get("data")),
        tx_hash=tx_hash if isinstance(tx_hash, str) else "",
    )
