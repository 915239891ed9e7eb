"""Settling EIP-3009 authorizations through x402 facilitators: somebody else's node and gas.

Wire form: x402 version 2, scheme `exact`, transfer method `eip3009`.
"""

from dataclasses import replace

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.base import RailMisconfigured, Settlement
from mpp_gateway.rails.evm.facilitator_client import X402_VERSION, Question
from mpp_gateway.rails.evm.facilitators import Facilitators, Look
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.request import Attempt, EvmSettings, Payment
from mpp_gateway.rails.evm.supported import EIP3009

SCHEME = "exact"


class FacilitatorSettler:
    """Asks facilitators. With an inspector, what they say about money is checked on the chain.

    `setting` names what a person has to mend when they do not settle such payments.
    """

    def __init__(
        self,
        facilitators: Facilitators,
        settings: EvmSettings,
        inspector: Inspector | None = None,
        setting: str = "submit.facilitator",
    ) -> None:
        self.facilitators = facilitators
        self._settings = settings
        self._inspector = inspector
        self._setting = setting
        self._has_served = False

    async def check(self, payment: Payment, now_s: int) -> None:
        """Ask `/verify`; raises a Problem when the payment does not hold."""
        question = self.question(payment)
        within_s = self._settings.facilitator_s
        await self.facilitators.verify(str(payment.key), question, within_s, now_s)

    async def settle(self, payment: Payment, now_s: int) -> Attempt:
        """Ask `/settle`; see `Settler.settle`."""
        inspector, settings = self._inspector, self._settings
        attempt = await self.facilitators.settle(
            str(payment.key),
            self.question(payment),
            settings.facilitator_s,
            now_s,
            self._look(payment),
        )
        if inspector is None:
            return attempt
        if attempt.state is Settlement.SETTLED:
            return await inspector.confirm(
                attempt.reference, payment.key, payment.transfer, settings.settle_s
            )
        # A refusal may only mean that somebody else submitted the authorization first; then the
        # payee is paid, and refusing would make the buyer pay twice.
        seen = await self._trace(inspector, payment, attempt.reference)
        if seen.is_unused or (attempt.is_untried and seen.state is Settlement.UNKNOWN):
            return attempt
        if seen.state is Settlement.UNKNOWN and attempt.reference:
            # What was named may be all that a person has to look for later.
            return replace(
                seen, reference=attempt.reference, detail=f"{attempt.detail}; {seen.detail}"
            )
        return seen

    async def ready(self, now_s: int) -> None:
        """Return: whether it can, the facilitator says when it is asked to verify."""

    async def maintain(self, now_s: int) -> int:  # noqa: ARG002
        """Return 0: facilitators look after their own transactions; see that they are there.

        Errors: `RailUnavailable` if none is; `RailMisconfigured` at the start, if all say what they
        settle, and payments like ours are not among it. Later that is theirs to mend.
        """
        await self.facilitators.poll()
        if self.facilitators.offers(X402_VERSION, SCHEME, self._network, EIP3009) is not False:
            self._has_served = True
            return 0
        payments = f"payments of the scheme `{SCHEME}` on {self._network}"
        problem = f"{payments}, by what it says at /supported"
        if self._has_served:
            raise RailUnavailable(f"The facilitator no longer settles {problem}.")
        raise RailMisconfigured(f"{self._setting}: it does not settle {problem}")

    @property
    def refunds_from(self) -> bytes | None:
        """None: what a facilitator has settled it cannot take back."""
        return None

    async def sent_for(self, *_: object) -> tuple[str, ...]:
        """None: a facilitator sends its own."""
        return ()

    async def refund(self, *_: object) -> Attempt:
        """Refuse: see `refunds_from`."""
        return Attempt(Settlement.REFUSED, detail="a facilitator makes no refunds")

    @property
    def withheld_for(self) -> str:
        """Nothing: the facilitator's gas is its own concern."""
        return ""

    async def close(self) -> None:
        """Close the connections."""
        await self.facilitators.close()

    def question(self, payment: Payment) -> Question:
        """Return what is asked; addresses in EIP-55 form, amounts as text."""
        settings, signed = self._settings, payment.authorization
        requirements = {
            "scheme": SCHEME,
            "network": self._network,
            "amount": str(signed.value),
            "asset": checksum(settings.token),
            "payTo": checksum(signed.recipient),
            "maxTimeoutSeconds": settings.settle_s,
            "extra": {
                "assetTransferMethod": EIP3009,
                "name": settings.name,
                "version": settings.version,
            },
        }
        proof = {
            "signature": "0x" + signed.settled_signature.hex(),
            "authorization": {
                "from": checksum(signed.sender),
                "to": checksum(signed.recipient),
                "value": str(signed.value),
                "validAfter": str(signed.valid_after),
                "validBefore": str(signed.valid_before),
                "nonce": "0x" + signed.nonce.hex(),
            },
        }
        payload = {"x402Version": X402_VERSION, "accepted": requirements, "payload": proof}
        return Question(payload, requirements)

    # Inside

    @property
    def _network(self) -> str:
        return f"eip155:{self._settings.chain_id}"

    def _look(self, payment: Payment) -> Look | None:
        inspector = self._inspector
        if inspector is None:
            return None

        async def look(tx_hash: str) -> Attempt | None:
            seen = await self._trace(inspector, payment, tx_hash)
            return seen if seen.state is Settlement.SETTLED else None

        return look

    async def _trace(self, inspector: Inspector, payment: Payment, tx_hash: str) -> Attempt:
        named = (tx_hash,) if tx_hash else ()
        until_s = payment.authorization.valid_before
        return await inspector.trace(payment.key, payment.transfer, until_s, named)
