"""Settling with a gas key of our own, and giving back what that key's account was paid."""

from mpp_gateway.ledger.database import Database
from mpp_gateway.protocol.problems import VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.chain import ChainClient, gathered
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.request import CALL_GAS, Attempt, EvmSettings, Payment
from mpp_gateway.rails.evm.submissions import FOREVER_S, ONCE
from mpp_gateway.rails.evm.submitter import Call, Fate, Submitted, Submitter
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

SHUNNED_S = 86_400
FAILED_MAX = 10_000
"""How many payers are remembered; each has had a purse with a price in it."""

STATES = {
    Fate.REVERTS: Settlement.REFUSED,
    Fate.NOT_SENT: Settlement.REFUSED,
    Fate.UNCLEAR: Settlement.UNKNOWN,
}


class OwnKeySettler:
    """Submits authorizations; see `request.Settler`."""

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
        self._submitter = Submitter(settings, chain, database, private_key)
        self._failed: dict[bytes, int] = {}
        self.address = self._submitter.address

    @property
    def withheld_for(self) -> str:
        """Gas above the ceiling, or too little of it on the key; else empty."""
        return self._submitter.gas.withheld_for

    @property
    def refunds_from(self) -> bytes | None:
        """The key's own account: what it was paid, it can send back."""
        return self.address

    async def ready(self, now_s: int) -> None:
        """See `Settler.ready`."""
        await self._submitter.gas.ready(now_s)

    async def check(self, payment: Payment, now_s: int) -> None:
        """Simulate the transfer and look at the key's gas; see `Settler.check`."""
        if now_s < self._failed.get(payment.key.sender, -SHUNNED_S) + SHUNNED_S:
            raise VerificationFailed(
                "An earlier payment of this account failed in its block, and its gas was lost.",
                hint="Pay from another account; nothing was charged for this call.",
            )
        await self.check_call(payment.call, None, now_s, payment.gas_max)

    async def check_call(
        self, payload: bytes, to: bytes | None, now_s: int, gas_max: int = CALL_GAS
    ) -> None:
        """Simulate a call of the token, or of `to`, and look at the key's gas."""
        try:
            _, balance_wei, _ = await gathered(
                self._chain.simulate(payload, self.address, gas_max, to),
                self._submitter.gas.look(now_s),
                self._submitter.known_floor(),
            )
        except RpcRefused as error:
            if error.is_revert or "gas" in error.message.lower():
                raise VerificationFailed(
                    "The token would refuse this payment.", private=error.message
                ) from error
            raise self._submitter.gas.unavailable(str(error)) from error
        except RpcFailed as error:
            raise self._submitter.gas.unavailable(str(error)) from error
        self._submitter.gas.check(balance_wei)

    async def submit(self, call: Call, now_s: int) -> Submitted:
        """Make a call and wait for its block; see `Submitter.submit`."""
        return await self._submitter.submit(call, now_s)

    async def settle(self, payment: Payment, now_s: int) -> Attempt:
        """Submit, wait for a block, return what it says; see `Settler.settle`."""
        signed = payment.authorization
        call = Call(
            str(payment.key),
            payment.key.token,
            payment.call,
            # x402 buyers sign for as long as 2**256-1, which no store has a number for: the lease
            # of the nonce would fail, and a payment that was never sent be unknown for ever.
            min(signed.valid_before, FOREVER_S),
            payment.gas_max,
        )
        done = await self._submitter.submit(call, now_s)
        if done.fate is Fate.REVERTS:
            return await self._judge_revert(payment, done.detail)
        if done.receipt is None:
            return attempt_of(done)
        if done.receipt.succeeded and abi.authorization_paid(
            done.receipt.logs, payment.key.nonce, payment.transfer
        ):
            return Attempt(Settlement.SETTLED, done.tx_hash)
        attempt = await self._judge_revert(payment, f"{done.tx_hash} did not transfer")
        if attempt.state is Settlement.REFUSED:
            self._note_failure(payment.key.sender, now_s)
        return attempt

    def _note_failure(self, payer: bytes, now_s: int) -> None:
        """Remember a payer whose payment has cost gas and moved nothing.

        What makes it fail is in its hands: the money, or a contract that answers otherwise in a
        block than when it is asked. It loses nothing by that, and could do it all day long.
        """
        self._failed.pop(payer, None)
        self._failed[payer] = now_s
        if len(self._failed) > FAILED_MAX:
            del self._failed[next(iter(self._failed))]

    async def sent_for(self, proof_id: str) -> tuple[str, ...]:
        """See `Settler.sent_for`."""
        return await self._submitter.sent_for(proof_id)

    async def refund(self, proof_id: str, payer: bytes, amount_minor: int, now_s: int) -> Attempt:
        """Send `amount_minor` back to `payer`, once for each `proof_id`; see `Settler.refund`."""
        token = self._settings.token
        call = Call(ONCE + proof_id, token, abi.transfer(payer, amount_minor), FOREVER_S)
        done = await self._submitter.submit(call, now_s)
        if done.receipt is None:
            return attempt_of(done)
        paid = abi.Transfer(token, self.address, payer, amount_minor)
        if done.receipt.succeeded and any(paid.is_shown_by(log) for log in done.receipt.logs):
            return Attempt(Settlement.SETTLED, done.tx_hash)
        return Attempt(Settlement.REFUSED, done.tx_hash, "the transaction did not transfer")

    async def maintain(self, now_s: int) -> int:
        """Push what is stuck; see `Submitter.maintain`."""
        return await self._submitter.maintain(now_s)

    async def close(self) -> None:
        """See `Settler.close`."""
        await self._submitter.close()

    async def _judge_revert(self, payment: Payment, why: str) -> Attempt:
        """Return what a refused transfer means: somebody may have submitted it before us."""
        seen = await self._inspector.trace(
            payment.key, payment.transfer, payment.authorization.valid_before
        )
        if seen.is_unused:
            return Attempt(Settlement.REFUSED, detail=why)
        return seen


def attempt_of(done: Submitted) -> Attempt:
    """Return what a call without a receipt means for the money that it was to move."""
    untried = done.fate is Fate.NOT_SENT
    return Attempt(STATES[done.fate], done.tx_hash, done.detail, is_untried=untried)
