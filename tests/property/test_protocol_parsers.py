"""Whatever the other side sends, a parser answers with a value or with our own error."""

import json
import re
from base64 import urlsafe_b64encode
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address
from mpp_gateway.protocol import authparams, base64url, digest, jcs, negotiation, timestamps
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.eip3009 import Authorization, challenge_hashes
from mpp_gateway.protocol.problems import (
    InvalidChallenge,
    InvalidPayload,
    MalformedCredential,
    ParseError,
    PaymentExpired,
)
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.protocol.verification import check_echo

KEYS = ChallengeKeys.from_secrets(["property-secret-property-secret-1"])
SETTINGS = settings(max_examples=200, deadline=None)

any_text = st.one_of(
    st.text(st.characters(exclude_categories=[]), max_size=200),  # lone surrogates included
    st.binary(max_size=200).map(lambda data: data.decode("latin-1")),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
without_bar = printable.filter(lambda text: "|" not in text)
display = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('"\\,= \\u'), max_size=40
)
names = st.from_regex(r"[a-z]{1,10}", fullmatch=True)
wire_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | display,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(display, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(display, wire_json, max_size=4)


@st.composite
def challenges(draw):
    return KEYS.issue(
        realm=draw(without_bar),
        method=draw(names),
        intent=draw(names),
        request=jcs.encode_object(draw(objects)),
        expires=draw(st.none() | st.integers(0, 4 * 10**9).map(timestamps.format_rfc3339)),
        digest=draw(st.none() | st.binary(max_size=9).map(digest.content_digest)),
        opaque=draw(
            st.none() | st.dictionaries(display, display, max_size=3).map(jcs.encode_object)
        ),
        description=draw(st.none() | display.filter(bool)),
        header=draw(st.none() | st.just("Payment-Authorization")),
    )


@st.composite
def mutated(draw, values):
    """A valid text with a few places cut, doubled, or overwritten."""
    text = draw(values)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 8)))
        text = (
            text[:start]
            + draw(st.one_of(st.just(""), any_text, st.just(text[start:])))
            + text[end:]
        )
    return text


credentials = st.builds(Credential, challenges(), objects, st.none() | display.filter(bool))
receipts = st.builds(
    Receipt,
    names,
    display.filter(bool),
    st.just("success"),
    st.integers(0, 4 * 10**9).map(timestamps.format_rfc3339),
    objects.map(
        lambda extra: {
            name: value
            for name, value in extra.items()
            if name not in ("method", "reference", "status", "timestamp")
        }
    ),
)


def encoded(value):
    """Any JSON value as a client would send it, our own writer and its bounds left aside."""
    text = json.dumps(value)
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


DEEP = "[" * 10_000 + "]" * 10_000
DEEP_OBJECT = '{"a":' * 10_000 + "1" + "}" * 10_000
LONG = [
    "a" * 65_536,
    '"' * 65_536,
    "\\" * 65_535,
    '"\\' * 32_768,
    "," * 65_536,
    " " * 65_536,
    "Payment " * 8_192,
    "Payment," * 8_192,
    "=" * 65_536,
    'Payment a="' + '\\"' * 32_000,
    "Payment " + ",".join(f"p{n}=1" for n in range(6_000)),
    "9" * 65_536,
    "A" * 65_537,
]
HOSTILE = [
    *LONG,
    DEEP,
    DEEP_OBJECT,
    base64url.encode(DEEP.encode()),
    base64url.encode(DEEP_OBJECT.encode()),
    base64url.encode(b'{"challenge":' + b"9" * 5_000 + b"}"),
    base64url.encode(b'{"a":"\\ud800"}'),
    base64url.encode(b'{"challenge":{"id":"\\ud800"},"payload":{"\\udfff":1}}'),
    base64url.encode(b'{"a":NaN}'),
    base64url.encode(b'{"a":1e999999999}'),
    base64url.encode(b"\xff\xfe{}"),
    base64url.encode(b"\xef\xbb\xbf{}"),
    base64url.encode(b'{"a":1,"a":2}'),
    "",
    "\ud800",
    "\x00",
    "é",
]


def read_credentials(text):
    for token in payment_tokens([text]):
        Credential.parse(token)
    Credential.parse(text)


PARSERS = {
    "credential": (read_credentials, MalformedCredential),
    "payment tokens": (lambda text: payment_tokens([text, text]), MalformedCredential),
    "challenge": (Challenge.parse, ParseError),
    "challenges": (lambda text: Challenge.parse_all([text]), ParseError),
    "receipt": (Receipt.parse, ParseError),
    "json": (jcs.loads, ParseError),
    "json bytes": (lambda text: jcs.loads(text.encode("utf-8", "surrogatepass")), ParseError),
    "base64url": (base64url.decode, ParseError),
    "timestamp": (timestamps.parse_rfc3339, ParseError),
    "accept-payment": (lambda text: negotiation.rank([("evm", "charge")], text), ()),
    "digest": (lambda text: digest.matches(text, b"body"), ()),
    "challenge hashes": (lambda text: challenge_hashes(text, text), ()),
    "address": (parse_address, ValueError),
}


@pytest.mark.parametrize("name", PARSERS)
@SETTINGS
@given(any_text)
def test_a_parser_returns_or_refuses_any_text_with_our_error(name, text):
    parse, expected = PARSERS[name]
    for candidate in (text, f"Payment {text}", f'Payment id="{text}"'):
        with suppress(expected):
            parse(candidate)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_survives_the_known_hostile_texts(name):
    parse, expected = PARSERS[name]
    for text in HOSTILE:
        for candidate in (text, f"Payment {text}", f'Payment id="{text}'):
            with suppress(expected):
                parse(candidate)


@SETTINGS
@given(
    st.one_of(
        mutated(credentials.map(Credential.format)), mutated(challenges().map(Challenge.format))
    )
)
def test_a_mutated_valid_value_is_read_or_refused_with_our_error(text):
    for parse, expected in PARSERS.values():
        with suppress(expected):
            parse(text)


@SETTINGS
@given(json_values)
def test_any_json_value_as_a_credential_is_read_or_malformed(value):
    for candidate in (value, {"challenge": value, "payload": value}):
        with suppress(MalformedCredential):
            Credential.parse(encoded(candidate))
        with suppress(ParseError):
            Receipt.parse(encoded(candidate))


ECHO = {"id": "i", "realm": "r", "method": "evm", "intent": "charge", "request": "e30"}


@SETTINGS
@given(
    st.sampled_from([*ECHO, "expires", "digest", "opaque", "description", "header"]), json_values
)
@example("id", "\ud800")
@example("opaque", {"a": 1})
@example("opaque", {"a": "\ud800"})
def test_one_hostile_member_of_the_echo_raises_nothing_but_problems(name, value):
    members = {"challenge": {**ECHO, name: value}, "payload": {}}
    try:
        credential = Credential.parse(encoded(members))
        check_echo(credential, keys=KEYS, realm="r", method="evm", intent="charge", now_s=0)
    except (MalformedCredential, InvalidChallenge):
        return
    pytest.fail("a made-up challenge was accepted")


@SETTINGS
@given(
    st.dictionaries(
        st.sampled_from(
            ["type", "from", "to", "value", "validAfter", "validBefore", "nonce", "signature"]
        ),
        json_values,
    )
)
def test_any_payload_is_an_authorization_or_an_invalid_payload(payload):
    with suppress(InvalidPayload):
        Authorization.from_payload(payload)


@SETTINGS
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(max_size=80) | st.binary(min_size=65, max_size=65),
)
def test_any_bytes_recover_an_address_or_are_no_signature(signed, signature):
    with suppress(SignatureError):
        assert len(recover_address(signed, signature)) == 20


@SETTINGS
@given(challenges())
def test_a_challenge_survives_the_wire(challenge):
    text = challenge.format()

    assert text.isascii()
    assert text.isprintable()
    assert Challenge.parse(text) == challenge
    assert KEYS.verify(Challenge.parse(text))


@SETTINGS
@given(credentials)
def test_a_credential_survives_the_wire(credential):
    (token,) = payment_tokens([credential.format()])
    parsed = Credential.parse(token)

    assert parsed == credential
    assert KEYS.verify(parsed.challenge)


@SETTINGS
@given(receipts)
def test_a_receipt_survives_the_wire(receipt):
    assert Receipt.parse(receipt.format()) == receipt


@SETTINGS
@given(st.lists(challenges().map(Challenge.format) | st.just("Bearer a b") | any_text, max_size=4))
def test_challenges_read_the_same_however_the_list_is_cut_into_fields(values):
    assert outcome(Challenge.parse_all, values) == outcome(Challenge.parse_all, [", ".join(values)])


@SETTINGS
@given(
    st.lists(
        st.sampled_from(
            [
                "Payment abc",
                "payment  abc==",
                "Bearer x",
                'Digest a="b, Payment c"',
                "Basic eA==",
                "",
            ]
        )
        | any_text,
        max_size=5,
    )
)
def test_credentials_read_the_same_however_the_list_is_cut_into_fields(values):
    assert outcome(payment_tokens, values) == outcome(payment_tokens, [", ".join(values)])


def outcome(parse, values):
    try:
        return parse(values)
    except (ParseError, MalformedCredential) as error:
        return type(error)


@SETTINGS
@given(st.lists(challenges(), max_size=4))
def test_every_offer_of_a_402_is_found_in_order(offers):
    fields = [offer.format() for offer in offers]

    assert Challenge.parse_all(fields) == offers
    assert Challenge.parse_all([", ".join(["Bearer realm=x", *fields])]) == offers


@SETTINGS
@given(display.filter(bool))
def test_the_scheme_name_inside_a_quoted_string_is_no_boundary(text):
    quoted = authparams.quote_text(f"x, Payment {text}, Payment y")

    assert payment_tokens([f"Digest realm={quoted}, Payment token"]) == ["token"]


@SETTINGS
@given(challenges(), st.data())
def test_no_field_of_an_issued_challenge_can_be_altered(challenge, data):
    name = data.draw(
        st.sampled_from(
            ["realm", "method", "intent", "request", "expires", "digest", "opaque", "id"]
        )
    )
    altered = data.draw(any_text)
    members = {slot: getattr(challenge, slot) for slot in Challenge.__slots__}

    forged = Challenge(**{**members, name: altered})

    assert KEYS.verify(forged) == ((altered or None) == members[name])


@SETTINGS
@given(st.lists(without_bar, min_size=2, max_size=2, unique=True))
def test_moving_text_across_a_slot_boundary_changes_the_id(pair):
    common = {"realm": "r", "method": "m", "intent": "i", "request": "e30"}
    first = KEYS.issue(**common, digest=pair[0], header="X-Pay", opaque=pair[1])

    for digest_slot, header in ((f"{pair[0]}|X-Pay", None), (pair[0], f"X-Pay|{pair[1]}")):
        forged = Challenge(id=first.id, **common, digest=digest_slot, header=header, opaque=pair[1])
        assert not KEYS.verify(forged)


@SETTINGS
@given(st.integers(0, 4 * 10**9), st.integers(-(10**6), 10**6))
def test_a_challenge_is_open_strictly_before_its_expiry(expires_s, delta_s):
    challenge = KEYS.issue(
        realm="r",
        method="evm",
        intent="charge",
        request="e30",
        expires=timestamps.format_rfc3339(expires_s),
    )
    check = {"keys": KEYS, "realm": "r", "method": "evm", "intent": "charge"}
    credential = Credential(challenge, {})

    if delta_s < 0:
        check_echo(credential, **check, now_s=expires_s + delta_s)
    else:
        with pytest.raises(PaymentExpired):
            check_echo(credential, **check, now_s=expires_s + delta_s)


@SETTINGS
@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_timestamps_round_trip(unix_s):
    assert timestamps.parse_rfc3339(timestamps.format_rfc3339(unix_s)) == unix_s


@SETTINGS
@given(st.binary(max_size=100))
def test_base64url_round_trips_with_padding_and_in_both_alphabets(data):
    text = base64url.encode(data)

    assert re.fullmatch(r"[A-Za-z0-9_-]*", text)
    assert base64url.decode(text) == data
    assert base64url.decode(urlsafe_b64encode(data).decode()) == data
    assert base64url.decode(text.replace("-", "+").replace("_", "/")) == data


@SETTINGS
@given(st.binary(min_size=20, max_size=20))
def test_an_address_survives_its_checksummed_form(address):
    assert parse_address(checksum(address)) == address


@SETTINGS
@given(
    st.lists(st.tuples(names, names), max_size=6),
    any_text | mutated(st.just("evm/*;q=0.5, */charge")),
)
def test_ranking_never_invents_an_offer_and_never_leaves_a_402_without_one(pairs, header):
    order = negotiation.rank(pairs, header)

    assert len(set(order)) == len(order)
    assert set(order) <= set(range(len(pairs)))
    assert bool(order) == bool(pairs)
