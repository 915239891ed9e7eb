"""No secret is ever shown: not by `repr`, not in a message, not in a traceback."""

import traceback

import pytest

from mpp_gateway.config.methods import KINDS, Facilitator
from mpp_gateway.config.report import SECRET_KEYS, holds_secret
from mpp_gateway.config.settings import RootSettings, RouteSettings, ServiceSettings
from mpp_gateway.config.tempo import TempoSponsor
from mpp_gateway.errors import ConfigError

MARK = "marked-secret-marked-secret-marked"
ALL = """\
secret_key: MARK
methods:
  evm:
    chain_id: 84532
    rpc_url: https://rpc.example/MARK
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: "0xabababababababababababababababababababab"
    submit: {facilitator: https://facilitator.example, authorization: MARK}
services:
  openai:
    preset: openai
    api_key: MARK
    headers: {X-A: MARK}
    routes:
      "POST /v1/embeddings": {charge: 1, headers: {X-B: MARK}}
      "POST /v1/completions": {charge: 1, auth: {basic: {username: a, password: MARK}}}
  other:
    base_url: https://a.example
    auth: {bearer: MARK}
    rewrite_request: json:dumps
    routes:
      "GET /x": {charge: 1, auth: {header: {name: X-C, value: MARK}}, options: {a: MARK}}
"""
TEXT = ALL.replace("MARK", MARK)


def everything_shown(error):
    return "\n".join(
        [
            str(error),
            repr(error),
            repr(error.mistakes),
            repr(vars(error)),
            *traceback.format_exception(error),
        ]
    )


def outcome(build, text):
    """Everything that is shown of a configuration, whether it loads or not."""
    try:
        return repr(build.load(text))
    except ConfigError as error:
        return everything_shown(error)


def test_nothing_in_a_loaded_configuration_shows_a_secret(build):
    config = build.load(TEXT)

    assert MARK not in repr(config)
    assert MARK not in str(config)


def test_the_secrets_are_there_all_the_same(build):
    other = build.load(TEXT).services["other"]

    assert other.secret_headers(other.routes[0]) == (("X-C", MARK),)


@pytest.mark.parametrize("index", range(TEXT.count(MARK)))
@pytest.mark.parametrize(
    "wrong",
    ["${MARK}\u00e9", "[${MARK}]", "{a: ${MARK}}", f"[{MARK}]", f"{{a: {MARK}}}", f"'{MARK} \\n'"],
)
def test_a_wrong_secret_is_reported_without_being_shown(build, index, wrong):
    parts = TEXT.split(MARK)
    text = MARK.join(parts[: index + 1]) + wrong + MARK.join(parts[index + 1 :])

    assert MARK not in outcome(build, text)


@pytest.mark.parametrize(
    "text",
    [
        "currency: ${MARK}",
        "listen: ${MARK}",
        "store: ${MARK}",
        "base_path: 'a b ${MARK}'",
        "public_url: https://${MARK}:x@y",
        "realm: 'a b ${MARK}'",
        "trusted_proxies: ['${MARK}']",
        "timeouts: {idle_s: '${MARK}'}",
        "timeouts: '${MARK}'",
        "categories: '${MARK}'",
        "tls: {cert: '${MARK}', key: '${MARK}'}",
        "zzz: ${MARK}",
        "allow_insecure: ${MARK}",
        "methods: ${MARK}",
        "docs_llms_url: ${MARK}",
    ],
)
def test_a_wrong_value_from_the_environment_is_not_shown_wherever_it_stands(build, text):
    base = build.base.partition("methods:")[0]

    with pytest.raises(ConfigError) as caught:
        build.load(f"{base}{text}\n{build.services}")

    assert MARK not in everything_shown(caught.value)


@pytest.mark.parametrize(
    "routes",
    [
        '"GET /x": ${MARK}',
        '"GET /x": {charge: "${MARK}"}',
        '"GET /x": {settle: "${MARK}"}',
        '"GET /x": {charge: 1, methods: ["${MARK}"]}',
        '"GET /x": {charge: 1, recipient: "${MARK}"}',
        '"GET /x": {offers: [{method: "${MARK}", amount: 1}]}',
        '"GET /x": {units: "${MARK}"}',
    ],
)
def test_a_wrong_value_in_a_route_from_the_environment_is_not_shown(build, routes):
    with pytest.raises(ConfigError) as caught:
        build.load(build.routes(routes))

    assert MARK not in everything_shown(caught.value)


@pytest.mark.parametrize(
    "line", ["api_key: {} x", "  api_key: {}", "api_key: '{}", "\tapi_key: {}"]
)
def test_broken_yaml_does_not_quote_the_file(build, line):
    with pytest.raises(ConfigError) as caught:
        build.load(f"a: [\n{line.format(MARK)}\n")

    assert MARK not in everything_shown(caught.value)


@pytest.mark.parametrize("model", [RootSettings, ServiceSettings, RouteSettings, *KINDS.values()])
def test_every_key_that_holds_a_secret_is_masked(model):
    secret = {
        name
        for name, field in model.model_fields.items()
        if holds_secret(field.annotation) and name not in {"submit", "sponsor"}
    }

    assert secret <= SECRET_KEYS


def test_a_secret_below_sponsor_is_masked_by_its_own_key():
    secret = {n for n, field in TempoSponsor.model_fields.items() if holds_secret(field.annotation)}

    assert secret == {"private_key"} <= SECRET_KEYS


def test_a_secret_below_submit_is_masked_by_its_own_key():
    submit = KINDS["evm"].model_fields["submit"].annotation
    secret = {n for n, field in submit.model_fields.items() if holds_secret(field.annotation)}

    assert {"authorization", "facilitator", "private_key"} == secret
    assert secret - {"facilitator"} <= SECRET_KEYS
    entry = {n for n, field in Facilitator.model_fields.items() if holds_secret(field.annotation)}
    assert {"authorization"} == entry


@pytest.mark.parametrize(
    "entry",
    [
        "{url: https://f.example, authorization: MARK}",
        "{url: https://f.example, authorization: [MARK]}",
        "{url: https://f.example, authorization: MARK, auth_hook: json:dumps}",
        "{url: https://f.example, authorization: MARK, more: 1}",
    ],
)
def test_the_authorization_of_one_of_several_facilitators_is_never_shown(build, entry):
    submit = "{facilitator: https://facilitator.example, authorization: MARK}"
    listed = f"{{facilitator: [{{url: https://a.example}}, {entry}]}}"

    assert MARK not in outcome(build, ALL.replace(submit, listed).replace("MARK", MARK))


@pytest.mark.parametrize("text", ["''", "short", f"[{'k' * 32}, short]", "[]", "5"])
def test_a_signing_key_that_can_be_guessed_is_refused(build, text):
    lines = build.base.replace("${SECRET}", text) + build.services

    assert build.mistake(lines).startswith("secret_key")


def test_a_signing_key_is_measured_in_bytes(build):
    build.load(build.base.replace("${SECRET}", "\u00e9" * 16) + build.services)


def test_signing_keys_rotate(build):
    keys = f"[{'a' * 32}, {'b' * 32}]"
    config = build.load(build.base.replace("${SECRET}", keys) + build.services)

    assert [key.get_secret_value() for key in config.secret_keys] == ["a" * 32, "b" * 32]


def test_a_missing_signing_key_is_asked_for(build):
    text = build.base.replace("secret_key: ${SECRET}\n", "") + build.services

    assert "secret_key: at least one key of 32 bytes" in build.mistake(text)
