"""A Tempo node as typed questions. Every failure says whether the node may have acted."""

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from mpp_gateway.rails.tempo import tip20
from mpp_gateway.rails.tempo.tip20 import Log

ANSWER_MAX = 8 << 20
HTTP_OK = 200
_WORD_HEX = 64
MESSAGE_MAX = 300
_LONG_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{65,}")


class RpcFailed(Exception):
    """No usable answer came. `sent` is False only if the request certainly never left."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class RpcRefused(Exception):
    """The node answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def is_revert(self) -> bool:
        """True when the token refused, not the node."""
        return self.code == 3 or "revert" in self.message.lower()

    @property
    def is_of_transaction(self) -> bool:
        """True when the node says that the network would not take such a transaction."""
        words = ("tempo transaction", "valid_before", "insufficient", "nonce", "gas", "oog")
        return any(word in self.message.lower() for word in words)


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction: whether it succeeded, and what it logged."""

    succeeded: bool
    logs: tuple[Log, ...]


class TempoNode:
    """Questions to one node about one token. Errors: `RpcFailed`, `RpcRefused`, nothing else."""

    def __init__(self, url: str, token: bytes, timeout_s: int) -> None:
        self._url = url
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def chain_id(self) -> int:
        """Return the chain id of the node."""
        return _int(await self._ask("eth_chainId"))

    async def time_s(self) -> int:
        """Return the time of the latest block, in unix seconds."""
        return _int((await self._block()).get("timestamp"))

    async def base_fee(self) -> int:
        """Return what a unit of gas costs at least, by the latest block; 0 if it does not say."""
        fee = (await self._block()).get("baseFeePerGas")
        return 0 if fee is None else _int(fee)

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
            "from": _hex(transaction.sender),
            "to": _hex(self._token),
            "data": _hex(data),
            "nonceKey": hex(unsigned.nonce_key),
            "nonce": hex(unsigned.nonce),
            "gas": hex(unsigned.gas_limit),
            "maxFeePerGas": hex(unsigned.max_fee),
            "maxPriorityFeePerGas": hex(unsigned.max_priority_fee),
        }
        if unsigned.valid_before is not None:
            call["validBefore"] = hex(unsigned.valid_before)
        if unsigned.fee_token is not None:
            call["feeToken"] = _hex(unsigned.fee_token)
        await self._ask("eth_call", call, "latest")

    async def send(self, raw: bytes) -> None:
        """Broadcast a signed transaction."""
        await self._ask("eth_sendRawTransaction", _hex(raw))

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """Return what became of a transaction; None while it is in no block."""
        found = await self._ask("eth_getTransactionReceipt", tx_hash)
        if not isinstance(found, Mapping) or found.get("blockNumber") is None:
            return None
        logs = tuple(_log(log) for log in _list(found.get("logs")))
        return TxReceipt(_int(found.get("status")) == 1, logs)

    async def _block(self) -> Mapping[str, Any]:
        block = await self._ask("eth_getBlockByNumber", "latest", False)
        if not isinstance(block, Mapping):
            raise RpcFailed("eth_getBlockByNumber: no block")
        return block

    async def _view(self, token: bytes, data: bytes) -> int:
        word = _data(await self._ask("eth_call", {"to": _hex(token), "data": _hex(data)}, "latest"))
        # An empty answer means that there is no such token; read as zero it would say "no money".
        if len(word) != tip20.WORD:
            raise RpcFailed("eth_call: the token did not answer with one word")
        return int.from_bytes(word)

    async def _ask(self, method: str, *params: Any) -> Any:
        answer = await self._post(method, params)
        error = answer.get("error")
        if error is not None:
            members = cast("Mapping[str, Any]", error) if isinstance(error, Mapping) else {}
            code, message = members.get("code"), members.get("message")
            raise RpcRefused(
                code if isinstance(code, int) else 0,
                _readable(message) if isinstance(message, str) else "no message",
            )
        if "result" not in answer:
            raise RpcFailed(f"{method}: neither result nor error")
        return answer["result"]

    async def _post(self, method: str, params: tuple[Any, ...]) -> Mapping[str, Any]:
        """Return the JSON-RPC answer; no error has the URL: it may hold an access key."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._session.post(
                self._url,
                data=json.dumps(asked).encode("ascii"),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                raw, status = await _read_bounded(response), response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RpcFailed(
                f"{method}: {type(error).__name__}", sent=_may_be_sent(error)
            ) from error
        try:
            answer = jcs.loads(raw, size_max=ANSWER_MAX)
        except ParseError as error:
            raise RpcFailed(f"{method}: HTTP {status}, no JSON") from error
        # Some nodes send JSON-RPC errors with a status of 400 or 500; anything else is no answer.
        if not isinstance(answer, dict) or (status != HTTP_OK and "error" not in answer):
            raise RpcFailed(f"{method}: HTTP {status}, no JSON-RPC answer")
        return answer


def _readable(message: str) -> str:
    """Return what a node says without what it repeats: a signed transaction moves money, and is
    kept in no book and no log."""
    return _LONG_HEX.sub("0x...", message)[:MESSAGE_MAX]


def _may_be_sent(error: BaseException) -> bool:
    if not isinstance(error, aiohttp.ClientConnectorError):
        return True
    return error.os_error.errno != errno.ECONNREFUSED


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > ANSWER_MAX:
            raise aiohttp.ClientPayloadError("answer too large")
    return bytes(raw)


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _int(value: Any) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 2 + _WORD_HEX:
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
    topics = tuple(_data(topic) for topic in _list(value.get("topics")))
    return Log(_data(value.get("address")), topics, _data(value.get("data")))
