"""What the rail asks for, and what it is given: offers, tokens and their names, charges."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import InvalidChallenge, InvalidPayload
from mpp_gateway.rails.base import Offer

METHOD = "stripe"
INTENT = "charge"
SDK = "mpp-gateway"
PROOF_PREFIX = "stripe:spt:"

_SPT = re.compile(r"spt_[A-Za-z0-9_-]{1,190}")
"""With the challenge's id it must fit an idempotency key of Stripe's: 255 characters."""


@dataclass(frozen=True, slots=True)
class ConnectTerms:
    """Whose money it is (Stripe Connect), from the configuration alone."""

    stripe_account: str | None = None
    on_behalf_of: str | None = None
    application_fee_minor: int | None = None
    transfer_destination: str | None = None
    transfer_amount_minor: int | None = None
    transfer_group: str | None = None


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """One Stripe account as a payee. `settle_s` bounds one attempt, in seconds."""

    network_id: str
    currency: str
    is_live: bool
    payment_method_types: tuple[str, ...] = ("card", "link")
    is_listed: bool = False
    """Whether a charge names the payment method types, or leaves them to the dashboard."""
    captures_manually: bool = False
    external_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    connect: ConnectTerms = ConnectTerms()
    settle_s: int = 30
    retry_after_s: int = 5

    @property
    def payee(self) -> str:
        """Name of the purse that is paid. Play money and real money never share one."""
        mode = "live" if self.is_live else "test"
        account = self.connect.stripe_account
        return f"stripe:{mode}:{self.network_id}" + (f"/{account}" if account else "")


@dataclass(slots=True)
class Grant:
    """A buyer's token, in memory only: whoever has it may charge the buyer."""

    spt: str = field(repr=False)
    intent_id: str = ""
    """The PaymentIntent that holds the money for it, once it is authorized."""


def is_spt(text: str) -> bool:
    """Tell whether a text has the form of a shared payment token."""
    return _SPT.fullmatch(text) is not None


def proof_id_of(spt: str) -> str:
    """Return the name of a token for the store and the log: a digest, never the token itself."""
    return PROOF_PREFIX + hashlib.sha256(b"mpp-gateway spt\0" + spt.encode("ascii")).hexdigest()


def read_payload(payload: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Return the token of a credential's payload.

    An `externalId` in the request has to come back as it is: without it a payment would be booked
    for another order, or for none. One in the payload alone says nothing and is ignored.
    Errors: `InvalidPayload`, `InvalidChallenge`.
    """
    spt = payload.get("spt")
    if not isinstance(spt, str) or not is_spt(spt):
        raise InvalidPayload("The payload has no `spt`, or one that is no shared payment token.")
    asked = request.get("externalId")
    if asked is not None and payload.get("externalId") != asked:
        raise InvalidChallenge("The credential's externalId is not that of the challenge.")
    return spt


def build_offer(
    rail: str, settings: StripeSettings, price: Amount, description: str | None
) -> Offer:
    """Return the offer of one call at `price` (stripe charge draft, section "Request Schema").

    Connect stays out of it: whose money it is, is no business of the buyer's.
    """
    if price.asset.code != settings.currency:
        raise ValueError(f"the price is in {price.asset.code}, the charges in {settings.currency}")
    details: dict[str, Any] = {
        "networkId": settings.network_id,
        "paymentMethodTypes": list(settings.payment_method_types),
    }
    if settings.metadata:
        details["metadata"] = dict(settings.metadata)
    request: dict[str, Any] = {
        "amount": str(price.minor),
        "currency": settings.currency,
        "methodDetails": details,
    }
    if settings.external_id is not None:
        request["externalId"] = settings.external_id
    return Offer(
        rail=rail,
        method=METHOD,
        intent=INTENT,
        amount=price,
        request=request,
        request_encoded=jcs.encode_object(request),
        description=description,
    )


def idempotency_key(challenge_id: str, spt: str) -> str:
    """Return the key under which one challenge is paid with one token, once."""
    return f"mpp_{challenge_id}_{spt}"


@dataclass(frozen=True, slots=True)
class Charge:
    """What is asked of Stripe for one call."""

    amount_minor: int
    spt: str = field(repr=False)
    proof_id: str
    challenge_id: str
    valid_until_s: int

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return idempotency_key(self.challenge_id, self.spt)

    def parameters(self, settings: StripeSettings) -> dict[str, Any]:
        """Return the parameters of its PaymentIntent: the same for every try, or Stripe refuses."""
        connect = settings.connect
        given: dict[str, Any] = {
            "amount": self.amount_minor,
            "currency": settings.currency,
            "confirm": True,
            "shared_payment_granted_token": self.spt,
            "metadata": self.metadata(settings),
            "capture_method": "manual" if settings.captures_manually else None,
            "application_fee_amount": connect.application_fee_minor,
            "on_behalf_of": connect.on_behalf_of,
            "transfer_group": connect.transfer_group,
        }
        if settings.is_listed:
            given["payment_method_types"] = list(settings.payment_method_types)
        else:
            given["automatic_payment_methods"] = {"enabled": True, "allow_redirects": "never"}
        if connect.transfer_destination is not None:
            given["transfer_data"] = {"destination": connect.transfer_destination}
            if connect.transfer_amount_minor is not None:
                given["transfer_data"]["amount"] = connect.transfer_amount_minor
        return {name: value for name, value in given.items() if value is not None}

    def metadata(self, settings: StripeSettings) -> dict[str, str]:
        """Return what the PaymentIntent is found by, after a crash or by the seller.

        `challenge_id` is the draft's name, `mpp_challenge_id` that of the SDKs.
        """
        return {
            **settings.metadata,
            "challenge_id": self.challenge_id,
            "machine_payment": "true",
            "mpp_challenge_id": self.challenge_id,
            "mpp_intent": INTENT,
            "mpp_proof": self.proof_id.removeprefix(PROOF_PREFIX),
            "mpp_sdk": SDK,
            "mpp_valid_until": str(self.valid_until_s),
        }
