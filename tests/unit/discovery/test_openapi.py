"""What `/openapi.json` says, and that it says it as OpenAPI 3.1 and the discovery draft ask."""

import json
import re

import pytest

from mpp_gateway.discovery.openapi import BYTES_MAX, openapi_json
from tests.unit.discovery.scenery import acme, catalog_of, config_of

AMOUNT = re.compile(r"0|[1-9][0-9]*")
VERBS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def document(routes: str, **more: str) -> dict:
    return json.loads(openapi_json(catalog_of(config_of(routes, **more))))


def operations(found: dict) -> dict[tuple[str, str], dict]:
    return {
        (verb, path): operation
        for path, item in found["paths"].items()
        for verb, operation in item.items()
        if verb in VERBS
    }


def check_shape(found: dict) -> None:
    """Check what OpenAPI 3.1.0 and the draft require of every document."""
    assert found["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(found["info"]) <= {"title", "version", "description"}
    assert all(isinstance(found["info"][name], str) for name in ("title", "version"))
    allowed = {"openapi", "info", "servers", "tags", "paths", "components"}
    assert all(name in allowed or name.startswith("x-") for name in found)
    shapes = [re.sub(r"\{[^}]*\}", "{}", path) for path in found["paths"]]
    assert len(set(shapes)) == len(shapes), "two templates for one path"
    every = operations(found)
    is_bare = "details" in found.get("x-truncated", {}).get("omitted", ())
    ids = [operation.get("operationId") for operation in every.values()]
    assert is_bare or (None not in ids and len(set(ids)) == len(ids))
    tags = [tag["name"] for tag in found.get("tags", ())]
    assert len(set(tags)) == len(tags)
    for (verb, path), operation in every.items():
        item = found["paths"][path]
        named = re.findall(r"\{([^}]*)\}", path)
        assert len(set(named)) == len(named)
        declared = {
            p["name"]: p for p in [*item.get("parameters", []), *operation.get("parameters", [])]
        }
        assert set(declared) == set(named)
        assert all(
            p["in"] == "path" and p["required"] is True and p["schema"] for p in declared.values()
        )
        assert is_bare or operation["tags"][0] in tags
        check_operation(found, verb, operation)


def check_operation(found: dict, verb: str, operation: dict) -> None:
    assert operation["responses"]
    references = [r["$ref"] for r in operation["responses"].values()]
    if verb in {"post", "put", "patch"}:
        references.append(operation["requestBody"]["$ref"])
    for reference in references:
        _, *steps = reference.split("/")
        target = found
        for step in steps:
            target = target[step]
        assert target["description"]
    info = operation.get("x-payment-info")
    assert (info is not None) == ("402" in operation["responses"])
    if info is None:
        return
    assert set(info) == {"offers"}
    assert info["offers"]
    for offer in info["offers"]:
        assert {"intent", "method", "amount"} <= set(offer)
        assert set(offer) <= {"intent", "method", "amount", "currency", "description"}
        assert offer["intent"] in {"charge", "session"}
        assert AMOUNT.fullmatch(offer["amount"])
        assert all(isinstance(value, str) for value in offer.values())


def test_the_whole_document_keeps_the_rules():
    check_shape(json.loads(openapi_json(catalog_of(acme()))))


def test_only_paid_operations_carry_payment_info():
    found = operations(document('"GET /free": free\n"GET /paid": {charge: "0.01"}'))
    assert "x-payment-info" not in found["get", "/shop/free"]
    assert "402" not in found["get", "/shop/free"]["responses"]
    assert found["get", "/shop/paid"]["x-payment-info"] == {
        "offers": [
            {
                "intent": "charge",
                "method": "evm",
                "amount": "10000",
                "currency": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
                "description": "0.01 usd by evm (chain 8453, USDC)",
            }
        ]
    }


def test_the_402_is_described_with_its_challenge_and_its_problem():
    response = document('"GET /paid": {charge: "0.01"}')["components"]["responses"][
        "PaymentRequired"
    ]
    assert "WWW-Authenticate" in response["headers"]
    assert "application/problem+json" in response["content"]


def test_paths_have_base_path_and_service_and_braces():
    found = document('"GET /v1/now/:city": free\n"GET /files/*": free', root="base_path: /pay")
    assert list(found["paths"]) == ["/pay/shop/v1/now/{city}", "/pay/shop/files/{path}"]
    (rest,) = found["paths"]["/pay/shop/files/{path}"]["parameters"]
    assert "rest of the path" in rest["description"]
    check_shape(found)


def test_a_route_without_a_method_is_listed_for_five():
    found = document('"/any": {charge: "0.01"}')
    assert list(found["paths"]["/shop/any"]) == ["get", "post", "put", "patch", "delete"]
    check_shape(found)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (
            '"GET /x/:id": free\n"POST /x/:name": free',
            {("get", "/shop/x/{id}"), ("post", "/shop/x/{id}")},
        ),
        (
            '"GET /x/:id": {charge: "1"}\n"GET /x/*": {charge: "2"}',
            {("get", "/shop/x/{id}"), ("get", "/shop/x/{segment1}/{path}")},
        ),
        (
            '"GET /x/:id": {charge: "1"}\n"POST /x/*": {charge: "2"}',
            {("get", "/shop/x/{id}"), ("post", "/shop/x/{id}")},
        ),
        ('"GET /:path/*": free', {("get", "/shop/{path}/{path_}")}),
        (
            '"GET /x": free\n"/x": {charge: "1"}',
            {(v, "/shop/x") for v in ("get", "post", "put", "patch", "delete")},
        ),
        ('"GET /a-b": free\n"GET /a_b": free', {("get", "/shop/a-b"), ("get", "/shop/a_b")}),
        (
            '"GET /x/:a": free\n"GET /x/:a/:b": free\n"GET /x/*": free',
            {
                ("get", "/shop/x/{a}"),
                ("get", "/shop/x/{a}/{b}"),
                ("get", "/shop/x/{segment1}/{segment2}/{path}"),
            },
        ),
    ],
)
def test_patterns_that_look_alike_do_not_collide(routes, expected):
    found = document(routes)
    assert set(operations(found)) == expected
    check_shape(found)


def test_the_first_route_that_takes_a_request_gives_its_price():
    found = operations(document('"GET /x": {charge: "1"}\n"/x": {charge: "2"}'))
    amounts = {
        verb: operation["x-payment-info"]["offers"][0]["amount"]
        for (verb, _), operation in found.items()
    }
    assert amounts == dict.fromkeys(["post", "put", "patch", "delete"], "2000000") | {
        "get": "1000000"
    }


def test_a_method_that_openapi_does_not_know_is_kept_in_an_extension():
    item = document('"REPORT /x": {charge: "1"}')["paths"]["/shop/x"]
    assert item["x-additionalOperations"]["REPORT"]["x-payment-info"]


def test_links_are_absolute_with_a_public_url_and_paths_without():
    near = document('"GET /x": free', root="base_path: /pay")
    assert "servers" not in near
    assert near["x-service-info"]["docs"]["llms"] == "/pay/llms.txt"
    for public_url in ("https://api.example", "https://api.example/pay"):
        far = document('"GET /x": free', root=f"base_path: /pay\npublic_url: {public_url}")
        assert far["servers"] == [{"url": "https://api.example"}]
        assert far["x-service-info"]["docs"] == {
            "apiReference": "https://api.example/pay/discover/all.md",
            "llms": "https://api.example/pay/llms.txt",
        }


def test_at_most_five_categories_are_named_each_once():
    found = document(
        '"GET /x": free', root="categories: [a, b, c]", service="    categories: [c, d, e, f]"
    )
    assert found["x-service-info"]["categories"] == ["a", "b", "c", "d", "e"]


# --- size ----------------------------------------------------------------------------------------


def many(count: int, *, description: str = "", price: str = 'charge: "0.01"') -> str:
    words = f", description: {json.dumps(description)}" if description else ""
    return "\n".join(
        f'"POST /v1/some/path/number/{n}": {{{price}, title: "Call number {n}"{words}}}'
        for n in range(count)
    )


def test_a_short_document_is_whole_and_readable():
    body = openapi_json(catalog_of(config_of(many(10, description="d" * 100))))
    assert b"x-truncated" not in body
    assert body.startswith(b'{\n  "openapi"')


def test_descriptions_go_first():
    catalog = catalog_of(config_of(many(60, description="d" * 2000)))
    body = openapi_json(catalog)
    assert len(body) < BYTES_MAX
    found = json.loads(body)
    assert found["x-truncated"] == {
        "omitted": ["descriptions"],
        "operations": {"listed": 60, "total": 60},
        "complete": "/discover/all",
    }
    assert len(operations(found)) == 60
    assert found["paths"]["/shop/v1/some/path/number/0"]["post"]["summary"] == "Call number 0"
    check_shape(found)


def test_four_hundred_routes_stay_below_the_limit_of_registries():
    routes = '"GET /free": free\n' + many(400, description="What it does.")
    body = openapi_json(catalog_of(config_of(routes)))
    assert BYTES_MAX - 1000 < len(body) < BYTES_MAX
    found = json.loads(body)
    listed = operations(found)
    assert found["x-truncated"]["omitted"] == ["descriptions", "titles", "details", "operations"]
    assert found["x-truncated"]["operations"] == {"listed": len(listed), "total": 401}
    assert ("get", "/shop/free") not in listed, "paid operations go last"
    assert ("post", "/shop/v1/some/path/number/0") in listed
    assert len(listed) > 200
    check_shape(found)


def test_free_operations_go_before_paid_ones():
    free = "\n".join(f'"GET /v1/free/{n}": free' for n in range(400))
    found = json.loads(openapi_json(catalog_of(config_of(free + "\n" + many(100)))))
    paid = [key for key, operation in operations(found).items() if "x-payment-info" in operation]
    assert len(paid) == 100
    check_shape(found)


@pytest.mark.parametrize("bytes_max", range(2000, 30_000, 1777))
def test_whatever_the_limit_the_document_keeps_it_and_the_rules(bytes_max):
    body = openapi_json(catalog_of(acme()), bytes_max)
    assert len(body) < bytes_max
    check_shape(json.loads(body))
