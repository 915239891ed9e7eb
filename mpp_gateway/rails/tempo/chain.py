"""A Tempo node as typed questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpp_gateway.protocol.tempo_transaction import TempoTransaction, Unsigned
from mpp_gateway.rails.jsonrpc import (
    JsonRpc,
    RpcFailed,
    RpcRefused,
    hexadecimal,
    octets,
    quantity,
    sequence,
)
from mpp_gateway.rails.tempo import tip20
from mpp_gateway.rails.tempo.tip20 import Log

_OF_TRANSACTION = ("tempo transaction", "valid_before", "insufficient", "nonce", "gas", "oog")


def is_of_transaction(refused: RpcRefused) -> bool:
    """Tell whether the node says that the network would not take such a transaction."""
    return any(word in refused.message.lower() for word in _OF_TRANSACTION)


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction: whether it succeeded, what it logged, and the number of its block."""

    succeeded: bool
    logs: tuple[Log, ...]
    block_number: int


class TempoNode:
    """Questions to one node about one token. Errors: `RpcFailed`, `RpcRefused`, nothing else."""

    def __init__(self, url: str, token: bytes, timeout_s: int) -> None:
        self._rpc = JsonRpc(url, timeout_s)
        self._token = token

    async def close(self) -> None:
        """Close the connections."""
        await self._rpc.close()

    async def chain_id(self) -> int:
        """Return the chain id of the node."""
        return quantity(await self._rpc.ask("eth_chainId"))

    async def time_s(self) -> int:
        """Return the time of the latest block, in unix seconds."""
        return quantity((await self._block()).get("timestamp"))

    async def block(self, number: int | None = None) -> tuple[int, int]:
        """Return number and time (unix seconds) of a block, by default of the latest."""
        block = await self._block("latest" if number is None else hex(number))
        return quantity(block.get("number")), quantity(block.get("timestamp"))

    async def base_fee(self) -> int:
        """Return what a unit of gas costs at least, by the latest block; 0 if it does not say."""
        fee = (await self._block()).get("baseFeePerGas")
        return 0 if fee is None else quantity(fee)

    async def decimals(self) -> int:
        """Return the token's own `decimals()`."""
        return await self._view(self._token, tip20.DECIMALS_OF)

    async def balance_of(self, owner: bytes, token: bytes | None = None) -> int:
        """Return the minor units that `owner` has, of the rail's token or of another one."""
        data = tip20.BALANCE_OF + tip20.address_word(owner)
        return await self._view(token or self._token, data)

    async def simulate(self, transaction: TempoTransaction, data: bytes) -> None:
        """Return if one call of the transaction would succeed now; raises `RpcRefused`.

        With the transaction's own nonce key, end and fees: the node then also says whether the
        network takes it at all.
        """
        unsigned = transaction.unsigned
        call = {
            "from": hexadecimal(transaction.sender),
            "to": hexadecimal(self._token),
            "data": hexadecimal(data),
            "nonceKey": hex(unsigned.nonce_key),
            "nonce": hex(unsigned.nonce),
            "gas": hex(unsigned.gas_limit),
        }
        if not unsigned.is_sponsored:  # else the node would look for the fee at the sender's
            call["maxFeePerGas"] = hex(unsigned.max_fee)
            call["maxPriorityFeePerGas"] = hex(unsigned.max_priority_fee)
        if unsigned.valid_before is not None:
            call["validBefore"] = hex(unsigned.valid_before)
        if unsigned.fee_token is not None and not unsigned.is_sponsored:
            call["feeToken"] = hexadecimal(unsigned.fee_token)
        await self._rpc.ask("eth_call", call, "latest")

    async def gas_for(self, sender: bytes, unsigned: Unsigned) -> int:
        """Return the gas that the calls of a transaction would take; `RpcRefused` if they fail."""
        asked: dict[str, Any] = {
            "from": hexadecimal(sender),
            "calls": [
                {"to": hexadecimal(c.to), "value": hex(c.value), "data": hexadecimal(c.data)}
                for c in unsigned.calls
            ],
            "nonceKey": hex(unsigned.nonce_key),
        }
        if unsigned.valid_before is not None:
            asked["validBefore"] = hex(unsigned.valid_before)
        if unsigned.fee_token is not None:
            asked["feeToken"] = hexadecimal(unsigned.fee_token)
        return quantity(await self._rpc.ask("eth_estimateGas", asked))

    async def send(self, raw: bytes) -> None:
        """Broadcast a signed transaction."""
        await self._rpc.ask("eth_sendRawTransaction", hexadecimal(raw))

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """Return what became of a transaction; None while it is in no block."""
        found = await self._rpc.ask("eth_getTransactionReceipt", tx_hash)
        if found is None:
            return None
        # Read as "in no block", an answer that is none would release what may be paid.
        if not isinstance(found, Mapping):
            raise RpcFailed("eth_getTransactionReceipt: no receipt")
        if found.get("blockNumber") is None:
            return None
        logs = tuple(_log(log) for log in sequence(found.get("logs")))
        number = quantity(found.get("blockNumber"))
        return TxReceipt(quantity(found.get("status")) == 1, logs, number)

    async def logged(
        self, topics: Sequence[str | list[str] | None], first: int, last: int
    ) -> tuple[str, ...]:
        """Return the transactions in which the token logged such topics, each once.

        From block `first` to `last`, both included.
        """
        where = {
            "address": hexadecimal(self._token),
            "topics": list(topics),
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        logs = sequence(await self._rpc.ask("eth_getLogs", where))
        return tuple(dict.fromkeys(_hash(log) for log in logs))

    async def _block(self, which: str = "latest") -> Mapping[str, Any]:
        block = await self._rpc.ask("eth_getBlockByNumber", which, False)
        if not isinstance(block, Mapping):
            raise RpcFailed("eth_getBlockByNumber: no block")
        return block

    async def _view(self, token: bytes, data: bytes) -> int:
        word = octets(
            await self._rpc.ask(
                "eth_call", {"to": hexadecimal(token), "data": hexadecimal(data)}, "latest"
            )
        )
        # An empty answer means that there is no such token; read as zero it would say "no money".
        if len(word) != tip20.WORD:
            raise RpcFailed("eth_call: the token did not answer with one word")
        return int.from_bytes(word)


def _hash(value: Any) -> str:
    tx_hash = value.get("transactionHash") if isinstance(value, Mapping) else None
    if not isinstance(tx_hash, str):
        raise RpcFailed("the node's answer has a log of no transaction")
    return tx_hash.lower()


def _log(value: Any) -> Log:
    if not isinstance(value, Mapping):
        raise RpcFailed("the node's answer has a log that is none")
    topics = tuple(octets(topic) for topic in sequence(value.get("topics")))
    return Log(octets(value.get("address")), topics, octets(value.get("data")))
