"""Transactions from a key of our own: one nonce at a time, stored before it is sent."""

import asyncio
import contextlib
import enum
import logging
from dataclasses import dataclass, replace

from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.rails.evm.chain import ChainClient, TxReceipt, gathered
from mpp_gateway.rails.evm.gas import Gas, Market
from mpp_gateway.rails.evm.outbox import Handover, Outbox
from mpp_gateway.rails.evm.request import CALL_GAS, EvmSettings
from mpp_gateway.rails.evm.signing import Signer
from mpp_gateway.rails.evm.submissions import (
    DONE,
    LOST,
    OPEN,
    Signed,
    Submission,
    Submissions,
)
from mpp_gateway.rails.evm.upkeep import Upkeep
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

log = logging.getLogger(__name__)

BUMP_AFTER_S = 12
RESEND_AFTER_S = 1
LEASE_TRIES = 3
REVERTED = 3
"""Code of a JSON-RPC error when a contract has refused."""
POLLS_MS = (20, 50, 100, 200, 400)
POLL_LAST_MS = 800


@dataclass(frozen=True, slots=True)
class Quote:
    """What a transaction needs: gas, its market, and the lowest nonce that the chain would take."""

    gas: int
    market: Market
    floor: int


class Deadline:
    """The end of one attempt, on the loop's clock, in whole milliseconds."""

    def __init__(self, seconds: int) -> None:
        self._clock = asyncio.get_running_loop().time
        self._end_ms = int(self._clock() * 1000) + seconds * 1000

    def left_ms(self) -> int:
        """Return how many milliseconds are left, never less than none."""
        return max(0, self._end_ms - int(self._clock() * 1000))

    def timeout(self) -> asyncio.Timeout:
        """Return a context manager that raises `TimeoutError` at the deadline."""
        return asyncio.timeout(self.left_ms() / 1000)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a contract. Under the same `id` it is the same call, in every process."""

    id: str
    to: bytes
    payload: bytes
    valid_until_s: int
    """Unix time after which it is of no use: then its nonce is filled with nothing."""
    gas_max: int = CALL_GAS
    """What it may burn; a call that needs more is not made."""


class Fate(enum.Enum):
    """What became of a call."""

    MINED = "mined"
    """In a block as deep as `confirmations`: the receipt says what it did."""
    REVERTS = "reverts"
    """The contract would refuse it now. Nothing was sent."""
    NOT_SENT = "not sent"
    """It certainly reached nobody, and its signature is erased."""
    UNCLEAR = "unclear"
    """Sent, or maybe sent; asked again, it is followed and not sent anew."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a call, with the receipt of one that is MINED."""

    fate: Fate
    detail: str = ""
    tx_hash: str = ""
    receipt: TxReceipt | None = None


class Submitter:
    """Submits calls with one key. Safe in many tasks and many processes at once."""

    def __init__(
        self, settings: EvmSettings, chain: ChainClient, database: Database, private_key: bytes
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._signer = Signer(settings.chain_id, private_key)
        self.address = self._signer.address
        self._submissions = Submissions(database, settings.chain_id, self.address)
        self._running: dict[str, asyncio.Task[Submitted]] = {}
        self._floor: int | None = None
        self._lease = asyncio.Lock()
        self._repair = asyncio.Lock()
        self.gas = Gas(settings, chain, self.address)
        parts = chain, self._submissions, self.gas, self._signer
        self._outbox = Outbox(settings, *parts)
        self._upkeep = Upkeep(settings, *parts, self._outbox)

    async def submit(self, call: Call, now_s: int) -> Submitted:
        """Sign, store, send and follow `call`, for as long as `settle_s`.

        A caller that goes away does not stop it: what was sent is followed to its end.
        """
        task = self._running.get(call.id)
        if task is None:
            task = asyncio.create_task(self._submit(call, now_s))
            self._running[call.id] = task
            task.add_done_callback(lambda _: self._running.pop(call.id, None))
        return await asyncio.shield(task)

    async def maintain(self, now_s: int) -> int:
        """Push what is stuck and fill gaps; return how many nonces still need a block.

        Run at start, before the first payment, and now and then after. What a crash left behind is
        sent again while it can still be of use; else a transfer of nothing to
        ourselves takes its nonce, so that later payments do not wait for ever.
        Errors: `RpcFailed`, `RpcRefused`, `StoreUnavailable`.
        """
        return await self._upkeep.round(now_s, self._running)

    async def close(self) -> None:
        """Stop following transactions; `maintain` finds them again after the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def sent_for(self, call_id: str) -> tuple[str, ...]:
        """Return the transactions that were ever signed for a call and not erased, newest first."""
        return await self._submissions.sent_for(call_id)

    # One call

    async def _submit(self, call: Call, now_s: int) -> Submitted:
        deadline = Deadline(self._settings.settle_s)
        for _ in range(LEASE_TRIES):
            prepared = await self._prepare(call, now_s, deadline)
            if isinstance(prepared, Submitted):
                return prepared
            sent = await self._outbox.send(prepared.sent[-1])
            reach(FailPoint.SENT)
            if not await self._is_certain(sent, prepared):
                sent = Handover.MAYBE
            if sent in (Handover.YES, Handover.MAYBE) or not prepared.is_fresh:
                return await self._follow(prepared, sent, now_s, deadline)
            try:
                if sent is Handover.NO:
                    await self._give_back(prepared.nonce, now_s)
                    return Submitted(Fate.NOT_SENT, "the node took no transaction")
                self._floor = None
                await self._submissions.finish(prepared, LOST)
            except StoreUnavailable:
                # The signature is still stored, so a later `maintain` might send it.
                return Submitted(Fate.UNCLEAR, "the store failed after signing")
        return Submitted(Fate.NOT_SENT, "the key's nonce is used by somebody else")

    async def _prepare(self, call: Call, now_s: int, deadline: Deadline) -> Submission | Submitted:
        """Return a stored submission, or why there is none; nothing is sent yet."""
        try:
            found = await self._submissions.find(call.id)
        except StoreUnavailable:
            return Submitted(Fate.UNCLEAR, "the store is unavailable")
        passed = None
        if found is not None and found.state == DONE:
            earlier = await self._earlier(found)
            if earlier is not None:
                return earlier
            passed = found.nonce
        elif found is not None:
            return found
        try:
            async with deadline.timeout():
                quote = await self._quote(call, now_s)
        except TimeoutError:
            return Submitted(Fate.NOT_SENT, "the node did not answer; nothing was sent")
        except RpcRefused as error:
            if error.is_revert:
                return Submitted(Fate.REVERTS, error.message)
            return Submitted(Fate.NOT_SENT, f"nothing was sent: {error}")
        except RpcFailed as error:
            return Submitted(Fate.NOT_SENT, f"nothing was sent: {error}")
        if quote.market.is_dear:
            return Submitted(Fate.NOT_SENT, "gas costs too much; nothing was sent")
        return await self._leased(call, quote, passed, now_s)

    async def _leased(
        self, call: Call, quote: Quote, passed: int | None, now_s: int
    ) -> Submission | Submitted:
        def sign(nonce: int) -> Signed:
            return self._signer.sign(nonce, call.to, call.payload, quote.gas, quote.market.fees)

        # Outside the deadline: a lease that is cut off may be stored all the same, and a stored
        # transaction may be sent later. Only what is certainly not stored is refused.
        try:
            async with self._lease:
                row = await self._submissions.lease(
                    call.id, call.valid_until_s, quote.floor, sign, now_s, passed=passed
                )
        except StoreUnavailable as error:
            # A signature that may be stored may be sent by `maintain`: refused, it would still pay.
            fate = Fate.UNCLEAR if error.may_be_written else Fate.NOT_SENT
            return Submitted(fate, "the store is unavailable; nothing was sent")
        if row.state == DONE:
            return Submitted(Fate.UNCLEAR, "another process has made the call")
        return row

    async def _earlier(self, row: Submission) -> Submission | Submitted | None:
        """Return what a call that must be made once has come to; None if it did nothing.

        What is in no block any more is to be followed again, under its own nonce.
        """
        try:
            receipt = await self._outbox.find_receipt(row)
            used = await self._chain.transaction_count(self.address, "latest")
            if receipt is None and row.nonce >= used and await self._submissions.reopen(row):
                return replace(row, state=OPEN)
        except (RpcFailed, RpcRefused) as error:
            return Submitted(Fate.UNCLEAR, f"an earlier transaction cannot be asked for: {error}")
        except StoreUnavailable:
            return Submitted(Fate.UNCLEAR, "the store is unavailable")
        if receipt is None:
            return Submitted(Fate.UNCLEAR, "the node does not show an earlier transaction")
        if receipt.succeeded:
            return Submitted(Fate.MINED, tx_hash=receipt.tx_hash, receipt=receipt)
        return None

    async def _quote(self, call: Call, now_s: int) -> Quote:
        """Ask for everything a transaction needs; a call that would revert fails here.

        Simulated before a nonce is taken, so that a revert costs neither gas nor a gap.
        """
        gas, market, floor = await gathered(
            self._chain.estimate_gas(call.to, call.payload, self.address),
            self.gas.market(now_s),
            self.known_floor(),
        )
        if gas > call.gas_max:
            # The payer's code runs in it, and can be cheap when it is asked and dear in a block.
            raise RpcRefused(REVERTED, "it would burn too much gas")
        return Quote(gas * 5 // 4, market, floor)

    async def _follow(
        self, submission: Submission, sent: Handover, now_s: int, deadline: Deadline
    ) -> Submitted:
        started_ms = deadline.left_ms()
        bumps = resends = 0
        try:
            async with deadline.timeout():
                polls = iter(POLLS_MS)
                while True:
                    receipt = await self._outbox.receipt_of(submission)
                    if receipt is not None:
                        return await self._conclude(submission, receipt)
                    wait_ms = next(polls, POLL_LAST_MS)
                    await asyncio.sleep(wait_ms / 1000)
                    elapsed = (started_ms - deadline.left_ms()) // 1000
                    if elapsed >= BUMP_AFTER_S * (bumps + 1):
                        bumps += 1
                        submission = await self._outbox.bump(submission, now_s + elapsed)
                    elif sent is not Handover.YES and elapsed >= RESEND_AFTER_S * (resends + 1):
                        resends += 1
                        sent = await self._outbox.send(submission.sent[-1])
        except TimeoutError:
            tx_hash = submission.sent[-1].tx_hash
            return Submitted(Fate.UNCLEAR, "sent, and in no block in time", tx_hash)

    async def _conclude(self, submission: Submission, receipt: TxReceipt) -> Submitted:
        # The chain knows; `maintain` writes it down when the store is back.
        try:
            await self._submissions.finish(submission, DONE, has_failed=not receipt.succeeded)
        except StoreUnavailable as error:
            log.warning("%s is in a block, which is noted later: %s", receipt.tx_hash, error)
        return Submitted(Fate.MINED, tx_hash=receipt.tx_hash, receipt=receipt)

    async def _is_certain(self, sent: Handover, row: Submission) -> bool:
        """Tell whether what the node said of a transaction may be acted upon.

        One node may have taken what another one, asked a moment later, calls refused. What a
        contract lets happen only once loses nothing by that. A refund would be paid twice: it keeps
        its nonce, and is sent again, until the chain shows what became of it.
        """
        if row.is_once:
            return sent is Handover.YES
        return sent is not Handover.STALE or await self._outbox.is_taken(row)

    async def _give_back(self, nonce: int, now_s: int) -> None:
        is_gap = await self._submissions.release(nonce)
        if is_gap and not self._repair.locked():
            async with self._repair:
                # On failure the next lease takes the nonce, or the next `maintain` fills it.
                with contextlib.suppress(RpcFailed, RpcRefused):
                    await self.maintain(now_s)

    async def known_floor(self) -> int:
        """Return the chain's own count for the key, as it was when first asked."""
        if self._floor is None:
            self._floor = await self._chain.transaction_count(self.address, "pending")
        return self._floor
