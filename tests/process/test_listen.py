"""Where the gateway listens under mitmproxy's own tools."""

import socket
import ssl
import urllib.request

import pytest

from tests.support.certificates import self_signed
from tests.support.client import get
from tests.support.process import free_port, process
from tests.support.proxy import config_text
from tests.support.toy_rail import TOY_METHOD
from tests.support.upstream import upstream


def test_the_files_address_holds_under_mitmdump_when_the_user_names_no_port(tmp_path):
    with upstream() as api:
        port = free_port()
        services = f'  api:\n    base_url: {api.url}\n    routes: {{"GET /free": free}}\n'
        more = f"listen: 127.0.0.1:{port}"
        config = tmp_path / "gateway.yaml"
        config.write_text(config_text(services, store=tmp_path / "gateway.db", more=more))
        command = ("mitmdump", "-s", "addons/gateway.py", "--set", f"gateway_config={config}")
        # Without --mode mitmproxy would be an open forward proxy: the gateway takes that too.
        with process(*command) as started:
            started.wait_for_text("the gateway is open")
            started.wait_for_port(port)
            assert get(port, "/api/free")[0] == 200
            assert get(port, f"{api.url}/free")[0] == 400
            assert len(api.seen) == 1
            assert "Traceback" not in started.output()


def test_a_stop_of_mitmdump_closes_the_books(tmp_path):
    """What is left in a write-ahead log, or in an open session, was not closed."""
    with upstream() as api, upstream() as facilitator:
        port = free_port()
        services = (
            f'  api:\n    base_url: {api.url}\n    routes: {{"GET /x": {{charge: "0.01"}}}}\n'
        )
        method = TOY_METHOD.replace("http://127.0.0.1:9", facilitator.url)
        config = tmp_path / "gateway.yaml"
        more = f"listen: 127.0.0.1:{port}"
        store = tmp_path / "gateway.db"
        config.write_text(config_text(services, method, store=store, more=more))
        command = ("mitmdump", "-s", "addons/gateway.py", "--set", f"gateway_config={config}")
        with process(*command) as started:
            started.wait_for_text("the gateway is open")
            started.wait_for_port(port)
            assert get(port, "/api/x")[0] == 402
            started.stop()
            assert "Unclosed" not in started.output()
        assert store.exists()
        assert not store.with_name("gateway.db-wal").exists()


def test_the_files_certificate_is_shown_under_mitmdump_too_and_clear_text_is_turned_away(tmp_path):
    """A challenge must not travel in clear text, and a stranger's certificate would be trusted."""
    self_signed(tmp_path)
    with upstream() as api:
        port = free_port()
        services = f'  api:\n    base_url: {api.url}\n    routes: {{"GET /free": free}}\n'
        files = f"{{cert: {tmp_path / 'upstream.pem'}, key: {tmp_path / 'upstream.key'}}}"
        more = f"listen: 127.0.0.1:{port}\ntls: {files}"
        config = tmp_path / "gateway.yaml"
        config.write_text(config_text(services, store=tmp_path / "gateway.db", more=more))
        command = ("mitmdump", "-s", "addons/gateway.py", "--set", f"gateway_config={config}")
        with process(*command) as started:
            started.wait_for_text("the gateway is open")
            started.wait_for_port(port)
            trusting = ssl.create_default_context(cafile=tmp_path / "upstream.pem")
            trusting.check_hostname = False
            url = f"https://127.0.0.1:{port}/api/free"
            with urllib.request.urlopen(url, context=trusting, timeout=10) as response:
                assert response.status == 200
            assert get(port, "/api/free")[0] == 400
            assert len(api.seen) == 1


@pytest.mark.parametrize("allowed", [False, True])
def test_clear_text_beyond_this_machine_stays_closed_under_mitmdump_too(tmp_path, allowed):
    """A file that listens here, a flag that listens everywhere: proofs of payment in the open."""
    with upstream() as api:
        port = free_port()
        services = f'  api:\n    base_url: {api.url}\n    routes: {{"GET /free": free}}\n'
        more = "allow_insecure: true" if allowed else ""
        config = tmp_path / "gateway.yaml"
        config.write_text(config_text(services, store=tmp_path / "gateway.db", more=more))
        command = ("mitmdump", "-s", "addons/gateway.py", "--set", f"gateway_config={config}")
        public = ("--listen-host", "0.0.0.0", "--listen-port", str(port))  # noqa: S104
        with process(*command, *public) as started:
            started.wait_for_text("the gateway is open" if allowed else "the gateway stays closed")
            assert get(port, "/api/free")[0] == (200 if allowed else 503)
            assert len(api.seen) == int(allowed)
            assert ("in clear text" in started.output()) != allowed


def test_a_port_alone_does_not_open_the_files_address_to_every_network(tmp_path):
    with upstream() as api:
        port = free_port()
        services = f'  api:\n    base_url: {api.url}\n    routes: {{"GET /free": free}}\n'
        config = tmp_path / "gateway.yaml"
        config.write_text(config_text(services, store=tmp_path / "gateway.db"))
        command = ("mitmdump", "-s", "addons/gateway.py", "--set", f"gateway_config={config}")
        with process(*command, "--listen-port", str(port)) as started:
            started.wait_for_text("the gateway is open")
            assert get(port, "/api/free")[0] == 200
            with socket.socket() as everywhere:
                # Somebody listening on all addresses would have the others too.
                everywhere.bind(("127.0.0.2", port))
