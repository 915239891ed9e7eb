"""Every example configuration loads."""

from pathlib import Path

import pytest

from mpp_gateway.config import load
from mpp_gateway.errors import ConfigError
from mpp_gateway.routing import RouteTable

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
ENVIRON = {
    "MPP_SECRET_KEY": "k" * 44,
    "MPP_SECRET_KEY_OLD": "o" * 44,
    "RECIPIENT": "0x" + "ab" * 20,
    "PARTNER": "0x" + "cd" * 20,
    "RPC_URL": "https://rpc.example/key",
    "GAS_KEY": "0x" + "11" * 32,
    "FEE_KEY": "0x" + "12" * 32,
    "FACILITATOR_URL": "https://facilitator.example",
    "FACILITATOR_HOST": "facilitator.example",
    "FACILITATOR_TOKEN": "token",
    "OPENAI_API_KEY": "sk-openai",
    "ANTHROPIC_API_KEY": "sk-anthropic",
    "WEATHER_TOKEN": "weather",
    "REPORTS_KEY": "reports",
    "API_KEY": "key",
    "STRIPE_SECRET_KEY": "sk_test_key",
    "STRIPE_PROFILE": "profile_1",
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_an_example_loads_and_sells_something(path):
    config = load(path, ENVIRON)
    routes = [route for service in config.services.values() for route in service.routes]

    assert any(route.free for route in routes)
    assert any(route.prices for route in routes)
    RouteTable.build(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_an_example_names_the_variables_it_lacks(path):
    with pytest.raises(ConfigError, match="the environment variable MPP_SECRET_KEY is not set"):
        load(path, {})


SOLD_BY = {
    "minimal.yaml": {("weather", "EvmMethod", False)},
    "base.yaml": {("mine", "EvmMethod", False)},
    "openai.yaml": {("openai", "EvmMethod", False)},
    "openai-tempo.yaml": {("openai", "TempoMethod", False)},
    "anthropic.yaml": {("anthropic", "EvmMethod", False)},
    "anthropic-stripe.yaml": {("anthropic", "StripeMethod", False)},
    "custom-x402-facilitator.yaml": {
        ("weather", "EvmMethod", True),
        ("reports", "EvmMethod", True),
    },
    "all-rails.yaml": {
        ("weather", "EvmMethod", True),
        ("weather", "TempoMethod", False),
        ("weather", "StripeMethod", False),
    },
}
"""Of each example: what it sells, by which rail, and whether by x402 too."""


def test_each_example_sells_by_the_rails_that_it_is_an_example_of():
    found = {}
    for path in CONFIGS:
        config = load(path, ENVIRON)
        found[path.name] = {
            (name, type(method).__name__, bool(getattr(method, "x402", False)))
            for name, service in config.services.items()
            for route in service.routes
            for price in route.prices
            for method in [config.methods[price.method_name]]
        }

    assert found == SOLD_BY
