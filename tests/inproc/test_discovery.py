"""The documents and the health pages from a real proxy, in both versions of HTTP."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.discovery import Discovery
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.config import load_text
from mpp_gateway.config.zero import MOUNT, SERVICE
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.routing.table import RouteTable
from tests.support.client import RawClient, get
from tests.support.components import need
from tests.support.proxy import Proxy, config_text, running
from tests.support.upstream import upstream

MPPX = Path(__file__).parents[1] / "peers" / "node_modules" / "mppx"
METHODS = """  base:
    kind: evm
    chain_id: 8453
    token:
      address: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
      name: USDC
      version: "2"
      decimals: 6
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {facilitator: "FACILITATOR/marked-secret"}"""
SERVICES = """  shop:
    base_url: {url}/marked-secret
    title: The shop
    auth: {{bearer: marked-secret-key}}
    routes:
      "GET /free": free
      "GET /paid": {{charge: "0.01"}}
      "POST /paid/:id": {{charge: "0.02"}}"""
PATHS = [
    "/openapi.json",
    "/llms.txt",
    "/discover",
    "/discover.md",
    "/discover/all",
    "/discover/shop",
]


@pytest.fixture
def gateway(tmp_path):
    with upstream() as server, upstream() as facilitator:
        methods = METHODS.replace("FACILITATOR", facilitator.url)
        text = config_text(SERVICES.format(url=server.url), methods, store=tmp_path / "x.db")
        with running(text) as proxy:
            yield proxy, server


def test_a_facilitator_that_is_gone_shows_in_readiness(tmp_path):
    with upstream() as server:
        methods = METHODS.replace("FACILITATOR", "http://127.0.0.1:9")
        text = config_text(SERVICES.format(url=server.url), methods, store=tmp_path / "x.db")
        with running(text) as proxy:
            status, _, body = get(proxy.port, "/readyz")
            assert status == 503
            assert list(json.loads(body)["rails"]) == ["base"]
            assert b"marked-secret" not in body


def test_documents_come_from_the_gateway_and_never_from_upstream(gateway):
    proxy, server = gateway
    for path in PATHS:
        status, fields, body = get(proxy.port, path)
        assert status == 200
        assert fields["access-control-allow-origin"] == "*"
        assert b"marked-secret" not in body
        assert str(server.port).encode() not in body
        head = get(proxy.port, path, method="HEAD")
        assert head[0] == 200
        assert head[1]["content-length"] == str(len(body))
        again = get(proxy.port, path, f"If-None-Match: {fields['etag']}")
        assert (again[0], again[2]) == (304, b"")
    assert server.connections == 0


def test_the_document_says_what_the_402_asks_for(gateway):
    proxy, _ = gateway
    document = json.loads(get(proxy.port, "/openapi.json")[2])
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            if verb == "parameters":
                continue
            status, fields, _ = get(proxy.port, path.replace("{id}", "7"), method=verb.upper())
            assert (status == 402) == ("x-payment-info" in operation)
            if status == 402:
                (challenge,) = Challenge.parse_all([fields["www-authenticate"]])
                (offer,) = operation["x-payment-info"]["offers"]
                request = challenge.request_object
                assert offer["amount"] == request["amount"]
                assert offer["currency"] == request["currency"]
                assert (offer["method"], offer["intent"]) == (challenge.method, challenge.intent)


def test_a_connection_goes_on_after_304_head_and_404(gateway):
    proxy, server = gateway
    tag = get(proxy.port, "/llms.txt")[1]["etag"]
    with RawClient(proxy.port) as client:
        for method, target, more, expected in [
            ("GET", "/llms.txt", f"If-None-Match: {tag}\r\n", 304),
            ("HEAD", "/llms.txt", "", 200),
            ("GET", "/discover/nobody", "", 404),
            ("OPTIONS", "/openapi.json", "", 204),
            ("GET", "/shop/free", "", 200),
        ]:
            client.send(f"{method} {target} HTTP/1.1\r\nHost: gateway.test\r\n{more}\r\n".encode())
            assert client.response(method)[0] == expected
    assert len(server.seen) == 1


def test_other_methods_are_refused_before_their_body(gateway):
    proxy, _ = gateway
    status, fields, _ = get(proxy.port, "/openapi.json", method="POST", body=b"{}")
    assert status == 405
    assert fields["allow"] == "GET, HEAD, OPTIONS"


def test_agents_get_markdown_and_programs_get_json(gateway):
    proxy, _ = gateway
    assert isinstance(json.loads(get(proxy.port, "/discover")[2]), list)
    for client in ("curl/8.5.0", "Mozilla/5.0 (compatible; ClaudeBot/1.0)"):
        _, fields, body = get(proxy.port, "/discover", f"User-Agent: {client}", "Accept: */*")
        assert fields["content-type"].startswith("text/")
        assert fields["vary"] == "Accept, User-Agent"
        assert b"0.01 usd by evm (chain 8453, USDC)" in body


def test_an_open_gateway_is_alive_and_ready(gateway):
    proxy, _ = gateway
    assert json.loads(get(proxy.port, "/healthz")[2]) == {"status": "ok"}
    assert json.loads(get(proxy.port, "/readyz")[2]) == {"status": "ready"}


def test_a_gateway_that_is_not_open_is_alive_and_not_ready(gateway):
    proxy, server = gateway
    serving, proxy.runtime.serving = proxy.runtime.serving, None
    try:
        assert get(proxy.port, "/healthz")[0] == 200
        assert get(proxy.port, "/readyz")[0] == 503
        for path in [*PATHS, "/shop/free"]:
            assert get(proxy.port, path)[0] == 503
    finally:
        proxy.runtime.serving = serving
    assert get(proxy.port, "/readyz")[0] == 200
    assert server.connections == 0


def test_readiness_names_the_rail_that_is_not_ready(gateway):
    proxy, _ = gateway
    problems = proxy.runtime.serving.problems
    problems["base"] = "no answer from https://node.example/marked-secret"
    status, _, body = get(proxy.port, "/readyz")
    problems.clear()
    assert status == 503
    assert json.loads(body)["rails"] == {"base": "no answer from [redacted]"}


def test_a_fault_in_the_documents_refuses_and_forwards_nothing(gateway):
    proxy, server = gateway
    (addon,) = [addon for addon in proxy.addons if isinstance(addon, Discovery)]
    library, addon.library = addon.library, None
    try:
        for path in ("/openapi.json", "/shop/free"):
            status, _, body = get(proxy.port, path)
            assert status == 500
            assert json.loads(body)["type"] == "urn:mpp-gateway:problem:gateway-fault"
    finally:
        addon.library = library
    assert server.connections == 0


def test_a_single_service_at_the_root_keeps_its_own_paths(tmp_path):
    with upstream() as server:
        services = SERVICES.replace("shop:", f"{SERVICE}:").format(url=server.url)
        services += '\n      "GET /openapi.json": free'
        config = load_text(
            config_text(
                services, METHODS.replace("FACILITATOR", server.url), store=tmp_path / "x.db"
            ),
            "x.yaml",
            {},
        )
        table = RouteTable.single(config.services[SERVICE])
        runtime = Runtime()
        runtime.configure(config, table, MOUNT)
        proxy = Proxy(runtime, build_addons(runtime), "reverse:http://127.0.0.1:1").start()
        try:
            asked_at_start = len(server.seen)
            document = json.loads(get(proxy.port, f"{MOUNT}/openapi.json")[2])
            assert list(document["paths"]) == ["/free", "/paid", "/paid/{id}", "/openapi.json"]
            assert get(proxy.port, f"{MOUNT}/healthz")[0] == 200
            assert get(proxy.port, "/openapi.json")[2] == b'{"ok":true}'
            asked = [seen.target for seen in server.seen[asked_at_start:]]
            assert asked == ["/marked-secret/openapi.json"]
        finally:
            proxy.stop()


def test_mppx_finds_the_documents_in_order(gateway, tmp_path):
    need("mppx")
    proxy, _ = gateway
    command = ["node", str(MPPX / "dist" / "bin.js"), "validate", proxy.url, "-j"]
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False, env=home
    )
    found = json.loads(done.stdout)["discovery"]
    assert found["valid"], done.stdout + done.stderr
    assert [check for check in found["checks"] if check["severity"] != "pass"] == []
    paid = [(endpoint["method"], endpoint["path"]) for endpoint in found["endpoints"]]
    assert paid == [("GET", "/shop/paid"), ("POST", "/shop/paid/{id}")]
