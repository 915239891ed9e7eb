"""The `evm` rail as x402 buyers see it: the same authorization, without a challenge of ours.

Scheme `exact`, transfer method `eip3009` (x402 "schemes/exact/scheme_exact_evm"); for permits of
Permit2 see `x402_permits`. Nothing in such a
payment names the request that it is for; what keeps it from buying two is that its nonce is claimed
once, in whichever wire form it comes.
"""

from collections.abc import Mapping
from typing import Any

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.errors import MalformedPayment
from mpp_gateway.protocol import x402
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import (
    InvalidPayload,
    ParseError,
    PaymentExpired,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.protocol.x402_extensions import identifier
from mpp_gateway.protocol.x402_permits import AUTHORIZATION, UPTO
from mpp_gateway.rails.base import Offer, Presented
from mpp_gateway.rails.evm import x402_permits
from mpp_gateway.rails.evm.reading import is_of_contract
from mpp_gateway.rails.evm.request import (
    VALID_UNTIL_MAX_S,
    EvmSettings,
    Payment,
    PaymentKey,
    purse,
)


def terms(settings: EvmSettings, price: Amount, payee: bytes) -> x402.Terms:
    """Return what x402 buyers are asked for; they sign under the token's EIP-712 domain."""
    return x402.Terms(
        scheme=x402.EXACT,
        chain_id=settings.chain_id,
        asset=checksum(settings.token),
        amount_minor=price.minor,
        pay_to=checksum(payee),
        extra={"name": settings.name, "version": settings.version},
    )


def read(
    head: RequestHead, offers: tuple[Offer, ...], settings: EvmSettings, now_s: int
) -> Presented | None:
    """Return the payment of one of `offers` that the request carries, signature included.

    None where there is no payment, or one for another chain, token or payee. Errors:
    `MalformedPayment` (400), `VerificationFailed`, `PaymentInsufficient`, `PaymentExpired`.
    """
    payment = _payment(head, settings)
    if payment is None:
        return None
    if payment.scheme == UPTO or AUTHORIZATION in payment.proof:
        return x402_permits.read(payment, offers, settings, now_s)
    signed = _authorization(payment.proof)
    offer = _taken(offers, payment, signed)
    if offer is None:
        return None
    _check_amount(payment, signed, offer)
    by_contract = is_of_contract(settings, signed)
    if by_contract and payment.version == x402.V1:
        # It names no token: a wallet's signature for another one of the route would end here.
        raise VerificationFailed("A contract wallet pays by version 2, which names the token.")
    if signed.valid_after > now_s:
        raise VerificationFailed("The authorization is not valid yet.")
    if signed.valid_before <= now_s:
        raise PaymentExpired("The authorization has expired.", at_s=signed.valid_before)
    key = PaymentKey(settings.chain_id, settings.token, signed.sender, signed.nonce)
    try:
        identified = identifier(payment, key.account)
    except ParseError as error:
        raise MalformedPayment(f"{str(error).capitalize()}.") from error
    return Presented(
        rail=offer.rail,
        offer=offer,
        proof_id=str(key),
        account=key.account,
        payee=purse(key.chain_id, key.token, signed.recipient),
        amount_minor=offer.amount.minor,
        valid_until_s=min(signed.valid_before, VALID_UNTIL_MAX_S),
        # In the place of a challenge's: of two payments under one id the books take one.
        challenge_id=identified,
        evidence=Payment(key, signed, by_contract),
    )


def _payment(head: RequestHead, settings: EvmSettings) -> x402.X402Payment | None:
    """Return the payment that a request carries, if its scheme, chain and token are ours."""
    texts = x402.payments(head)
    if not texts:
        return None
    try:
        payment = x402.read(texts[0])
    except ParseError as error:
        raise MalformedPayment("The x402 payment cannot be read.", private=str(error)) from error
    if payment.chain_id != settings.chain_id or payment.scheme not in {x402.EXACT, UPTO}:
        return None
    if payment.accepted is not None and not _is_for(payment.accepted, settings.token):
        return None
    return payment


def _authorization(proof: Mapping[str, Any]) -> Authorization:
    members = proof.get("authorization")
    if not isinstance(members, Mapping):
        raise MalformedPayment("The payment's `authorization` is missing or not an object.")
    try:
        return Authorization.from_payload(
            {**members, "type": "authorization", "signature": proof.get("signature")}
        )
    except InvalidPayload as error:
        raise MalformedPayment(error.detail) from error


def _is_for(accepted: Mapping[str, Any], token: bytes) -> bool:
    return _address(accepted.get("asset"), "asset") == token


def _taken(
    offers: tuple[Offer, ...], payment: x402.X402Payment, signed: Authorization
) -> Offer | None:
    """Return the offer whose payee is paid. The buyer's copy of it is compared, never used."""
    for offer in offers:
        if offer.x402 is None or parse_address(offer.x402.pay_to) != signed.recipient:
            continue
        accepted = payment.accepted
        if accepted is None or _address(accepted.get("payTo"), "payTo") == signed.recipient:
            return offer
    return None


def _check_amount(payment: x402.X402Payment, signed: Authorization, offer: Offer) -> None:
    if signed.value < offer.amount.minor:
        raise PaymentInsufficient("The authorization is for less than the price.")
    if signed.value > offer.amount.minor:
        raise VerificationFailed("The authorization is for more than the price.")
    if payment.accepted is not None and payment.accepted.get("amount") != str(offer.amount.minor):
        raise VerificationFailed("The payment takes up an offer at another price.")


def _address(value: object, name: str) -> bytes:
    try:
        return parse_address(value if isinstance(value, str) else "")
    except ValueError as error:
        raise MalformedPayment(f"The payment's {name} is not an address.") from error
