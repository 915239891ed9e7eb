"""The seller's side of the `stripe` rail: offers, tokens, charges, refunds, receipts."""

import logging
from collections.abc import Mapping
from typing import Any

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import VerificationFailed
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.base import (
    Binding,
    Capabilities,
    Offer,
    Outcome,
    Presented,
    RailMisconfigured,
    Settlement,
    Verified,
)
from mpp_gateway.rails.payment_scheme import PaymentScheme, echoed_request
from mpp_gateway.rails.stripe.client import StripeClient, StripeFailed, StripeRefused
from mpp_gateway.rails.stripe.outcomes import (
    Finding,
    action_required,
    read_intent,
    read_refunds,
    refusal_of,
)
from mpp_gateway.rails.stripe.request import (
    INTENT,
    METHOD,
    PROOF_PREFIX,
    Charge,
    Grant,
    StripeSettings,
    build_offer,
    proof_id_of,
    read_payload,
)

log = logging.getLogger(__name__)

LATE_S = 3_600
"""A request reaches Stripe within `settle_s`, and the search index has it after an hour at most.
Only this long after the end of a challenge is "there is no PaymentIntent" a last word."""
EARLY_S = 3_660
"""How long before its end a challenge may have been issued, beside the scheme's own time."""
GRACE_S = 60
SWEEP_S = 60
"""How often holds are looked for that nobody will capture."""


class StripeRail:
    """One Stripe account in one currency, paid by shared payment tokens; see `rails.base.Rail`.

    With automatic capture nothing can be checked without moving money, so it settles before the
    upstream is asked, and what fails is refunded. With manual capture `verify` authorizes and
    `settle` captures; what is released stays held until its challenge ends, so that the same
    credential is as good as before, and is then let go of (`maintain`).
    """

    kind = METHOD

    def __init__(
        self, name: str, settings: StripeSettings, scheme: PaymentScheme, client: StripeClient
    ) -> None:
        self.name = name
        self._settings = settings
        self._scheme = scheme
        self._client = client
        self._swept_s = 0
        manual = settings.captures_manually
        self.capabilities = Capabilities(
            settles_at="headers" if manual else "before",
            can_verify_without_moving_money=manual,
            can_refund=True,
            on_failure="refund",
            is_moved_by_us_alone=True,
        )

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        """Return the offer of a call at `price`; see `request.build_offer`."""
        if recipient is not None:
            raise ValueError("Stripe pays the account of its key, no other recipient")
        return build_offer(self.name, self._settings, price, description)

    def challenge(self, offer: Offer, binding: Binding, now_s: int, entropy: bytes) -> Headers:
        """Return the `WWW-Authenticate` field that carries `offer`."""
        return self._scheme.challenge(offer, binding, now_s, entropy)

    def read(
        self, head: RequestHead, offers: tuple[Offer, ...], binding: Binding, now_s: int
    ) -> Presented | None:
        """Return the token of a credential for this account, or None.

        Id, expiry and terms of the challenge are checked before the token is looked at. Errors:
        `InvalidChallenge`, `PaymentExpired`, `InvalidPayload`, `MalformedCredential`.
        """
        credential = self._scheme.credential(head, METHOD, INTENT)
        if credential is None:
            return None
        own = tuple(offer for offer in offers if offer.rail == self.name)
        known = any(offer.request_encoded == credential.challenge.request for offer in own)
        if not known and self._is_foreign(echoed_request(credential)):
            return None
        offer = self._scheme.check(credential, own, binding, now_s)
        spt = read_payload(credential.payload, offer.request)
        proof_id, expires = proof_id_of(spt), credential.challenge.expires
        return Presented(
            rail=self.name,
            offer=offer,
            proof_id=proof_id,
            account=proof_id,  # who is behind a token only Stripe knows: each is a purse of its own
            payee=self._settings.payee,
            amount_minor=offer.amount.minor,
            valid_until_s=parse_rfc3339(expires) if expires is not None else now_s,
            challenge_id=credential.challenge.id,
            evidence=Grant(spt),
        )

    async def ready(self, now_s: int) -> None:  # noqa: ARG002
        """Return if new payments can be taken now; raise `RailUnavailable`."""
        if self._client.key_refused:
            raise self._unavailable(self._client.key_refused)

    async def verify(self, presented: Presented, now_s: int) -> Verified:  # noqa: ARG002
        """With manual capture, authorize the payment; else there is nothing to ask.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `PaymentActionRequired`,
        `RailUnavailable`: in that case a hold may have been made, which moves no money and ends.
        """
        if not self._settings.captures_manually:
            return Verified(None)
        grant, charge = _grant(presented), self._charge(presented)
        try:
            answered = await self._client.create(charge.parameters(self._settings), charge.key)
            intent = answered.data
            if answered.is_replayed:
                # What is replayed is the answer of that time: it may be captured by now.
                intent = await self._client.retrieve(str(intent["id"]))
        except StripeRefused as refused:
            if refused.is_untried or refused.is_key_mismatch:
                raise self._unavailable(str(refused)) from refused
            raise refusal_of(refused.code) from refused
        except StripeFailed as failed:
            raise self._unavailable(str(failed)) from failed
        found = self._found(intent, presented.record)
        if found.is_held:
            grant.intent_id = found.intent_id
            return Verified(None)
        raise await self._why_not_held(found)

    async def settle(self, presented: Presented, amount_minor: int, now_s: int) -> Outcome:
        """Charge the token, or capture what it holds; see `rails.base.Rail.settle`."""
        if amount_minor != presented.amount_minor:
            raise ValueError("a token is charged the price, no other amount")
        if self._settings.captures_manually:
            return await self._capture(presented, now_s)
        charge = self._charge(presented)
        try:
            answered = await self._client.create(charge.parameters(self._settings), charge.key)
        except StripeRefused as refused:
            if refused.is_key_mismatch:
                return Outcome(Settlement.UNKNOWN, detail=str(refused), may_be_paid=True)
            return _refused(refused)
        except StripeFailed as failed:
            return _unclear(failed)
        found = self._found(answered.data, presented.record)
        if answered.is_replayed and found.state is Settlement.SETTLED:
            # Our store has no settlement of it: it was put back from a backup. Served now, one
            # charge would buy two calls.
            return Outcome(
                Settlement.REFUSED,
                detail="Stripe says that this charge was made before",
                refusal=VerificationFailed("This payment has been processed already."),
            )
        if found.needs_action:
            await self._let_go(found.intent_id)
        return self._outcome(found, presented.challenge_id, now_s)

    async def look_up(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Find the PaymentIntent of a payment by its metadata; the token is not known any more.

        That there is none is certain only `LATE_S` after the challenge has ended.
        """
        if record.payee != self._settings.payee:
            return Outcome(Settlement.UNKNOWN, detail="it was paid to another account of Stripe")
        try:
            found = await self._find(record)
        except (StripeFailed, StripeRefused) as error:
            return Outcome(Settlement.UNKNOWN, detail=str(error), may_be_paid=True)
        if found is not None:
            return self._outcome(found, record.challenge_id, now_s)
        is_over = now_s > record.valid_until_s + LATE_S
        return Outcome(
            Settlement.REFUSED if is_over else Settlement.UNKNOWN,
            detail="there is no PaymentIntent",
        )

    async def refund(self, record: PaymentRecord, now_s: int) -> Outcome:  # noqa: ARG002
        """Give a charge back, fees of ours and onward transfers included.

        What Stripe has given back already is counted first, for a key is remembered for a day only:
        without that a refund that is tried on the next day would be a second one.
        """
        if record.payee != self._settings.payee:
            return Outcome(Settlement.REFUSED, detail="it was paid to another account of Stripe")
        try:
            intent_id = record.reference or await self._paid_by(record)
            given = read_refunds(await self._client.refunds(intent_id))
            if given.back_minor + given.waiting_minor < record.amount_minor:
                key = f"mpp_refund_{intent_id}_{given.back_minor}_{given.tries}"
                await self._client.refund(self._refunding(intent_id), key)
                given = read_refunds(await self._client.refunds(intent_id))
        except StripeRefused as refused:
            return Outcome(Settlement.REFUSED, detail=str(refused))
        except StripeFailed as failed:
            state = Settlement.UNKNOWN if failed.sent else Settlement.REFUSED
            return Outcome(state, detail=str(failed))
        if given.back_minor >= record.amount_minor:
            return Outcome(Settlement.SETTLED, given.reference)
        return Outcome(Settlement.UNKNOWN, given.reference, detail="the refund is under way")

    async def self_check(self) -> None:
        """Ask Stripe whose key this is, at start.

        Errors: `RailMisconfigured` names the setting to mend; `RailUnavailable` if Stripe does not
        answer. A restricted key that may not read its account is taken as it is.
        """
        try:
            account = await self._client.account()
        except StripeRefused as refused:
            if refused.status == 401:
                raise RailMisconfigured(
                    f"{self.name}: Stripe does not accept secret_key"
                ) from refused
            if self._settings.connect.stripe_account and refused.code == "account_invalid":
                raise RailMisconfigured(
                    f"{self.name}: secret_key has no access to connect.stripe_account"
                ) from refused
            if refused.status == 403:
                return
            raise self._unavailable(str(refused)) from refused
        except StripeFailed as failed:
            raise self._unavailable(str(failed)) from failed
        if account.get("charges_enabled") is False:
            raise RailMisconfigured(
                f"{self.name}: the Stripe account cannot take charges yet; finish its set-up in the"
                " dashboard"
            )

    async def maintain(self, now_s: int) -> int:
        """Let go of holds that nobody can capture any more; return how many there still are.

        Errors: `RailUnavailable`.
        """
        if self._client.key_refused:
            await self.self_check()
        if not self._settings.captures_manually or now_s < self._swept_s + SWEEP_S:
            return 0
        self._swept_s = now_s
        try:
            held = await self._client.held()
        except (StripeFailed, StripeRefused) as error:
            raise self._unavailable(str(error)) from error
        ended = [intent for intent in held if _ends_s(intent) + GRACE_S < now_s]
        for intent in ended:
            await self._let_go(str(intent.get("id", "")))
        return len(held) - len(ended)

    @property
    def withheld_for(self) -> str:
        """Why no offers should be made now; empty while they may be."""
        return self._client.key_refused

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    # Inside

    def _is_foreign(self, request: Mapping[str, Any]) -> bool:
        """Tell whether a challenge is plainly for another account or currency."""
        details = request.get("methodDetails")
        network = details.get("networkId") if isinstance(details, Mapping) else None
        ours = (self._settings.network_id, self._settings.currency)
        return (network, request.get("currency")) != ours

    def _charge(self, presented: Presented) -> Charge:
        assert presented.challenge_id is not None
        return Charge(
            presented.amount_minor,
            _grant(presented).spt,
            presented.proof_id,
            presented.challenge_id,
            presented.valid_until_s,
        )

    def _found(self, intent: Mapping[str, Any], record: PaymentRecord) -> Finding:
        return read_intent(intent, record.amount_minor, self._settings.currency)

    async def _find(self, record: PaymentRecord) -> Finding | None:
        """Return the PaymentIntent that tells most of a payment, None if there is none.

        By its token, not by its challenge: a buyer may show the token with another one later.
        """
        if record.reference:
            return self._found(await self._client.retrieve(record.reference), record)
        proof = record.proof_id.removeprefix(PROOF_PREFIX)
        found = self._best(await self._client.search(proof), record)
        if found is not None and found.state is not Settlement.REFUSED:
            return found
        first_s = record.valid_until_s - max(self._scheme.ttl_s, EARLY_S) - GRACE_S
        last_s = record.valid_until_s + LATE_S
        return self._best(await self._client.created(proof, first_s, last_s), record) or found

    def _best(self, intents: list[Mapping[str, Any]], record: PaymentRecord) -> Finding | None:
        order = (Settlement.SETTLED, Settlement.UNKNOWN, Settlement.REFUSED)
        found = [self._found(intent, record) for intent in intents]
        return min(found, key=lambda finding: order.index(finding.state), default=None)

    async def _paid_by(self, record: PaymentRecord) -> str:
        found = await self._find(record)
        if found is None:
            raise StripeFailed("there is no PaymentIntent", sent=False)
        return found.intent_id

    def _refunding(self, intent_id: str) -> dict[str, Any]:
        connect = self._settings.connect
        asked: dict[str, Any] = {"payment_intent": intent_id, "metadata": {"mpp_refund": "true"}}
        if connect.application_fee_minor is not None:
            asked["refund_application_fee"] = True
        if connect.transfer_destination is not None:
            asked["reverse_transfer"] = True
        return asked

    async def _capture(self, presented: Presented, now_s: int) -> Outcome:
        record, intent_id = presented.record, _grant(presented).intent_id
        try:
            answered = await self._client.capture(intent_id)
        except StripeRefused as refused:
            if refused.is_untried:
                return _refused(refused)
            try:
                intent = await self._client.retrieve(intent_id)
            except (StripeFailed, StripeRefused) as error:
                return Outcome(Settlement.UNKNOWN, detail=str(error), may_be_paid=True)
            found = self._found(intent, record)
            if found.is_held:
                return _refused(refused)  # asked for certain, and not done
            return self._outcome(found, record.challenge_id, now_s)
        except StripeFailed as failed:
            return _unclear(failed)
        return self._outcome(self._found(answered.data, record), record.challenge_id, now_s)

    async def _why_not_held(self, found: Finding) -> Exception:
        if found.needs_action:
            await self._let_go(found.intent_id)
            return action_required()
        if found.state is Settlement.REFUSED:
            return VerificationFailed("The payment was not authorized; nothing was charged.")
        if found.state is Settlement.SETTLED:
            return VerificationFailed("This payment has been processed already.")
        return self._unavailable(found.detail)

    async def _let_go(self, intent_id: str) -> None:
        try:
            await self._client.cancel(intent_id)
        except (StripeFailed, StripeRefused) as error:
            # Captured meanwhile, or asked again later: no money moves either way.
            log.warning("%s: %s could not be let go of: %s", self.name, intent_id, error)

    def _outcome(self, found: Finding, challenge_id: str | None, now_s: int) -> Outcome:
        if found.state is not Settlement.SETTLED:
            refusal = action_required() if found.needs_action else None
            return Outcome(
                found.state,
                found.intent_id,
                detail=found.detail,
                may_be_paid=found.may_be_paid,
                refusal=refusal,
            )
        extra: dict[str, object] = {}
        if challenge_id is not None:
            extra["challengeId"] = challenge_id
        if self._settings.external_id is not None:
            extra["externalId"] = self._settings.external_id
        receipt = self._scheme.receipt(METHOD, found.intent_id, now_s, extra)
        return Outcome(Settlement.SETTLED, found.intent_id, receipt)

    def _unavailable(self, why: str) -> RailUnavailable:
        return RailUnavailable(
            "The payment could not be made now; nothing was charged.",
            private=f"{self.name}: {why}",
            retry_after_s=self._settings.retry_after_s,
        )


def _grant(presented: Presented) -> Grant:
    if not isinstance(presented.evidence, Grant):
        raise TypeError("not a payment that this rail has read")
    return presented.evidence


def _refused(refused: StripeRefused) -> Outcome:
    if refused.is_untried:
        return Outcome(Settlement.REFUSED, detail=str(refused), is_untried=True)
    return Outcome(Settlement.REFUSED, detail=str(refused), refusal=refusal_of(refused.code))


def _unclear(failed: StripeFailed) -> Outcome:
    if not failed.sent:
        return Outcome(Settlement.REFUSED, detail=str(failed), is_untried=True)
    return Outcome(Settlement.UNKNOWN, detail=str(failed), may_be_paid=True)


def _ends_s(intent: Mapping[str, Any]) -> int:
    metadata = intent.get("metadata")
    text = metadata.get("mpp_valid_until") if isinstance(metadata, Mapping) else None
    # Without a time it is not ours to judge.
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 16 else 2**62
