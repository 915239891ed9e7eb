"""Credentials that are none: whatever is sent, it is refused and never a fault."""

import json
import random
from dataclasses import replace

import pytest

from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.problems import Problem
from tests.support.client import RawClient
from tests.support.paid import (
    Paid,
    paid_gateway,
    refused,
    slug_of,
    token_of,
)

GARBAGE = {
    "nothing": "Payment",
    "spaces": "Payment    ",
    "no base64": "Payment !!!!",
    "noise": "Payment dGhpcyBpcyBub2lzZQ",
    "array": token_of([1, 2, 3]),
    "text": token_of("credential"),
    "number": token_of(7),
    "null": token_of(None),
    "empty object": token_of({}),
    "no payload": token_of({"challenge": {}}),
    "text payload": token_of({"challenge": {}, "payload": "x"}),
    "no id": token_of({"challenge": {"realm": "x"}, "payload": {}}),
    "numbers for text": token_of(
        {"challenge": dict.fromkeys(["id", "realm", "method", "intent", "request"], 1)}
        | {"payload": {}}
    ),
    "nested arrays": token_of(b"[" * 10_000 + b"]" * 10_000),
    "nested objects": token_of(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "twice the same name": token_of(b'{"challenge":{},"challenge":{},"payload":{}}'),
    "not utf-8": token_of(b'{"challenge":"\xff\xfe"}'),
    "lone surrogate": token_of(b'{"challenge":"\\ud800"}'),
    "huge number": token_of(b'{"challenge":' + b"9" * 5000 + b',"payload":{}}'),
    "infinity": token_of(b'{"challenge":Infinity,"payload":NaN}'),
    "64 KiB": "Payment " + "A" * (64 * 1024 - 8),
    "65 KiB and one": "Payment " + "A" * (65 * 1024 + 1),
    "quoted": 'Payment id="x", realm="y"',
    "parameters": "Payment token=abc",
    "many commas": "Payment a" + "," * 2000,
    "unbalanced quote": 'Payment "abc',
    "latin-1": "Payment \xe9\xe8",
    "emoji bytes": "Payment " + "💸".encode().decode("latin-1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with paid_gateway(tmp_path_factory.mktemp("garbage")) as paid:
        yield paid
        paid.untouched()
        assert not paid.crashes()


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_refused_with_a_fresh_challenge(gateway: Paid, what):
    refused(gateway.send(GARBAGE[what]), "malformed-credential")


@pytest.mark.parametrize("char", [b"\0", b"\x01", b"\x7f", b"\x0b"])
def test_control_characters_are_refused_and_never_a_fault(gateway: Paid, char):
    with RawClient(gateway.port) as client:
        client.send(b"GET /api/paid HTTP/1.1\r\nHost: x\r\nAuthorization: Payment a" + char)
        client.send(b"b\r\n\r\n")
        assert client.head()[0] in (400, 402)


def test_noise_of_any_kind_is_refused_and_never_a_fault(gateway: Paid):
    numbers = random.Random(402)  # noqa: S311 - noise, no secret
    letters = "abcXYZ019-_=+/.,;:\"'\\{}[]() \t\xe9\xff"
    for _ in range(300):
        noise = "".join(numbers.choices(letters, k=numbers.randint(0, 60)))
        status, headers, _ = response = gateway.send(f"Payment {noise}")
        assert status in (400, 402), (noise, status)
        if status == 402:
            refused(response, slug_of(response))
        assert "no-store" in headers.get("cache-control", "no-store")


def test_a_credential_with_any_one_byte_changed_buys_nothing(gateway: Paid):
    credential = gateway.buy()
    token = credential.format()
    numbers = random.Random(7)  # noqa: S311 - noise, no secret
    for _ in range(120):
        place = numbers.randrange(8, len(token))
        other = numbers.choice("ABCabc019-_")
        changed = token[:place] + other + token[place + 1 :]
        if changed != token and not _is_same(changed, token):
            assert gateway.send(changed)[0] in (400, 402), _members(changed)


def _is_same(one: str, other: str) -> bool:
    """Tell whether two texts are one payment: hex in another case, or another free member."""
    try:
        first, second = _members(one), _members(other)
    except Problem:
        return False
    return first == second


def _members(text: str):
    credential = Credential.parse(text.removeprefix("Payment "))
    challenge = replace(credential.challenge, description=None)
    return challenge, Authorization.from_payload(credential.payload)


def test_two_credentials_are_refused_in_two_fields_and_in_one(gateway: Paid):
    one, other = gateway.buy().format(), gateway.buy().format()
    for fields in (
        (f"Authorization: {one}", f"Authorization: {other}"),
        (f"Authorization: {one}", f"Authorization: {one}"),
        (f"Authorization: {one}, {other}",),
        (f"Authorization: {one}, Bearer abc, {other}",),
        (f"Authorization: {one}", "authorization: Payment x"),
    ):
        refused(gateway.ask("/api/paid", *fields), "ambiguous-credentials", 400)


@pytest.mark.parametrize("name", ["X-Payment", "Payment-Signature"])
def test_a_credential_in_a_field_of_x402_is_refused_where_that_is_not_sold(gateway: Paid, name):
    answered = gateway.ask("/api/paid", f"{name}: {gateway.buy().format()}")
    refused(answered, "method-unsupported", 400)
    gateway.untouched()


@pytest.mark.parametrize(
    "name",
    [
        "Payment-Authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Authorization",
        "WWW-Authenticate",
    ],
)
def test_a_credential_in_another_field_is_no_credential(gateway: Paid, name):
    refused(gateway.ask("/api/paid", f"{name}: {gateway.buy().format()}"), "payment-required")


@pytest.mark.parametrize(
    "value", ["Bearer abc", "Basic YTpi", "PaymentX abc", "Payments abc", "x", "", "Bearer Payment"]
)
def test_another_scheme_is_asked_to_pay(gateway: Paid, value):
    refused(gateway.ask("/api/paid", f"Authorization: {value}"), "payment-required")


@pytest.mark.parametrize(
    "accept",
    [
        "evm/charge;q=0",
        "*/*;q=0",
        "stripe/charge",
        "nonsense",
        "evm/charge;q=2",
        ";;;,,,",
        "a" * 9000,
        "évm/charge",
        "*/*;q=0, evm/*;q=0.001",
    ],
)
def test_any_accept_payment_gets_an_offer_it_can_take_or_leave(gateway: Paid, accept):
    value = accept.encode().decode("latin-1")
    refused(gateway.ask("/api/paid", f"Accept-Payment: {value}"), "payment-required")


def test_a_refusal_repeats_nothing_of_the_credential(gateway: Paid):
    credential = gateway.buy()
    marked = replace(credential, payload=dict(credential.payload) | {"nonce": "marked-in-nonce"})
    status, headers, body = gateway.send(marked)
    shown = json.dumps([status, headers, body.decode()])
    assert "marked-in-nonce" not in shown
    assert credential.payload["signature"] not in shown
    assert credential.challenge.id not in shown
