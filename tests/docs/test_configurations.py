"""What a page shows as a configuration loads; a marked fragment does when it is completed."""

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.routing import RouteTable
from tests.docs.pages import PAGES, ROOT, blocks, output_of
from tests.support.certificates import self_signed
from tests.support.command import run_on_terminal

ENVIRON = {
    "MPP_SECRET_KEY": "k" * 44,
    "RECIPIENT": "0x" + "ab" * 20,
    "FACILITATOR_TOKEN": "marked-facilitator",
    "WEATHER_TOKEN": "marked-token",
    "FEE_KEY": "0x" + "12" * 32,
    "STRIPE_SECRET_KEY": "sk_test_marked",
    "ANTHROPIC_API_KEY": "marked-anthropic",
    "OPENAI_API_KEY": "marked-openai",
    "PG_PASSWORD": "marked-password",
    "RPC_URL": "https://rpc.example/marked",
    "GAS_KEY": "11" * 32,
}
BLOCKS = [block for page in PAGES for block in blocks(page, "yaml")]
README = ROOT / "README.md"

SECRET = "secret_key: ${MPP_SECRET_KEY}\n"
METHODS = """\
methods:
  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: ${RECIPIENT}
    submit: {facilitator: https://facilitator.example}
"""
SERVICES = """\
services:
  weather: {base_url: https://api.example.com, routes: {"GET /now": {charge: "0.01"}}}
"""
DEAR = SERVICES.replace("0.01", "1.00")
"""What Stripe takes a price for."""
COMPLETED = {
    "# fragment": SECRET + METHODS + SERVICES,
    "# fragment: methods": SECRET + DEAR + "methods:\n",
    "# fragment: services": SECRET + METHODS + "services:\n",
}
"""First line of a fragment, and what stands before the rest of it."""


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
def test_a_configuration_of_a_page_loads(block, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "how-to" / "examples"))
    self_signed(tmp_path)
    (tmp_path / "upstream.pem").rename(tmp_path / "gateway.crt")
    (tmp_path / "upstream.key").rename(tmp_path / "gateway.key")
    first, _, rest = block.text.partition("\n")
    text = COMPLETED[first] + rest if first.startswith("# fragment") else block.text
    text = text.replace("/etc/ssl", str(tmp_path))

    config = load_text(text, block.id, ENVIRON)

    assert any(route.prices for service in config.services.values() for route in service.routes)
    RouteTable.build(config)


def test_the_readme_has_a_whole_configuration_of_about_ten_lines():
    (first, *_) = blocks(README, "yaml")

    assert not first.text.startswith("#")
    assert first.text.count("\n") <= 10
    assert first.line < 15


def test_the_readme_shows_the_table_that_the_command_prints(tmp_path):
    config = tmp_path / "gateway.yaml"
    config.write_text(blocks(README, "yaml")[0].text)
    shown = output_of(README, "mpp-gateway serve --config gateway.yaml")

    code, printed = run_on_terminal(
        "check", "--config", config, home=tmp_path, NO_COLOR="1", **ENVIRON
    )

    assert code == 0
    table = printed[: printed.index("warning: ")]
    assert shown == table


def test_the_readme_is_short_and_its_first_screen_has_the_402_and_the_200():
    lines = README.read_text().split("\n")

    assert len(lines) <= 125
    first_screen = "\n".join(lines[:50])
    assert "HTTP/1.1 402 Payment Required" in first_screen
    assert "HTTP/1.1 200 OK" in first_screen
