"""mitmweb shows every paid flow; asked through its own API."""

import json
import urllib.request

import pytest

from mpp_gateway.demo.chain import TOKEN_NAME, TOKEN_VERSION
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.rails.evm.payer import Purse, pay
from tests.support.client import get
from tests.support.evm import GAS_KEY, PAYEE, PAYER, PURSE_MINOR, now, settings_of
from tests.support.process import free_port, process
from tests.support.proxy import config_text
from tests.support.upstream import upstream

PASSWORD = "inspect"
MARKED = "marked-upstream-secret-0123456789"


@pytest.fixture
def web(chain, tmp_path):
    """A mitmweb with the gateway's script, and its two ports."""
    with upstream() as api:
        services = (
            f"  api:\n    base_url: {api.url}\n    auth: {{bearer: {MARKED}}}\n    routes:\n"
            '      "GET /free": free\n      "GET /paid": {charge: "0.01"}\n'
        )
        method = (
            f"  evm: {{chain_id: {chain.demo.chain_id}, rpc_url: '{chain.demo.rpc_url}',"
            f" token: {{address: '{chain.demo.token_address}', name: {TOKEN_NAME},"
            f" version: '{TOKEN_VERSION}', decimals: 6}}, recipient: '{PAYEE}',"
            f" submit: {{private_key: '0x{GAS_KEY.hex()}'}}}}\n"
        )
        config = tmp_path / "gateway.yaml"
        config.write_text(config_text(services, method, store=tmp_path / "gateway.db"))
        port, web_port = free_port(), free_port()
        with process(
            "mitmweb",
            "-s",
            "addons/gateway.py",
            "--mode",
            "reverse:http://127.0.0.1:1",
            "--listen-host",
            "127.0.0.1",
            "--listen-port",
            str(port),
            "--web-port",
            str(web_port),
            "--no-web-open-browser",
            "--set",
            f"web_password={PASSWORD}",
            "--set",
            f"gateway_config={config}",
        ) as started:
            started.wait_for_port(port)
            started.wait_for_port(web_port)
            started.wait_for_text("the gateway is open")
            yield port, web_port, started


def ask(web_port: int, path: str) -> str:
    url = f"http://127.0.0.1:{web_port}{path}?token={PASSWORD}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def test_mitmweb_shows_price_state_challenge_credential_and_receipt(web, chain):
    port, web_port, started = web
    status, fields, _ = get(port, "/api/paid")
    assert status == 402
    challenge = Challenge.parse(fields["www-authenticate"])
    credential = pay(challenge, Purse(settings_of(chain.demo).domain, PURSE_MINOR), PAYER, now())
    status, fields, _ = get(port, "/api/paid", f"Authorization: {credential.format()}")
    assert status == 200
    assert get(port, "/api/free")[0] == 200
    assert get(port, "/api/none")[0] == 404
    assert get(port, "/llms.txt")[0] == 200

    flows = json.loads(ask(web_port, "/flows"))

    comments = [flow["comment"] for flow in flows]
    assert comments == [
        "api · GET /paid · 0.01 · evm · payment required",
        "api · GET /paid · 0.01 · evm · settled",
        "api · GET /free · free",
        "refused · not-found",
        "document",
    ]
    unpaid, paid = flows[0]["id"], flows[1]["id"]
    shown = json.loads(ask(web_port, f"/flows/{unpaid}/response/content/Payment.json"))
    assert challenge.id in shown["text"]
    assert '"amount": "10000"' in shown["text"]
    shown = json.loads(ask(web_port, f"/flows/{paid}/request/content/Payment.json"))
    assert credential.payload["signature"] in shown["text"]
    shown = json.loads(ask(web_port, f"/flows/{paid}/response/content/Payment.json"))
    assert shown["view_name"] == "Payment"
    assert '"reference": "0x' in shown["text"]
    everything = json.dumps(flows) + started.output()
    for flow in flows:
        for message in ("request", "response"):
            everything += ask(web_port, f"/flows/{flow['id']}/{message}/content/auto.json")
    assert MARKED not in everything
    assert "Traceback" not in started.output()
