"""Whether a token signs under the name and version of the configuration, and else under which."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol.networks import known_token
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.request import EvmSettings
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

log = logging.getLogger(__name__)

USUAL_VERSIONS = ("1", "2")
NAME_AND_VERSION = 0b11
"""What EIP-5267 must say is in the domain, beside chain and contract, for it to be of our form."""

DOMAIN_TYPES = ("bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]")
"""What `eip712Domain()` answers: fields, name, version, chain, contract, salt, extensions."""

type Named = tuple[str, str]


async def check_signing_name(rail: str, settings: EvmSettings, chain: ChainClient) -> None:
    """Compare `token.name` and `token.version` with the domain that the token itself verifies.

    A wrong one makes every signature of an honest buyer worthless, and says so nowhere. Errors:
    `RailMisconfigured` with the right values, where the token tells them; `RpcFailed`.
    """
    separator = await _separator(chain)
    if separator == settings.domain.separator:
        return
    told = await _told(chain)
    if separator is None and told is None:
        log.warning(
            "%s: the token at token.address has neither DOMAIN_SEPARATOR() nor eip712Domain(): it"
            " cannot be seen whether token.name %r and token.version %r are what it signs under",
            rail,
            settings.name,
            settings.version,
        )
        return
    if separator is None:
        if told != (settings.name, settings.version):
            raise _misnamed(rail, settings, told)
        return
    named = [*_likely(settings, await _text(chain, abi.NAME), await _text(chain, abi.VERSION))]
    for name, version in [*([told] if told else []), *named]:
        domain = Eip712Domain(name, version, settings.chain_id, settings.token)
        if domain.separator == separator:
            raise _misnamed(rail, settings, (name, version))
    raise _misnamed(rail, settings, None)


def _likely(settings: EvmSettings, name: str | None, version: str | None) -> Iterator[Named]:
    """Yield what the token may sign under, the likeliest first."""
    known = known_token(settings.chain_id, settings.token)
    if known is not None:
        yield known.name, known.version
    for likely in (name, settings.name):
        if likely is not None:
            versions = (version, settings.version, *USUAL_VERSIONS)
            yield from ((likely, found) for found in versions if found is not None)


def _misnamed(rail: str, settings: EvmSettings, right: Named | None) -> RailMisconfigured:
    found = f"token.name {settings.name!r} and token.version {settings.version!r}"
    if right is None:
        return RailMisconfigured(
            f"{rail}: the token signs under another domain than {found} give; buyers' signatures"
            " would not settle"
        )
    name, version = right
    cures = [
        f"token.{key} must be {value!r}"
        for key, value, is_right in (
            ("name", name, name == settings.name),
            ("version", version, version == settings.version),
        )
        if not is_right
    ]
    return RailMisconfigured(
        f"{rail}: the token signs under another domain than {found} give, so that buyers'"
        f" signatures would not settle: {' and '.join(cures)}"
    )


async def _separator(chain: ChainClient) -> bytes | None:
    answer = await _view(chain, abi.DOMAIN_SEPARATOR)
    return answer if answer is not None and len(answer) == abi.WORD else None


async def _told(chain: ChainClient) -> Named | None:
    """Return the name and version of `eip712Domain()` (EIP-5267); None if it tells no such."""
    answer = await _view(chain, abi.EIP712_DOMAIN)
    if answer is None or len(answer) < 7 * abi.WORD:
        return None
    if answer[0] & NAME_AND_VERSION != NAME_AND_VERSION:
        return None
    found = await _decoded(DOMAIN_TYPES, answer)
    return None if found is None else (str(found[1]), str(found[2]))


async def _text(chain: ChainClient, payload: bytes) -> str | None:
    answer = await _view(chain, payload)
    found = None if answer is None else await _decoded(("string",), answer)
    return None if found is None else str(found[0])


async def _decoded(types: Sequence[str], answer: bytes) -> tuple[Any, ...] | None:
    """Return the values of a function's answer; None where it is none of that form."""
    # In a thread: loading web3 takes a second, and other methods sell meanwhile.
    return await asyncio.to_thread(_decode, types, answer)


def _decode(types: Sequence[str], answer: bytes) -> tuple[Any, ...] | None:
    # Loaded here: of all tokens only one that signs under another name needs it.
    from eth_abi.exceptions import DecodingError  # noqa: PLC0415
    from web3 import Web3  # noqa: PLC0415

    try:
        return tuple(Web3().codec.decode(types, answer))
    except (DecodingError, OverflowError, ValueError):
        return None


async def _view(chain: ChainClient, payload: bytes) -> bytes | None:
    """Return what a function of the token answers; None if it has no such function."""
    try:
        return await chain.ask_token(payload)
    except RpcRefused as error:
        if error.is_revert or "opcode" in error.message.lower():
            return None
        # A node that is busy says nothing of the token.
        raise RpcFailed(str(error)) from error
