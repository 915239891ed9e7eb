"""What was signed with a key of our own, at the node: handed over, outbid, and looked for."""

import contextlib
import enum
from dataclasses import replace

from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.rails.evm.chain import ChainClient, TxReceipt
from mpp_gateway.rails.evm.gas import Gas
from mpp_gateway.rails.evm.request import EvmSettings
from mpp_gateway.rails.evm.signing import Signer
from mpp_gateway.rails.evm.submissions import Signed, Submission, Submissions
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

LOST_DEPTH = 32

_STALE = ("nonce too low", "nonce is too low", "invalid nonce", "replacement transaction")
_NOT_ACCEPTED = (
    "insufficient funds", "underpriced", "gas too low", "intrinsic gas", "exceeds block gas",
    "fee cap", "less than block base fee", "invalid sender", "invalid chain", "not supported",
)  # fmt: skip


class Handover(enum.Enum):
    """What became of handing a transaction to the node."""

    YES = "yes"
    MAYBE = "maybe"
    """No answer, or one that nobody has explained: it may be out there."""
    NO = "no"
    STALE = "stale"
    """Its nonce belongs to another transaction; it can never be mined."""


class Outbox:
    """The transactions of one key, and one node."""

    def __init__(
        self,
        settings: EvmSettings,
        chain: ChainClient,
        submissions: Submissions,
        gas: Gas,
        signer: Signer,
    ) -> None:
        self._max_fee_wei = settings.max_fee_wei
        self._chain = chain
        self._submissions = submissions
        self._gas = gas
        self._signer = signer

    async def send(self, signed: Signed) -> Handover:
        """Hand a transaction to the node; return what became of that."""
        try:
            await self._chain.send(signed.raw)
        except RpcFailed as error:
            return Handover.MAYBE if error.sent else Handover.NO
        except RpcRefused as error:
            message = error.message.lower()
            if any(word in message for word in _STALE):
                return Handover.STALE
            if any(word in message for word in _NOT_ACCEPTED):
                return Handover.NO
            return Handover.YES if "known" in message else Handover.MAYBE
        return Handover.YES

    async def bump(self, submission: Submission, now_s: int) -> Submission:
        """Offer more for the same nonce; where that fails or may not be, send the last again."""
        newest, signed = submission.sent[-1], None
        with contextlib.suppress(RpcFailed, RpcRefused, StoreUnavailable):
            market = await self._gas.market(now_s)
            fees = newest.fees.bumped(market.fees, self._max_fee_wei)
            if fees is not None:
                higher = self._signer.resign(newest, fees)
                if await self._submissions.replace(submission, higher, now_s, fills=False):
                    signed = higher
        if signed is None:
            await self.send(newest)
            return submission
        await self.send(signed)
        return replace(submission, sent=(*submission.sent, signed))

    async def find_receipt(
        self, submission: Submission, *, is_deep: bool = True
    ) -> TxReceipt | None:
        """Return the receipt; None only if the node has said of each that it has none."""
        for signed in reversed(submission.sent):
            receipt = await self._chain.receipt(signed.tx_hash, is_deep=is_deep)
            if receipt is not None:
                return receipt
        return None

    async def receipt_of(self, submission: Submission) -> TxReceipt | None:
        """Return the receipt; None also where the node did not answer."""
        for signed in reversed(submission.sent):
            try:
                receipt = await self._chain.receipt(signed.tx_hash)
            except (RpcFailed, RpcRefused):
                continue
            if receipt is not None:
                return receipt
        return None

    async def is_taken(self, row: Submission) -> bool:
        """Tell whether a node that calls the row's nonce too low is right, and it is not by ours.

        A node that forwards a call twice says so of what it has just taken, and what only waits for
        a block may be dropped. Believed, a wrong word would leave a gap that every later payment of
        the key waits behind for ever.
        """
        try:
            used = await self._chain.transaction_count(self._signer.address, "latest")
            return row.nonce < used and await self.is_lost(row)
        except (RpcFailed, RpcRefused):
            return False

    async def is_lost(self, row: Submission) -> bool:
        """Tell whether the row's nonce, which is used, was used by a transaction that is not ours.

        What the contract itself lets happen only once may be believed lost too early. A refund may
        not: it would be paid twice. So there the other transaction has to be shown, many blocks
        deep; that the node has no receipt of ours says nothing.
        """
        if await self.find_receipt(row, is_deep=False) is not None:
            return False
        if not row.is_once:
            return True
        spender = await self._chain.spender(self._signer.address, row.nonce, LOST_DEPTH)
        return spender is not None and spender not in {signed.tx_hash for signed in row.sent}
