"""Worked examples that the SDKs agreed with: bytes on the wire, hashes and signatures."""

from mpp_gateway.crypto import eip712, keccak256, recover_address, sign
from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.protocol import digest, eip3009, jcs
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.receipt import Receipt

USD_COIN = {"name": "USD Coin", "version": "2"}


def keys_of(examples):
    return ChallengeKeys.from_secrets([examples["secretKey"]])


def signed_authorizations(examples):
    """Every case whose payload is an EIP-3009 authorization: (case, authorization, domain)."""
    found = []
    for case in examples["cases"].values():
        payload = case.get("credentialPayload") or {}
        if payload.get("type") == "authorization":
            request = case["request"]
            domain = eip712.Eip712Domain(
                **USD_COIN,
                chain_id=request["methodDetails"]["chainId"],
                verifying_contract=parse_address(request["currency"]),
            )
            found.append((case, eip3009.Authorization.from_payload(payload), domain))
    return found


def test_every_challenge_is_reproduced_byte_for_byte(worked_examples):
    keys = keys_of(worked_examples)
    run = 0

    for name, case in worked_examples["cases"].items():
        challenge = Challenge.parse(case["wwwAuthenticate"])
        issued = keys.issue(
            realm=challenge.realm,
            method=challenge.method,
            intent=challenge.intent,
            request=jcs.encode_object(case["request"]),
            expires=challenge.expires,
            digest=challenge.digest,
            opaque=challenge.opaque,
            description=challenge.description,
            header=challenge.header,
        )
        assert case["id"] == issued.id, name
        assert case["requestB64"] == issued.request, name
        assert case["wwwAuthenticate"] == issued.format(), name
        assert case["request"] == challenge.request_object, name
        assert keys.verify(challenge), name
        run += 1

    assert run == 10


def test_every_credential_is_reproduced_byte_for_byte(worked_examples):
    keys = keys_of(worked_examples)
    run = 0

    for name, case in worked_examples["cases"].items():
        if not case.get("authorization"):
            continue
        (token,) = payment_tokens([case["authorization"]])
        credential = Credential.parse(token)
        assert case["credentialPayload"] == credential.payload, name
        assert case["source"] == credential.source, name
        assert case["authorization"] == credential.format(), name
        assert keys.verify(credential.challenge), name
        run += 1

    assert run == 9


def test_every_receipt_is_reproduced_byte_for_byte(worked_examples):
    run = 0

    for name, case in worked_examples["cases"].items():
        if not case.get("paymentReceipt"):
            continue
        receipt = Receipt.parse(case["paymentReceipt"])
        assert case["receipt"]["reference"] == receipt.reference, name
        assert case["paymentReceipt"] == receipt.format(), name
        run += 1

    assert run == 7


def test_the_body_digest_matches_in_both_forms(worked_examples):
    case = worked_examples["cases"]["stripe_charge_full"]
    body = case["body"].encode()

    assert case["digestRfc9530Form"] == digest.content_digest(body)
    assert digest.matches(case["digestRfc9530Form"], body)
    assert digest.matches(case["digestSdkForm"], body)
    assert not digest.matches(case["digestSdkForm"], body + b" ")


def test_authorizations_sign_the_published_digest_and_recover_to_the_payer(worked_examples):
    payer = worked_examples["payer"]
    private_key = bytes.fromhex(worked_examples["payerPrivateKey_publicTestKey"][2:])
    nonces = set()

    for case, authorization, domain in signed_authorizations(worked_examples):
        signed = eip3009.digest(authorization, domain)
        assert case["eip712Digest"] == f"0x{signed.hex()}"
        assert payer == checksum(recover_address(signed, authorization.signature))
        assert authorization.signature == sign(signed, private_key)
        hashes = eip3009.challenge_hashes(case["id"], worked_examples["realm"])
        assert authorization.nonce in hashes
        nonces.add(hashes.index(authorization.nonce))

    assert {0, 1} == nonces  # one example for each form of the nonce


def test_the_challenge_hash_has_both_published_forms(worked_examples):
    run = 0

    for case in worked_examples["cases"].values():
        if "challengeHashSpecEncodePacked" in case:
            packed, array = eip3009.challenge_hashes(case["id"], worked_examples["realm"])
            assert case["challengeHashSpecEncodePacked"] == f"0x{packed.hex()}"
            assert case["challengeHashJsonArray"] == f"0x{array.hex()}"
            run += 1

    assert run == 1


def test_domain_separators_are_the_published_ones(worked_examples):
    cases = worked_examples["cases"]
    published = [
        (case["domainSeparator"], domain)
        for case, _, domain in signed_authorizations(worked_examples)
        if "domainSeparator" in case
    ]
    permit2 = next(case for case in cases.values() if "permit2DomainSeparator" in case)
    details = permit2["request"]["methodDetails"]
    contract = parse_address(details["permit2Address"])
    published.append(
        (
            permit2["permit2DomainSeparator"],
            eip712.Eip712Domain("Permit2", None, details["chainId"], contract),
        )
    )

    for separator, domain in published:
        assert separator == f"0x{domain.separator.hex()}"

    assert len(published) == 2


def test_the_transfer_topic_is_the_published_one(worked_examples):
    topic = keccak256(b"Transfer(address,address,uint256)")

    assert worked_examples["cases"]["tempo_charge_hash"]["transferTopic"] == f"0x{topic.hex()}"
