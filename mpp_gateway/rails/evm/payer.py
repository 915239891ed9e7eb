"""The buyer's side: sign an authorization that answers a challenge."""

from dataclasses import dataclass, replace

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.rails.evm.request import AUTHORIZATION, INTENT, METHOD, NonceForm, Terms
from mpp_gateway.rails.wallet import PaymentDeclined, check_open

LIFETIME_S = 600
"""How long an authorization lives at least: longer than the seller's upstream may take."""
LIFETIME_MAX_S = 3600
"""And at most: the end of a challenge is the seller's choice, and may be in the year 9999."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What may be paid with: one token of one chain, at most `amount_max` minor units a call."""

    domain: Eip712Domain
    amount_max: int
    nonce_form: NonceForm = "packed"
    """`packed` is the draft's form; newer SDKs take `json` only."""


def pay(challenge: Challenge, purse: Purse, private_key: bytes, now_s: int) -> Credential:
    """Return the credential that pays `challenge`; signs nothing the purse does not allow.

    Errors: `PaymentDeclined`. The price, the token and the chain come from a stranger: every one
    is compared with the purse before the key is touched.
    """
    terms = _read_terms(challenge)
    if (terms.chain_id, terms.token) != (purse.domain.chain_id, purse.domain.verifying_contract):
        raise PaymentDeclined("the challenge asks for another token, or on another chain")
    if terms.amount_minor > purse.amount_max:
        raise PaymentDeclined(f"the price is above the limit of {purse.amount_max}")
    expires_s = check_open(challenge, now_s) or 0
    packed, json_array = eip3009.challenge_hashes(challenge.id, challenge.realm)
    unsigned = Authorization(
        sender=address_of(private_key),
        recipient=terms.recipient,
        value=terms.amount_minor,
        valid_after=0,
        valid_before=min(max(expires_s, now_s + LIFETIME_S), now_s + LIFETIME_MAX_S),
        nonce=packed if purse.nonce_form == "packed" else json_array,
        signature=b"",
    )
    signed = replace(unsigned, signature=sign(eip3009.digest(unsigned, purse.domain), private_key))
    sender = checksum(signed.sender)
    payload = signed.to_payload() | {"from": sender, "to": checksum(signed.recipient)}
    source = f"did:pkh:eip155:{terms.chain_id}:{sender}"
    return Credential(challenge=challenge, payload=payload, source=source)


def _read_terms(challenge: Challenge) -> Terms:
    if (challenge.method, challenge.intent) != (METHOD, INTENT):
        raise PaymentDeclined("not an evm charge")
    try:
        request = challenge.request_object
        terms = Terms.read(request)
    except ValueError as error:
        raise PaymentDeclined("the challenge's request cannot be read") from error
    types = request["methodDetails"].get("credentialTypes", [AUTHORIZATION])
    if not isinstance(types, list) or AUTHORIZATION not in types:
        raise PaymentDeclined("the seller does not take signed authorizations")
    return terms
