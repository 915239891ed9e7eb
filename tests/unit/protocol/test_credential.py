import json
from base64 import b64encode, urlsafe_b64encode

import pytest

from mpp_gateway.protocol import base64url, jcs
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.problems import MalformedCredential

ECHO = {"id": "i", "realm": "r", "method": "evm", "intent": "charge", "request": "e30"}
KEYS = ChallengeKeys.from_secrets(["a-secret-of-thirty-two-bytes-or-more"])


def token(members):
    return base64url.encode(json.dumps(members).encode())


def with_echo(**changes):
    return token({"challenge": {**ECHO, **changes}, "payload": {}})


def test_a_credential_is_its_echo_its_payload_and_its_source():
    credential = Credential.parse(
        token({"challenge": ECHO, "payload": {"spt": "spt_1"}, "source": "did:x", "later": [1.5]})
    )

    assert credential.challenge.id == "i"
    assert credential.payload == {"spt": "spt_1"}
    assert credential.source == "did:x"


def test_unknown_members_are_ignored_at_every_level():
    known = token({"challenge": ECHO, "payload": {}})
    more = token({"challenge": {**ECHO, "new": {"x": 1.5}}, "payload": {}, "new": None})

    assert Credential.parse(more) == Credential.parse(known)


def test_padding_and_the_standard_alphabet_are_read():
    members = {"challenge": {**ECHO, "description": "??>>~~"}, "payload": {"a": "\u00ff\u00fe"}}
    data = json.dumps(members, ensure_ascii=False).encode()

    padded = Credential.parse(urlsafe_b64encode(data).decode())
    assert padded == Credential.parse(b64encode(data).decode())
    assert padded == Credential.parse(base64url.encode(data))


@pytest.mark.parametrize(
    "members",
    [
        [], "text", 1, None, {}, {"challenge": ECHO}, {"payload": {}},
        {"challenge": [], "payload": {}}, {"challenge": "x", "payload": {}},
        {"challenge": ECHO, "payload": None}, {"challenge": ECHO, "payload": "0x"},
        {"challenge": ECHO, "payload": []}, {"challenge": ECHO, "payload": {}, "source": 1},
        {"challenge": ECHO, "payload": {}, "source": {}},
    ],
)  # fmt: skip
def test_a_credential_without_its_parts_is_malformed(members):
    with pytest.raises(MalformedCredential):
        Credential.parse(token(members))


@pytest.mark.parametrize("name", ECHO)
@pytest.mark.parametrize("value", ["", None, 1, {}, []])
def test_every_required_member_of_the_echo_is_text(name, value):
    with pytest.raises(MalformedCredential):
        Credential.parse(with_echo(**{name: value}))


@pytest.mark.parametrize("name", ["expires", "digest", "description", "header", "opaque"])
def test_an_optional_member_is_text_and_null_or_empty_is_absent(name):
    plain = Credential.parse(with_echo())

    assert Credential.parse(with_echo(**{name: None})) == plain
    assert Credential.parse(with_echo(**{name: ""})) == plain
    with pytest.raises(MalformedCredential):
        Credential.parse(with_echo(**{name: [1]}))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "EVM"}, {"method": "e vm"}, {"method": "9"}, {"intent": "a/b"}, {"intent": "é"},
        {"request": "A" * 16_385}, {"opaque": {"a": 1}}, {"opaque": {"a": {}}},
    ],
)  # fmt: skip
def test_members_outside_their_grammar_are_malformed(changes):
    with pytest.raises(MalformedCredential):
        Credential.parse(with_echo(**changes))


@pytest.mark.parametrize(
    "text",
    [
        "", "not-valid!!!", "é", "\ud800", "bm90IGpzb24", "A" * 65_537, 'id="x"',
        base64url.encode(b"[" * 10_000),
        base64url.encode(b'{"a":' * 10_000),
        base64url.encode(b'{"challenge":{},"challenge":{}}'),
        base64url.encode(b"\xff"),
        base64url.encode(b'{"payload":"\\ud800"}'),
        base64url.encode(b'{"payload":' + b"9" * 5_000 + b"}"),
    ],
)  # fmt: skip
def test_what_does_not_decode_is_malformed_and_never_anything_else(text):
    with pytest.raises(MalformedCredential):
        Credential.parse(text)


def test_a_refusal_repeats_nothing_of_what_was_sent():
    for text in ("spt_secret!!", token({"challenge": {**ECHO, "id": 7, "x": "spt_secret"}})):
        with pytest.raises(MalformedCredential) as caught:
            Credential.parse(text)
        told = json.dumps(caught.value.document()) + str(caught.value) + caught.value.private
        assert "spt_secret" not in told


def test_the_proof_and_its_owner_stay_out_of_repr():
    credential = Credential.parse(
        token({"challenge": ECHO, "payload": {"spt": "spt_secret"}, "source": "did:me"})
    )

    assert "spt_secret" not in repr(credential)
    assert "did:me" not in repr(credential)


def test_an_opaque_sent_back_as_an_object_is_the_one_that_was_issued():
    opaque = {"scope": "b", "nonce": "a"}
    issued = KEYS.issue(
        realm="r", method="evm", intent="charge", request="e30", opaque=jcs.encode_object(opaque)
    )

    credential = Credential.parse(with_echo(id=issued.id, opaque=opaque))

    assert credential.challenge == issued
    assert KEYS.verify(credential.challenge)


def test_the_field_value_is_the_scheme_and_a_canonical_token():
    credential = Credential.parse(with_echo(expires="2030-01-01T00:00:00Z"))

    (found,) = payment_tokens([credential.format()])

    assert credential.format().startswith("Payment ey")
    assert Credential.parse(found) == credential


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ([], []),
        ([""], []),
        (["Bearer x"], []),
        (["Payment abc"], ["abc"]),
        (["PAYMENT   abc=="], ["abc=="]),
        (["Payment\tabc"], ["abc"]),
        (["Bearer x, Payment y"], ["y"]),
        (["Payment y, Bearer x"], ["y"]),
        (["Bearer x", "Payment y"], ["y"]),
        (["Payment y", "payment z"], ["y", "z"]),
        (["Payment y, Payment z"], ["y", "z"]),
        (["Payment"], [""]),
        (['Digest realm="Payment x", Payment y'], ["y"]),
        (['Payment id="a", realm="b"'], ['id="a",realm="b"']),
    ],
)
def test_payment_tokens_are_found_among_other_schemes(values, tokens):
    assert payment_tokens(values) == tokens


@pytest.mark.parametrize(
    "values",
    [["Payment " + "a" * 65_536], ["Payment " + "a" * 40_000] * 2, ["a," * 600], ["Payment \x00"]],
)
def test_an_oversize_or_broken_field_is_malformed(values):
    with pytest.raises(MalformedCredential):
        payment_tokens(values)


def test_a_credential_of_64_kib_is_within_bounds():
    filler = "x" * 48_000
    text = jcs.encode_object({"challenge": ECHO, "payload": {"proof": filler}})
    assert len(text) < 65_536 - len("Payment ")

    (found,) = payment_tokens([f"Payment {text}"])

    assert Credential.parse(found).payload["proof"] == filler
