"""The signing names of tokens: what a buyer must know before it can sign for one (EIP-712)."""

from typing import Any

import aiohttp

from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol.networks import known_token
from mpp_gateway.rails.evm import abi

NAME = abi.selector("name()")
VERSION = abi.selector("version()")
DECIMALS = abi.selector("decimals()")
RPC_S = 10


class TokenUnknown(Exception):
    """The signing name of the token cannot be found; the text says what would help."""


def known_domain(chain_id: int, token: bytes) -> Eip712Domain | None:
    """Return the signing domain of a well-known token, or None."""
    known = known_token(chain_id, token)
    return None if known is None else Eip712Domain(known.name, known.version, chain_id, token)


async def domain_from_chain(rpc_url: str, chain_id: int, token: bytes) -> Eip712Domain:
    """Ask the token itself, and compare with the domain that it says it verifies.

    Errors: `TokenUnknown`.
    """
    timeout = aiohttp.ClientTimeout(total=RPC_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            if int(await _ask(session, rpc_url, "eth_chainId"), 16) != chain_id:
                raise TokenUnknown(f"the node of --rpc-url is not of chain {chain_id}")
            name = _text(await _call(session, rpc_url, token, NAME))
            version = _text(await _call(session, rpc_url, token, VERSION))
            separator = await _call(session, rpc_url, token, abi.DOMAIN_SEPARATOR)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise _not_asked(error) from error
    domain = Eip712Domain(name, version, chain_id, token)
    if domain.separator != separator:
        raise TokenUnknown("the token signs under a domain of a form that is not known here")
    return domain


async def decimals_from_chain(rpc_url: str, token: bytes) -> int:
    """Ask the token how many decimals one unit of it has; the seller's word is no proof.

    Errors: `TokenUnknown`.
    """
    timeout = aiohttp.ClientTimeout(total=RPC_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            return int.from_bytes(await _call(session, rpc_url, token, DECIMALS))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise _not_asked(error) from error


async def is_spent(rpc_url: str, token: bytes, authorizer: bytes, nonce: bytes) -> bool:
    """Ask the token whether an authorization was used or cancelled.

    Errors: `TokenUnknown`.
    """
    timeout = aiohttp.ClientTimeout(total=RPC_S)
    question = abi.authorization_state(authorizer, nonce)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            return int.from_bytes(await _call(session, rpc_url, token, question)) != 0
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise _not_asked(error) from error


def _not_asked(error: Exception) -> TokenUnknown:
    """Say what failed without the URL of the node, nor the client's words: it may hold a key."""
    what = type(error).__name__
    return TokenUnknown(f"the token cannot be asked at the node of --rpc-url: {what}")


async def _call(session: aiohttp.ClientSession, url: str, token: bytes, data: bytes) -> bytes:
    call = {"to": f"0x{token.hex()}", "data": f"0x{data.hex()}"}
    return bytes.fromhex((await _ask(session, url, "eth_call", call, "latest"))[2:])


async def _ask(session: aiohttp.ClientSession, url: str, method: str, *params: Any) -> str:
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    async with session.post(url, json=question) as response:
        answer = await response.json(content_type=None)
    result = answer["result"]
    if not isinstance(result, str):
        raise TypeError(f"{method} did not answer with data")
    return result


def _text(word: bytes) -> str:
    """Return an ABI-encoded string (offset, length, bytes)."""
    offset = int.from_bytes(word[:32])
    length = int.from_bytes(word[offset : offset + 32])
    return word[offset + 32 : offset + 32 + length].decode()
