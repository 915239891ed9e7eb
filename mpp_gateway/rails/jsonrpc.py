"""A node's JSON-RPC over HTTP. Every failure says whether the node may have acted."""

import errno
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, cast

import aiohttp

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError

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


class JsonRpc:
    """Questions to one node, on one session. Errors: `RpcFailed`, `RpcRefused`, nothing else.

    No question is repeated and no redirect followed, and no error has the URL: it may hold a key.
    """

    def __init__(self, url: str, timeout_s: int) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, method: str, *params: Any) -> Any:
        """Return the result of one call."""
        answer = await self._post(method, params)
        error = answer.get("error")
        if error is not None:
            members = cast("Mapping[str, Any]", error) if isinstance(error, Mapping) else {}
            code, message = members.get("code"), members.get("message")
            data = members.get("data")
            raise RpcRefused(
                code if isinstance(code, int) else 0,
                _readable(message) if isinstance(message, str) else "no message",
                data if isinstance(data, str) else "",
            )
        if "result" not in answer:
            raise RpcFailed(f"{method}: neither result nor error")
        return answer["result"]

    async def _post(self, method: str, params: tuple[Any, ...]) -> Mapping[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        asked = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
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
                f"{method}: {type(error).__name__}", sent=not was_never_sent(error)
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


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > ANSWER_MAX:
            raise aiohttp.ClientPayloadError("answer too large")
    return bytes(raw)


def hexadecimal(value: bytes) -> str:
    """Return bytes as they are sent to a node."""
    return "0x" + value.hex()


def quantity(value: Any) -> int:
    """Return the number that an answer has; `RpcFailed` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 2 + _WORD_HEX:
        raise RpcFailed("the node's answer has no quantity where one belongs")
    try:
        return int(value, 16)
    except ValueError as error:
        raise RpcFailed("the node's answer has no quantity where one belongs") from error


def octets(value: Any) -> bytes:
    """Return the bytes that an answer has; `RpcFailed` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise RpcFailed("the node's answer has no data where it belongs")
    try:
        return bytes.fromhex(value[2:])
    except ValueError as error:
        raise RpcFailed("the node's answer has no data where it belongs") from error


def sequence(value: Any) -> list[Any]:
    """Return the list that an answer has; `RpcFailed` for anything else."""
    if not isinstance(value, list):
        raise RpcFailed("the node's answer has no list where one belongs")
    return value
