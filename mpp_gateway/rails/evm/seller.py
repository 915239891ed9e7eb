"""The seller's side of the `evm` rail: offers, challenges, credentials, settlement, receipts."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.errors import RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import (
    ParseError,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.protocol.x402 import EXACT, response
from mpp_gateway.protocol.x402_extensions import is_unchallenged
from mpp_gateway.protocol.x402_permits import UPTO
from mpp_gateway.rails.base import (
    Binding,
    Capabilities,
    Offer,
    Outcome,
    Presented,
    RailMisconfigured,
    Verified,
)
from mpp_gateway.rails.base import Settlement as State
from mpp_gateway.rails.evm import x402
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import ChainClient, gathered
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.permit_trace import PermitTrace
from mpp_gateway.rails.evm.reading import NOT_SIGNED, read_payment
from mpp_gateway.rails.evm.relaying import Relay
from mpp_gateway.rails.evm.request import (
    CONTRACT_GAS,
    INTENT,
    METHOD,
    SENT_BY_BUYERS,
    Attempt,
    EvmSettings,
    Payment,
    PaymentKey,
    PermitKey,
    Permitted,
    Pulled,
    Pushed,
    Settler,
    Terms,
    TxKey,
    build_offer,
    holder,
    purse,
)
from mpp_gateway.rails.evm.signing_name import check_signing_name
from mpp_gateway.rails.evm.x402_permits import Found, Proxied, X402Permits
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.payment_scheme import PaymentScheme

if TYPE_CHECKING:
    from mpp_gateway.rails.evm.permits import Permits


class EvmRail:
    """One token on one chain, paid by EIP-3009 authorizations; see `rails.base.Rail`."""

    kind = METHOD

    def __init__(
        self,
        name: str,
        settings: EvmSettings,
        scheme: PaymentScheme,
        settler: Settler,
        chain: ChainClient | None = None,
        relay: Relay | None = None,
        permits: "Permits | None" = None,
        x402_permits: X402Permits | None = None,
        permit_trace: PermitTrace | None = None,
    ) -> None:
        self.name = name
        self._settings = settings
        self._scheme = scheme
        self._settler = settler
        self._chain = chain
        self._relay = relay
        self._permits = permits
        self._x402_permits = x402_permits
        self._permit_trace = permit_trace
        self._pays_gas = not SENT_BY_BUYERS.issuperset(settings.types)
        self._inspector = None if chain is None else Inspector(chain)
        self.capabilities = Capabilities(
            settles_at="headers",
            can_verify_without_moving_money=True,
            can_refund=settler.refunds_from is not None and not settings.shares,
        )

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        """Return the offer of a call at `price`; see `request.build_offer`."""
        offer = build_offer(self.name, self._settings, price, recipient, description)
        if not self._settings.x402:
            return offer
        payee = Terms.read(offer.request).recipient
        offer = replace(offer, x402=x402.terms(self._settings, price, payee))
        if self._x402_permits is None or not self._x402_permits.is_selling:
            return offer
        by_use, exact = (
            partial(self._x402_permits.terms, scheme, price, payee) for scheme in (UPTO, EXACT)
        )
        return replace(offer, upto=by_use, permit2=exact if self._settings.x402_permit2 else None)

    def challenge(self, offer: Offer, binding: Binding, now_s: int, entropy: bytes) -> Headers:
        """Return the `WWW-Authenticate` field that carries `offer`."""
        return self._scheme.challenge(offer, binding, now_s, entropy)

    def read(
        self, head: RequestHead, offers: tuple[Offer, ...], binding: Binding, now_s: int
    ) -> Presented | None:
        """Return the credential for this chain and token, signature included, or None.

        The signature is recovered here, before anything is stored: garbage costs no disk. Errors:
        `InvalidChallenge`, `PaymentExpired`, `InvalidPayload`, `VerificationFailed`,
        `PaymentInsufficient`, `MalformedCredential`.
        """
        own = tuple(offer for offer in offers if offer.rail == self.name)
        credential = self._scheme.credential(head, METHOD, INTENT)
        if credential is None:
            return x402.read(head, own, self._settings, now_s) if self._settings.x402 else None
        known = any(offer.request_encoded == credential.challenge.request for offer in own)
        if not known and self._is_foreign(credential):
            return None
        offer = self._scheme.check(credential, own, binding, now_s)
        return read_payment(self.name, self._settings, credential, offer, now_s, self._scheme.ttl_s)

    async def ready(self, now_s: int) -> None:
        """Return if new payments can be taken now; raise `RailUnavailable`."""
        if self._pays_gas:
            await self._settler.ready(now_s)

    async def verify(self, presented: Presented, now_s: int) -> Verified:
        """Ask the chain and the settler whether the payment would go through now.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`; `SettlementUnknown`
        when the proof was used and the chain does not show yet for what.
        """
        if not isinstance(presented.evidence, Payment):
            return await self._verify_other(presented, now_s)
        payment = self._payment(presented)
        if self._chain is None:
            await self._settler.check(payment, now_s)
            return Verified(None)
        key, was_unused = payment.key, False
        try:
            await self._check_contract(payment)
            if is_unchallenged(presented.challenge_id):
                # Before anybody is shown it: who asks later cannot tell a facilitator that takes
                # the money at once from a stranger who copies an old payment from the chain.
                was_unused = not await self._chain.authorization_used(key.sender, key.nonce)
            used, balance, _ = await gathered(
                self._chain.authorization_used(key.sender, key.nonce),
                self._balance(payment),
                self._settler.check(payment, now_s),
            )
        except (RpcFailed, RpcRefused) as error:
            raise RailUnavailable(
                "The payment could not be checked; nothing was charged.",
                private=f"chain {self._settings.chain_id}: {error}",
                retry_after_s=self._settings.retry_after_s,
            ) from error
        except (VerificationFailed, PaymentInsufficient):
            # Somebody may have submitted the signature before it was shown to us. Then the payee
            # has the money, and refusing would make an honest buyer pay a second time.
            if paid := await self._found_paid(presented, now_s):
                return Verified(None, paid, was_unused)
            raise
        if used:
            if paid := await self._found_paid(presented, now_s):
                return Verified(None, paid, was_unused)
            raise VerificationFailed("This authorization was used already.")
        return Verified(balance)

    async def _verify_other(self, presented: Presented, now_s: int) -> Verified:
        """Check a payment that is no authorization."""
        match presented.evidence:
            case Pushed() as pushed:
                found: int | Attempt | None = await self._relaying().find(pushed)
            case Pulled() as pulled:
                # Nothing that the payer has can be counted on: of two transactions with one nonce
                # only one is ever mined, and the seller would have worked for both.
                found = await self._relaying().check(pulled)
            case Permitted() as permitted:
                found = await self._permitting().check(permitted, presented.record, now_s)
            case Proxied() as proxied if self._x402_permits is not None:
                seen = await self._x402_permits.check(proxied, presented.record, now_s)
                if not isinstance(seen, Found):
                    return Verified(seen)
                paid = self._outcome(seen.attempt, presented.record, now_s)
                return Verified(None, paid, seen.was_unused)
            case _:
                raise TypeError("not a payment that this rail has read")
        if isinstance(found, Attempt):
            return Verified(None, self._outcome(found, presented.record, now_s))
        return Verified(found)

    async def _found_paid(self, presented: Presented, now_s: int) -> Outcome | None:
        seen = await self.look_up(presented.record, now_s)
        if seen.may_be_paid:
            # Mined a moment ago, or a node that answers only half of the questions: a refusal here
            # would ask an honest buyer to pay a second time.
            raise SettlementUnknown(
                "The payment may have been made; do not pay again.",
                private=f"chain {self._settings.chain_id}: {seen.detail}",
                retry_after_s=self._settings.retry_after_s,
            )
        return seen if seen.state is State.SETTLED else None

    async def settle(self, presented: Presented, amount_minor: int, now_s: int) -> Outcome:
        """Move exactly the authorized amount; see `rails.base.Rail.settle`."""
        if isinstance(presented.evidence, Proxied) and self._x402_permits is not None:
            proxied, record = presented.evidence, presented.record
            attempt = await self._x402_permits.settle(proxied, amount_minor, record, now_s)
            return self._outcome(attempt, record, now_s)
        if amount_minor != presented.amount_minor:
            raise ValueError("an authorization moves the amount that was signed, no other")
        if isinstance(presented.evidence, Pulled):
            attempt = await self._relaying().send(presented.evidence, now_s)
        elif isinstance(presented.evidence, Permitted):
            attempt = await self._permitting().settle(presented.evidence, now_s)
        else:
            attempt = await self._settler.settle(self._payment(presented), now_s)
        return self._outcome(attempt, presented.record, now_s)

    async def look_up(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Ask the chain what became of the payment.

        Without a node of its own this rail cannot know: then it is UNKNOWN for good.
        """
        if self._inspector is None:
            return Outcome(State.UNKNOWN, detail="no rpc_url: the chain cannot be asked")
        if not record.payee:
            # Written by a version that did not say. The buyer's credential does.
            return Outcome(State.UNKNOWN, detail="the store does not say who was paid")
        if not self._is_own(record):
            return Outcome(State.UNKNOWN, detail="it was paid with another token or chain")
        if tx_key := TxKey.parse(record.proof_id):
            attempt = await self._relaying().look_up(tx_key, record)
            return self._outcome(attempt, record, now_s)
        if permit_key := PermitKey.parse(record.proof_id):
            # By what it is, and not by what is sold today: `submit` may have been another one.
            is_x402 = is_unchallenged(record.challenge_id)
            tracing = self._x402_permits if is_x402 else self._permit_trace
            assert tracing is not None  # there is a node
            attempt = await tracing.look_up(permit_key, record)
            return self._outcome(attempt, record, now_s)
        key = PaymentKey.parse(record.proof_id)
        transfer = Transfer(key.token, key.sender, holder(record.payee), record.amount_minor)
        sent = await self._settler.sent_for(record.proof_id)
        attempt = await self._inspector.trace(key, transfer, record.valid_until_s, sent)
        return self._outcome(attempt, record, now_s)

    async def refund(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Send the money back from the account that got it; see `rails.base.Rail.refund`."""
        if not self._is_own(record):
            # Paid in play money and configured for real by now: it would be paid back in real.
            return Outcome(State.REFUSED, detail="it was paid with another token or chain")
        if self._settings.shares:
            return Outcome(State.REFUSED, detail="others have got shares of it")
        if not record.payee or holder(record.payee) != self._settler.refunds_from:
            return Outcome(State.REFUSED, detail="the payee's key is not configured")
        attempt = await self._settler.refund(
            record.proof_id, holder(record.account), record.amount_minor, now_s
        )
        return Outcome(attempt.state, attempt.reference, detail=attempt.detail)

    async def self_check(self) -> None:
        """Compare the configuration with the chain, at start.

        Errors: `RailMisconfigured` names the setting to mend; `RailUnavailable` if the node does
        not answer. Without a node there is nothing to compare.
        """
        if self._chain is None:
            return
        settings = self._settings
        try:
            chain_id = await self._chain.chain_id()
            if chain_id != settings.chain_id:
                raise RailMisconfigured(
                    f"{self.name}: chain_id is {settings.chain_id}, the node at rpc_url says"
                    f" {chain_id}"
                )
            if not await self._chain.has_code():
                raise RailMisconfigured(
                    f"{self.name}: there is no contract at token.address"
                    f" {checksum(settings.token)} on chain {chain_id}"
                )
            await check_signing_name(self.name, settings, self._chain)
        except RpcFailed as error:
            raise RailUnavailable("The node does not answer.", private=str(error)) from error

    async def maintain(self, now_s: int) -> int:
        """Run at start and now and then: push what is stuck; return how much is still open.

        Errors: `RailUnavailable`.
        """
        try:
            return await self._settler.maintain(now_s)
        except (RpcFailed, RpcRefused) as error:
            raise RailUnavailable("The node does not answer.", private=str(error)) from error

    @property
    def withheld_for(self) -> str:
        """Why no offers should be made now; empty while they may be."""
        return self._settler.withheld_for if self._pays_gas else ""

    async def close(self) -> None:
        """Release connections."""
        await self._settler.close()
        if self._chain is not None:
            await self._chain.close()

    # Inside

    def _is_own(self, record: PaymentRecord) -> bool:
        own = purse(self._settings.chain_id, self._settings.token, bytes(20)).rpartition("/")[0]
        return record.account.rpartition("/")[0] == own

    def _permitting(self) -> "Permits":
        if self._permits is None:
            raise TypeError("without a gas key of our own there are no permits")
        return self._permits

    def _relaying(self) -> Relay:
        if self._relay is None:
            raise TypeError("without a node there are no transactions of buyers")
        return self._relay

    def _is_foreign(self, credential: Credential) -> bool:
        """Tell whether the credential is plainly for another evm rail: chain, token or types."""
        try:
            terms = Terms.read(credential.challenge.request_object)
        except (ParseError, ValueError):
            return False  # `PaymentScheme.check` refuses it, with the right reason
        settings = self._settings
        own = settings.chain_id, settings.token, settings.types
        return (terms.chain_id, terms.token, terms.types) != own

    async def _check_contract(self, payment: Payment) -> None:
        """Have the wallet itself say whether it has signed; asked each time, for it may change."""
        if not payment.is_of_contract:
            return
        assert self._chain is not None
        signed = payment.authorization
        digest = eip3009.digest(signed, self._settings.domain)
        if not await self._chain.is_signed_by(
            signed.sender, digest, signed.signature, CONTRACT_GAS
        ):
            raise VerificationFailed(NOT_SIGNED)

    async def _balance(self, payment: Payment) -> int:
        assert self._chain is not None
        balance = await self._chain.balance_of(payment.key.sender)
        if balance < payment.authorization.value:
            raise PaymentInsufficient("The payer's balance does not cover the price.")
        return balance

    def _outcome(self, attempt: Attempt, record: PaymentRecord, now_s: int) -> Outcome:
        if attempt.state is not State.SETTLED:
            unclear = attempt.state is State.UNKNOWN and not attempt.is_unused
            return Outcome(
                attempt.state,
                attempt.reference,
                detail=attempt.detail,
                may_be_paid=unclear,
                is_untried=attempt.is_untried,
                refusal=attempt.refusal,
            )
        chain_id, moved = self._settings.chain_id, attempt.moved_minor
        change_minor = 0 if moved is None else record.amount_minor - moved
        if is_unchallenged(record.challenge_id):
            payer = checksum(holder(record.account))
            receipt = response(chain_id, payer, attempt.reference, moved_minor=moved)
        else:
            extra = {"chainId": chain_id, "challengeId": record.challenge_id}
            receipt = self._scheme.receipt(METHOD, attempt.reference, now_s, extra)
        return Outcome(State.SETTLED, attempt.reference, receipt, attempt.detail, change_minor)

    @staticmethod
    def _payment(presented: Presented) -> Payment:
        if not isinstance(presented.evidence, Payment):
            raise TypeError("not a payment that this rail has read")
        return presented.evidence
