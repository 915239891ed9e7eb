import dataclasses

import pytest

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import InvalidChallenge, PaymentExpired
from mpp_gateway.protocol.verification import check_echo

KEYS = ChallengeKeys.from_secrets(["a-secret-of-thirty-two-bytes-or-more"])
REQUEST = jcs.encode_object({"amount": "100"})
CHEAP = jcs.encode_object({"amount": "1"})
FIELDS = {
    "realm": "api.acme.dev",
    "method": "evm",
    "intent": "charge",
    "request": REQUEST,
    "expires": "2030-01-01T00:00:00Z",
}
EXPIRES_S = 1_893_456_000
ROUTE = {"keys": KEYS, "realm": "api.acme.dev", "method": "evm", "intent": "charge"}


def check(challenge, now_s=EXPIRES_S - 1, **changes):
    check_echo(Credential(challenge, {}), **{**ROUTE, "now_s": now_s, **changes})


def test_an_echo_of_our_own_open_challenge_passes():
    check(KEYS.issue(**FIELDS))
    check(KEYS.issue(**FIELDS), requests=(REQUEST,))


def test_a_challenge_expires_on_the_second_it_names():
    for now_s in (EXPIRES_S, EXPIRES_S + 1, 10**12):
        with pytest.raises(PaymentExpired):
            check(KEYS.issue(**FIELDS), now_s=now_s)


@pytest.mark.parametrize("expires", [None, "", "never", "2030-01-01T00:00:00", "9999999999"])
def test_a_challenge_without_a_readable_expiry_is_refused(expires):
    with pytest.raises(InvalidChallenge):
        check(KEYS.issue(**{**FIELDS, "expires": expires}))


@pytest.mark.parametrize("name", FIELDS)
def test_an_altered_field_is_refused_as_not_ours(name):
    altered = dataclasses.replace(KEYS.issue(**FIELDS), **{name: "altered"})

    with pytest.raises(InvalidChallenge, match="not issued here"):
        check(altered)


@pytest.mark.parametrize(
    "changes", [{"realm": "b.acme.dev"}, {"method": "tempo"}, {"intent": "session"}]
)
def test_our_challenge_for_another_realm_method_or_intent_is_refused(changes):
    with pytest.raises(InvalidChallenge, match="another"):
        check(KEYS.issue(**{**FIELDS, **changes}))


def test_our_challenge_for_a_cheaper_offer_is_refused():
    with pytest.raises(InvalidChallenge, match="another price"):
        check(KEYS.issue(**{**FIELDS, "request": CHEAP}), requests=frozenset({REQUEST}))


def test_an_expired_forgery_learns_only_that_it_is_a_forgery():
    forged = Challenge(**{**FIELDS, "expires": "2020-01-01T00:00:00Z"}, id="x" * 43)

    with pytest.raises(InvalidChallenge):
        check(forged)
