"""Every field of a challenge and of a payment, changed one at a time."""

import json
from dataclasses import replace

import pytest

from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.demo.chain import TOKEN_NAME, TOKEN_VERSION
from mpp_gateway.protocol import base64url, jcs
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.timestamps import format_rfc3339
from tests.support.evm import STRANGER, address, now
from tests.support.paid import PRICE, Paid, fresh_key, paid_gateway, refused
from tests.support.proxy import SECRET

EMPTY_DIGEST = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
OTHER = bytes.fromhex("53BB4307817EaFc53054107a7CA1A5bF4fe73b73")


def with_request(challenge: Challenge, **changes) -> Challenge:
    request = challenge.request_object
    details = changes.pop("details", {})
    request = request | changes | {"methodDetails": request["methodDetails"] | details}
    return replace(challenge, request=jcs.encode_object(request))


TAMPERED = {
    "id": lambda c: replace(c, id=c.id[:-1] + ("A" if c.id[-1] != "A" else "B")),
    "id-empty-alphabet": lambda c: replace(c, id="A" * 43),
    "realm": lambda c: replace(c, realm="127.0.0.2"),
    "amount": lambda c: with_request(c, amount="1"),
    "amount-padded": lambda c: with_request(c, amount="010000"),
    "recipient": lambda c: with_request(c, recipient=address(STRANGER)),
    "recipient-in-lower-case": lambda c: with_request(
        c, recipient=c.request_object["recipient"].lower()
    ),
    "extra-member": lambda c: with_request(c, externalId="1"),
    "expires-later": lambda c: replace(c, expires=format_rfc3339(now() + 3000)),
    "expires-sooner": lambda c: replace(c, expires=format_rfc3339(now() + 30)),
    "no-expires": lambda c: replace(c, expires=None),
    "digest-added": lambda c: replace(c, digest=EMPTY_DIGEST),
    "opaque-removed": lambda c: replace(c, opaque=None),
    "opaque-scope": lambda c: replace(
        c, opaque=jcs.encode_object(c.opaque_object | {"scope": "A" * 43})
    ),
    "opaque-nonce": lambda c: replace(
        c, opaque=jcs.encode_object(c.opaque_object | {"nonce": "A" * 22})
    ),
    "header-added": lambda c: replace(c, header="Payment-Authorization"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_challenge_with_a_changed_field_is_refused(tmp_path, what):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.sign(TAMPERED[what](gateway.challenge()))
        refused(gateway.send(credential), "invalid-challenge")
        gateway.untouched()


@pytest.mark.parametrize(
    ("what", "slug", "status"),
    [
        ({"method": "tempo"}, "method-unsupported", 400),
        ({"intent": "session"}, "method-unsupported", 400),
        ({"method": "Evm"}, "malformed-credential", 402),
        ({"method": "evm|x"}, "malformed-credential", 402),
        ({"request": "e30"}, "invalid-challenge", 402),
        ({"request": "!"}, "invalid-challenge", 402),
    ],
    ids=str,
)
def test_a_challenge_for_another_method_or_request_is_refused(tmp_path, what, slug, status):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        tampered = replace(credential, challenge=replace(credential.challenge, **what))
        refused(gateway.send(tampered), slug, status)
        gateway.untouched()


@pytest.mark.parametrize("what", ["currency", "chainId"])
def test_a_challenge_for_another_token_or_chain_is_refused(tmp_path, what):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        changes = {
            "currency": {"currency": "0x" + OTHER.hex()},
            "chainId": {"details": {"chainId": 1}},
        }
        other = with_request(credential.challenge, **changes[what])
        refused(gateway.send(replace(credential, challenge=other)), "invalid-challenge")
        gateway.untouched()


def test_the_description_is_for_people_and_binds_nothing(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        challenge = replace(gateway.challenge(), description="Free for you, pay 0")
        assert gateway.send(gateway.sign(challenge))[0] == 200
        assert gateway.balance() == PRICE


PAYLOADS = {
    "low-value": ({"value": PRICE - 1}, "payment-insufficient"),
    "no-value": ({"value": 0}, "payment-insufficient"),
    "high-value": ({"value": PRICE + 1}, "verification-failed"),
    "recipient": ({"recipient": OTHER}, "verification-failed"),
    "nonce": ({"nonce": b"\7" * 32}, "verification-failed"),
    "sender": ({"sender": OTHER}, "verification-failed"),
    "not-valid-yet": ({"valid_after": now() + 3600}, "verification-failed"),
    "over": ({"valid_before": now() - 1}, "verification-failed"),
    "over-before-we-could-settle": ({"valid_before": now() + 60}, "verification-failed"),
    "valid-for-ever": ({"valid_before": 2**256 - 1}, "verification-failed"),
}


@pytest.mark.parametrize("what", PAYLOADS)
def test_a_payment_with_a_changed_member_and_a_sound_signature_is_refused(tmp_path, what):
    changes, slug = PAYLOADS[what]
    with paid_gateway(tmp_path) as gateway:
        refused(gateway.send(gateway.resign(gateway.buy(), **changes)), slug)
        # What is refused before it is claimed leaves no trace; the last check comes after.
        gateway.untouched(**({"released": 1} if what.startswith("over") else {}))


@pytest.mark.parametrize("name", ["from", "to", "value", "validAfter", "validBefore", "nonce"])
def test_a_payment_with_a_changed_member_and_the_old_signature_is_refused(tmp_path, name):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        value = credential.payload[name]
        changed = value[:-1] + ("0" if value[-1] != "0" else "1")
        if name in ("from", "to"):
            changed = changed.lower()
        tampered = replace(
            credential, payload=dict(credential.payload) | {name: changed}, source=None
        )
        status, _, body = gateway.send(tampered)
        slug = json.loads(body)["type"].rsplit("/", 1)[1]
        assert (status, slug) in {(402, "verification-failed"), (402, "payment-insufficient")}
        gateway.untouched()


def domain(gateway: Paid, **changes) -> Eip712Domain:
    demo = gateway.chain.demo
    values = {
        "name": TOKEN_NAME,
        "version": TOKEN_VERSION,
        "chain_id": demo.chain_id,
        "verifying_contract": demo.token,
    }
    return Eip712Domain(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [{"name": "USD Coin"}, {"version": "2"}, {"chain_id": 1}, {"verifying_contract": OTHER}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_authorization_for_another_token_or_chain_pays_for_nothing(tmp_path, changes):
    with paid_gateway(tmp_path) as gateway:
        signed = gateway.resign(gateway.buy(), domain=domain(gateway, **changes))
        refused(gateway.send(signed), "verification-failed")
        gateway.untouched()


def test_the_signature_of_another_key_pays_for_nothing(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        refused(gateway.send(gateway.resign(gateway.buy(), key=STRANGER)), "verification-failed")
        gateway.untouched()


def test_a_source_that_is_not_the_signer_is_refused(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        for source in ("did:pkh:eip155:1:" + address(STRANGER), "somebody", "x" * 5000):
            refused(gateway.send(replace(credential, source=source)), "verification-failed")
        gateway.untouched()


@pytest.mark.parametrize("kind", ["hash", "transaction", "permit2", "Authorization", "", None, 7])
def test_a_payload_of_a_kind_that_is_not_offered_is_refused(tmp_path, kind):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        payload = dict(credential.payload) | {"type": kind, "hash": "0x" + "1" * 64}
        refused(gateway.send(replace(credential, payload=payload)), "invalid-payload")
        gateway.untouched()


@pytest.mark.parametrize("value", [10_000, 10_000.0, True, None, [], {}, "1e4", "-1", "0x10", "٣"])
def test_a_value_that_is_not_a_decimal_string_is_refused(tmp_path, value):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        payload = dict(credential.payload) | {"value": value}
        members = {
            "challenge": {
                name: getattr(credential.challenge, name)
                for name in ("id", "realm", "method", "intent", "request", "expires", "opaque")
            },
            "payload": payload,
        }
        token = "Payment " + base64url.encode(json.dumps(members).encode())
        refused(gateway.send(token), "invalid-payload")
        gateway.untouched()


def forged(gateway: Paid, secret: str, **changes) -> Credential:
    """Return a paid credential for a challenge that somebody with `secret` issued."""
    real = gateway.challenge()
    values = {
        "realm": real.realm,
        "method": real.method,
        "intent": real.intent,
        "request": real.request,
        "expires": real.expires,
        "opaque": real.opaque,
    }
    keys = ChallengeKeys.from_secrets([secret])
    return gateway.sign(keys.issue(**(values | changes)))


def test_a_challenge_under_a_foreign_secret_is_refused(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        refused(gateway.send(forged(gateway, "f" * 40)), "invalid-challenge")
        gateway.untouched()


@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        ({"expires": "2025-01-01T00:00:00Z"}, "payment-expired"),
        ({"expires": None}, "invalid-challenge"),
        ({"realm": "api.example.com"}, "invalid-challenge"),
        ({"expires": "tomorrow"}, "invalid-challenge"),
        ({"opaque": None}, "invalid-challenge"),
    ],
    ids=str,
)
def test_a_challenge_of_our_own_secret_is_still_checked(tmp_path, changes, slug):
    """What another site, or an older version, could have issued under the same secret."""
    with paid_gateway(tmp_path) as gateway:
        challenge = forged(gateway, SECRET).challenge
        real = ChallengeKeys.from_secrets([SECRET]).issue(
            **{
                name: getattr(challenge, name)
                for name in ("realm", "method", "intent", "request", "expires", "opaque")
            }
            | changes
        )
        # Signed for the changed challenge, which a careful buyer would not do.
        credential = gateway.resign(
            replace(gateway.buy(), challenge=real), nonce=_nonce(real), valid_before=now() + 900
        )
        refused(gateway.send(credential), slug)
        gateway.untouched()


def _nonce(challenge: Challenge) -> bytes:
    from mpp_gateway.protocol.eip3009 import challenge_hashes

    return challenge_hashes(challenge.id, challenge.realm)[0]


def test_a_rotated_secret_still_verifies_and_a_retired_one_is_refused(tmp_path):
    old, new = "o" * 40, "n" * 40
    with paid_gateway(tmp_path) as gateway:
        text = gateway.config
        gateway.stop()
        gateway.start(text.replace(SECRET, old))
        early, late = gateway.challenge(), gateway.challenge()
        gateway.stop()
        gateway.start(text.replace(SECRET, f"[{new}, {old}]"))
        assert gateway.send(gateway.sign(early))[0] == 200
        gateway.stop()
        gateway.start(text.replace(SECRET, new))
        refused(gateway.send(gateway.sign(late)), "invalid-challenge")
        assert (gateway.hits, gateway.balance()) == (1, PRICE)


def test_a_price_or_recipient_of_yesterday_is_refused(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        text, credential = gateway.config, gateway.buy()
        gateway.stop()
        gateway.start(
            text.replace('"GET /paid": {charge: "0.01"}', '"GET /paid": {charge: "0.02"}')
        )
        refused(gateway.send(credential), "invalid-challenge")
        gateway.stop()
        gateway.start(text.replace(gateway.payee, address(fresh_key("new payee"))))
        refused(gateway.send(credential), "invalid-challenge")
        gateway.untouched()


def test_an_expired_challenge_is_refused_though_its_payment_is_still_good(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        serving = gateway.proxy.runtime.serving
        later_s = now() + 301
        serving.executor.clock = lambda: later_s
        refused(gateway.send(credential), "payment-expired")
        gateway.untouched()
