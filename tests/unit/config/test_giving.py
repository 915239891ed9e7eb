"""What a configuration says of free calls and of what must have a price."""

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.errors import ConfigError

METHOD = """
methods:
  tempo: {chain_id: 42431, rpc_url: "http://127.0.0.1:9",
    currency: "0x20C0000000000000000000000000000000000000",
    recipient: "0x00000000000000000000000000000000000000AA"}
"""


def load(routes: str, root: str = "", service: str = ""):
    text = (
        f"secret_key: {'k' * 32}\n{root}{METHOD}services:\n  api:\n"
        f"    base_url: https://a.example\n    {service}\n    routes: {{{routes}}}\n"
    )
    return load_text(text, "c.yaml", {})


def calls(config) -> list:
    given = [route.free_calls for route in config.services["api"].routes]
    return [free and (free.scope, free.count, free.per_s, free.total) for free in given]


def test_the_nearest_free_calls_are_in_force_and_free_routes_have_none():
    routes = '"GET /a": {charge: 1}, "GET /b": free, "GET /c": {charge: 1, free_calls: {count: 2}}'
    root, service = "free_calls: {count: 10, per: minute}", "free_calls: {count: 5, per: hour}"
    assert calls(load(routes)) == [None, None, ("api GET /c", 2, 86_400, 100_000)]
    assert calls(load(routes, root))[0] == ("", 10, 60, 100_000)
    assert calls(load(routes, root, service))[0] == ("api", 5, 3600, 100_000)
    assert calls(load(routes, root, "free_calls: {count: 0}"))[0] is None


@pytest.mark.parametrize(
    "wrong",
    [
        "{per: day}", "{count: -1}", "{count: 1.5}", "{count: 1, per: week}",
        "{count: 1, total: 0}", "{count: 1, by: header}", "10",
    ],
)  # fmt: skip
def test_free_calls_that_cannot_be_are_a_mistake(wrong):
    with pytest.raises(ConfigError, match="free_calls"):
        load('"GET /a": {charge: 1}', f"free_calls: {wrong}")


def test_free_calls_on_a_free_route_are_a_mistake():
    with pytest.raises(ConfigError, match="has no effect on a free route"):
        load('"GET /a": {free: true, free_calls: {count: 1}}')


@pytest.mark.parametrize(
    ("routes", "listed"),
    [
        ('"GET /a": free', 0),
        ('"/a": free', 1),
        ('"GET /a/*": free', 1),
        ('"GET /a/:x": free, "/a/b": {charge: 1}', 1),
        ('"GET /a/:x": free, "GET /:y/b": {charge: 1}', 1),
        ('"GET /a/:x": free, "/c/:y": {charge: 1}', 0),
        ('"GET /a/:x": free, "POST /a/b": {charge: 1}', 0),
        ('"GET /a/:x": free, "/a/b/*": {charge: 1}', 0),
        ('"GET /a/:x": free, "/a/*": {charge: 1}', 0),
        ('"GET /a/:x/c": free, "/a/b/*": {charge: 1}', 1),
    ],
)
def test_strict_pricing_lists_the_free_routes_that_are_too_wide(routes, listed):
    config = load(routes, "strict_pricing: true")
    assert len([w for w in config.warnings if "strict_pricing" in w.message]) == listed
    assert not [w for w in load(routes).warnings if "strict_pricing" in w.message]
