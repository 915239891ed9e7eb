import pytest

from mpp_gateway.protocol import base64url, jcs
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.problems import ParseError

SECRET = "a-secret-of-thirty-two-bytes-or-more"
OTHER = "another-secret-of-32-bytes-or-more!!"
KEYS = ChallengeKeys.from_secrets([SECRET])
FIELDS = {
    "realm": "api.acme.dev",
    "method": "evm",
    "intent": "charge",
    "request": jcs.encode_object({"amount": "5"}),
    "expires": "2030-01-01T00:00:00Z",
    "opaque": jcs.encode_object({"nonce": "n"}),
}
WIRE = 'Payment id="i", realm="r", method="evm", intent="charge", request="e30"'


def test_an_issued_challenge_is_ours_and_says_what_it_was_given():
    challenge = KEYS.issue(**FIELDS, description="One call")

    assert KEYS.verify(challenge)
    assert len(challenge.id) == 43
    assert challenge.request_object == {"amount": "5"}
    assert challenge.opaque_object == {"nonce": "n"}


def test_a_lowered_price_is_not_ours():
    challenge = KEYS.issue(**FIELDS)
    cheap = jcs.encode_object({"amount": "1"})

    assert not KEYS.verify(Challenge(**{**FIELDS, "request": cheap}, id=challenge.id))


def test_the_first_secret_signs_and_every_secret_verifies():
    old = ChallengeKeys.from_secrets([OTHER]).issue(**FIELDS)
    rotated = ChallengeKeys.from_secrets([SECRET, OTHER])

    assert rotated.verify(old)
    assert rotated.issue(**FIELDS) == KEYS.issue(**FIELDS)
    assert not KEYS.verify(old)


def test_description_is_display_only_and_authorization_is_the_silent_default():
    plain = KEYS.issue(**FIELDS)

    assert KEYS.issue(**FIELDS, description="x").id == plain.id
    for header in (None, "", "Authorization", "AUTHORIZATION"):
        assert KEYS.issue(**FIELDS, header=header) == plain
    named = KEYS.issue(**FIELDS, header="Payment-Authorization")
    assert named.id != plain.id
    assert 'header="Payment-Authorization"' in named.format()


@pytest.mark.parametrize("name", [*FIELDS, "digest"])
@pytest.mark.parametrize("value", ["a|b", "a\r\nb", "é", "\ud800", "a\tb"])
def test_a_field_that_could_pose_as_two_or_end_the_header_is_never_issued(name, value):
    with pytest.raises(ValueError, match=r"ASCII|'\|'"):
        KEYS.issue(**{**FIELDS, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("realm", ""), ("method", ""), ("method", "EVM"), ("intent", "a b"), ("request", "")],
)
def test_a_challenge_without_its_required_fields_is_never_issued(name, value):
    with pytest.raises(ValueError, match="needs"):
        KEYS.issue(**{**FIELDS, name: value})


def test_a_bar_in_an_echoed_field_is_refused_before_hashing():
    issued = KEYS.issue(**FIELDS, digest="d", header="X-Pay")
    shifted = {**FIELDS, "digest": "d|X-Pay"}

    assert not KEYS.verify(Challenge(**shifted, id=issued.id))


@pytest.mark.parametrize("challenge_id", ["", "é" * 43, "\ud800", "x" * 43, "x" * 60_000])
def test_an_id_of_any_shape_is_compared_and_not_ours(challenge_id):
    assert not KEYS.verify(Challenge(**FIELDS, id=challenge_id))


def test_short_and_missing_secrets_are_refused():
    for secrets in ([], ["short"], [SECRET, "short"], ["é" * 15]):
        with pytest.raises(ValueError, match="secret"):
            ChallengeKeys.from_secrets(secrets)
    assert ChallengeKeys.from_secrets(["é" * 16])
    assert ChallengeKeys.unchecked(["short"])


def test_secrets_show_in_no_text_of_the_keys():
    assert SECRET not in repr(KEYS) + str(KEYS)
    assert repr(KEYS) == "ChallengeKeys(<1 secrets>)"


def test_several_challenges_are_read_in_order_and_other_schemes_left_out():
    second = WIRE.replace('"i"', '"j"')

    found = Challenge.parse_all([f"Bearer realm=x, {WIRE}", f"{second}, Basic realm=y"])

    assert [challenge.id for challenge in found] == ["i", "j"]
    assert Challenge.parse_all(["Bearer realm=x"]) == []
    assert Challenge.parse_all([]) == []
    with pytest.raises(ParseError, match="2 Payment"):
        Challenge.parse(f"{WIRE}, {second}")


@pytest.mark.parametrize(
    "value",
    [
        WIRE.replace('"evm"', '"EVM"'),
        WIRE.replace('"charge"', '"two words"'),
        WIRE.replace('"e30"', '"W10"'),
        WIRE.replace('"e30"', f'"{base64url.encode(b"[" * 10_000)}"'),
        WIRE.replace('"e30"', '"' + "A" * 16_385 + '"'),
        WIRE + ', expires="tomorrow"',
        WIRE + ', expires="2030-01-01T00:00:00"',
        WIRE + ', header="two words"',
        WIRE + ', ID="again"',
        WIRE + ', expires="2030-01-01T00:00:00Z',
        WIRE + ', opaque="',
        "Bearer x",
    ],
)
def test_a_broken_challenge_is_refused(value):
    with pytest.raises(ParseError):
        Challenge.parse(value)


def test_empty_optional_parameters_count_as_absent():
    assert Challenge.parse(WIRE + ', digest="", opaque=""') == Challenge.parse(WIRE)


def test_an_unterminated_unknown_parameter_is_ignored_and_a_known_one_refused():
    assert Challenge.parse(WIRE + ', extension="x').id == "i"
    with pytest.raises(ParseError, match="without end"):
        Challenge.parse(WIRE + ', description="x')


def test_nothing_beyond_ascii_enters_the_realm_and_the_description_is_escaped():
    base = {"id": "i", "method": "evm", "intent": "charge", "request": "e30"}

    with pytest.raises(ValueError, match="ASCII"):
        Challenge(**base, realm="café").format()
    text = Challenge(**base, realm="r", description="café").format()
    assert r'description="caf\u00e9"' in text
    assert Challenge.parse(text).description == "café"


@pytest.mark.parametrize(
    "changes", [{"id": ""}, {"request": "A" * 16_385}, {"description": "a\nb"}]
)
def test_a_challenge_that_no_client_could_read_is_never_written(changes):
    members = {"id": "i", "realm": "r", "method": "evm", "intent": "charge", "request": "e30"}

    with pytest.raises(ValueError, match=r"needs|longer|ASCII|control"):
        Challenge(**{**members, **changes}).format()


@pytest.mark.parametrize("opaque", ["W10", "trace-123", jcs.encode_object({"a": 1})])
def test_an_opaque_that_is_no_map_of_strings_is_refused_when_read(opaque):
    challenge = Challenge("i", "r", "evm", "charge", "e30", opaque=opaque)

    with pytest.raises(ParseError):
        assert challenge.opaque_object


def test_a_challenge_without_opaque_has_an_empty_one():
    assert Challenge("i", "r", "evm", "charge", "e30").opaque_object == {}
