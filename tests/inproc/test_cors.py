"""Pages of other sites: what a browser is allowed, asked of a real proxy before and after a 402."""

from contextlib import contextmanager

import pytest

from tests.support.client import get
from tests.support.proxy import config_text, running
from tests.support.upstream import upstream

PAGE = "https://app.example.com"
METHODS = """  base:
    kind: evm
    chain_id: 8453
    token:
      address: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
      name: USDC
      version: "2"
      decimals: 6
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {facilitator: "FACILITATOR"}"""
SERVICES = """  shop:
    base_url: {url}
    routes:
      "GET /paid": {{charge: "0.01"}}
      "POST /paid": {{charge: "0.02"}}
      "/free": free"""
NAMED = f"cors: {{origins: {PAGE}, max_age_s: 60}}"
OPEN = 'cors: {origins: "*"}'
MAY_SEND = {
    "Accept-Payment",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "PAYMENT-SIGNATURE",
    "Payment-Authorization",
    "X-Max-Price",
    "X-PAYMENT",
}
MAY_READ = {
    "*",
    "PAYMENT-REQUIRED",
    "PAYMENT-RESPONSE",
    "Payment-Outcome",
    "Payment-Receipt",
    "Payment-Session",
    "Payment-Session-Snapshot",
    "Retry-After",
    "WWW-Authenticate",
    "X-Free-Remaining",
    "X-Free-Reset",
    "X-PAYMENT-RESPONSE",
}
"""What the buyers of any protocol set or read; `*` alone is nothing to old browsers."""
OWN_WORDS = (
    b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://upstream.example\r\n"
    b"Access-Control-Allow-Credentials: true\r\nVary: Accept\r\nContent-Length: 2\r\n\r\nok"
)


@contextmanager
def shop(tmp_path, cors: str, answer: bytes = OWN_WORDS):
    with upstream(answer) as server, upstream() as facilitator:
        methods = METHODS.replace("FACILITATOR", facilitator.url)
        services = SERVICES.format(url=server.url)
        text = config_text(services, methods, store=tmp_path / "x.db", more=cors)
        with running(text) as proxy:
            yield proxy.port, server


def ask(port: int, target: str, origin: str = PAGE):
    """Return what a page's browser asks before the page may send a payment."""
    wanted = (
        f"Origin: {origin}",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,x-api-version",
    )
    return get(port, target, *wanted, method="OPTIONS")


@pytest.mark.parametrize("path", ["/shop/paid", "/shop/free"])
def test_a_preflight_is_answered_free_of_charge_and_by_the_gateway_alone(tmp_path, path):
    with shop(tmp_path, NAMED) as (port, server):
        status, fields, body = ask(port, path)
    assert (status, body, server.heads) == (204, b"", 0)
    assert fields["access-control-allow-origin"] == PAGE
    assert "POST" in fields["access-control-allow-methods"].split(", ")
    assert fields["access-control-allow-headers"] == "authorization,x-api-version"
    assert (fields["access-control-max-age"], fields["vary"]) == ("60", "Origin")


def test_a_preflight_is_no_way_to_a_path_that_is_not_sold(tmp_path):
    with shop(tmp_path, NAMED) as (port, server):
        assert ask(port, "/shop/other")[0] == 404
        assert server.heads == 0


def test_a_preflight_with_field_names_that_are_none_is_told_the_usual_ones(tmp_path):
    with shop(tmp_path, NAMED) as (port, _):
        odd = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: a b;c")
        _, fields, _ = get(port, "/shop/paid", f"Origin: {PAGE}", *odd, method="OPTIONS")
    assert set(fields["access-control-allow-headers"].split(", ")) == MAY_SEND


def test_a_page_can_read_the_price_and_everything_else_that_a_payment_is_told_in(tmp_path):
    with shop(tmp_path, NAMED) as (port, _):
        answers = [get(port, path, f"Origin: {PAGE}") for path in ("/shop/paid", "/shop/free")]
    assert [status for status, _, _ in answers] == [402, 200]
    for _, fields, _ in answers:
        assert fields["access-control-allow-origin"] == PAGE
        assert set(fields["access-control-expose-headers"].split(", ")) == MAY_READ


def test_another_page_is_not_allowed_and_caches_are_told_to_keep_them_apart(tmp_path):
    with shop(tmp_path, NAMED) as (port, _):
        answers = [
            get(port, "/shop/paid", "Origin: https://evil.example"),
            get(port, "/shop/free", f"Origin: {PAGE}.evil.example"),
            ask(port, "/shop/paid", "null"),
        ]
    for _, fields, _ in answers:
        assert not any(name.startswith("access-control-allow") for name in fields)
        assert "Origin" in fields["vary"]


def test_what_the_upstream_allows_its_own_pages_is_replaced(tmp_path):
    with shop(tmp_path, NAMED) as (port, _):
        _, fields, _ = get(port, "/shop/free", f"Origin: {PAGE}")
    assert fields["access-control-allow-origin"] == PAGE
    # With it a page could have cookies of the gateway's host sent along.
    assert "access-control-allow-credentials" not in fields
    assert fields["vary"].split("\n") == ["Accept", "Origin"]


def test_a_page_sees_why_an_upstream_failed(tmp_path):
    with shop(tmp_path, NAMED, b"nonsense\r\n\r\n") as (port, _):
        status, fields, _ = get(port, "/shop/free", f"Origin: {PAGE}")
    assert (status, fields["access-control-allow-origin"]) == (502, PAGE)


def test_open_to_every_page_no_answer_depends_on_who_asks(tmp_path):
    with shop(tmp_path, OPEN) as (port, _):
        for origin in (PAGE, "null"):
            _, fields, _ = get(port, "/shop/paid", f"Origin: {origin}")
            # The page of a 402 is no matter of origins.
            assert (fields["access-control-allow-origin"], fields["vary"]) == ("*", "Accept")


def test_documents_are_open_to_every_page_whoever_may_call(tmp_path):
    with shop(tmp_path, NAMED) as (port, _):
        _, fields, _ = get(port, "/openapi.json", "Origin: https://registry.example")
    assert fields["access-control-allow-origin"] == "*"


def test_without_a_word_in_the_configuration_the_upstream_has_its_say(tmp_path):
    with shop(tmp_path, "") as (port, server):
        _, fields, _ = get(port, "/shop/free", f"Origin: {PAGE}")
        status, preflight, _ = ask(port, "/shop/paid")
        assert server.heads == 1
    assert fields["access-control-allow-origin"] == "https://upstream.example"
    assert status == 204
    assert "access-control-allow-origin" not in preflight
