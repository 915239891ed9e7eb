"""`explain` says what the running gateway answers, of documents and of routes."""

import json

import pytest

from mpp_gateway.cli.main import main
from tests.support.client import get
from tests.support.proxy import config_text, running

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "TRACE", "get")
METHOD = """  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {facilitator: "http://127.0.0.1:9"}"""
SERVICES = """  api:
    base_url: http://127.0.0.1:9
    routes:
      "GET /paid": {charge: "0.01"}
      "/*": {charge: "0.02"}"""
DOCUMENTS = (
    *("/openapi.json", "/llms.txt?x=1", "/discover", "/discover.md", "/healthz"),
    *("/discover/all", "/discover/all.md", "/discover/api", "/discover/api.md"),
    *("/discover/", "/discover/nobody", "/openapi.json/", "/Discover", "/"),
)


@pytest.fixture(scope="module", params=["", "base_path: /pay"], ids=["root", "base path"])
def shop(request, tmp_path_factory):
    """A running gateway's port, its file, and what stands before its paths."""
    folder = tmp_path_factory.mktemp("explain")
    text = config_text(SERVICES, METHOD, store=folder / "gateway.db", more=request.param)
    file = folder / "gateway.yaml"
    file.write_text(text)
    with running(text) as proxy:
        yield proxy.port, file, request.param.partition(": ")[2]


@pytest.mark.parametrize("method", METHODS)
def test_explain_and_the_gateway_agree(method, shop, capsys):
    port, file, base = shop
    paths = [*DOCUMENTS, *(base + path for path in DOCUMENTS), f"{base}/api/paid", "/api/x"]
    told, answered = {}, {}

    for path in dict.fromkeys(paths):
        main(["explain", method, path, "--config", str(file), "--json"])
        told[path] = json.loads(capsys.readouterr().out)["status"]
        answered[path] = get(port, path, method=method)[0]

    assert told == answered


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        ("https://${MARK}.example/v1", "a value (not shown)/paid?q=1"),
        ("https://a.example/${MARK}", "a value (not shown)/paid?q=1"),
        ("${WHOLE}", "a value (not shown)/paid?q=1"),
        ("https://a.example/v1", "https://a.example/v1/paid?q=1"),
    ],
)
def test_what_came_from_the_environment_is_not_explained(
    base_url, shown, tmp_path, capsys, monkeypatch
):
    """Some services have the caller's key in the path or the host of their address."""
    monkeypatch.setenv("MARK", "marked-key")
    monkeypatch.setenv("WHOLE", "https://a.example/marked-key")
    file = tmp_path / "gateway.yaml"
    services = SERVICES.replace("http://127.0.0.1:9", f'"{base_url}"')
    file.write_text(config_text(services, METHOD, store=tmp_path / "gateway.db"))

    code = main(["explain", "GET", "/api/paid?q=1", "--config", str(file)])

    out = capsys.readouterr().out
    assert (code, json.loads(out)["upstream"]) == (0, shown)
    assert "marked-key" not in out
