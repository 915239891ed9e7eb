"""From a credential to a payment, with every check that needs no node."""

import re

from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address
from mpp_gateway.protocol import eip3009, payload
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.evm_transaction import SignedTransaction, TransactionError
from mpp_gateway.protocol.permit2 import Permit, Witness
from mpp_gateway.protocol.problems import InvalidPayload, PaymentInsufficient, VerificationFailed
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.base import Offer, Presented
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.relaying import TX_LIFE_S
from mpp_gateway.rails.evm.request import (
    AUTHORIZATION,
    PERMIT2,
    TRANSACTION,
    EvmSettings,
    Payment,
    PaymentKey,
    PermitKey,
    Permitted,
    Pulled,
    Pushed,
    Terms,
    TxKey,
    parse_source,
    purse,
    split,
)

GAS_MAX = 10_000_000
"""No transfer of a token needs as much, and every block has room for it."""
LIFETIME_MAX_S = 3600
"""An authorization may outlive its challenge, but not for longer than this from now."""
UNDEPLOYED = bytes.fromhex("6492" * 16)
"""The end of a signature of a wallet that is yet to be deployed (ERC-6492)."""
NOT_SIGNED = "The signature is not the payer's, or for another token."
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_TRANSACTION = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,4096}")


def read_payment(
    rail: str,
    settings: EvmSettings,
    credential: Credential,
    offer: Offer,
    now_s: int,
    ttl_s: int,
) -> Presented:
    """Return what a credential pays with, its signature checked, under its proof's canonical id.

    `ttl_s` is how long challenges are good for. Errors: `InvalidPayload`, `VerificationFailed`,
    `PaymentInsufficient`.
    """
    kind = credential.payload.get("type")
    if kind not in settings.types:
        raise InvalidPayload(
            f"The payload is not of a type that is taken here: {', '.join(settings.types)}."
        )
    if kind == AUTHORIZATION:
        return _authorization(rail, settings, credential, offer, now_s)
    if kind == PERMIT2:
        return _permit(rail, settings, credential, offer, now_s)
    expires_s = _challenge_ends(credential, now_s)
    read = _pulled if kind == TRANSACTION else _pushed
    evidence, tx_hash = read(settings, credential, offer, expires_s - ttl_s)
    return Presented(
        rail=rail,
        offer=offer,
        proof_id=str(TxKey(settings.chain_id, tx_hash)),
        account=purse(settings.chain_id, settings.token, evidence.transfer.sender),
        payee=purse(settings.chain_id, settings.token, evidence.transfer.recipient),
        amount_minor=offer.amount.minor,
        valid_until_s=expires_s + TX_LIFE_S,
        challenge_id=credential.challenge.id,
        evidence=evidence,
        is_moved=isinstance(evidence, Pushed),
        is_tied=True,
    )


def _authorization(
    rail: str, settings: EvmSettings, credential: Credential, offer: Offer, now_s: int
) -> Presented:
    signed = Authorization.from_payload(credential.payload)
    _check_terms(settings, credential, signed, offer)
    _check_times(credential, signed, now_s)
    by_contract = is_of_contract(settings, signed)
    key = PaymentKey(settings.chain_id, settings.token, signed.sender, signed.nonce)
    return Presented(
        rail=rail,
        offer=offer,
        proof_id=str(key),
        account=key.account,
        payee=purse(key.chain_id, key.token, signed.recipient),
        amount_minor=offer.amount.minor,
        valid_until_s=signed.valid_before,
        challenge_id=credential.challenge.id,
        evidence=Payment(key, signed, by_contract),
    )


def _permit(
    rail: str, settings: EvmSettings, credential: Credential, offer: Offer, now_s: int
) -> Presented:
    permitted = _read_permit(settings, credential, offer)
    if permitted.deadline > max(_challenge_ends(credential, now_s), now_s + LIFETIME_MAX_S):
        raise VerificationFailed("The permit is valid for too long.")
    recipient = permitted.transfers[0].recipient
    return Presented(
        rail=rail,
        offer=offer,
        proof_id=str(permitted.key),
        account=purse(settings.chain_id, settings.token, permitted.key.owner),
        payee=purse(settings.chain_id, settings.token, recipient),
        amount_minor=offer.amount.minor,
        valid_until_s=permitted.deadline,
        challenge_id=credential.challenge.id,
        evidence=permitted,
    )


def _challenge_ends(credential: Credential, now_s: int) -> int:
    expires = credential.challenge.expires
    return parse_rfc3339(expires) if expires is not None else now_s


def _pulled(
    settings: EvmSettings, credential: Credential, offer: Offer, issued_s: int
) -> tuple[Pulled | Pushed, str]:
    raw = payload.octets(credential.payload, "signature", _TRANSACTION)
    try:
        transaction = SignedTransaction.decode(raw)
    except TransactionError as error:
        raise VerificationFailed(f"The transaction cannot be taken: {error}.") from error
    unsigned, transfer = transaction.unsigned, _transfer(settings, offer, transaction.sender)
    if unsigned.chain_id != settings.chain_id:
        raise VerificationFailed("The transaction is for another chain.")
    if unsigned.to != settings.token or unsigned.value:
        raise VerificationFailed("The transaction does not move the token that is asked for.")
    if unsigned.gas_limit > GAS_MAX or unsigned.max_priority_fee > unsigned.max_fee:
        # No block takes such a transaction, and a node that tries its call does not say so: the
        # upstream would work for it, and its signer pay nothing, ever.
        raise VerificationFailed("The network takes no transaction with such gas, or such fees.")
    source = parse_source(credential.source)
    if credential.source is not None and source != (settings.chain_id, transaction.sender):
        raise VerificationFailed("The source is not the account that signed.")
    paid = abi.read_transfer(unsigned.data)
    if paid is None or paid[0] != transfer.recipient:
        raise VerificationFailed("The transaction is no plain transfer to the recipient.")
    if paid[1] < transfer.value:
        raise PaymentInsufficient("The transaction pays less than the price.")
    if paid[1] > transfer.value:
        raise VerificationFailed("The transaction pays more than the price.")
    return Pulled(transaction, transfer, issued_s), transaction.tx_hash


def _pushed(
    settings: EvmSettings, credential: Credential, offer: Offer, issued_s: int
) -> tuple[Pulled | Pushed, str]:
    tx_hash = payload.text(credential.payload, "hash", _HASH).lower()
    source = parse_source(credential.source)
    if source is None or source[0] != settings.chain_id:
        # Whose transfer it must be. The draft has nothing that proves it; see docs/how-to/evm.md.
        raise VerificationFailed(
            "A hash needs the payer as `source`: did:pkh:eip155:chain:address."
        )
    return Pushed(tx_hash, _transfer(settings, offer, source[1]), issued_s), tx_hash


def _transfer(settings: EvmSettings, offer: Offer, payer: bytes) -> Transfer:
    recipient = Terms.read(offer.request).recipient
    return Transfer(settings.token, payer, recipient, offer.amount.minor)


def _check_terms(
    settings: EvmSettings, credential: Credential, signed: Authorization, offer: Offer
) -> None:
    challenge = credential.challenge
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


def _check_times(credential: Credential, signed: Authorization, now_s: int) -> None:
    # Whether it lives long enough is asked once it is claimed: an earlier attempt with it may
    # have an outcome that is not known yet, and its buyer must not be told to pay again.
    if signed.valid_after > now_s:
        raise VerificationFailed("The authorization is not valid yet.")
    # An outcome that cannot be known stays open until the authorization dies.
    if signed.valid_before > max(_challenge_ends(credential, now_s), now_s + LIFETIME_MAX_S):
        raise VerificationFailed("The authorization is valid for too long.")


def is_of_contract(settings: EvmSettings, signed: Authorization) -> bool:
    """Return whether only a contract wallet can have signed; raise if nobody can.

    A signature of the payer's own key is checked here, before anything is stored: garbage costs no
    disk. What a contract says of any other is asked once it is claimed.
    """
    if signed.signature.endswith(UNDEPLOYED):
        raise VerificationFailed(
            "The signature is of a wallet that is not deployed (ERC-6492).",
            hint="Deploy the wallet first; nothing was charged.",
        )
    try:
        signer = recover_address(eip3009.digest(signed, settings.domain), signed.signature)
    except SignatureError as error:
        if settings.takes_contracts:
            return True
        raise VerificationFailed(
            "The signature is not one that the token accepts.", private=str(error)
        ) from error
    if signer == signed.sender:
        return False
    if not settings.takes_contracts:
        raise VerificationFailed(NOT_SIGNED)
    return True


def _read_permit(settings: EvmSettings, credential: Credential, offer: Offer) -> Permitted:
    """Return what a credential permits, its signature checked.

    Errors: `InvalidPayload`, `VerificationFailed`, `PaymentInsufficient`.
    """
    permit = Permit.from_payload(credential.payload)
    challenge = credential.challenge
    if permit.challenge_hash not in eip3009.challenge_hashes(challenge.id, challenge.realm):
        # Without this line one signature pays for whichever challenge it is shown with.
        raise VerificationFailed("The permit was signed for another challenge.")
    source = parse_source(credential.source)
    if source is None or source[0] != settings.chain_id:
        raise VerificationFailed(
            "A permit needs its signer as `source`: did:pkh:eip155:chain:address."
        )
    transfers = _transfers(settings, permit, source[1], offer)
    witness = _signed_witness(settings, permit, source[1])
    key = PermitKey(settings.chain_id, source[1], permit.nonce)
    call = abi.permit_transfer(permit, source[1], witness)
    return Permitted(key, call, permit.deadline, transfers)


def _transfers(
    settings: EvmSettings, permit: Permit, owner: bytes, offer: Offer
) -> tuple[Transfer, ...]:
    terms = Terms.read(offer.request)
    main_minor, shares = split(settings, terms.amount_minor)
    asked = ((terms.recipient, main_minor), *shares)
    if len(permit.moves) != len(asked):
        raise VerificationFailed("The permit makes another number of transfers.")
    for move, (recipient, minor) in zip(permit.moves, asked, strict=True):
        if move.token != settings.token:
            raise VerificationFailed("The permit is for another token.")
        if move.to != recipient:
            raise VerificationFailed("The permit pays somebody else.")
        if move.requested < minor:
            raise PaymentInsufficient("The permit asks for less than the price.")
        if move.requested > minor or move.permitted < move.requested:
            raise VerificationFailed("The permit does not allow for exactly the price.")
    return tuple(Transfer(settings.token, owner, move.to, move.requested) for move in permit.moves)


def _signed_witness(settings: EvmSettings, permit: Permit, owner: bytes) -> Witness:
    assert settings.submitter is not None
    for witness in permit.witnesses():
        digest = permit.digest(witness, settings.chain_id, settings.submitter)
        try:
            if recover_address(digest, permit.signature) == owner:
                return witness
        except SignatureError as error:
            raise VerificationFailed(
                "The signature is not one that Permit2 accepts.", private=str(error)
            ) from error
    raise VerificationFailed("The signature is not the payer's, or for another spender or token.")
