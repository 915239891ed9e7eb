"""A small configuration that is right, and a way to change it."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest

from mpp_gateway.config import GatewayConfig, load_text
from mpp_gateway.errors import ConfigError

ENVIRON = {"SECRET": "k" * 32, "MARK": "marked-secret-marked-secret-marked"}
BASE = """\
secret_key: ${SECRET}
methods:
  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: "0xabababababababababababababababababababab"
    submit: {facilitator: https://facilitator.example}
"""
SERVICES = """\
services:
  api:
    base_url: https://api.example
    routes: {"GET /x": {charge: "0.05"}}
"""


class Builder(SimpleNamespace):
    """Loads texts; `mistakes` returns the lines of what is wrong, without the file's name."""

    base, services = BASE, SERVICES

    def load(self, text: str, environ: Mapping[str, str] = ENVIRON) -> GatewayConfig:
        return load_text(text, "c.yaml", environ)

    def routes(self, routes: str, service: str = "", root: str = "") -> str:
        """The text of a configuration with these routes, in flow style."""
        lines = f"services:\n  api:\n    base_url: https://api.example\n{_indent(service)}"
        return f"{BASE}{root}{lines}    routes: {{{routes}}}\n"

    def mistakes(self, text: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ)
        return [str(mistake).partition(": ")[2] for mistake in caught.value.mistakes]

    def mistake(self, text: str, environ: Mapping[str, str] = ENVIRON) -> str:
        (only,) = self.mistakes(text, environ)
        return only


def _indent(lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines.splitlines())


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture
def route(build: Builder) -> Callable[..., object]:
    """Return the only route of a configuration."""

    def load(routes: str, service: str = "", root: str = "") -> object:
        config = build.load(build.routes(routes, service, root))
        (only,) = config.services["api"].routes
        return only

    return load
