"""What is said at the start of a token that signs under another name than the configuration has."""

import asyncio
import logging

import pytest

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol.networks import NETWORKS
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.request import EvmSettings
from mpp_gateway.rails.evm.signing_name import check_signing_name
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

TOKEN = b"\x42" * 20
CHAIN_ID = 8453
REVERT = RpcRefused(3, "execution reverted")


def text(value: str) -> bytes:
    raw = value.encode()
    padded = raw.ljust(-(-len(raw) // 32) * 32, b"\0")
    return abi.uint_word(32) + abi.uint_word(len(raw)) + padded


def domain_of(name: str, version: str, fields: int = 0x0F) -> bytes:
    """Answer of `eip712Domain()` (EIP-5267)."""
    tails, at = [], 7 * 32
    heads = [bytes((fields,)).ljust(32, b"\0")]
    for value in (name, version):
        heads.append(abi.uint_word(at))
        tail = text(value)[32:]
        tails.append(tail)
        at += len(tail)
    heads += [abi.uint_word(CHAIN_ID), abi.address_word(TOKEN), bytes(32), abi.uint_word(at)]
    return b"".join((*heads, *tails, abi.uint_word(0)))


def separator(name: str, version: str, token: bytes = TOKEN) -> bytes:
    return Eip712Domain(name, version, CHAIN_ID, token).separator


class Token:
    """Answers the functions it was given; any other reverts."""

    def __init__(self, answers: dict[bytes, bytes | Exception]) -> None:
        self.answers = answers

    async def ask_token(self, payload: bytes) -> bytes:
        answer = self.answers.get(payload, REVERT)
        if isinstance(answer, Exception):
            raise answer
        return answer


def check(answers, name="USD Coin", version="2", token=TOKEN):
    settings = EvmSettings(CHAIN_ID, token, name, version, 6, b"\1" * 20)
    asyncio.run(check_signing_name("base", settings, Token(answers)))


def mistake(answers, **settings) -> str:
    with pytest.raises(RailMisconfigured) as caught:
        check(answers, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    "answers",
    [
        {abi.DOMAIN_SEPARATOR: separator("USD Coin", "2")},
        {abi.EIP712_DOMAIN: domain_of("USD Coin", "2")},
        {abi.DOMAIN_SEPARATOR: separator("USD Coin", "2"), abi.NAME: text("USDC")},
    ],
)
def test_a_right_name_is_taken_however_the_token_tells_it(answers, caplog):
    check(answers)

    assert caplog.records == []


@pytest.mark.parametrize(
    "more",
    [
        {abi.NAME: text("USDC"), abi.VERSION: text("2")},
        {abi.NAME: text("USDC")},
        {abi.EIP712_DOMAIN: domain_of("USDC", "2")},
    ],
)
def test_a_wrong_name_is_refused_with_the_right_one(more):
    said = mistake({abi.DOMAIN_SEPARATOR: separator("USDC", "2")} | more)

    assert said.startswith("base: the token signs under another domain")
    assert "token.name must be 'USDC'" in said
    assert "token.version must" not in said


def test_a_wrong_version_is_refused_with_the_right_one():
    for version in ("1", "2"):
        said = mistake({abi.DOMAIN_SEPARATOR: separator("USD Coin", version)}, version="3")

        assert said.endswith(f": token.version must be '{version}'")


def test_both_are_named_where_both_are_wrong():
    answers = {abi.DOMAIN_SEPARATOR: separator("Euro", "7"), abi.NAME: text("Euro")}

    said = mistake(answers | {abi.VERSION: text("7")})

    assert "token.name must be 'Euro' and token.version must be '7'" in said


def test_a_well_known_token_is_told_from_the_table_when_it_is_silent():
    usdc = NETWORKS["base"].token("USDC")
    token = parse_address(usdc.address)

    said = mistake(
        {abi.DOMAIN_SEPARATOR: separator("USD Coin", "2", token)}, name="USDC", token=token
    )

    assert "token.name must be 'USD Coin'" in said


def test_a_domain_of_another_form_is_refused_without_a_guess():
    said = mistake({abi.DOMAIN_SEPARATOR: b"\7" * 32, abi.NAME: text("USD Coin")})

    assert "must be" not in said
    assert "token.name" in said


def test_a_token_that_tells_its_domain_alone_is_believed():
    said = mistake({abi.EIP712_DOMAIN: domain_of("USDC", "2")})

    assert "token.name must be 'USDC'" in said


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {abi.DOMAIN_SEPARATOR: b""},
        {abi.DOMAIN_SEPARATOR: RpcRefused(-32000, "invalid opcode: INVALID")},
        {abi.EIP712_DOMAIN: domain_of("USDC", "2", fields=0x0D)},
        {abi.EIP712_DOMAIN: b"\xff" * 224},
    ],
)
def test_a_token_that_does_not_tell_is_warned_of_and_taken(answers, caplog):
    with caplog.at_level(logging.WARNING):
        check(answers)

    (record,) = caplog.records
    assert "cannot be seen whether token.name 'USD Coin'" in record.getMessage()


@pytest.mark.parametrize("fault", [RpcFailed("down"), RpcRefused(-32005, "limit exceeded")])
def test_a_node_that_cannot_be_asked_says_nothing_of_the_token(fault):
    with pytest.raises(RpcFailed):
        check({abi.DOMAIN_SEPARATOR: fault})
