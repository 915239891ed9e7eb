"""The hooks of the how-to, as a reader would run them."""

from pathlib import Path

from tests.docs.pages import ROOT, blocks
from tests.support.client import get
from tests.support.process import free_port, process
from tests.support.proxy import config_text
from tests.support.upstream import upstream

PAGE = ROOT / "docs" / "how-to" / "rewrite-hooks.md"
EXAMPLES = PAGE.parent / "examples"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: marked-server\r\nX-Powered-By: marked\r\nX-Kept: yes\r\n"
    b"Content-Length: 2\r\n\r\nok"
)


def test_the_page_shows_the_file():
    (shown,) = blocks(PAGE, "python")

    assert shown.text == (EXAMPLES / "rewrite_hooks.py").read_text()


def test_the_example_changes_request_and_answer(tmp_path: Path):
    port = free_port()
    with upstream(ANSWER) as api:
        services = f"""\
  weather:
    base_url: {api.url}
    auth: {{bearer: marked-upstream-secret}}
    rewrite_request: rewrite_hooks:rewrite_request
    rewrite_response: rewrite_hooks:rewrite_response
    routes:
      "GET /now/:city": {{free: true, options: {{units: imperial}}}}
      "GET /status": free
"""
        config = tmp_path / "gateway.yaml"
        config.write_text(config_text(services, store=tmp_path / "gateway.db"))
        with process(
            *("mpp-gateway", "serve", "--config", str(config), "--port", str(port)),
            environ={"PYTHONPATH": str(EXAMPLES)},
        ) as started:
            started.wait_for_text("serving on")
            status, fields, body = get(port, "/weather/now/Oslo?day=1")
            get(port, "/weather/status")

    assert (status, body) == (200, b"ok")
    assert [seen.target for seen in api.seen] == [
        "/now/Oslo?day=1&units=imperial",
        "/status?units=metric",
    ]
    assert api.seen[0].get("authorization") == "Bearer marked-upstream-secret"
    assert fields["x-route"] == "GET /now/:city"
    assert fields["x-kept"] == "yes"
    assert not {"server", "x-powered-by"} & set(fields)
