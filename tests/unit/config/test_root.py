"""The keys of the root."""

import errno
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from mpp_gateway.config import Limits, Listen, Timeouts, load
from mpp_gateway.config.model import PostgresStore, SqliteStore
from mpp_gateway.errors import ConfigError
from tests.support.certificates import self_signed


@pytest.fixture
def root(build):
    """Return what is loaded with more lines at the root."""
    return lambda lines: build.load(f"{lines}\n{build.base}{build.services}")


@pytest.fixture
def wrong(build):
    return lambda lines: build.mistake(f"{lines}\n{build.base}{build.services}")


def test_everything_has_a_default_but_the_key_and_the_services(root):
    config = root("")

    assert Listen("127.0.0.1", 4402) == config.listen
    assert config.realm == "127.0.0.1"
    assert ("usd", 300, SqliteStore(Path("gateway.db"))) == (
        config.currency,
        config.challenge_ttl_s,
        config.store,
    )
    assert Timeouts(5.0, 60.0, 300.0, 30.0) == config.timeouts
    assert Limits(1_048_576, 64, 131_072, 10.0, 1200, 8, 120.0, 60.0, 200) == config.limits
    assert not config.allow_insecure


def test_an_unknown_key_is_refused_with_the_nearest_known_one(wrong):
    assert wrong("lissten: 127.0.0.1:1") == "lissten: unknown key; did you mean `listen`?"


def test_an_unknown_key_far_from_all_lists_what_is_known(wrong):
    assert "known here: cert, key" in wrong("tls: {zzzzzz: 1, cert: pyproject.toml, key: LICENSE}")


def test_every_mistake_is_reported_at_once_by_line(build):
    text = f"currency: '1'\nchallenge_ttl_s: 5\nzzz: 1\n{build.base}services: {{}}\n"

    assert [line.partition(":")[0] for line in build.mistakes(text)] == [
        "currency",
        "challenge_ttl_s",
        "zzz",
        "services",
    ]


def test_a_mistake_prints_file_line_path_found_and_expected(build):
    text = build.routes('"POST /v1/x": {charge: "0.0a"}')

    with pytest.raises(ConfigError) as caught:
        build.load(text)

    assert (
        str(caught.value)
        == "c.yaml:11: services.api.routes.\"POST /v1/x\".charge: found '0.0a', expected a decimal"
        ' string such as "0.05"'
    )


def test_the_realm_is_the_host_of_the_public_url(root):
    assert root("public_url: https://api.acme.example:8443/x/").realm == "api.acme.example"


def test_a_realm_may_be_chosen(root):
    assert root("realm: acme\npublic_url: https://api.acme.example").realm == "acme"


@pytest.mark.parametrize("realm", ["a b", 'a"b', "a|b", "caf\u00e9", "a\\b", ""])
def test_a_realm_that_does_not_fit_a_challenge_is_refused(wrong, realm):
    assert wrong(f"realm: '{realm}'").startswith("realm: ")


@pytest.mark.parametrize(
    ("text", "path"),
    [("/pay", "/pay"), ("/pay/", "/pay"), ("pay", "/pay"), ("/a/b", "/a/b"), ("/", ""), ("", "")],
)
def test_a_base_path_is_normalised(root, text, path):
    assert path == root(f"base_path: '{text}'").base_path


@pytest.mark.parametrize("text", ["//a", "/a/../b", "/a b", "/a?x", "/%2e", "/a//b", "/."])
def test_a_base_path_of_another_form_is_refused(wrong, text):
    assert "a path such as /payments" in wrong(f"base_path: '{text}'")


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:0", Listen("127.0.0.1", 0)),
        ("localhost:80", Listen("localhost", 80)),
        ("'[::1]:4402'", Listen("::1", 4402)),
    ],
)
def test_an_address_to_listen_on_is_host_and_port(root, text, listen):
    assert listen == root(f"listen: {text}").listen


@pytest.mark.parametrize(
    "text", ["4402", "':4402'", "'::1:80'", "'[a]:80'", "h:65536", "h:x", "'h:'"]
)
def test_an_address_of_another_form_is_refused(wrong, text):
    assert wrong(f"listen: {text}").startswith("listen: found ")


def test_clear_text_beyond_this_machine_is_refused(wrong):
    assert "a loopback address, or `tls`, or `trusted_proxies`" in wrong("listen: 0.0.0.0:80")


def test_a_host_name_counts_as_another_machine(wrong):
    assert "a loopback address" in wrong("listen: localhost.example:80")


@pytest.mark.parametrize(
    "cure",
    [
        "allow_insecure: true",
        "trusted_proxies: [10.0.0.0/8]",
        "tls: {cert: FOLDER/upstream.pem, key: FOLDER/upstream.key}",
    ],
)
def test_clear_text_is_allowed_where_somebody_answers_for_it(root, cure, tmp_path):
    self_signed(tmp_path)
    cure = cure.replace("FOLDER", str(tmp_path))
    assert not root(f"listen: 0.0.0.0:80\n{cure}").listen.host.startswith("127")


def test_certificate_files_must_exist(wrong, tmp_path):
    _, certificate = self_signed(tmp_path)

    said = wrong(f"tls: {{cert: {certificate}, key: /nowhere}}")

    assert said == "tls.key: found '/nowhere', expected a file that exists"


def test_a_key_of_another_certificate_is_a_mistake_of_the_file(wrong, tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        self_signed(tmp_path / name)
    cert, key = tmp_path / "own" / "upstream.pem", tmp_path / "other" / "upstream.key"

    said = wrong(f"tls: {{cert: {cert}, key: {key}}}")

    assert said.startswith("tls.key: found ")
    assert "expected the private key of the certificate in `tls.cert`" in said


def test_proxies_are_networks(root):
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::1/128"))

    assert networks == root("trusted_proxies: [10.0.0.0/8, 'fd00::1']").trusted_proxies


def test_a_network_with_host_bits_is_refused(wrong):
    assert "trusted_proxies.0" in wrong("trusted_proxies: [10.0.0.1/8]")


@pytest.mark.parametrize(
    ("text", "path"), [("sqlite:///a.db", "a.db"), ("sqlite:////var/a.db", "/var/a.db")]
)
def test_a_store_is_a_path(root, text, path):
    assert SqliteStore(Path(path)) == root(f"store: {text}").store


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_store_for_many_machines_is_a_url_that_nobody_is_shown(root, scheme):
    url = f"{scheme}://u:hidden@h:5432/d?sslmode=require"
    store = root(f"store: {url}").store

    assert isinstance(store, PostgresStore)
    assert store.url.get_secret_value() == url
    assert "hidden" not in repr(store)


@pytest.mark.parametrize(
    "text",
    ["a.db", "redis://h", "postgresql://u:hidden@h", "postgresql:///d", "mysql://u:hidden@h/d"],
)
def test_another_store_is_refused_in_words(wrong, text):
    message = wrong(f"store: {text}")

    assert "postgresql://user@host/database" in message
    assert "hidden" not in message


@pytest.mark.parametrize("text", ["sqlite:///:memory:", "sqlite:///", "sqlite:///a?mode=memory"])
def test_a_store_that_forgets_used_proofs_is_refused(wrong, text):
    assert "the path of a file" in wrong(f"store: '{text}'")


@pytest.mark.parametrize("value", ["0", "-1", "3601", ".inf", ".nan", "true", "x", "[1]"])
def test_a_timeout_is_a_bounded_number(wrong, value):
    assert "timeouts.idle_s: found" in wrong(f"timeouts: {{idle_s: {value}}}")


@pytest.mark.parametrize("value", ["7", "7.0", "'7'"])
def test_a_timeout_may_be_written_in_any_number_form(root, value):
    assert root(f"timeouts: {{idle_s: {value}}}").timeouts.idle_s == 7.0


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "true", "x", "''"])
def test_a_limit_is_a_bounded_whole_number(wrong, value):
    assert "limits.unpaid_bodies: found" in wrong(f"limits: {{unpaid_bodies: {value}}}")


def test_numbers_and_flags_may_come_from_the_environment(build):
    text = f"challenge_ttl_s: ${{TTL}}\nallow_insecure: ${{YES}}\n{build.base}{build.services}"
    config = build.load(text, {"SECRET": "k" * 32, "TTL": "600", "YES": "true"})

    assert (config.challenge_ttl_s, config.allow_insecure) == (600, True)


def test_a_public_url_beyond_this_machine_is_https(wrong):
    assert "public_url: found 'http://acme.example', expected an https:// URL" in wrong(
        "public_url: http://acme.example"
    )


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml", {})


def test_a_file_that_is_not_utf_8_is_a_mistake_with_its_line_and_cure(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"# one\ntitle: \xff\n")

    with pytest.raises(
        ConfigError, match=r"c\.yaml:2: this is not UTF-8 text; save the file as UTF"
    ):
        load(tmp_path / "c.yaml", {})


def test_a_file_that_may_not_be_read_says_why(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load(tmp_path / "c.yaml", {})


def test_the_configuration_cannot_be_changed(root):
    config = root("")

    with pytest.raises(AttributeError):
        config.realm = "evil"
    with pytest.raises(TypeError):
        config.services["evil"] = config.services["api"]
