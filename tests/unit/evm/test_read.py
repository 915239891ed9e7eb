"""Reading a credential: what a buyer, or somebody who saw a buyer's credential, may try."""

from dataclasses import replace

import pytest

from mpp_gateway.crypto.secp256k1 import ORDER, sign
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.protocol.problems import (
    InvalidChallenge,
    InvalidPayload,
    PaymentExpired,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.rails.base import Binding, Presented
from mpp_gateway.rails.evm.facilitator import FacilitatorSettler
from mpp_gateway.rails.evm.payer import Purse, pay
from mpp_gateway.rails.evm.request import EvmSettings, PaymentKey, Terms
from mpp_gateway.rails.evm.seller import EvmRail
from mpp_gateway.rails.wallet import PaymentDeclined
from tests.support.evm import BINDING, PAYEE, PAYER, PRICE, SCHEME, STRANGER, address, head

NOW = 1_900_000_000
SETTINGS = EvmSettings(
    chain_id=8453,
    token=bytes.fromhex("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
    name="USD Coin",
    version="2",
    decimals=6,
    recipient=bytes.fromhex(PAYEE[2:]),
)
RAIL = EvmRail("base", SETTINGS, SCHEME, FacilitatorSettler("http://127.0.0.1:1", SETTINGS))
OFFER = RAIL.offer(Amount(PRICE, Asset("usd", 6)), None, None)
PURSE = Purse(SETTINGS.domain, 1_000_000)


def issue(entropy: bytes = b"\0" * 16, offer=OFFER, rail=RAIL) -> Challenge:
    ((_, text),) = rail.challenge(offer, BINDING, NOW, entropy)
    return Challenge.parse(text)


def read(credential: Credential, now_s: int = NOW, offers=(OFFER,)) -> Presented | None:
    return RAIL.read(head(credential), offers, BINDING, now_s)


def signed(challenge: Challenge, *, key: bytes = PAYER, domain=SETTINGS.domain, **changes):
    """A credential whose authorization differs from the honest one and is signed as it stands."""
    honest = pay(challenge, PURSE, PAYER, NOW)
    unsigned = replace(Authorization.from_payload(honest.payload), **changes)
    proof = replace(unsigned, signature=sign(eip3009.digest(unsigned, domain), key))
    return Credential(challenge, proof.to_payload(), None)


def tampered(**members) -> Credential:
    """An honest credential with members of the payload replaced; None removes one."""
    honest = pay(issue(), PURSE, PAYER, NOW)
    payload = {k: v for k, v in {**honest.payload, **members}.items() if v is not None}
    return Credential(honest.challenge, payload, honest.source)


@pytest.mark.parametrize("form", ["packed", "json"])
def test_an_honest_credential_is_read_with_either_nonce_form(form):
    presented = read(pay(issue(), replace(PURSE, nonce_form=form), PAYER, NOW))

    assert presented is not None
    payer = address(PAYER).lower()
    token = "0x" + SETTINGS.token.hex()
    assert presented.account == f"eip155:8453/erc20:{token}/{payer}"
    assert presented.proof_id.startswith(f"eip3009:8453:{token}:{payer}:0x")
    assert presented.proof_id == presented.proof_id.lower()
    assert str(PaymentKey.parse(presented.proof_id)) == presented.proof_id
    assert (presented.amount_minor, presented.valid_until_s) == (PRICE, NOW + 600)


def test_the_proof_id_is_the_same_however_the_payload_is_spelt():
    honest = pay(issue(), PURSE, PAYER, NOW)
    shouted = {
        name: "0x" + value[2:].upper() if value.startswith("0x") else value
        for name, value in honest.payload.items()
    }
    padded = shouted | {"value": "000" + shouted["value"]}
    low_v = shouted | {"signature": shouted["signature"][:-2] + f"{_v(honest) - 27:02x}"}

    ids = {
        presented.proof_id
        for payload in (honest.payload, shouted, padded, low_v)
        if (presented := read(Credential(honest.challenge, payload, honest.source)))
    }

    assert len(ids) == 1


def test_the_request_says_what_the_draft_says():
    assert OFFER.request == {
        "amount": "10000",
        "currency": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "recipient": PAYEE,
        "methodDetails": {"chainId": 8453, "credentialTypes": ["authorization"], "decimals": 6},
    }


def test_an_offer_in_another_precision_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match="decimals"):
        RAIL.offer(Amount(1, Asset("usd", 2)), None, None)


def test_a_signature_of_somebody_else_is_refused():
    with pytest.raises(VerificationFailed, match="not the payer's"):
        read(signed(issue(), key=STRANGER))


def test_a_lower_amount_is_insufficient():
    with pytest.raises(PaymentInsufficient):
        read(signed(issue(), value=PRICE - 1))


def test_a_higher_amount_is_not_taken_silently():
    with pytest.raises(VerificationFailed, match="more than the price"):
        read(signed(issue(), value=PRICE + 1))


def test_a_payment_to_the_payer_himself_is_refused():
    with pytest.raises(VerificationFailed, match="somebody else"):
        read(signed(issue(), recipient=bytes.fromhex(address(PAYER)[2:])))


def test_a_signature_of_one_challenge_does_not_pay_for_another():
    first, second = issue(b"\1" * 16), issue(b"\2" * 16)
    stolen = pay(first, PURSE, PAYER, NOW)
    with pytest.raises(VerificationFailed, match="another challenge"):
        read(Credential(second, stolen.payload, stolen.source))


@pytest.mark.parametrize(
    "domain",
    [
        replace(SETTINGS, chain_id=1).domain,
        replace(SETTINGS, name="USDC").domain,
        replace(SETTINGS, version="1").domain,
        replace(SETTINGS, token=b"\x11" * 20).domain,
    ],
    ids=["chain", "name", "version", "token"],
)
def test_a_signature_for_another_token_or_chain_is_refused(domain):
    with pytest.raises(VerificationFailed, match="another token"):
        read(signed(issue(), domain=domain))


def test_an_authorization_that_has_ended_is_read_for_what_became_of_it():
    """An earlier attempt with it may be unresolved; admission refuses to settle it anew."""
    presented = read(signed(issue(), valid_before=NOW))
    assert presented is not None
    assert presented.valid_until_s == NOW


def test_an_authorization_that_has_not_begun_is_refused():
    with pytest.raises(VerificationFailed, match="not valid yet"):
        read(signed(issue(), valid_after=NOW + 1))


@pytest.mark.parametrize("valid_before", [NOW + 3601, 2**63, 2**256 - 1])
def test_an_authorization_that_never_ends_is_refused(valid_before):
    with pytest.raises(VerificationFailed, match="too long"):
        read(signed(issue(), valid_before=valid_before))


def test_the_other_half_of_a_signature_is_refused():
    """Both s sign the digest; the token takes the lower only, so the higher would never settle."""
    raw = bytes.fromhex(tampered().payload["signature"][2:])
    high = ORDER - int.from_bytes(raw[32:64])
    flipped = raw[:32] + high.to_bytes(32) + bytes((27 + 28 - raw[64],))
    with pytest.raises(VerificationFailed):
        read(tampered(signature="0x" + flipped.hex()))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("type", None),
        ("type", "permit2"),
        ("type", ["authorization"]),
        ("from", None),
        ("from", "0x00"),
        ("from", 1),
        ("from", "f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
        ("to", {}),
        ("value", 10000),
        ("value", "1e4"),
        ("value", "-10000"),
        ("value", "0x2710"),
        ("value", " 10000"),
        ("value", "10000.0"),
        ("value", "10_000"),
        ("value", "１００００"),
        ("value", "9" * 78),
        ("value", "9" * 5000),
        ("value", True),
        ("validAfter", None),
        ("validAfter", -1),
        ("validBefore", []),
        ("nonce", "0x" + "0" * 63),
        ("nonce", "0x" + "g" * 64),
        ("signature", None),
        ("signature", "0x"),
        ("signature", "0x" + "0" * 128),
        ("signature", "0x" + "0" * 133),
        ("signature", "0x" + "0" * 4_098),
        ("signature", 7),
    ],
)
def test_a_payload_that_is_not_exactly_typed_is_refused(member, value):
    with pytest.raises(InvalidPayload) as refusal:
        read(tampered(**{member: value}))
    assert str(value) not in refusal.value.detail or value in (None, True, [], {}, 1, 7, "0x")


@pytest.mark.parametrize("v", [0, 1, 2, 26, 29, 255])
def test_a_recovery_id_that_is_wrong_is_refused(v):
    raw = bytes.fromhex(tampered().payload["signature"][2:])
    if v in (raw[64], raw[64] - 27):
        v = 1 - v
    with pytest.raises(VerificationFailed):
        read(tampered(signature="0x" + (raw[:64] + bytes((v,))).hex()))


@pytest.mark.parametrize("rs", [b"\0" * 64, b"\xff" * 64, ORDER.to_bytes(32) * 2])
def test_a_signature_that_is_no_curve_point_is_refused(rs):
    with pytest.raises(VerificationFailed):
        read(tampered(signature="0x" + (rs + b"\x1b").hex()))


@pytest.mark.parametrize(
    "source",
    [
        f"did:pkh:eip155:1:{address(PAYER)}",
        f"did:pkh:eip155:8453:{address(STRANGER)}",
        address(PAYER),
        "did:key:z6Mk",
    ],
)
def test_a_source_that_is_not_the_signer_is_refused(source):
    honest = pay(issue(), PURSE, PAYER, NOW)
    with pytest.raises(VerificationFailed, match="source"):
        read(Credential(honest.challenge, honest.payload, source))


def test_a_source_may_be_left_out():
    honest = pay(issue(), PURSE, PAYER, NOW)
    assert read(Credential(honest.challenge, honest.payload, None)) is not None


def test_a_challenge_for_another_price_is_refused_even_when_it_is_ours():
    cheap = RAIL.offer(Amount(1, Asset("usd", 6)), None, None)
    credential = pay(issue(offer=cheap), PURSE, PAYER, NOW)
    with pytest.raises(InvalidChallenge):
        read(credential)


def test_a_challenge_for_another_route_is_refused():
    credential = pay(issue(), PURSE, PAYER, NOW)
    elsewhere = Binding(BINDING.realm, "another-scope")
    with pytest.raises(InvalidChallenge):
        RAIL.read(head(credential), (OFFER,), elsewhere, NOW)


def test_an_expired_challenge_is_refused_though_the_authorization_lives_on():
    credential = pay(issue(), PURSE, PAYER, NOW)
    with pytest.raises(PaymentExpired):
        read(credential, NOW + 301)


def test_a_credential_for_another_evm_rail_is_left_to_that_rail():
    other_settings = replace(SETTINGS, chain_id=84532)
    other = EvmRail("sepolia", other_settings, SCHEME, RAIL._settler)
    offer = other.offer(OFFER.amount, None, None)
    challenge = issue(offer=offer, rail=other)
    credential = pay(challenge, Purse(other_settings.domain, 10**6), PAYER, NOW)

    assert read(credential, offers=(OFFER, offer)) is None
    assert other.read(head(credential), (OFFER, offer), BINDING, NOW) is not None


def test_a_request_without_a_credential_is_not_this_rails():
    assert RAIL.read(RequestHead("GET", "/", ()), (OFFER,), BINDING, NOW) is None


def test_an_offer_of_another_rail_is_not_taken_up_here():
    foreign = replace(OFFER, rail="other")
    with pytest.raises(InvalidChallenge):
        read(pay(issue(), PURSE, PAYER, NOW), offers=(foreign,))


def test_a_route_may_pay_somebody_else_and_only_them():
    offer = RAIL.offer(OFFER.amount, address(STRANGER), None)
    credential = pay(issue(offer=offer), PURSE, PAYER, NOW)

    presented = read(credential, offers=(offer,))

    assert presented is not None
    assert presented.evidence.authorization.recipient.hex() == address(STRANGER)[2:].lower()
    with pytest.raises(VerificationFailed, match="somebody else"):
        read(
            signed(issue(offer=offer), recipient=SETTINGS.recipient),
            offers=(offer,),
        )


def test_the_evidence_never_shows_the_signature():
    presented = read(tampered())
    assert tampered().payload["signature"][2:] not in repr(presented) + repr(presented.evidence)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"amount_max": PRICE - 1}, "above the limit"),
        ({"domain": replace(SETTINGS, chain_id=1).domain}, "another token"),
        ({"domain": replace(SETTINGS, token=b"\x22" * 20).domain}, "another token"),
    ],
)
def test_a_payer_signs_nothing_its_purse_does_not_allow(change, why):
    with pytest.raises(PaymentDeclined, match=why):
        pay(issue(), replace(PURSE, **change), PAYER, NOW)


def test_a_payer_does_not_pay_an_expired_challenge():
    with pytest.raises(PaymentDeclined, match="expired"):
        pay(issue(), PURSE, PAYER, NOW + 300)


def test_a_payer_does_not_pay_a_seller_who_takes_no_authorizations():
    request = {**OFFER.request, "methodDetails": {"chainId": 8453, "credentialTypes": ["hash"]}}
    offer = replace(OFFER, request=request, request_encoded=_encoded(request))
    with pytest.raises(PaymentDeclined, match="authorizations"):
        pay(issue(offer=offer), PURSE, PAYER, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 5},
        {"amount": "1.5"},
        {"currency": "usd"},
        {"recipient": None},
        {"methodDetails": {"chainId": "8453"}},
        {"methodDetails": {"chainId": True}},
        {"methodDetails": []},
    ],
)
def test_terms_that_are_not_exactly_typed_are_refused(change):
    with pytest.raises(ValueError, match=r".+"):
        Terms.read({**OFFER.request, **change})


def _v(credential: Credential) -> int:
    return int(credential.payload["signature"][-2:], 16)


def _encoded(request) -> str:
    from mpp_gateway.protocol import jcs

    return jcs.encode_object(request)
