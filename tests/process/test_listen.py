"""Where the gateway listens under mitmproxy's own tools."""

from tests.support.client import get
from tests.support.process import free_port, process
from tests.support.proxy import config_text
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
