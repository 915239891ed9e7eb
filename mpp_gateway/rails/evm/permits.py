"""Payments by permits of Permit2: checked here, used by our own gas key alone."""

from mpp_gateway.errors import RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol import permit2
from mpp_gateway.protocol.problems import PaymentInsufficient, VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.own_key import OwnKeySettler, attempt_of
from mpp_gateway.rails.evm.permit_trace import PermitTrace, pays
from mpp_gateway.rails.evm.request import (
    Attempt,
    EvmSettings,
    PermitKey,
    Permitted,
)
from mpp_gateway.rails.evm.submitter import Call, Fate
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused


class Permits:
    """Uses permits with our own key; see `rails.base.Rail` for what each step promises."""

    def __init__(
        self,
        settings: EvmSettings,
        chain: ChainClient,
        settler: OwnKeySettler,
        trace: PermitTrace,
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._settler = settler
        self._trace = trace

    async def check(self, permitted: Permitted, record: PaymentRecord, now_s: int) -> int | Attempt:
        """Return what the payer can spend through Permit2; SETTLED if the permit has paid.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`, `SettlementUnknown`.
        """
        key = permitted.key
        try:
            used = await self._chain.permit_used(key.owner, key.nonce)
            minor = await self._chain.balance_of(key.owner)
            allowed = await self._chain.allowance(key.owner, permit2.ADDRESS)
        except (RpcFailed, RpcRefused) as error:
            raise self._unavailable(error) from error
        if used:
            return await self._found(record)
        if minor < permitted.total:
            raise PaymentInsufficient("The payer's balance does not cover the price.")
        if allowed < permitted.total:
            raise PaymentInsufficient(
                "The payer lets Permit2 move less than the price.",
                hint="Approve the token for Permit2 first; nothing was charged.",
            )
        await self._settler.check_call(permitted.call, permit2.ADDRESS, now_s)
        return min(minor, allowed)

    async def settle(self, permitted: Permitted, now_s: int) -> Attempt:
        """Use the permit, wait for a block, return what it says."""
        call = Call(str(permitted.key), permit2.ADDRESS, permitted.call, permitted.deadline)
        done = await self._settler.submit(call, now_s)
        if done.receipt is None and done.fate is not Fate.REVERTS:
            return attempt_of(done)
        if done.receipt is not None and pays(done.receipt, permitted.transfers):
            return Attempt(Settlement.SETTLED, done.tx_hash)
        # An earlier attempt may have used it: then the payee is paid.
        seen = await self._trace.find(permitted.key, permitted.transfers, permitted.deadline)
        if seen.is_unused:
            return Attempt(Settlement.REFUSED, detail=done.detail or f"{done.tx_hash} failed")
        return seen

    async def look_up(self, key: PermitKey, record: PaymentRecord) -> Attempt:
        """Return what became of a permit, as far as the chain tells."""
        return await self._trace.look_up(key, record)

    async def _found(self, record: PaymentRecord) -> Attempt:
        key = PermitKey.parse(record.proof_id)
        assert key is not None
        seen = await self.look_up(key, record)
        if seen.state is Settlement.UNKNOWN:
            raise SettlementUnknown(
                "The payment may have been made; do not pay again.",
                private=f"chain {self._settings.chain_id}: {seen.detail}",
                retry_after_s=self._settings.retry_after_s,
            )
        if seen.state is Settlement.REFUSED:
            raise VerificationFailed("This permit was used already.")
        return seen

    def _unavailable(self, error: Exception) -> RailUnavailable:
        return RailUnavailable(
            "The payment could not be checked; nothing was charged.",
            private=f"chain {self._settings.chain_id}: {error}",
            retry_after_s=self._settings.retry_after_s,
        )
