"""Services: where they are, what they are sent, what presets know."""

from base64 import b64encode

import pytest

from mpp_gateway.config import BaseUrl
from mpp_gateway.config.patterns import parse_route_key
from mpp_gateway.config.presets import PRESETS
from mpp_gateway.config.services import RESERVED_IDS

SERVICE = "{base_url: 'https://a.example', routes: {/x: free}}"
PRESET = "services:\n  it:\n    preset: {}\n    {}\n    routes: {{{}}}\n"


def headers(build, service="", route="charge: 1"):
    config = build.load(build.routes(f'"GET /x": {{{route}}}', service))
    api = config.services["api"]
    return dict(api.secret_headers(api.routes[0]))


def preset(build, name, more="api_key: ${MARK}", routes="/x: {charge: 1}"):
    return build.base + PRESET.format(name, more, routes)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", BaseUrl("https", "a.example", 443, "")),
        ("https://A.example/", BaseUrl("https", "a.example", 443, "")),
        ("https://a.example:8443/base/", BaseUrl("https", "a.example", 8443, "/base")),
        ("http://127.0.0.1:80/a%2Fb", BaseUrl("http", "127.0.0.1", 80, "/a%2Fb")),
        ("https://[::1]:8", BaseUrl("https", "::1", 8, "")),
    ],
)
def test_a_base_url_is_taken_apart(build, url, expected):
    text = f"{build.base}services:\n  api: {{base_url: '{url}', routes: {{/x: free}}}}\n"

    assert expected == build.load(text).services["api"].base_url


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        (BaseUrl("https", "a", 443), "a"),
        (BaseUrl("https", "a", 80), "a:80"),
        (BaseUrl("http", "a", 80), "a"),
        (BaseUrl("http", "::1", 8), "[::1]:8"),
    ],
)
def test_an_authority_has_a_port_only_when_it_is_unusual(url, authority):
    assert authority == url.authority


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/?x=1",
        "https://a.example?",
        "https://a.example/#x",
        "a.example",
        "http://a.example",
        "https://u:p@a.example",
        "https://a.example/../b",
        "https://a.example/%2e%2E/b",
        "https://a.example/a//b",
        "https://a b.example",
        "https://a.example/\\\\b",
        "https://-",
    ],
)
def test_a_base_url_of_another_form_is_refused(build, url):
    text = f"{build.base}services:\n  api: {{base_url: '{url}', routes: {{/x: free}}}}\n"

    assert build.mistake(text).startswith("services.api.base_url: found ")


def test_a_service_without_address_is_refused(build):
    text = f"{build.base}services:\n  api: {{routes: {{/x: free}}}}\n"

    assert "services.api: `base_url` is missing, or a `preset`" in build.mistake(text)


@pytest.mark.parametrize("name", sorted(RESERVED_IDS))
def test_a_reserved_id_is_refused(build, name):
    text = f"{build.base}services:\n  {name}: {SERVICE}\n"

    assert "is reserved" in build.mistake(text)


@pytest.mark.parametrize("name", ["A", "a b", "-a", "a/b", "\u00e9", "a%20", "_a", "a" * 65, "''"])
def test_an_id_outside_the_grammar_is_refused(build, name):
    text = f"{build.base}services:\n  {name}: {SERVICE}\n"

    assert "a service id has small letters" in build.mistake(text)


@pytest.mark.parametrize("services", ["", "services: {}\n"])
def test_a_file_without_services_is_refused(build, services):
    assert "at least one service" in build.mistake(build.base + services)


@pytest.mark.parametrize("value", ["x", "[a]", "5"])
def test_a_service_that_is_no_mapping_is_refused(build, value):
    assert "expected a mapping" in build.mistake(f"{build.base}services: {{api: {value}}}\n")


def test_a_service_without_routes_is_refused(build):
    assert "at least one route" in build.mistake(build.routes(""))


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("{bearer: tok}", {"Authorization": "Bearer tok"}),
        ("{header: {name: X-Key, value: tok}}", {"X-Key": "tok"}),
        (
            "{basic: {username: ann, password: 'p:w'}}",
            {"Authorization": "Basic " + b64encode(b"ann:p:w").decode()},
        ),
    ],
)
def test_each_form_of_auth_becomes_a_field(build, auth, expected):
    assert expected == headers(build, f"auth: {auth}")


@pytest.mark.parametrize(
    "auth",
    [
        "{}",
        "{bearer: a, basic: {username: a, password: b}}",
        "{bearer: }",
        "hidden",
        "{token: a}",
        "{basic: {username: 'a:b', password: c}}",
        "{header: {name: 'X Key', value: a}}",
        "{header: {value: a}}",
        "{bearer: 5}",
    ],
)
def test_auth_of_another_form_is_refused_unseen(build, auth):
    message = build.mistake(build.routes("/x: free", f"auth: {auth}"))

    assert message.startswith("services.api.auth")
    assert "hidden" not in message


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\n", " a", "a ", "", "caf\u00e9", "a\x00b", "a\tb"]
)
def test_a_value_that_would_add_a_header_line_is_refused(build, value):
    text = build.routes("/x: free", "headers: {X-A: ${V}}")
    message = build.mistake(text, {"SECRET": "k" * 32, "V": value})

    assert "visible ASCII characters" in message


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection"])
def test_a_field_that_frames_the_message_cannot_be_set(build, name):
    text = build.routes("/x: free", f"headers: {{{name}: x}}")

    assert "which the gateway does not set itself" in build.mistake(text)


@pytest.mark.parametrize("name", ["'X A'", "'X:'", "''", "'X\\n'", "\u00e9"])
def test_a_field_name_is_a_token(build, name):
    text = build.routes("/x: free", f"headers: {{{name}: x}}")

    assert "the name must be a header name" in build.mistake(text)


@pytest.mark.parametrize(
    "lines", ["headers: {X-A: a, x-a: b}", "auth: {bearer: a}\nheaders: {authorization: b}"]
)
def test_a_field_that_is_set_twice_is_refused(build, lines):
    assert "set twice" in build.mistake(build.routes("/x: free", lines))


def test_a_route_replaces_the_auth_and_single_headers_of_its_service(build):
    service = "auth: {bearer: service}\nheaders: {X-A: a, X-B: b}"
    route = "charge: 1, auth: {header: {name: X-Key, value: route}}, headers: {x-b: c}"

    assert headers(build, service, route) == {"X-Key": "route", "X-A": "a", "x-b": "c"}


def test_a_free_route_gets_the_key_too(build):
    assert headers(build, "auth: {bearer: t}", "free: true") == {"Authorization": "Bearer t"}


def test_a_client_may_not_send_what_we_inject(build):
    text = build.routes(
        "/x: {free: true, headers: {X-Route: a}}", "auth: {bearer: a}\nheaders: {X-Org: b}"
    )

    expected = {"authorization", "x-org", "x-route"}
    assert expected == build.load(text).services["api"].strip_headers


def test_the_presets_send_the_key_as_their_services_want_it(build):
    def fields(name):
        service = build.load(preset(build, name, "api_key: sk-1")).services["it"]
        return service.secret_headers(service.routes[0])

    assert fields("openai") == (("Authorization", "Bearer sk-1"),)
    assert fields("anthropic") == (("x-api-key", "sk-1"),)
    assert (("Authorization", "Basic " + b64encode(b"sk-1:").decode()),) == fields("stripe")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_knows_its_address_and_title(build, name):
    service = build.load(preset(build, name)).services["it"]

    assert (PRESETS[name].base_url, PRESETS[name].title) == (str(service.base_url), service.title)


def test_the_address_of_a_preset_may_be_overridden(build):
    more = "api_key: a\n    base_url: https://proxy.example/openai"

    service = build.load(preset(build, "openai", more)).services["it"]
    assert str(service.base_url) == "https://proxy.example/openai"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("openai", "openai-organization"),
        ("openai", "openai-project"),
        ("stripe", "stripe-account"),
        ("stripe", "stripe-context"),
        ("openai", "authorization"),
        ("anthropic", "x-api-key"),
        ("anthropic", "authorization"),
    ],
)
def test_a_buyer_cannot_choose_the_account_that_a_preset_bills(build, name, header):
    assert header in build.load(preset(build, name)).services["it"].strip_headers


def test_the_version_that_anthropic_wants_of_clients_passes(build):
    service = build.load(preset(build, "anthropic")).services["it"]

    assert "anthropic-version" not in service.strip_headers


def test_an_unknown_preset_is_refused(build):
    assert "did you mean `openai`?" in build.mistake(preset(build, "opena"))


def test_a_preset_without_a_key_is_refused(build):
    message = build.mistake(preset(build, "openai", "title: x"))

    assert "`api_key` is missing; it is sent as `Authorization: Bearer" in message


def test_a_key_beside_auth_is_refused(build):
    more = "api_key: a\n    auth: {bearer: b}"

    assert "no effect beside `api_key`" in build.mistake(preset(build, "openai", more))


def test_a_key_without_a_preset_is_refused(build):
    text = build.routes("/x: free", "api_key: a")

    assert "has no effect without `preset`" in build.mistake(text)


def test_the_typed_routes_of_a_preset_give_titles(build):
    routes = '"POST /v1/embeddings": {charge: 1}, "GET /v1/models/:id": free'
    service = build.load(preset(build, "openai", routes=routes)).services["it"]

    assert [route.title for route in service.routes] == ["Create embeddings", "Get a model"]


def test_a_route_that_a_preset_does_not_know_is_warned_of(build):
    routes = '"POST /v1/embedings": {charge: 1}, "POST /v1/embeddings": {charge: 1}'
    config = build.load(preset(build, "openai", routes=routes))

    (warning,) = [w for w in config.warnings if "preset" in str(w)]
    assert warning.path == 'services.it.routes."POST /v1/embedings"'


@pytest.mark.parametrize(
    ("method", "meant"),
    [
        ("GTE", "did you mean `GET`?"),
        ("PSOT", "did you mean `POST`?"),
        ("DELET", "did you mean `DELETE`?"),
        ("PROPFID", "did you mean `PROPFIND`?"),
        ("PURGE", "few clients send it"),
    ],
)
def test_a_method_that_nobody_registered_is_warned_of_and_sold(method, meant, build):
    config = build.load(preset(build, "openai", routes=f'"{method} /x": free, "GET /y": free'))

    (warning,) = [w for w in config.warnings if "registered" in str(w)]
    assert warning.path == f'services.it.routes."{method} /x"'
    assert warning.message.startswith(f"{method} is no registered HTTP method")
    assert warning.message.endswith(meant)
    assert [route.method for route in config.services["it"].routes] == [method, "GET"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_typed_routes_of_a_preset_are_route_keys(name):
    for key in PRESETS[name].routes:
        method, _, _ = parse_route_key(key)
        assert method is not None


def test_hooks_are_imported(build):
    import json

    text = build.routes("/x: free", "rewrite_request: json:dumps\nrewrite_response: json:loads")
    service = build.load(text).services["api"]

    assert (json.dumps, json.loads) == (service.rewrite_request, service.rewrite_response)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("json.dumps", "package.module:function"),
        ("json:", "package.module:function"),
        ("no_such_module:f", "no module no_such_module"),
        ("json:nope", "no function nope"),
        ("json:__name__", "no function __name__"),
        ("'os; x:f'", "package.module:function"),
    ],
)
def test_a_hook_that_cannot_be_imported_is_refused(build, text, expected):
    message = build.mistake(build.routes("/x: free", f"rewrite_request: '{text.strip("'")}'"))

    assert message.startswith("services.api.rewrite_request: found ")
    assert expected in message


def test_a_module_that_fails_while_it_is_imported_is_refused_unquoted(build, tmp_path, monkeypatch):
    (tmp_path / "broken_hook.py").write_text("raise ValueError('marked-secret')\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = build.mistake(build.routes("/x: free", "rewrite_request: broken_hook:f"))

    assert "importing it raises ValueError" in message
    assert "marked-secret" not in message
