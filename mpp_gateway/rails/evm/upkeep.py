"""The care for a key's nonces: each comes into a block in the end, whatever became of its call."""

from collections.abc import Container

from mpp_gateway.rails.evm.chain import ChainClient, RpcFailed, RpcRefused
from mpp_gateway.rails.evm.gas import Gas
from mpp_gateway.rails.evm.outbox import Outbox
from mpp_gateway.rails.evm.request import EvmSettings
from mpp_gateway.rails.evm.signing import Signer
from mpp_gateway.rails.evm.submissions import (
    DONE,
    FILLING,
    FREE,
    LOST,
    Fees,
    Signed,
    Submission,
    Submissions,
)

FILL_GAS = 21_000


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
        if failure is not None:
            raise failure
        return left

    async def _is_over(self, row: Submission, mined_below: int) -> bool:
        """Tell whether the row's nonce is in a block for certain, and write that down."""
        if await self._outbox.find_receipt(row) is not None:
            await self._submissions.finish(row, DONE)
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
            # What cannot be outbid may have left the node's pool, where the same price will do.
            ceiling_wei = self._max_fee_wei
            last = row.sent[-1].fees if row.sent else None
            fees = offer if last is None else last.bumped(offer, ceiling_wei) or last
            signed = self._nothing(row.nonce, fees.capped(ceiling_wei))
            if await self._submissions.replace(row, signed, now_s, fills=True):
                await self._outbox.send(signed)

    def _nothing(self, nonce: int, fees: Fees) -> Signed:
        """Return a transfer of nothing to ourselves."""
        return self._signer.sign(nonce, self._signer.address, b"", FILL_GAS, fees)
