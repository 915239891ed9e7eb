"""The gateway as users start it: a script of mitmdump and of mitmweb, in processes of their own."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from mitmproxy.test import taddons

from mpp_gateway.addons import sentinel
from mpp_gateway.addons.host import Host
from mpp_gateway.addons.runtime import Runtime
from tests.support.client import RawClient, get
from tests.support.h2client import H2Client
from tests.support.process import BIN, ROOT, START_S, free_port
from tests.support.proxy import config_text
from tests.support.scene import (
    UPSTREAM_SECRET,
    VERSIONS,
    call,
    eventually,
    marked,
    services,
)
from tests.support.upstream import upstream

TOOLS = ("mitmdump", "mitmweb")
OLD = ssl.TLSVersion.TLSv1_1
ROUTES = '      "GET /free": free\n      "POST /free": free'
PAID = """      "GET /free": free
      "GET /paid": {charge: "0.01"}"""
METHOD = """  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            name: USDC, version: "2", decimals: 6}
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {facilitator: "http://127.0.0.1:9"}"""


class Process:
    """A running tool. `log` is all that it has printed."""

    def __init__(self, process, port, output: Path) -> None:
        self.process = process
        self.port = port
        self.output = output

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def serves(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return get(self.port, "/api/free")[0] == 200
        except (OSError, EOFError):
            return False


@contextmanager
def running(tool, folder, server, *options, script=None, routes=ROUTES, mode=None):
    config = folder / "gateway.yaml"
    store = folder / "gateway.db"
    paid = "/paid" in routes
    config.write_text(
        config_text(services(server.url, routes), METHOD if paid else "", store=store)
    )
    port, output = free_port(), folder / "log"
    command = [
        str(BIN / tool),
        *("-s", str(script or ROOT / "addons" / "gateway.py")),
        *("--mode", mode or "reverse:http://127.0.0.1:1"),
        *("--listen-host", "127.0.0.1", "--listen-port", str(port)),
        *("--set", f"gateway_config={config}"),
        *("--set", f"confdir={folder / 'conf'}"),
        *options,
    ]
    if tool == "mitmweb":
        command += ["--web-port", str(free_port()), "--no-web-open-browser"]
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"}
        )
        try:
            found = Process(process, port, output)
            assert eventually(found.serves, START_S), found.log
            server.seen.clear()
            yield found
        finally:
            process.terminate()
            process.wait(START_S)
    assert "Traceback" not in found.log
    assert "has crashed" not in found.log
    assert UPSTREAM_SECRET not in found.log


@pytest.mark.parametrize("tool", TOOLS)
def test_the_script_serves_refuses_and_never_waits_for_a_refused_upload(tool, tmp_path):
    with upstream(marked()) as server, running(tool, tmp_path, server) as process:
        for version in VERSIONS:
            reply = call(version, process.port, "GET", "/api/free")
            assert (reply.status, reply.fields["x-marked"]) == (200, "marked-upstream-field")
            assert call(version, process.port, "GET", "/api/nope").status == 404
        assert server.seen[0].get("authorization") == f"Bearer {UPSTREAM_SECRET}"
        with RawClient(process.port) as client:
            client.send(b"POST /api/nope HTTP/1.1\r\nHost: g\r\nContent-Length: 99999999\r\n\r\n")
            assert client.response()[0] == 404
        with H2Client(process.port) as client:
            stream = client.request("POST", "/api/nope", end=False)
            assert client.response(stream).status == 404


@pytest.mark.parametrize("tool", TOOLS)
def test_a_paid_route_asks_for_payment(tool, tmp_path):
    with (
        upstream(marked()) as server,
        running(tool, tmp_path, server, routes=PAID) as process,
    ):
        status, fields, _ = get(process.port, "/api/paid")
        assert status == 402
        assert fields["www-authenticate"].startswith("Payment ")
        assert server.seen == []


def test_what_the_user_sets_does_not_open_the_gateway(tmp_path):
    flags = ("connection_strategy=eager", "rawtcp=true", "block_global=true", "websocket=true")
    options = [part for flag in flags for part in ("--set", flag)]
    with upstream(marked()) as server:
        before = server.connections
        mode = f"reverse:{server.url}"
        with running("mitmdump", tmp_path, server, *options, mode=mode) as process:
            before = server.connections
            assert get(process.port, "/api/nope")[0] == 404
            with RawClient(process.port) as client:
                client.send(b"SSH-2.0-OpenSSH\r\n\r\n")
                client.rest()
            with RawClient(process.port) as client:
                client.send(b"\x00" * 64 + b"\r\n\r\n")
                client.rest()
            assert server.connections == before
            assert get(process.port, "/api/free")[0] == 200


def test_a_tls_1_1_client_is_refused_and_a_tls_1_2_client_is_served(tmp_path):
    with upstream(marked()) as server, running("mitmdump", tmp_path, server) as process:
        with _handshake(process.port, ssl.TLSVersion.TLSv1_2) as wrapped:
            assert wrapped.version() == "TLSv1.2"
        with pytest.raises(ssl.SSLError), _handshake(process.port, OLD):
            pass
        assert eventually(lambda: "cannot agree on a TLS version" in process.log, START_S)


@contextmanager
def _handshake(port, version):
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = version
    client.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself has nothing to offer below 1.2
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        client.wrap_socket(plain, server_hostname="gateway.test") as wrapped,
    ):
        yield wrapped


def test_the_script_sets_what_the_gateway_relies_on_and_leaves_alone_what_stands(monkeypatch):
    monkeypatch.setattr(sentinel, "post", lambda: None)
    with taddons.context() as tools:
        for name in ("tls_version_client_min", "tls_version_server_min"):
            tools.options.add_option(name, str, "TLS1", "")
        changed = []

        def keep(updated):
            changed.append(updated)

        tools.options.changed.connect(keep)
        host = Host(Runtime())

        host.load(_NoLoader())
        host.load(_NoLoader())

        assert tools.options.tls_version_client_min == "TLS1_2"
        assert tools.options.tls_version_server_min == "TLS1_2"
        assert {"tls_version_client_min", "tls_version_server_min"} <= changed[0]
        assert changed[1:] in ([], [set()])


class _NoLoader:
    def add_option(self, *_):
        pass


def test_a_broken_reload_of_the_script_serves_nothing(tmp_path):
    folder = tmp_path / "repo" / "addons"
    folder.mkdir(parents=True)
    script = folder / "gateway.py"
    shutil.copy(ROOT / "addons" / "gateway.py", script)
    with upstream(marked()) as server:
        mode = f"reverse:{server.url}"
        with running("mitmdump", tmp_path, server, script=script, mode=mode) as process:
            with RawClient(process.port) as client:
                ask = b"GET /api/free HTTP/1.1\r\nHost: g\r\n\r\n"
                client.send(ask)
                assert client.response()[0] == 200
                source = script.read_text()
                script.write_text("this is no Python\n")
                os.utime(script, (2**31 - 1, 2**31 - 1))
                assert eventually(lambda: get(process.port, "/api/free")[0] >= 500, START_S)
                before = len(server.seen)
                client.send(ask)
                assert client.response()[0] >= 500, "an old connection was still served"
            for version in VERSIONS:
                reply = call(version, process.port, "GET", "/api/free")
                assert reply.status >= 500
                assert b"mitmproxy" not in reply.everything
            assert len(server.seen) == before
            # The complaint about the script is mitmproxy's own; it is what this test provoked.
            assert re.search(r"error in script|invalid syntax", process.log)
            script.write_text(source)
            os.utime(script, (2**31 + 1, 2**31 + 1))
            assert eventually(process.serves, START_S), "a mended script does not come back"
            process.output.write_text(process.log.replace("Traceback", "(script error)"))
