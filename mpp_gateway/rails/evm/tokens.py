"""The signing names of tokens: what a buyer must know before it can sign for one (EIP-712)."""

from typing import Any

import aiohttp

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.rails.evm import abi

NAME = abi.selector("name()")
VERSION = abi.selector("version()")
DECIMALS = abi.selector("decimals()")
RPC_S = 10

# Name and version as the contracts sign, which is not always what they are called: USDC is
# "USD Coin" on main networks and "USDC" on most test networks.
_USDC = {
    (1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"): ("USD Coin", "2"),
    (10, "0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85"): ("USD Coin", "2"),
    (137, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359"): ("USD Coin", "2"),
    (8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"): ("USD Coin", "2"),
    (42161, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831"): ("USD Coin", "2"),
    (84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e"): ("USDC", "2"),
}
KNOWN = {(chain, parse_address(token)): names for (chain, token), names in _USDC.items()}
KNOWN_DECIMALS = 6
"""Every token of the table has as many."""


class TokenUnknown(Exception):
    """The signing name of the token cannot be found; the text says what would help."""


def known_domain(chain_id: int, token: bytes) -> Eip712Domain | None:
    """Return the signing domain of a well-known token, or None."""
    names = KNOWN.get((chain_id, token))
    return None if names is None else Eip712Domain(*names, chain_id, token)


async def domain_from_chain(rpc_url: str, chain_id: int, token: bytes) -> Eip712Domain:
    """Ask the token itself, and compare with the domain that it says it verifies.

    Errors: `TokenUnknown`.
    """
    timeout = aiohttp.ClientTimeout(total=RPC_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            if int(await _ask(session, rpc_url, "eth_chainId"), 16) != chain_id:
                raise TokenUnknown(f"{rpc_url} is not a node of chain {chain_id}")
            name = _text(await _call(session, rpc_url, token, NAME))
            version = _text(await _call(session, rpc_url, token, VERSION))
            separator = await _call(session, rpc_url, token, abi.DOMAIN_SEPARATOR)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise TokenUnknown(f"the token cannot be asked at {rpc_url}: {error}") from error
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
            raise TokenUnknown(f"the token cannot be asked at {rpc_url}: {error}") from error


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
            raise TokenUnknown(f"the token cannot be asked at {rpc_url}: {error}") from error


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
