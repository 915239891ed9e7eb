"""From a credential to a payment, with every check that needs no node."""

import re

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.protocol import payload, tempo_proof
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import InvalidPayload, PaymentInsufficient, VerificationFailed
from mpp_gateway.protocol.tempo_transaction import (
    EXPIRING_NONCE_KEY,
    TempoTransaction,
    TransactionError,
)
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.base import Offer, Presented
from mpp_gateway.rails.tempo import sponsoring
from mpp_gateway.rails.tempo.request import (
    PULL,
    PUSH,
    ProofId,
    Pull,
    Push,
    TempoSettings,
    Terms,
    ZeroProof,
    parse_source,
    purse,
    split,
)
from mpp_gateway.rails.tempo.tip20 import Movement

LIFETIME_MAX_S = 3600
"""A transaction that is good for longer would leave open for as long whether it was made."""
GAS_MAX = 10_000_000
"""More than eleven transfers to new accounts need, and every block has room for it."""
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_TRANSACTION = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,16384}")
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}")


def read_payment(
    rail: str, settings: TempoSettings, credential: Credential, offer: Offer, now_s: int
) -> Presented:
    """Return what a credential pays with, and its proof's canonical id.

    Errors: `InvalidPayload`, `VerificationFailed`, `PaymentInsufficient`.
    """
    kind = credential.payload.get("type")
    if (kind == "proof") != (offer.amount.minor == 0):
        raise InvalidPayload("A price of zero is met by a `proof`, and no other price is.")
    read = {"transaction": _pull, "hash": _push, "proof": _zero}.get(str(kind))
    mode = {"transaction": PULL, "hash": PUSH}.get(str(kind))
    if read is None or (mode is not None and mode not in settings.modes):
        raise InvalidPayload("The payload is not of a type that this route takes.")
    payer, proof_id, valid_until_s, evidence = read(settings, credential, offer, now_s)
    # Each call of a batch can be tried, and not whether its gas is enough for all of them: one that
    # runs out of it has had the upstream's work, and has paid for nothing but the gas.
    is_batch = isinstance(evidence, Pull) and len(evidence.transaction.unsigned.calls) > 1
    return Presented(
        rail=rail,
        offer=offer,
        proof_id=str(proof_id),
        account=purse(settings.chain_id, settings.token, payer),
        payee=purse(settings.chain_id, settings.token, _recipient(offer)),
        amount_minor=offer.amount.minor,
        valid_until_s=valid_until_s,
        challenge_id=credential.challenge.id,
        settles_first=is_batch,
        evidence=evidence,
        is_moved=isinstance(evidence, Push),
    )


type _Read = tuple[bytes, ProofId, int, Pull | Push | ZeroProof]


def _pull(settings: TempoSettings, credential: Credential, offer: Offer, now_s: int) -> _Read:
    raw = payload.octets(credential.payload, "signature", _TRANSACTION)
    try:
        transaction = TempoTransaction.decode(raw)
    except TransactionError as error:
        raise VerificationFailed(f"The transaction cannot be taken: {error}.") from error
    unsigned = transaction.unsigned
    if unsigned.chain_id != settings.chain_id:
        raise VerificationFailed("The transaction is for another chain.")
    if unsigned.nonce_key != EXPIRING_NONCE_KEY:
        # Of two transactions with one nonce only one is ever mined: ten of them would buy ten
        # calls, each of them good until the first is paid.
        raise VerificationFailed("The transaction must have an expiring nonce (key 2^256-1).")
    if unsigned.gas_limit > GAS_MAX or unsigned.max_priority_fee > unsigned.max_fee:
        # No block takes such a transaction, and a node that tries its calls does not say so: the
        # upstream would work for it, and its signer pay nothing, ever.
        raise VerificationFailed("The network takes no transaction with such gas, or such fees.")
    source = parse_source(credential.source)
    if credential.source is not None and source != (settings.chain_id, transaction.sender):
        raise VerificationFailed("The source is not the account that signed.")
    terms = _terms(settings, credential, offer)
    if unsigned.is_sponsored:
        sponsoring.check(unsigned, settings.sponsor, now_s)
    _check_calls(transaction, terms, settings.token)
    valid_until_s = _check_times(credential, transaction, now_s)
    if unsigned.is_sponsored and (sponsor := settings.sponsor) is not None:
        # Last: what is signed here costs us its fee, whoever comes by it.
        transaction = transaction.cosigned(sponsor.fee_token, sponsor.private_key)
    proof_id = ProofId(settings.chain_id, transaction.tx_hash, credential.challenge.id)
    return transaction.sender, proof_id, valid_until_s, Pull(transaction, terms)


def _check_calls(transaction: TempoTransaction, terms: Terms, token: bytes) -> None:
    moved: list[Movement] = []
    for call in transaction.unsigned.calls:
        movement = Movement.of_call(call, token, transaction.sender)
        if movement is None:
            raise VerificationFailed(
                "The transaction makes other calls than transfers of the token."
            )
        moved.append(movement)
    if terms.is_exactly(tuple(moved)):
        return
    paid_minor = sum(m.amount_minor for m in moved if m.recipient == terms.main[0])
    if any(m.recipient == terms.main[0] for m in moved) and paid_minor < terms.main[1]:
        raise PaymentInsufficient("The transaction pays less than the price.")
    raise VerificationFailed(
        "The transaction does not make exactly this payment: amount, recipients and the memo of"
        " this challenge."
    )


def _check_times(credential: Credential, transaction: TempoTransaction, now_s: int) -> int:
    unsigned = transaction.unsigned
    if unsigned.valid_before is None:
        # It could be mined years after we said that nothing was charged.
        raise VerificationFailed("The transaction must have an end (validBefore).")
    if (unsigned.valid_after or 0) > now_s:
        raise VerificationFailed("The transaction is not valid yet.")
    if unsigned.valid_before > max(_challenge_ends(credential, now_s), now_s + LIFETIME_MAX_S):
        raise VerificationFailed("The transaction is valid for too long.")
    return unsigned.valid_before


def _push(settings: TempoSettings, credential: Credential, offer: Offer, now_s: int) -> _Read:
    tx_hash = payload.text(credential.payload, "hash", _HASH).lower()
    source = parse_source(credential.source)
    if source is None or source[0] != settings.chain_id:
        # Whose transfer it must be: without it anybody could claim what he has seen on the chain.
        raise VerificationFailed(
            "A hash needs the payer as `source`: did:pkh:eip155:chain:address."
        )
    proof_id = ProofId(settings.chain_id, tx_hash, credential.challenge.id)
    terms = _terms(settings, credential, offer)
    return source[1], proof_id, _challenge_ends(credential, now_s), Push(tx_hash, source[1], terms)


def _zero(settings: TempoSettings, credential: Credential, _: Offer, now_s: int) -> _Read:
    signature = payload.octets(credential.payload, "signature", _SIGNATURE)
    source = parse_source(credential.source)
    if source is None or source[0] != settings.chain_id:
        raise VerificationFailed(
            "A proof needs its signer as `source`: did:pkh:eip155:chain:address."
        )
    challenge = credential.challenge
    if not tempo_proof.is_signed_by(
        source[1],
        signature,
        chain_id=settings.chain_id,
        challenge_id=challenge.id,
        realm=challenge.realm,
    ):
        raise VerificationFailed(
            "The proof was not signed by its source, or for another challenge."
        )
    proof_id = ProofId(settings.chain_id, None, challenge.id)
    # Nothing has to be settled in time, so it is as good at the end of a slow call.
    ends_s = _challenge_ends(credential, now_s) + LIFETIME_MAX_S
    return source[1], proof_id, ends_s, ZeroProof()


def _terms(settings: TempoSettings, credential: Credential, offer: Offer) -> Terms:
    main_minor, shares = split(settings, offer.amount.minor)
    challenge = credential.challenge
    return Terms(challenge.id, challenge.realm, (_recipient(offer), main_minor), shares)


def _recipient(offer: Offer) -> bytes:
    return parse_address(offer.request["recipient"])


def _challenge_ends(credential: Credential, now_s: int) -> int:
    expires = credential.challenge.expires
    return parse_rfc3339(expires) if expires is not None else now_s
