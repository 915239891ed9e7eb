"""Payments that are transactions of the buyer's own: broadcast from here, or sent before."""

import asyncio
import itertools
from collections.abc import Iterator

from mpp_gateway.errors import RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.protocol import permit2
from mpp_gateway.protocol.problems import PaymentInsufficient, VerificationFailed
from mpp_gateway.protocol.x402_permits import EXACT_PROXY, UPTO_PROXY
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import ChainClient, TxReceipt
from mpp_gateway.rails.evm.relays import Relays
from mpp_gateway.rails.evm.request import (
    HASH,
    Attempt,
    EvmSettings,
    Pulled,
    Pushed,
    TxKey,
    holder,
)
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

TX_LIFE_S = 3600
"""For how long after its challenge a transaction counts against its payer's balance. It has no end
of its own: until its nonce is used somebody may send it."""
LAG_S = 30
"""By how much another node behind the same address may be late."""
SKEW_S = 15
"""By how much a block may be dated too early."""
SIGNED_FOR = frozenset({permit2.ADDRESS, EXACT_PROXY, UPTO_PROXY})
"""Contracts whose calls make the payments that buyers sign permits for: such a transfer is one of
those, and its transaction none besides."""
REPLACED_DEPTH = 32
"""Blocks after which it is certain which transaction has used a nonce."""
_POLLS_MS = (50, 50, 100, 100, 200, 200)


class Relay:
    """The transactions of buyers, on one chain; moves nothing but what they have signed."""

    def __init__(
        self, settings: EvmSettings, chain: ChainClient, relays: Relays, ttl_s: int
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._relays = relays
        self._ttl_s = ttl_s

    async def check(self, pulled: Pulled) -> Attempt | None:
        """Return None if the transaction would pay when it is sent now, SETTLED if it has paid.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`, `SettlementUnknown`.
        """
        transaction = pulled.transaction
        try:
            mined = await self._chain.receipt(transaction.tx_hash, is_deep=False)
            if mined is None:
                await self._would_pay(pulled)
                return None
            is_ours = await self._relays.nonce_of(transaction.tx_hash) is not None
        except (RpcFailed, RpcRefused, StoreUnavailable) as error:
            raise self._unavailable(error) from error
        if not is_ours and HASH not in self._settings.types:
            # Every block has signed transactions for anybody to copy: one that we were not shown
            # before it was sent proves nothing about who shows it.
            raise VerificationFailed("The transaction was sent before it was shown here.")
        return await self.find(Pushed(transaction.tx_hash, pulled.transfer, pulled.issued_s))

    async def find(self, pushed: Pushed) -> Attempt:
        """Return SETTLED if the transaction is in a block, deep enough, and made the payment.

        Errors: `VerificationFailed`; `SettlementUnknown` where a later look may find it: whoever
        has paid must not be asked to pay again.
        """
        try:
            head = await self._chain.latest_block()
            receipt = await self._chain.receipt(pushed.tx_hash)
            made_s, made = None, await self._chain.made_by(pushed.tx_hash)
            if receipt is not None:
                made_s = (await self._chain.block(receipt.block_number)).time_s
        except (RpcFailed, RpcRefused) as error:
            raise self._unknown("The payment could not be looked for", str(error)) from error
        if receipt is None or made_s is None or made is None:
            is_known = made is not None or receipt is not None
            if is_known or head.time_s < pushed.issued_s + self._ttl_s + LAG_S:
                raise self._unknown("The transaction is in no block that is deep enough")
            raise VerificationFailed("There is no such transaction.")
        if not receipt.succeeded:
            raise VerificationFailed("The transaction failed; it paid nothing.")
        if made_s + SKEW_S < pushed.issued_s:
            # What was paid for something else long ago would buy calls today.
            raise VerificationFailed("The transaction is older than the challenge.")
        if made[1] in SIGNED_FOR or not _pays(receipt, pushed.transfer):
            raise VerificationFailed(
                "The transaction does not make this payment: token, payer, recipient and amount."
            )
        return Attempt(Settlement.SETTLED, pushed.tx_hash)

    async def send(self, pulled: Pulled, now_s: int) -> Attempt:
        """Broadcast the transaction and wait for its block, for as long as `settle_s`."""
        transaction, why = pulled.transaction, "the transaction is in no block yet"
        try:
            # Written first: only what may have been sent from here is looked for later.
            await self._relays.note(transaction.tx_hash, transaction.unsigned.nonce, now_s)
        except StoreUnavailable as error:
            return Attempt(Settlement.REFUSED, detail=str(error), is_untried=True)
        try:
            await self._chain.send(transaction.raw)
        except RpcFailed as error:
            if not error.sent:
                return Attempt(Settlement.REFUSED, detail=str(error), is_untried=True)
            why = str(error)
        except RpcRefused as error:
            # A balancer sends twice, and tells of the second time: only the chain is certain.
            why = f"the node says {error.message}"
        for wait_ms in _waits_ms(self._settings.settle_s * 1000):
            try:
                receipt = await self._chain.receipt(transaction.tx_hash)
            except (RpcFailed, RpcRefused) as error:
                receipt, why = None, str(error)
            if receipt is not None:
                return _judge(receipt, pulled.transfer)
            await asyncio.sleep(wait_ms / 1000)
        return Attempt(Settlement.UNKNOWN, transaction.tx_hash, why)

    async def look_up(self, key: TxKey, record: PaymentRecord) -> Attempt:
        """Return what became of a transaction: made, failed, replaced, or not known yet."""
        token, payer = self._settings.token, holder(record.account)
        transfer = Transfer(token, payer, holder(record.payee), record.amount_minor)
        made = None
        try:
            nonce = await self._relays.nonce_of(key.tx_hash)
            if nonce is None and HASH not in self._settings.types:
                return Attempt(Settlement.REFUSED, detail="the transaction was not sent from here")
            receipt = await self._chain.receipt(key.tx_hash)
            if receipt is None and nonce is not None:
                return await self._unmined(key.tx_hash, payer, nonce)
            if receipt is None:
                return await self._unseen(key.tx_hash, record)
            if nonce is None:
                made_s = (await self._chain.block(receipt.block_number)).time_s
                if made_s + SKEW_S < record.valid_until_s - TX_LIFE_S - self._ttl_s:
                    return Attempt(Settlement.REFUSED, detail="it is older than the challenge")
                made = await self._chain.made_by(key.tx_hash)
                if made is None:
                    detail = "the node has its receipt alone"
                    return Attempt(Settlement.UNKNOWN, key.tx_hash, detail)
        except (RpcFailed, RpcRefused, StoreUnavailable) as error:
            return Attempt(Settlement.UNKNOWN, detail=f"the chain cannot be asked: {error}")
        if made is not None and made[1] in SIGNED_FOR:
            return Attempt(Settlement.REFUSED, key.tx_hash, "it has used a permit")
        return _judge(receipt, transfer)

    async def _unseen(self, tx_hash: str, record: PaymentRecord) -> Attempt:
        """Return REFUSED for a hash that no block has, and no node any more: made up, or dropped.

        Whoever has paid late, or waits for more blocks than a challenge lives, has paid.
        """
        is_known = await self._chain.made_by(tx_hash) is not None
        head = await self._chain.latest_block()
        if is_known or head.time_s < record.valid_until_s - TX_LIFE_S + LAG_S:
            detail = "the transaction is in no block that is deep enough"
            return Attempt(Settlement.UNKNOWN, tx_hash, detail)
        return Attempt(Settlement.REFUSED, detail="there is no such transaction")

    async def _unmined(self, tx_hash: str, payer: bytes, nonce: int) -> Attempt:
        """Return REFUSED if another transaction of the payer has the nonce, for good."""
        other = await self._chain.spender(payer, nonce, REPLACED_DEPTH)
        if other is not None and other != tx_hash:
            return Attempt(Settlement.REFUSED, other, "the payer has replaced the transaction")
        detail = "the transaction is in no block so far"
        return Attempt(Settlement.UNKNOWN, detail=detail, is_unused=True)

    async def _would_pay(self, pulled: Pulled) -> None:
        unsigned, sender = pulled.transaction.unsigned, pulled.transaction.sender
        # Each from the latest block: a payer may have spent what the last question saw.
        nonce = await self._chain.transaction_count(sender, "latest")
        minor = await self._chain.balance_of(sender)
        wei = await self._chain.gas_balance(sender)
        block = await self._chain.latest_block()
        if unsigned.nonce != nonce:
            was = "used already" if unsigned.nonce < nonce else "not the next of its account"
            raise VerificationFailed(f"The transaction's nonce is {was}.")
        if minor < pulled.transfer.value or wei < unsigned.gas_limit * unsigned.max_fee:
            raise PaymentInsufficient("The payer's balance does not cover the price and the gas.")
        if unsigned.max_fee < block.base_fee_wei:
            raise VerificationFailed("The transaction offers less for gas than the network asks.")
        try:
            await self._chain.simulate(unsigned.data, sender, unsigned.gas_limit)
        except RpcRefused as error:
            if not error.is_revert and "gas" not in error.message.lower():
                raise
            raise VerificationFailed(
                "The token would refuse this transaction.", private=error.message
            ) from error

    def _unavailable(self, error: Exception) -> RailUnavailable:
        return RailUnavailable(
            "The payment could not be checked; nothing was charged.",
            private=f"chain {self._settings.chain_id}: {error}",
            retry_after_s=self._settings.retry_after_s,
        )

    def _unknown(self, what: str, why: str = "") -> SettlementUnknown:
        return SettlementUnknown(
            f"{what}; do not pay again.",
            private=f"chain {self._settings.chain_id}: {why}",
            retry_after_s=self._settings.retry_after_s,
        )


def _pays(receipt: TxReceipt, transfer: Transfer) -> bool:
    """Tell whether a transaction shows the transfer, and that no signed authorization made it.

    That would be another payment, which has bought a call of its own: one price would buy two.
    """
    if not receipt.succeeded:
        return False
    shown = abi.transfers(receipt.logs, transfer.token)
    return any(found == transfer and nonce is None for found, nonce in shown)


def _judge(receipt: TxReceipt, transfer: Transfer) -> Attempt:
    if _pays(receipt, transfer):
        return Attempt(Settlement.SETTLED, receipt.tx_hash)
    return Attempt(Settlement.REFUSED, receipt.tx_hash, "the transaction did not make this payment")


def _waits_ms(total_ms: int) -> Iterator[int]:
    """Yield waits that grow to 800 ms and add up to about `total_ms`."""
    waited_ms = 0
    for wait_ms in itertools.chain(_POLLS_MS, itertools.repeat(800)):
        if waited_ms >= total_ms:
            return
        yield wait_ms
        waited_ms += wait_ms
