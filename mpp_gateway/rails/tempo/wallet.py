"""A buyer's wallet for the `tempo` rail: a key, and the node that is asked before it signs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.money import format_short
from mpp_gateway.protocol.tempo_networks import PATH_USD, TEMPO_NETWORKS
from mpp_gateway.protocol.tempo_transaction import TempoTransaction, TransactionError, Unsigned
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.tempo.chain import TempoNode
from mpp_gateway.rails.tempo.payer import LIFE_MIN_S, LIFE_S, Asked, proof, pull, transaction
from mpp_gateway.rails.tempo.request import INTENT, METHOD, PULL, RPC_S
from mpp_gateway.rails.tempo.sponsoring import GAS_MAX, MAX_FEE_MAX, fee_minor
from mpp_gateway.rails.tempo.tip20 import DECIMALS
from mpp_gateway.rails.wallet import Deal, NotAnswered, PaymentDeclined, check_open

FEE_MAX_MINOR = 100_000
"""Of one transaction, in minor units of a dollar: a node that lies could burn the whole purse."""
TIP_WEI = 10**9


@dataclass(frozen=True, slots=True)
class TempoWallet:
    """Signs transactions for sellers to send; see `rails.wallet.Wallet`."""

    private_key: bytes | None = field(repr=False)
    rpc_url: str | None = field(default=None, repr=False)
    """Without one, each network that is known here has one."""
    method: str = METHOD

    @property
    def can_sign(self) -> bool:
        """Whether there is a key."""
        return self.private_key is not None

    def read(self, challenge: Challenge) -> Deal | None:
        """Return what a tempo charge asks for; see `rails.wallet.Wallet.read`."""
        if (challenge.method, challenge.intent) != (METHOD, INTENT):
            return None
        try:
            asked = Asked.read(challenge.request_object)
        except ValueError:
            return None
        network = TEMPO_NETWORKS.get(asked.chain_id)
        is_dollar = network is not None and asked.token in network.dollars
        shown: dict[str, Any] = {
            "token": checksum(asked.token),
            "chain_id": asked.chain_id,
            "recipient": checksum(asked.main.recipient),
        }
        if asked.shares:
            shown["shares"] = ", ".join(
                f"{format_short(share.amount_minor, DECIMALS)} for {checksum(share.recipient)}"
                for share in asked.shares
            )
        if asked.amount_minor:
            most = f"at most {format_short(FEE_MAX_MINOR, DECIMALS)} on top of the price"
            if not is_dollar:
                most += f", in pathUSD ({checksum(PATH_USD)})"
            shown["fee"] = "paid by the seller" if asked.is_sponsored else most
        return Deal(
            challenge=challenge,
            amount_minor=asked.amount_minor,
            decimals=DECIMALS,
            unit="usd" if is_dollar else None,
            terms=asked,
            shown=shown,
            chain_id=asked.chain_id,
        )

    async def check(self, deal: Deal) -> None:
        """Refuse a network without a node, a token of other units, and terms of a foreign kind."""
        asked: Asked = deal.terms
        if asked.has_memo:
            raise PaymentDeclined(
                "the seller wants a memo of its own, which would not say what was paid for"
            )
        if asked.amount_minor and PULL not in asked.modes:
            raise PaymentDeclined(
                "the seller takes only transactions that its buyers have sent themselves (push)"
            )
        self._url(asked)
        if deal.unit is not None:
            return
        async with self._node(asked) as node:
            if (decimals := await node.decimals()) != DECIMALS:
                # Limits are in whole units: of a token with two decimals this would be 10 000 times
                # what they say.
                raise PaymentDeclined(
                    f"the token has {decimals} decimals, and one of Tempo's has 6"
                )

    async def sign(self, deal: Deal, now_s: int) -> Credential:
        """Sign the transfers, and for a price of zero a proof; see `rails.wallet.Wallet.sign`."""
        assert self.private_key is not None
        asked: Asked = deal.terms
        expires_s = check_open(deal.challenge, now_s)
        if not asked.amount_minor:
            return proof(deal.challenge, asked.chain_id, self.private_key)
        valid_before = min(now_s + LIFE_S, expires_s or now_s + LIFE_S)
        if valid_before < now_s + LIFE_MIN_S:
            raise PaymentDeclined("the challenge expires too soon for a transaction to be sent")
        sender = address_of(self.private_key)
        # In what is paid with, if that is a dollar for certain: the chain takes fees in no other.
        fee_token = PATH_USD if deal.unit is None else asked.token
        unsigned = transaction(asked, deal.challenge, sender, fee_token, valid_before)
        async with self._node(asked) as node:
            return pull(
                deal.challenge, await _with_gas(node, asked, unsigned, sender), self.private_key
            )

    async def is_made(self, credential: Credential) -> bool | None:
        """Ask the chain for the transaction; see `rails.wallet.Wallet.is_made`.

        None where the seller has signed it too: its name in a block is not known here then.
        """
        try:
            asked = Asked.read(credential.challenge.request_object)
            text = str(credential.payload["signature"])
            signed = TempoTransaction.decode(bytes.fromhex(text.removeprefix("0x")))
        except (KeyError, ValueError, TransactionError):
            return None
        if signed.unsigned.is_sponsored:
            return None
        try:
            async with self._node(asked) as node:
                receipt = await node.receipt(signed.tx_hash)
        except PaymentDeclined as error:
            raise NotAnswered(str(error)) from None
        return receipt is not None and receipt.succeeded

    def _url(self, asked: Asked) -> str:
        network = TEMPO_NETWORKS.get(asked.chain_id)
        if self.rpc_url:
            return self.rpc_url
        if network is None:
            known = ", ".join(f"{known.name} ({i})" for i, known in TEMPO_NETWORKS.items())
            raise PaymentDeclined(
                f"chain {asked.chain_id} is no network of Tempo's that is known here ({known});"
                " name a node of it with --rpc-url if it is meant"
            )
        return network.rpc_url

    @asynccontextmanager
    async def _node(self, asked: Asked) -> AsyncIterator[TempoNode]:
        """Yield a node of the very chain; what it fails at, or refuses, declines the payment."""
        node = TempoNode(self._url(asked), asked.token, RPC_S)
        try:
            chain_id = await node.chain_id()
            if chain_id != asked.chain_id:
                # What is signed for one chain is worth nothing on the other, and is another price.
                raise PaymentDeclined(
                    f"the node is of chain {chain_id}, and the payment is for {asked.chain_id}"
                )
            yield node
        except RpcFailed as error:
            raise PaymentDeclined(f"the node of chain {asked.chain_id}: {error}") from None
        except RpcRefused as error:
            raise PaymentDeclined(
                f"the node of chain {asked.chain_id} says: {error.message}"
            ) from None
        finally:
            await node.close()


async def _with_gas(node: TempoNode, asked: Asked, unsigned: Unsigned, sender: bytes) -> Unsigned:
    """Return a transaction with the gas that it takes, for an account that can pay for it all.

    Errors: `PaymentDeclined`, and those of the node.
    """
    balance_minor, base_fee = await asyncio.gather(node.balance_of(sender), node.base_fee())
    _check_balance(balance_minor, asked.amount_minor, asked.token)
    gas = await node.gas_for(sender, unsigned)
    unsigned = replace(
        unsigned,
        # Signing and the nonce are in no estimate of every node; a base fee grows by an eighth.
        gas_limit=gas + gas // 8,
        max_fee=base_fee + base_fee // 4 + TIP_WEI,
        max_priority_fee=TIP_WEI,
    )
    if asked.is_sponsored:
        if unsigned.gas_limit > GAS_MAX or unsigned.max_fee > MAX_FEE_MAX:
            raise PaymentDeclined("the transaction takes more gas than sellers pay for")
        return unsigned
    fee, fee_token = fee_minor(unsigned), unsigned.fee_token
    if fee > FEE_MAX_MINOR or fee_token is None:
        most = format_short(FEE_MAX_MINOR, DECIMALS)
        raise PaymentDeclined(
            f"the network asks up to {format_short(fee, DECIMALS)} dollars for the transaction,"
            f" and this command pays {most}"
        )
    if fee_token == asked.token:
        _check_balance(balance_minor, asked.amount_minor + fee, fee_token)
    else:
        _check_balance(await node.balance_of(sender, fee_token), fee, fee_token)
    return unsigned


def _check_balance(balance_minor: int, needed_minor: int, token: bytes) -> None:
    if balance_minor < needed_minor:
        has, needs = (format_short(minor, DECIMALS) for minor in (balance_minor, needed_minor))
        raise PaymentDeclined(
            f"the account has {has} of {checksum(token)}, and the price and its fee take {needs}"
        )
