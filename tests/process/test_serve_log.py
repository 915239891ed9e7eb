"""`serve` says what goes wrong in it: an operator who sees only 500s cannot mend anything."""

import os

import pytest

from tests.support.client import get
from tests.support.market import serving
from tests.support.process import free_port, process
from tests.support.proxy import config_text
from tests.support.scene import eventually, services
from tests.support.upstream import upstream

HOOKS = """\
def rewrite_request(request, context):
    raise KeyError("marked-secret-0123456789abcdef")
"""
ROUTES = '      "GET /free": free'


@pytest.fixture
def shop(tmp_path):
    """A configuration whose hook raises, and the folder of the hook."""
    (tmp_path / "broken_hooks.py").write_text(HOOKS)
    with upstream() as server:
        hooked = "rewrite_request: broken_hooks:rewrite_request"
        file = tmp_path / "gateway.yaml"
        file.write_text(
            config_text(services(server.url, ROUTES, hooked), store=tmp_path / "gateway.db")
        )
        yield file


def test_a_hook_that_raises_is_one_line_and_its_traceback(shop):
    with serving(shop, PYTHONPATH=str(shop.parent)) as (started, port):
        assert get(port, "/api/free")[0] == 500
        assert eventually(lambda: "KeyError" in started.output())
        said = started.output()
    failed = "error    AuthInjection.requestheaders failed; the request is refused\n"
    assert said.count(failed) == 1
    assert f'broken_hooks.py", line 2, in rewrite_request{os.linesep}' in said
    assert "  KeyError: [redacted]\n" in said


def status_of(port: int) -> int | None:
    """Ask; None while the gateway takes the listener over from mitmdump."""
    try:
        return get(port, "/api/free")[0]
    except ConnectionError:
        return None


def test_mitmdump_tells_of_it_itself_and_once(shop):
    port = free_port()
    command = ("mitmdump", "-s", "addons/gateway.py", "--set", f"gateway_config={shop}")
    environ = {"PYTHONPATH": str(shop.parent)}
    with process(*command, "--listen-port", str(port), environ=environ) as started:
        started.wait_for_port(port)
        assert eventually(lambda: status_of(port) == 500)
        assert eventually(lambda: "KeyError" in started.output())
        said = started.output()
    assert said.count("AuthInjection.requestheaders failed") == 1
