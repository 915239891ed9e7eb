"""A node's JSON-RPC as typed questions. Every failure says whether the node may have acted."""

import asyncio
import errno
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Log

ANSWER_MAX = 8 << 20
WORD_HEX = 64
HTTP_OK = 200


class RpcFailed(Exception):
    """No usable answer came. `sent` is False only if the request certainly never left."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class RpcRefused(Exception):
    """The node answered with a JSON-RPC error: it did not do what was asked."""

    def __init__(self, code: int, message: str, data: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_revert(self) -> bool:
        """True when a contract refused, not the node."""
        return self.code == 3 or "revert" in self.message.lower()


def was_never_sent(error: BaseException) -> bool:
    """Tell whether a client error proves that no byte of the request reached anybody."""
    return (
        isinstance(error, aiohttp.ClientConnectorError)
        and error.os_error.errno == errno.ECONNREFUSED
    )


class HttpProvider(AsyncJSONBaseProvider):
    """A web3 provider on one session of our own.

    The stock HTTP provider opens a connection per call, takes a thread lock that a cancelled call
    can leave locked, repeats calls by itself and reads answers of any size.
    """

    def __init__(self, url: str, timeout_s: int) -> None:
        super().__init__()
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the JSON-RPC answer; raises `RpcFailed`, without the URL: it may hold a key."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        body = self.encode_rpc_request(method, params)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await _read_bounded(response)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RpcFailed(
                f"{method}: {type(error).__name__}", sent=not was_never_sent(error)
            ) from error
        try:
            answer = self.decode_rpc_response(raw)
        except (ValueError, RecursionError) as error:
            raise RpcFailed(f"{method}: HTTP {status}, no JSON") from error
        # Some nodes send JSON-RPC errors with a status of 400 or 500; anything else is no answer.
        if not isinstance(answer, dict) or (status != HTTP_OK and "error" not in answer):
            raise RpcFailed(f"{method}: HTTP {status}, no JSON-RPC answer")
        return answer

    async def disconnect(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > ANSWER_MAX:
            raise aiohttp.ClientPayloadError("answer too large")
    return bytes(raw)


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
        self._provider = HttpProvider(url, timeout_s)
        self._token = _hex(token)
        self._confirmations = confirmations

    async def close(self) -> None:
        """Close the connections."""
        await self._provider.disconnect()

    async def chain_id(self) -> int:
        """Return the chain id of the node (EIP-695)."""
        return _int(await self._ask("eth_chainId"))

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
        block = await self._ask("eth_getBlockByNumber", hex(number), True)
        for found in _list(block.get("transactions") if isinstance(block, Mapping) else None):
            if not isinstance(found, Mapping) or _data(found.get("from")) != sender:
                continue
            if _int(found.get("nonce")) == nonce and isinstance(found.get("hash"), str):
                return str(found["hash"]).lower()
        raise RpcFailed("eth_getBlockByNumber: the block lacks a transaction that it counts")

    async def _block(self, which: str) -> Block:
        block = await self._ask("eth_getBlockByNumber", which, False)
        if not isinstance(block, Mapping):
            raise RpcFailed("eth_getBlockByNumber: no block")
        fee = block.get("baseFeePerGas") or "0x0"
        return Block(_int(block.get("number")), _int(block.get("timestamp")), _int(fee))

    async def tip_wei(self) -> int:
        """Return the priority fee that the node suggests."""
        return _int(await self._ask("eth_maxPriorityFeePerGas"))

    async def gas_balance(self, address: bytes) -> int:
        """Return the wei of `address`."""
        return _int(await self._ask("eth_getBalance", _hex(address), "latest"))

    async def transaction_count(self, address: bytes, block: str) -> int:
        """Return the next nonce of `address` at `latest` or `pending`."""
        return _int(await self._ask("eth_getTransactionCount", _hex(address), block))

    async def has_code(self) -> bool:
        """Tell whether there is a contract at the token's address."""
        return len(_data(await self._ask("eth_getCode", self._token, "latest"))) > 0

    async def domain_separator(self) -> bytes:
        """Return the token's own `DOMAIN_SEPARATOR()`."""
        return await self._view(abi.DOMAIN_SEPARATOR, "latest")

    async def balance_of(self, owner: bytes) -> int:
        """Return the minor units that `owner` has."""
        return int.from_bytes(await self._view(abi.balance_of(owner), "latest"))

    async def authorization_used(self, sender: bytes, nonce: bytes, block: str = "latest") -> bool:
        """Tell whether the nonce was used or cancelled as of `block`."""
        return int.from_bytes(await self._view(abi.authorization_state(sender, nonce), block)) != 0

    async def simulate(self, authorization: Authorization, submitter: bytes | None) -> None:
        """Return if the transfer would succeed now; raises `RpcRefused` with the revert."""
        call = {"to": self._token, "data": _hex(abi.transfer_with_authorization(authorization))}
        if submitter is not None:
            call["from"] = _hex(submitter)
        await self._ask("eth_call", call, "latest")

    async def estimate_gas(self, payload: bytes, submitter: bytes) -> int:
        """Return the gas that a call of the token needs; raises `RpcRefused` if it would revert."""
        call = {"from": _hex(submitter), "to": self._token, "data": _hex(payload)}
        return _int(await self._ask("eth_estimateGas", call))

    async def send(self, raw: bytes) -> None:
        """Broadcast a signed transaction."""
        await self._ask("eth_sendRawTransaction", _hex(raw))

    async def receipt(self, tx_hash: str, *, is_deep: bool = True) -> TxReceipt | None:
        """Return what became of a transaction; None until it is `confirmations` blocks deep.

        Without `is_deep` any block will do.
        """
        found = await self._ask("eth_getTransactionReceipt", tx_hash)
        if found is None:
            return None
        if not isinstance(found, Mapping) or found.get("blockNumber") is None:
            return None
        logs = tuple(_log(log) for log in _list(found.get("logs")))
        number, status = _int(found.get("blockNumber")), _int(found.get("status"))
        if is_deep and self._confirmations > 1:
            head = await self.latest_block()
            if head.number - number + 1 < self._confirmations:
                return None
        return TxReceipt(tx_hash, status == 1, number, logs)

    async def logs(
        self, topics: Sequence[str | list[str] | None], first: int, last: int
    ) -> tuple[Log, ...]:
        """Return the token's logs with `topics` from block `first` to `last`, both included."""
        where = {
            "address": self._token,
            "topics": list(topics),
            "fromBlock": hex(max(first, 0)),
            "toBlock": hex(last),
        }
        return tuple(_log(log) for log in _list(await self._ask("eth_getLogs", where)))

    async def _view(self, payload: bytes, block: str) -> bytes:
        call = {"to": self._token, "data": _hex(payload)}
        word = _data(await self._ask("eth_call", call, block))
        # An empty answer means that there is no such function; reading it as zero would say
        # "unused" or "no balance" about a token that was never asked.
        if len(word) != abi.WORD:
            raise RpcFailed("eth_call: the token did not answer with one word")
        return word

    async def _ask(self, method: str, *params: Any) -> Any:
        answer = await self._provider.make_request(RPCEndpoint(method), list(params))
        error = answer.get("error")
        if error is not None:
            members = cast("Mapping[str, Any]", error) if isinstance(error, Mapping) else {}
            code, message = members.get("code"), members.get("message")
            data = members.get("data")
            raise RpcRefused(
                code if isinstance(code, int) else 0,
                message if isinstance(message, str) else "no message",
                data if isinstance(data, str) else "",
            )
        if "result" not in answer:
            raise RpcFailed(f"{method}: neither result nor error")
        return answer["result"]


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


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _int(value: Any) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 2 + WORD_HEX:
        raise RpcFailed("the node's answer has no quantity where one belongs")
    try:
        return int(value, 16)
    except ValueError as error:
        raise RpcFailed("the node's answer has no quantity where one belongs") from error


def _data(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise RpcFailed("the node's answer has no data where it belongs")
    try:
        return bytes.fromhex(value[2:])
    except ValueError as error:
        raise RpcFailed("the node's answer has no data where it belongs") from error


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RpcFailed("the node's answer has no list where one belongs")
    return value


def _log(value: Any) -> Log:
    if not isinstance(value, Mapping):
        raise RpcFailed("the node's answer has a log that is none")
    tx_hash = value.get("transactionHash")
    return Log(
        address=_data(value.get("address")),
        topics=tuple(_data(topic) for topic in _list(value.get("topics"))),
        data=_data(value.get("data")),
        tx_hash=tx_hash if isinstance(tx_hash, str) else "",
    )
