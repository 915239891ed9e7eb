"""Settling with a gas key of our own: one nonce at a time, stored before it is sent."""

import asyncio
import contextlib
import enum
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sql import StoreUnavailable
from mpp_gateway.protocol.problems import VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.chain import (
    ChainClient,
    RpcFailed,
    RpcRefused,
    TxReceipt,
    gathered,
)
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.request import Attempt, EvmSettings, Payment
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

log = logging.getLogger(__name__)

GAS_RESERVE = 300_000
"""Gas the key must be able to pay for before a payment is admitted: about four transfers."""
FILL_GAS = 21_000
BUMP_AFTER_S = 12
DEAR_RETRY_S = 30
RESEND_AFTER_S = 1
LEASE_TRIES = 3
POLLS_MS = (20, 50, 100, 200, 400)
POLL_LAST_MS = 800

_STALE = ("nonce too low", "nonce is too low", "invalid nonce", "replacement transaction")
_NOT_ACCEPTED = (
    "insufficient funds", "underpriced", "gas too low", "intrinsic gas", "exceeds block gas",
    "fee cap", "less than block base fee", "invalid sender", "invalid chain", "not supported",
)  # fmt: skip


class Sent(enum.Enum):
    """What became of handing a transaction to the node."""

    YES = "yes"
    MAYBE = "maybe"
    """No answer, or one that nobody has explained: it may be out there."""
    NO = "no"
    STALE = "stale"
    """Its nonce belongs to another transaction; it can never be mined."""


@dataclass(frozen=True, slots=True)
class Market:
    """What we would offer for gas now, and whether the network asks for more than we may pay."""

    fees: Fees
    is_dear: bool = False


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


class OwnKeySettler:
    """Submits authorizations with one gas key. Safe in many tasks and many processes at once."""

    def __init__(
        self,
        settings: EvmSettings,
        chain: ChainClient,
        inspector: Inspector,
        database: Database,
        private_key: bytes,
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._inspector = inspector
        self._account = Account.from_key(private_key)
        self.address = parse_address(self._account.address)
        self._submissions = Submissions(database, settings.chain_id, self.address)
        self._running: dict[str, asyncio.Task[Attempt]] = {}
        self._floor: int | None = None
        self._market_seen: tuple[int, Market] | None = None
        self._lease = asyncio.Lock()
        self._repair = asyncio.Lock()
        self._low_gas = False
        self._is_dear = False

    @property
    def withheld_for(self) -> str:
        """What gas was last seen to be: above the ceiling, or too little on the key; else empty."""
        if self._is_dear:
            return "Gas costs more than max_fee_gwei."
        return "The gas key cannot pay for the next transactions." if self._low_gas else ""

    async def ready(self, now_s: int) -> None:
        """Look at what gas costs, if there is a ceiling; see `Settler.ready`."""
        if self._settings.max_fee_wei is None:
            return
        try:
            market = await self._market(now_s)
        except (RpcFailed, RpcRefused) as error:
            raise self._unavailable(str(error)) from error
        if market.is_dear:
            raise self._too_dear()

    async def check(self, payment: Payment, now_s: int) -> None:
        """Simulate the transfer and look at the key's gas; see `Settler.check`."""
        try:
            _, balance, _ = await gathered(
                self._chain.simulate(payment.authorization, self.address),
                self._look_at_gas(now_s),
                self._known_floor(),
            )
        except RpcRefused as error:
            if error.is_revert:
                raise VerificationFailed(
                    "The token would refuse this authorization.", private=error.message
                ) from error
            raise self._unavailable(str(error)) from error
        except RpcFailed as error:
            raise self._unavailable(str(error)) from error
        if self._is_dear:
            raise self._too_dear()
        if self._low_gas:
            raise self._unavailable(f"{checksum(self.address)} has only {balance} wei for gas")

    async def settle(self, payment: Payment, now_s: int) -> Attempt:
        """Submit, wait for a block, return what it says; see `Settler.settle`.

        A caller that goes away does not stop it: what was sent is followed to its end.
        """
        proof_id = str(payment.key)
        task = self._running.get(proof_id)
        if task is None:
            task = asyncio.create_task(self._settle(payment, now_s))
            self._running[proof_id] = task
            task.add_done_callback(lambda _: self._running.pop(proof_id, None))
        return await asyncio.shield(task)

    async def maintain(self, now_s: int) -> int:
        """Push what is stuck and fill gaps; return how many nonces still need a block.

        Run at start, before the first payment, and now and then after. What a crash left behind is
        sent again while its authorization can still be used; else a transfer of nothing to
        ourselves takes its nonce, so that later payments do not wait for ever.
        Errors: `RpcFailed`, `RpcRefused`, `StoreUnavailable`.
        """
        await self._look_at_gas(now_s)
        rows = await self._submissions.unfinished()
        if not rows:
            return 0
        mined_below = await self._chain.transaction_count(self.address, "latest")
        offer = (await self._market(now_s)).fees
        highest = max((row.nonce for row in rows if row.state != FREE), default=-1)
        left = 0
        for row in rows:
            if row.proof_id in self._running and row.state != FREE:
                continue
            if await self._receipt_of(row) is not None:
                await self._submissions.finish(row.nonce, DONE)
            elif row.nonce < mined_below:
                await self._submissions.finish(row.nonce, LOST)
            elif row.state != FREE or row.nonce < highest:
                left += 1
                await self._push(row, offer, now_s)
        return left

    async def close(self) -> None:
        """Stop following transactions; `maintain` finds them again after the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # One payment

    async def _settle(self, payment: Payment, now_s: int) -> Attempt:
        deadline = Deadline(self._settings.settle_s)
        for _ in range(LEASE_TRIES):
            prepared = await self._prepare(payment, now_s, deadline)
            if isinstance(prepared, Attempt):
                return prepared
            sent = await self._send(prepared.sent[-1])
            reach(FailPoint.SENT)
            if sent in (Sent.YES, Sent.MAYBE) or not prepared.is_fresh:
                return await self._follow(payment, prepared, sent, now_s, deadline)
            try:
                if sent is Sent.NO:
                    await self._give_back(prepared.nonce, now_s)
                    return Attempt(Settlement.REFUSED, detail="the node took no transaction")
                self._floor = None
                await self._submissions.finish(prepared.nonce, LOST)
            except StoreUnavailable:
                # The signature is still stored, so a later `maintain` might send it.
                return Attempt(Settlement.UNKNOWN, detail="the store failed after signing")
        return Attempt(Settlement.REFUSED, detail="the gas key's nonce is used by somebody else")

    async def _prepare(
        self, payment: Payment, now_s: int, deadline: Deadline
    ) -> Submission | Attempt:
        """Return a stored submission, or why there is none; nothing is sent yet."""
        payload = abi.transfer_with_authorization(payment.authorization)
        proof_id = str(payment.key)
        try:
            found = await self._submissions.find_open(proof_id)
        except StoreUnavailable:
            return Attempt(Settlement.UNKNOWN, detail="the store is unavailable")
        if found is not None:
            return found
        try:
            async with deadline.timeout():
                quote = await self._quote(payload, now_s)
        except TimeoutError:
            return Attempt(Settlement.REFUSED, detail="the node did not answer; nothing was sent")
        except RpcRefused as error:
            if error.is_revert:
                return await self._judge_revert(payment, error.message)
            return Attempt(Settlement.REFUSED, detail=f"nothing was sent: {error}")
        except RpcFailed as error:
            return Attempt(Settlement.REFUSED, detail=f"nothing was sent: {error}")

        if quote.market.is_dear:
            return Attempt(Settlement.REFUSED, detail="gas costs too much; nothing was sent")

        def sign(nonce: int) -> Signed:
            return self._sign(nonce, self._settings.token, payload, quote.gas, quote.market.fees)

        # Outside the deadline: a lease that is cut off may be stored all the same, and a stored
        # transaction may be sent later. Only what is certainly not stored is refused.
        valid_until = payment.authorization.valid_before
        try:
            async with self._lease:
                return await self._submissions.lease(
                    proof_id, valid_until, quote.floor, sign, now_s
                )
        except StoreUnavailable:
            return Attempt(Settlement.REFUSED, detail="the store is unavailable; nothing was sent")

    async def _quote(self, payload: bytes, now_s: int) -> Quote:
        """Ask for everything a transaction needs; a transfer that would revert fails here.

        Simulated before a nonce is taken, so that a revert costs neither gas nor a gap.
        """
        gas, market, floor = await gathered(
            self._chain.estimate_gas(payload, self.address),
            self._market(now_s),
            self._known_floor(),
        )
        return Quote(gas * 5 // 4, market, floor)

    async def _follow(
        self, payment: Payment, submission: Submission, sent: Sent, now_s: int, deadline: Deadline
    ) -> Attempt:
        started_ms = deadline.left_ms()
        bumps = resends = 0
        try:
            async with deadline.timeout():
                polls = iter(POLLS_MS)
                while True:
                    receipt = await self._receipt_of(submission)
                    if receipt is not None:
                        return await self._conclude(payment, submission, receipt)
                    wait_ms = next(polls, POLL_LAST_MS)
                    await asyncio.sleep(wait_ms / 1000)
                    elapsed = (started_ms - deadline.left_ms()) // 1000
                    if elapsed >= BUMP_AFTER_S * (bumps + 1):
                        bumps += 1
                        submission = await self._bump(submission, now_s + elapsed)
                    elif sent is not Sent.YES and elapsed >= RESEND_AFTER_S * (resends + 1):
                        resends += 1
                        sent = await self._send(submission.sent[-1])
        except TimeoutError:
            return Attempt(
                Settlement.UNKNOWN, submission.sent[-1].tx_hash, "sent, and in no block in time"
            )

    async def _conclude(
        self, payment: Payment, submission: Submission, receipt: TxReceipt
    ) -> Attempt:
        # The chain knows; `maintain` writes it down when the store is back.
        with contextlib.suppress(StoreUnavailable):
            await self._submissions.finish(submission.nonce, DONE)
        if receipt.succeeded and abi.authorization_paid(
            receipt.logs, payment.key.nonce, payment.transfer
        ):
            return Attempt(Settlement.SETTLED, receipt.tx_hash)
        return await self._judge_revert(payment, f"{receipt.tx_hash} did not transfer")

    async def _judge_revert(self, payment: Payment, why: str) -> Attempt:
        """Return what a refused transfer means: somebody may have submitted it before us."""
        seen = await self._inspector.trace(
            payment.key, payment.transfer, payment.authorization.valid_before
        )
        if seen.is_unused:
            return Attempt(Settlement.REFUSED, detail=why)
        return seen

    # Transactions

    async def _send(self, signed: Signed) -> Sent:
        try:
            await self._chain.send(signed.raw)
        except RpcFailed as error:
            return Sent.MAYBE if error.sent else Sent.NO
        except RpcRefused as error:
            message = error.message.lower()
            if any(word in message for word in _STALE):
                return Sent.STALE
            if any(word in message for word in _NOT_ACCEPTED):
                return Sent.NO
            return Sent.YES if "known" in message else Sent.MAYBE
        return Sent.YES

    async def _bump(self, submission: Submission, now_s: int) -> Submission:
        """Offer more for the same nonce; where that fails or may not be, send the last again."""
        newest, signed = submission.sent[-1], None
        with contextlib.suppress(RpcFailed, RpcRefused, StoreUnavailable):
            market = await self._market(now_s)
            fees = newest.fees.bumped(market.fees, self._settings.max_fee_wei)
            if fees is not None:
                higher = self._resign(newest, fees)
                if await self._submissions.replace(submission, higher, now_s, fills=False):
                    signed = higher
        if signed is None:
            await self._send(newest)
            return submission
        await self._send(signed)
        return replace(submission, sent=(*submission.sent, signed))

    async def _push(self, row: Submission, offer: Fees, now_s: int) -> None:
        usable = row.state not in (FREE, FILLING) and row.valid_until_s > now_s
        if usable and row.sent[-1].fees.max_fee_wei >= offer.max_fee_wei:
            await self._send(row.sent[-1])
        elif usable:
            await self._bump(row, now_s)
        else:
            # What cannot be outbid may have left the node's pool, where the same price will do.
            ceiling_wei = self._settings.max_fee_wei
            last = row.sent[-1].fees if row.sent else None
            fees = offer if last is None else last.bumped(offer, ceiling_wei) or last
            signed = self._sign(row.nonce, self.address, b"", FILL_GAS, fees.capped(ceiling_wei))
            if await self._submissions.replace(row, signed, now_s, fills=True):
                await self._send(signed)

    async def _give_back(self, nonce: int, now_s: int) -> None:
        is_gap = await self._submissions.release(nonce)
        if is_gap and not self._repair.locked():
            async with self._repair:
                # On failure the next lease takes the nonce, or the next `maintain` fills it.
                with contextlib.suppress(RpcFailed, RpcRefused):
                    await self.maintain(now_s)

    async def _receipt_of(self, submission: Submission) -> TxReceipt | None:
        for signed in reversed(submission.sent):
            try:
                receipt = await self._chain.receipt(signed.tx_hash)
            except (RpcFailed, RpcRefused):
                continue
            if receipt is not None:
                return receipt
        return None

    async def _look_at_gas(self, now_s: int) -> int:
        market = await self._market(now_s)
        balance = await self._chain.gas_balance(self.address)
        is_low = balance < GAS_RESERVE * market.fees.max_fee_wei
        if is_low != self._low_gas:
            words = "too little for gas: offers are withheld" if is_low else "enough for gas again"
            chain_id, account = self._settings.chain_id, checksum(self.address)
            log.warning("chain %d: %s has %s (%d wei)", chain_id, account, words, balance)
        self._low_gas = is_low
        return balance

    async def _known_floor(self) -> int:
        if self._floor is None:
            self._floor = await self._chain.transaction_count(self.address, "pending")
        return self._floor

    async def _market(self, now_s: int) -> Market:
        """Return what gas costs now; asked at most once a second."""
        if self._market_seen is not None and self._market_seen[0] == now_s:
            return self._market_seen[1]
        block = await self._chain.latest_block()
        try:
            tip = await self._chain.tip_wei()
        except RpcRefused:
            tip = block.base_fee_wei // 10 + 1
        market = self._judged(block.base_fee_wei, tip)
        self._market_seen = (now_s, market)
        return market

    def _judged(self, base_fee_wei: int, tip_wei: int) -> Market:
        """Compare what the next block asks for with the ceiling, and say so when that changes."""
        ceiling_wei = self._settings.max_fee_wei
        asked_wei = base_fee_wei + tip_wei
        # The node may lie: nothing that it says makes us offer more than the ceiling.
        is_dear = ceiling_wei is not None and asked_wei > ceiling_wei
        if is_dear != self._is_dear:
            words = "too much: offers are withheld" if is_dear else "no longer too much"
            log.warning(
                "chain %d: gas costs %s (%d wei)", self._settings.chain_id, words, asked_wei
            )
        self._is_dear = is_dear
        return Market(Fees(2 * base_fee_wei + tip_wei, tip_wei).capped(ceiling_wei), is_dear)

    def _sign(self, nonce: int, to: bytes, payload: bytes, gas: int, fees: Fees) -> Signed:
        return self._signed(
            {
                "type": 2,
                "chainId": self._settings.chain_id,
                "nonce": nonce,
                "to": checksum(to),
                "value": 0,
                "data": payload,
                "gas": gas,
            },
            fees,
        )

    def _resign(self, earlier: Signed, fees: Fees) -> Signed:
        """Return the same transaction, of the same nonce, with other fees."""
        fields = TypedTransaction.from_bytes(HexBytes(earlier.raw)).as_dict()
        unsigned = {name: fields[name] for name in fields if name not in ("v", "r", "s")}
        return self._signed(unsigned, fees)

    def _signed(self, unsigned: Mapping[str, Any], fees: Fees) -> Signed:
        signed = self._account.sign_transaction(
            {
                **unsigned,
                "maxFeePerGas": fees.max_fee_wei,
                "maxPriorityFeePerGas": fees.tip_wei,
            }
        )
        return Signed("0x" + bytes(signed.hash).hex(), bytes(signed.raw_transaction), fees)

    def _too_dear(self) -> RailUnavailable:
        settings = self._settings
        return RailUnavailable(
            "Moving a payment costs too much on this network now; nothing was charged.",
            private=f"chain {settings.chain_id}: gas is above {settings.max_fee_wei} wei",
            retry_after_s=DEAR_RETRY_S,
        )

    def _unavailable(self, why: str) -> RailUnavailable:
        return RailUnavailable(
            "The payment network cannot be used now; nothing was charged.",
            private=f"chain {self._settings.chain_id}: {why}",
            retry_after_s=self._settings.retry_after_s,
        )
