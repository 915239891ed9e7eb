"""The seller's side of the `evm` rail: offers, challenges, credentials, settlement, receipts."""

from dataclasses import replace

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address
from mpp_gateway.errors import RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import (
    InvalidPayload,
    ParseError,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.protocol.x402 import response
from mpp_gateway.protocol.x402_extensions import is_unchallenged
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
from mpp_gateway.rails.evm.request import (
    CREDENTIAL_TYPE,
    INTENT,
    METHOD,
    Attempt,
    EvmSettings,
    Payment,
    PaymentKey,
    Settler,
    Terms,
    build_offer,
    holder,
    purse,
)
from mpp_gateway.rails.evm.signing_name import check_signing_name
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.payment_scheme import PaymentScheme

LIFETIME_MAX_S = 3600
"""An authorization may outlive its challenge, but not for longer than this from now."""


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
    ) -> None:
        self.name = name
        self._settings = settings
        self._scheme = scheme
        self._settler = settler
        self._chain = chain
        self._inspector = None if chain is None else Inspector(chain)
        self.capabilities = Capabilities(
            settles_at="headers",
            can_verify_without_moving_money=True,
            can_refund=settler.refunds_from is not None,
        )

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        """Return the offer of a call at `price`; see `request.build_offer`."""
        offer = build_offer(self.name, self._settings, price, recipient, description)
        if not self._settings.x402:
            return offer
        payee = Terms.read(offer.request).recipient
        return replace(offer, x402=x402.terms(self._settings, price, payee))

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
        if credential.payload.get("type") != CREDENTIAL_TYPE:
            raise InvalidPayload("The payload is not of the type `authorization`.")
        signed = Authorization.from_payload(credential.payload)
        self._check_terms(credential, signed, offer)
        self._check_times(credential, signed, now_s)
        self._check_signature(signed)
        key = PaymentKey(self._settings.chain_id, self._settings.token, signed.sender, signed.nonce)
        return Presented(
            rail=self.name,
            offer=offer,
            proof_id=str(key),
            account=key.account,
            payee=purse(key.chain_id, key.token, signed.recipient),
            amount_minor=offer.amount.minor,
            valid_until_s=signed.valid_before,
            challenge_id=credential.challenge.id,
            evidence=Payment(key, signed),
        )

    async def ready(self, now_s: int) -> None:
        """Return if new payments can be taken now; raise `RailUnavailable`."""
        await self._settler.ready(now_s)

    async def verify(self, presented: Presented, now_s: int) -> Verified:
        """Ask the chain and the settler whether the payment would go through now.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`; `SettlementUnknown`
        when the proof was used and the chain does not show yet for what.
        """
        payment = self._payment(presented)
        if self._chain is None:
            await self._settler.check(payment, now_s)
            return Verified(None)
        try:
            used, balance, _ = await gathered(
                self._chain.authorization_used(payment.key.sender, payment.key.nonce),
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
                return Verified(None, paid)
            raise
        if used:
            if paid := await self._found_paid(presented, now_s):
                return Verified(None, paid)
            raise VerificationFailed("This authorization was used already.")
        return Verified(balance)

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
        if amount_minor != presented.amount_minor:
            raise ValueError("an authorization moves the amount that was signed, no other")
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
        key = PaymentKey.parse(record.proof_id)
        if not self._is_own(key):
            return Outcome(State.UNKNOWN, detail="it was paid with another token or chain")
        transfer = Transfer(key.token, key.sender, holder(record.payee), record.amount_minor)
        sent = await self._settler.sent_for(record.proof_id)
        attempt = await self._inspector.trace(key, transfer, record.valid_until_s, sent)
        return self._outcome(attempt, record, now_s)

    async def refund(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Send the money back from the account that got it; see `rails.base.Rail.refund`."""
        if not self._is_own(PaymentKey.parse(record.proof_id)):
            # Paid in play money and configured for real by now: it would be paid back in real.
            return Outcome(State.REFUSED, detail="it was paid with another token or chain")
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
        return self._settler.withheld_for

    async def close(self) -> None:
        """Release connections."""
        await self._settler.close()
        if self._chain is not None:
            await self._chain.close()

    # Inside

    def _is_own(self, key: PaymentKey) -> bool:
        return (key.chain_id, key.token) == (self._settings.chain_id, self._settings.token)

    def _is_foreign(self, credential: Credential) -> bool:
        """Tell whether the credential is plainly for another evm rail: other chain or token."""
        try:
            terms = Terms.read(credential.challenge.request_object)
        except (ParseError, ValueError):
            return False  # `PaymentScheme.check` refuses it, with the right reason
        return (terms.chain_id, terms.token) != (self._settings.chain_id, self._settings.token)

    def _check_terms(self, credential: Credential, signed: Authorization, offer: Offer) -> None:
        settings, challenge = self._settings, credential.challenge
        if signed.nonce not in eip3009.challenge_hashes(challenge.id, challenge.realm):
            # Without this line one signature pays for whichever challenge it is shown with.
            raise VerificationFailed("The authorization was signed for another challenge.")
        if signed.recipient != Terms.read(offer.request).recipient:
            raise VerificationFailed("The authorization pays somebody else.")
        if signed.value < offer.amount.minor:
            raise PaymentInsufficient("The authorization is for less than the price.")
        if signed.value > offer.amount.minor:
            raise VerificationFailed("The authorization is for more than the price.")
        did = f"did:pkh:eip155:{settings.chain_id}:0x{signed.sender.hex()}"
        if credential.source is not None and credential.source.lower() != did:
            raise VerificationFailed("The source is not the account that signed.")

    @staticmethod
    def _check_times(credential: Credential, signed: Authorization, now_s: int) -> None:
        # Whether it lives long enough is asked once it is claimed: an earlier attempt with it may
        # have an outcome that is not known yet, and its buyer must not be told to pay again.
        if signed.valid_after > now_s:
            raise VerificationFailed("The authorization is not valid yet.")
        expires = credential.challenge.expires
        challenge_ends = parse_rfc3339(expires) if expires is not None else now_s
        # An outcome that cannot be known stays open until the authorization dies.
        if signed.valid_before > max(challenge_ends, now_s + LIFETIME_MAX_S):
            raise VerificationFailed("The authorization is valid for too long.")

    def _check_signature(self, signed: Authorization) -> None:
        try:
            signer = recover_address(
                eip3009.digest(signed, self._settings.domain), signed.signature
            )
        except SignatureError as error:
            raise VerificationFailed(
                "The signature is not one that the token accepts.", private=str(error)
            ) from error
        if signer != signed.sender:
            raise VerificationFailed("The signature is not the payer's, or for another token.")

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
            )
        chain_id = self._settings.chain_id
        if is_unchallenged(record.challenge_id):
            payer = checksum(holder(record.account))
            receipt = response(chain_id, payer, attempt.reference)
        else:
            extra = {"chainId": chain_id, "challengeId": record.challenge_id}
            receipt = self._scheme.receipt(METHOD, attempt.reference, now_s, extra)
        return Outcome(State.SETTLED, attempt.reference, receipt, attempt.detail)

    @staticmethod
    def _payment(presented: Presented) -> Payment:
        if not isinstance(presented.evidence, Payment):
            raise TypeError("not a payment that this rail has read")
        return presented.evidence
