"""What the chain says about an authorization, whoever submitted it."""

import asyncio
from collections.abc import Iterator

from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.blocks import search_back
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import Block, ChainClient, TxReceipt
from mpp_gateway.rails.evm.request import Attempt, PaymentKey
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused


class Inspector:
    """Reads, never writes. `trace` is the truth about a payment whose outcome is not known."""

    def __init__(self, chain: ChainClient) -> None:
        self._chain = chain

    async def trace(
        self, key: PaymentKey, transfer: Transfer, valid_until_s: int, sent: tuple[str, ...] = ()
    ) -> Attempt:
        """Return where the money of `key` is, as far as the chain tells.

        SETTLED if the nonce paid exactly `transfer` (it does not matter who submitted it), REFUSED
        if it was spent or cancelled otherwise, or can no longer be used, UNKNOWN in any other case.
        `sent` are transactions of ours that may have done it: they are asked first, however old.
        """
        try:
            return await self._trace(key, transfer, valid_until_s, sent)
        except (RpcFailed, RpcRefused) as error:
            return Attempt(Settlement.UNKNOWN, detail=f"the chain cannot be asked: {error}")

    async def confirm(
        self, tx_hash: str, key: PaymentKey, transfer: Transfer, within_s: int
    ) -> Attempt:
        """Return whether `tx_hash`, named by somebody else, made this payment.

        Asks again for about `within_s`. Without the transfer in the receipt it is UNKNOWN: a
        facilitator that lies, or another chain's node, must not make a call free.
        """
        for wait_ms in (0, *_polls_ms(within_s * 1000)):
            await asyncio.sleep(wait_ms / 1000)
            try:
                receipt = await self._chain.receipt(tx_hash)
            except (RpcFailed, RpcRefused):
                continue
            if receipt is None:
                continue
            if _pays(receipt, key, transfer):
                return Attempt(Settlement.SETTLED, tx_hash)
            return Attempt(
                Settlement.UNKNOWN, tx_hash, "the named transaction does not show the payment"
            )
        return Attempt(Settlement.UNKNOWN, tx_hash, "the named transaction is in no block yet")

    async def _trace(
        self, key: PaymentKey, transfer: Transfer, valid_until_s: int, sent: tuple[str, ...]
    ) -> Attempt:
        head = await self._chain.latest_block()
        # Asked at the very block whose time decides: a node that lags behind would otherwise say
        # "unused" about a payment that is already mined, and the buyer would pay twice.
        used = await self._chain.authorization_used(key.sender, key.nonce, hex(head.number))
        if not used and head.time_s >= valid_until_s:
            return Attempt(Settlement.REFUSED, detail="the authorization expired unused")
        if not used:
            return Attempt(
                Settlement.UNKNOWN, detail="the authorization is unused so far", is_unused=True
            )
        for tx_hash in sent:
            receipt = await self._chain.receipt(tx_hash)
            if receipt is not None and _pays(receipt, key, transfer):
                return Attempt(Settlement.SETTLED, tx_hash)
        return await self._find(key, transfer, head)

    async def _find(self, key: PaymentKey, transfer: Transfer, head: Block) -> Attempt:
        ends = [abi.AUTHORIZATION_USED_TOPIC, abi.AUTHORIZATION_CANCELED_TOPIC]
        topics: list[str | list[str]] = [
            ["0x" + topic.hex() for topic in ends],
            "0x" + abi.address_word(key.sender).hex(),
            "0x" + key.nonce.hex(),
        ]

        async def within(first: int, last: int) -> Attempt | None:
            for log in await self._chain.logs(topics, first, last):
                if log.topics[:1] == (abi.AUTHORIZATION_CANCELED_TOPIC,):
                    return Attempt(Settlement.REFUSED, log.tx_hash, "cancelled by the payer")
                return await self._judge(log.tx_hash, key, transfer)
            return None

        if found := await search_back(within, head.number):
            return found
        return Attempt(Settlement.UNKNOWN, detail="the nonce is used, by a transaction not found")

    async def _judge(self, tx_hash: str, key: PaymentKey, transfer: Transfer) -> Attempt:
        receipt = await self._chain.receipt(tx_hash)
        if receipt is None:
            return Attempt(Settlement.UNKNOWN, tx_hash, "the transaction has no receipt yet")
        if _pays(receipt, key, transfer):
            return Attempt(Settlement.SETTLED, tx_hash)
        return Attempt(Settlement.REFUSED, tx_hash, "the nonce was spent on another transfer")


def _pays(receipt: TxReceipt, key: PaymentKey, transfer: Transfer) -> bool:
    return receipt.succeeded and abi.authorization_paid(receipt.logs, key.nonce, transfer)


def _polls_ms(total_ms: int) -> Iterator[int]:
    """Yield waits that double from 50 ms to 1.6 s and add up to about `total_ms`."""
    wait_ms, waited_ms = 50, 0
    while waited_ms < total_ms:
        yield wait_ms
        waited_ms += wait_ms
        wait_ms = min(2 * wait_ms, 1_600)
