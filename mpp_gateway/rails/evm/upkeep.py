"""The care for a key's nonces: each comes into a block in the end, whatever became of its call."""

import logging
from collections.abc import Container
from dataclasses import replace
from itertools import islice

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.gas import Gas
from mpp_gateway.rails.evm.outbox import Outbox
from mpp_gateway.rails.evm.request import EvmSettings
from mpp_gateway.rails.evm.signing import Signer
from mpp_gateway.rails.evm.submissions import (
    DONE,
    FILLING,
    FREE,
    LOST,
    OPEN,
    Fees,
    Signed,
    Submission,
    Submissions,
)
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

log = logging.getLogger(__name__)

FILL_GAS = 21_000
GAP_S = 12
"""For how long a nonce has to be missing: a node may lag behind, and count too few."""
GAPS_MAX = 16
"""How many nonces that are missing are filled in one round."""


class Upkeep:
    """Pushes what is stuck, for one key."""

    def __init__(
        self,
        settings: EvmSettings,
        chain: ChainClient,
        submissions: Submissions,
        gas: Gas,
        signer: Signer,
        outbox: Outbox,
    ) -> None:
        self._max_fee_wei = settings.max_fee_wei
        self._chain = chain
        self._submissions = submissions
        self._gas = gas
        self._signer = signer
        self._outbox = outbox
        self._chain_id = settings.chain_id
        self._missing: dict[int, int] = {}
        """The nonces that nobody seems to have sent, and since when."""

    async def round(self, now_s: int, running: Container[str]) -> int:
        """Look after every nonce but those of calls that are followed anyway (`running`).

        See `Submitter.maintain`.
        """
        await self._gas.look(now_s)
        rows = await self._submissions.unfinished()
        if not rows:
            return 0
        mined_below = await self._chain.transaction_count(self._signer.address, "latest")
        offer = (await self._gas.market(now_s)).fees
        highest = max((row.nonce for row in rows if row.state != FREE), default=-1)
        left = 0
        failure: RpcFailed | RpcRefused | None = None
        for row in rows:
            if row.proof_id in running and row.state != FREE:
                continue
            try:
                if await self._is_over(row, mined_below):
                    continue
            except (RpcFailed, RpcRefused) as error:
                # One question without an answer must not keep the other nonces waiting.
                failure = error
            else:
                if row.nonce >= mined_below and (row.state != FREE or row.nonce < highest):
                    await self._push(row, offer, now_s)
            left += row.state != FREE or row.nonce < highest
        known = {row.nonce for row in rows}
        between = (nonce for nonce in range(mined_below, highest) if nonce not in known)
        left += await self._close_gaps(list(islice(between, GAPS_MAX)), offer, now_s)
        if failure is not None:
            raise failure
        return left

    async def _close_gaps(self, nonces: list[int], offer: Fees, now_s: int) -> int:
        """Fill what of `nonces`, above the chain's count and below one under way, nobody has sent.

        They are none of those that are looked after: called done or lost by a node that lied, taken
        back with their blocks, or never leased, for a node had counted too many.
        """
        if nonces:
            # What another program has sent with this key is in the node's own count.
            sent_below = await self._chain.transaction_count(self._signer.address, "pending")
            nonces = [nonce for nonce in nonces if nonce >= sent_below]
        self._missing = {nonce: self._missing.get(nonce, now_s) for nonce in nonces}
        for nonce, since_s in self._missing.items():
            if now_s - since_s >= GAP_S:
                await self._close_gap(nonce, offer, now_s)
        return len(nonces)

    async def _close_gap(self, nonce: int, offer: Fees, now_s: int) -> None:
        """Send what was signed for the nonce again, while that is of use; else fill it."""
        row = await self._submissions.at(nonce)
        if row is not None and row.state not in (DONE, LOST):
            return  # another process sees to it
        if row is not None and await self._outbox.find_receipt(row, is_deep=False) is not None:
            return  # the count was wrong
        log.warning(
            "chain %d: nonce %d of %s is in no block and later ones wait for it: it is sent again",
            self._chain_id,
            nonce,
            checksum(self._signer.address),
        )
        if row is None:
            signed = self._nothing(nonce, offer)
            if await self._submissions.fill(nonce, signed, now_s):
                await self._outbox.send(signed)
        elif self._is_of_use(row, now_s) and await self._submissions.reopen(row):
            await self._push(replace(row, state=OPEN), offer, now_s)
        else:
            await self._fill(row, offer, now_s)

    def _is_of_use(self, row: Submission, now_s: int) -> bool:
        if not row.sent or not row.sent[-1].raw or self._signer.is_nothing(row.sent[-1]):
            return False
        return row.valid_until_s > now_s

    async def _is_over(self, row: Submission, mined_below: int) -> bool:
        """Tell whether the row's nonce is in a block for certain, and write that down."""
        receipt = await self._outbox.find_receipt(row)
        if receipt is not None:
            await self._submissions.finish(row, DONE, has_failed=not receipt.succeeded)
            return True
        if row.nonce < mined_below and await self._outbox.is_lost(row):
            await self._submissions.finish(row, LOST)
            return True
        return False

    async def _push(self, row: Submission, offer: Fees, now_s: int) -> None:
        usable = row.state not in (FREE, FILLING) and row.valid_until_s > now_s
        if usable and row.sent[-1].fees.max_fee_wei >= offer.max_fee_wei:
            await self._outbox.send(row.sent[-1])
        elif usable:
            await self._outbox.bump(row, now_s)
        else:
            await self._fill(row, offer, now_s)

    async def _fill(self, row: Submission, offer: Fees, now_s: int) -> None:
        # What cannot be outbid may have left the node's pool, where the same price will do.
        last = row.sent[-1].fees if row.sent else None
        fees = offer if last is None else last.bumped(offer, self._max_fee_wei) or last
        signed = self._nothing(row.nonce, fees)
        if await self._submissions.replace(row, signed, now_s, fills=True):
            await self._outbox.send(signed)

    def _nothing(self, nonce: int, fees: Fees) -> Signed:
        """Return a transfer of nothing to ourselves."""
        capped = fees.capped(self._max_fee_wei)
        return self._signer.sign(nonce, self._signer.address, b"", FILL_GAS, capped)
