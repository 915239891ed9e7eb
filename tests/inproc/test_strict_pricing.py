"""`strict_pricing`: what no route names and no price covers never reaches the upstream."""

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.gateway.explanation import explain
from tests.support.paid import paid_gateway, refused

STRICT = "strict_pricing: true"
ROUTES = """
      "GET /v1/ping": free
      "GET /v1/:name": free
      "/v1/any": free
      "GET /files/*": free
      "POST /v1/chat": {charge: "0.01"}
      "/v1/report": {charge: "0.01"}
      "/v1/both/x": {charge: "0.01"}
      "GET /v1/both/:name": free
      "OPTIONS /v1/named": free
      "GET /v2/models": free
      "GET /v2/of/:name": free
      "/v2/*": {charge: "0.01"}"""


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/api/files/a"),  # a wildcard
        ("HEAD", "/api/files/a"),
        ("POST", "/api/v1/any"),  # a route for every method
        ("DELETE", "/api/v1/any"),
        ("OPTIONS", "/api/v1/any"),
        ("GET", "/api/v1/report"),  # a free route before the one with the price
        ("HEAD", "/api/v1/report"),
    ],
)
def test_what_is_only_free_by_a_wide_rule_is_refused_before_the_upstream(tmp_path, method, target):
    with paid_gateway(tmp_path, routes=ROUTES, more=STRICT) as paid:
        answer = paid.ask(target, method=method)
        assert (answer[0], paid.hits) == (403, 0)
        if method != "HEAD":
            refused(answer, "unpriced", 403)


def test_the_same_goes_through_without_it_so_the_test_can_fail(tmp_path):
    with paid_gateway(tmp_path, routes=ROUTES) as paid:
        assert paid.ask("/api/files/a")[0] == 200
        assert paid.ask("/api/v1/any", method="POST")[0] == 200
        assert paid.ask("/api/v1/report")[0] == 200


def test_a_payment_does_not_open_what_has_no_price(tmp_path):
    with paid_gateway(tmp_path, routes=ROUTES, more=STRICT) as paid:
        credential = paid.buy("/api/v1/chat", method="POST", body=b"{}")
        refused(paid.send(credential, "/api/files/a"), "unpriced", 403)
        paid.untouched()


def test_what_is_named_is_free_and_what_is_priced_is_asked_for(tmp_path):
    with paid_gateway(tmp_path, routes=ROUTES, more=STRICT) as paid:
        assert paid.ask("/api/v1/ping")[0] == 200
        assert paid.ask("/api/v1/ping", method="HEAD")[0] == 200
        assert paid.ask("/api/v1/city")[0] == 200
        assert paid.ask("/api/v1/both/y")[0] == 200
        # Exceptions within what has a price.
        assert paid.ask("/api/v2/models")[0] == 200
        assert paid.ask("/api/v2/of/oslo")[0] == 200
        assert paid.ask("/api/v2/other")[0] == 402
        assert paid.ask("/api/v1/both/x")[0] == 402
        assert paid.ask("/api/v1/chat", method="POST", body=b"{}")[0] == 402
        assert paid.ask("/api/v1/named", method="OPTIONS")[0] == 200
        assert paid.ask("/api/v1/ping", method="OPTIONS")[0] == 204


@pytest.mark.parametrize("method", ["POST", "PUT", "BREW"])
def test_a_method_that_no_route_names_is_refused_as_ever(tmp_path, method):
    with paid_gateway(tmp_path, routes=ROUTES, more=STRICT) as paid:
        assert paid.ask("/api/v1/ping", method=method)[0] == 405
        assert paid.ask("/api/none", method=method)[0] == 404
        assert paid.hits == 0


def test_a_path_written_oddly_is_no_way_to_a_wide_rule(tmp_path):
    with paid_gateway(tmp_path, routes=ROUTES, more=STRICT) as paid:
        odd = ("/api/v1/%72eport", "/api/v1/any/", "/api//files/a", "/api/v1/report;x=1")
        for target in (*odd, "/api/v1/a%2fb", "/api/v1/a%5Cb", "/api/v1/%2e%2e%2ffiles%2fa"):
            status, *_ = paid.ask(target)
            assert status >= 400, target
        assert paid.hits == 0


def test_check_lists_what_is_refused_and_explain_says_why(tmp_path):
    with paid_gateway(tmp_path, routes=ROUTES, more=STRICT) as paid:
        config = load_text(paid.config, "gateway.yaml", {})
        said = {w.path: w.message for w in config.warnings if "strict_pricing" in w.message}
        keys = [path.partition("routes")[2] for path in said]
        assert [key.strip('.["]') for key in keys] == [
            "GET /v1/:name",
            "/v1/any",
            "GET /files/*",
        ]
        assert any('where "/v1/report" has a price' in message for message in said.values())
        explained = explain(config, "GET", "/api/files/a")
        assert (explained.status, explained.reasons) == (
            403,
            ("No price is set for this call, and no free route names it.",),
        )
        plain = load_text(paid.config.replace(STRICT, ""), "gateway.yaml", {})
        assert not [w for w in plain.warnings if "strict_pricing" in w.message]
