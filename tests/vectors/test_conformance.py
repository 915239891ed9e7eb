"""The conformance suite of the MPP authors, replayed against our own parsers."""

import time

import pytest

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import sign
from mpp_gateway.protocol import base64url, jcs, rlp, tempo_proof
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.protocol.problems import (
    InvalidChallenge,
    MalformedCredential,
    ParseError,
    PaymentExpired,
    VerificationFailed,
)
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.protocol.tempo_transaction import EXPIRING_NONCE_KEY
from mpp_gateway.protocol.timestamps import format_rfc3339, parse_rfc3339
from mpp_gateway.protocol.verification import check_echo
from mpp_gateway.rails.tempo.reading import read_payment
from mpp_gateway.rails.tempo.request import Sponsor, TempoSettings, Terms, build_offer
from mpp_gateway.rails.tempo.tip20 import Log, movements

NOW_S = parse_rfc3339("2026-01-29T12:00:00Z")
CHALLENGE_MEMBERS = (
    "id", "realm", "method", "intent", "expires", "digest", "opaque", "description", "header",
)  # fmt: skip


def wire(scenario):
    text = scenario["wire"]
    return text if isinstance(text, str) else text["prefix"] + text["repeat"] * text["count"]


def challenge_from(members):
    plain = {name: members[name] for name in CHALLENGE_MEMBERS if name in members}
    return Challenge(**plain, request=jcs.encode_object(members["request"]))


def challenge_members(challenge):
    members = {name: getattr(challenge, name) for name in CHALLENGE_MEMBERS}
    members["request"] = challenge.request_object
    return {name: value for name, value in members.items() if value is not None}


def parse_authorization(text):
    tokens = payment_tokens([text])
    if len(tokens) != 1:
        raise ParseError("no Payment credential")
    return Credential.parse(tokens[0])


def credential_from(members):
    return Credential(
        challenge_from(members["challenge"]), members["payload"], members.get("source")
    )


def credential_members(credential):
    members = {
        "challenge": challenge_members(credential.challenge),
        "payload": credential.payload,
        "source": credential.source,
    }
    return {name: value for name, value in members.items() if value is not None}


def receipt_from(members):
    core = ("method", "reference", "status", "timestamp")
    extra = {name: value for name, value in members.items() if name not in core}
    return Receipt(*(members[name] for name in core), extra)


def receipt_members(receipt):
    return {
        **receipt.extra,
        "method": receipt.method,
        "reference": receipt.reference,
        "status": receipt.status,
        "timestamp": receipt.timestamp,
    }


def check_refused(kind, scenario, parse, format_members):
    if kind == "parse":
        with pytest.raises((ParseError, MalformedCredential)):
            parse(wire(scenario))
    else:
        with pytest.raises(ValueError, match=r"ASCII|control"):
            format_members(scenario["object"])


def replay(scenarios, parse, format_members):
    """Run every test of every scenario, both ways; return (scenarios, checks) that were run."""
    checks = 0
    for scenario in scenarios:
        name, tests = scenario["name"], scenario["tests"]
        for kind, expected in tests.items():
            checks += 1
            if expected is not True:
                check_refused(kind, scenario, parse, format_members)
            elif kind == "parse":
                started_s = time.thread_time()
                assert parse(wire(scenario)) == scenario["object"], name
                limit_ms = scenario.get("maxDurationMsByAdapter", {}).get("python", 5000)
                assert (time.thread_time() - started_s) * 1000 < limit_ms, name
            elif kind == "format":
                assert parse(format_members(scenario["object"])) == scenario["object"], name
                assert parse(format_members(scenario["object"])) == parse(wire(scenario)), name
            else:
                assert kind == "roundtrip"
                assert parse(format_members(parse(wire(scenario)))) == scenario["object"], name
    return len(scenarios), checks


def test_challenges_read_and_write_as_the_suite_says(conformance):
    scenarios = conformance("www-authenticate.json")["scenarios"]

    def parse(text):
        return challenge_members(Challenge.parse(text))

    def format_members(members):
        return challenge_from(members).format()

    assert replay(scenarios, parse, format_members) == (27, 38)


@pytest.mark.parametrize(
    ("name", "run"), [("authorization.json", (8, 11)), ("authorization.latest.json", (9, 14))]
)
def test_credentials_read_and_write_as_the_suite_says(conformance, name, run):
    def parse(text):
        return credential_members(parse_authorization(text))

    def format_members(members):
        return credential_from(members).format()

    assert run == replay(conformance(name)["scenarios"], parse, format_members)


def test_receipts_read_and_write_as_the_suite_says(conformance):
    scenarios = conformance("receipt.json")["scenarios"]

    def parse(text):
        return receipt_members(Receipt.parse(text))

    def format_members(members):
        return receipt_from(members).format()

    assert replay(scenarios, parse, format_members) == (8, 10)


def test_base64url_agrees_with_the_suite_both_ways(conformance):
    scenarios = conformance("base64url.json")["scenarios"]

    for scenario in scenarios:
        data = scenario["decoded"].encode("utf-8")
        assert base64url.encode(data) == scenario["encoded"], scenario["name"]
        assert base64url.decode(scenario["encoded"]) == data, scenario["name"]

    assert len(scenarios) == 10


@pytest.mark.parametrize(
    ("name", "run"), [("challenge-id.json", 25), ("challenge-id.latest.json", 29)]
)
def test_challenge_ids_are_those_of_the_suite(conformance, name, run):
    scenarios = conformance(name)["scenarios"]

    for scenario in scenarios:
        fields = dict(scenario["input"])
        secret = fields.pop("secretKey")
        fields["request"] = jcs.encode_object(fields["request"])
        if "expected" not in scenario:
            with pytest.raises(ValueError, match="32 bytes"):
                ChallengeKeys.from_secrets([secret])
            continue
        keys = ChallengeKeys.unchecked([secret])
        issued = keys.issue(**fields)
        assert issued.id == scenario["expected"], scenario["name"]
        assert keys.verify(issued), scenario["name"]

    assert run == len(scenarios)


def server_verdict(given):
    """The outcome that a server built on `check_echo` reports for one case."""
    echo = given["credential"]["challenge"]
    credential = Credential.parse(
        Credential(challenge_from(echo), given["credential"]["payload"]).format().partition(" ")[2]
    )
    try:
        check_echo(
            credential,
            keys=ChallengeKeys.unchecked([given["secretKey"]]),
            realm=given["realm"],
            method=given["method"],
            intent=given["intent"],
            now_s=NOW_S,
            requests=(jcs.encode_object(given["request"]),),
        )
    except InvalidChallenge:
        return "invalid_challenge"
    except PaymentExpired:
        return "payment_expired"
    return "verification_failed" if given.get("verificationError") else "ok"


def test_echoed_challenges_are_judged_as_the_suite_says(conformance):
    cases = conformance("server-verification-cases.json")["cases"]

    for case in cases:
        expected = case["expected"]
        verdict = "ok" if expected["ok"] else expected["errorType"]
        assert verdict == server_verdict(case["input"]), case["name"]

    assert len(cases) == 9


def tempo_logs(receipt):
    return tuple(
        Log(
            bytes.fromhex(log["address"][2:]),
            tuple(bytes.fromhex(topic[2:]) for topic in log["topics"]),
            bytes.fromhex(log["data"][2:]),
        )
        for log in receipt["logs"]
    )


@pytest.mark.parametrize(
    "name", ["tempo-receipt-verification.json", "tempo-transaction-verification.json"]
)
def test_a_tempo_receipt_pays_its_own_challenge_alone(conformance, name):
    scenarios = conformance(name)["scenarios"]

    for scenario in scenarios:
        challenge = scenario["input"]["credential"]["challenge"]
        receipt, request = scenario["input"]["receipt"], challenge["request"]
        recipient, token = (parse_address(request[key]) for key in ("recipient", "currency"))
        terms = Terms(challenge["id"], challenge["realm"], (recipient, int(request["amount"])), ())
        moved = tuple(movements(tempo_logs(receipt), token))
        payer = moved[0].sender
        is_paid = receipt["status"] == "0x1" and terms.is_paid_by(moved, payer)
        assert is_paid == scenario["expected"]["ok"], scenario["name"]

    assert len(scenarios) == 5


def test_the_proof_of_a_tempo_price_of_zero_is_typed_as_the_suite_says(conformance):
    (scenario,) = conformance("tempo-proof.json")["scenarios"]
    value, given = scenario["expected"]["value"], scenario["input"]
    members = ",".join(f"{m['type']} {m['name']}" for m in value["types"]["Proof"])

    assert f"Proof({members})" == tempo_proof.TYPES[value["domain"]["version"]]
    assert value["domain"]["name"] == tempo_proof.DOMAIN_NAME
    words = [eip712.string(value["message"][m["name"]]) for m in value["types"]["Proof"]]
    digest = eip712.signing_digest(
        eip712.Eip712Domain("MPP", "2", given["chainId"], None),
        eip712.hash_struct(eip712.type_hash(f"Proof({members})"), *words),
    )
    assert digest == tempo_proof.digest(
        "2", given["chainId"], b"", given["challengeId"], given["realm"]
    )


COSIGN_REFUSALS = {
    "plain_transfer_without_challenge_memo_rejected": "does not make exactly this payment",
    "wrong_challenge_memo_rejected": "does not make exactly this payment",
    "extra_call_rejected": "does not make exactly this payment",
    "gas_limit_above_policy_rejected": "gas limit exceeds",
    "attacker_fee_token_rejected": "names a token for it",
    "wrong_nonce_key_rejected": "expiring nonce",
    "validity_window_above_policy_rejected": "valid for longer than what is sponsored",
    "access_list_rejected": "access list",
}
"""What we say of each transaction of the suite that must not be sponsored."""
COSIGN_NOW_S = 1_800_000_000


def suite_transaction(given) -> bytes:
    """Return a transaction of the suite, signed by its sender and open for a fee payer."""
    sent = given["transaction"]
    key = EXPIRING_NONCE_KEY if sent["nonceKey"] == "max" else sent["nonceKey"]
    calls = [
        [bytes.fromhex(c["to"][2:]), rlp.encode_uint(c["value"]), bytes.fromhex(c["data"][2:])]
        for c in sent["calls"]
    ]
    access = [
        [bytes.fromhex(address[2:]), [bytes.fromhex(slot[2:]) for slot in slots]]
        for address, slots in sent["accessList"]
    ]
    numbers = ("chainId", "maxPriorityFeePerGas", "maxFeePerGas", "gasLimit")
    ends_s = COSIGN_NOW_S + int(sent["validBefore"].removeprefix("now+"))
    open_ended = [
        *(rlp.encode_uint(sent[name]) for name in numbers),
        calls,
        access,
        *(rlp.encode_uint(number) for number in (key, sent["nonce"], ends_s)),
        b"",
        bytes.fromhex((sent["feeToken"] or "0x")[2:]),
        b"\0",
        [],
    ]
    digest = keccak256(b"\x76" + rlp.encode(open_ended))
    signature = sign(digest, bytes.fromhex(given["payerPrivateKey"][2:]))
    return b"\x76" + rlp.encode([*open_ended, signature])


def cosigned_by_us(given):
    """Return what the rail makes of a transaction of the suite, or the problem that it states."""
    request = given["request"]
    challenge = given.get("challenge", {"id": "challenge-123", "realm": "api.example.com"})
    token = parse_address(request["currency"])
    sponsor = Sponsor(
        bytes.fromhex(given["feePayerPrivateKey"][2:]),
        parse_address(given["feeToken"]),
        fee_max_minor=50_000,
        in_flight_max_minor=1_000_000,
    )
    settings = TempoSettings(
        request["methodDetails"]["chainId"],
        token,
        parse_address(request["recipient"]),
        modes=("pull",),
        sponsor=sponsor,
    )
    price = Amount(int(request["amount"]), Asset("x", 6))
    offer = build_offer("tempo", settings, price, None, None)
    credential = Credential(
        Challenge(
            id=challenge["id"],
            realm=challenge["realm"],
            method="tempo",
            intent="charge",
            request=offer.request_encoded,
            expires=format_rfc3339(COSIGN_NOW_S + 300),
        ),
        {"type": "transaction", "signature": "0x" + suite_transaction(given).hex()},
    )
    return read_payment("tempo", settings, credential, offer, COSIGN_NOW_S).evidence.transaction


def test_a_fee_is_sponsored_for_the_payment_alone(conformance):
    scenarios = conformance("tempo-fee-payer-cosign.json")["scenarios"]

    for scenario in scenarios:
        given, name = scenario["input"], scenario["name"]
        if not scenario["expected"]["ok"]:
            with pytest.raises(VerificationFailed, match=COSIGN_REFUSALS[name]):
                cosigned_by_us(given)
            continue
        value = scenario["expected"]["value"]
        items = rlp.decode(cosigned_by_us(given).raw[1:])
        assert len(items[11]) == 3
        assert value["feePayerSignaturePresent"]
        assert items[10].hex() == value["feeToken"][2:]
        assert (len(items[5]), len(items[4])) == (value["accessListLength"], value["callCount"])

    assert len(scenarios) == 9
