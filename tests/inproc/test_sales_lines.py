"""What the operator of `serve` reads when an upstream answers 5xx itself."""

import re

import pytest

from mpp_gateway import events
from mpp_gateway.cli.sales import sales_log
from mpp_gateway.config import load_text
from tests.support.proxy import config_text
from tests.support.scene import call, eventually, paying, scene
from tests.support.toy_rail import TOY_METHOD

ROUTES = """      "GET /free/:marked": free
      "GET /paid/:marked": {charge: "0.01"}
      "GET /first/:marked": {charge: "0.01", settle: before}"""
BROKEN = b"HTTP/1.1 503 marked\r\nX-Why: marked\r\nContent-Length: 6\r\n\r\nmarked"
REQUEST = "request [0-9a-f]{24}"


def lines_of(tmp_path, path: str) -> list[str]:
    """Call `path` with a payment and client data in it; return what is said."""
    services = '  api:\n    base_url: http://127.0.0.1:1\n    routes: {"GET /free": free}'
    config = load_text(config_text(services, TOY_METHOD, store=tmp_path / "x.db"), "x.yaml", {})
    lines: list[str] = []
    with scene(BROKEN, routes=ROUTES, sink=sales_log(config, lines.append)) as play:
        target = f"/api/{path}/marked-name?marked=1"
        reply = call("http/1.1", play.port, "GET", target, paying(), ("X-Marked", "marked"))
        assert reply.status == (502 if path == "first" else 503)
        assert eventually(lambda: not play.open_books)
        assert not [line for line in lines if str(play.upstream.port) in line]
    return lines


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("free", ["answered api GET /free/:marked  503  ID"]),
        ("paid", ["answered api GET /paid/:marked  503  nothing was charged  ID"]),
    ],
)
def test_an_operator_sees_why_a_call_was_released_and_nothing_of_its_client(tmp_path, path, said):
    found = [re.sub(REQUEST, "ID", line) for line in lines_of(tmp_path, path)]

    assert found == said


def test_of_a_call_that_was_paid_ahead_it_is_not_said_that_nothing_was_charged(tmp_path):
    sold, credited, answered = lines_of(tmp_path, "first")

    assert sold.startswith("sold ")
    assert credited.startswith("credited ")
    assert re.fullmatch(f"answered api GET /first/:marked  503  {REQUEST}", answered)


def test_a_refund_is_told_when_it_is_owed_and_when_it_is_paid(tmp_path):
    lines: list[str] = []
    services = '  api:\n    base_url: http://127.0.0.1:1\n    routes: {"GET /free": free}'
    config = load_text(config_text(services, TOY_METHOD, store=tmp_path / "x.db"), "x.yaml", {})
    sink = sales_log(config, lines.append)
    about = {"request_id": "ab" * 12, "at_s": 1, "amount_minor": 10_000}
    asset = config.methods["toy"].asset.code
    sink(events.RefundOwed(**about, asset=asset, service="api", route="GET /x"))
    sink(events.PaymentRefunded(**about, asset=asset, reference="0xback"))
    assert lines == [
        "owed     api GET /x  0.010000  paid, not delivered: is sent back",
        f"refunded request {'ab' * 12}  0.010000  0xback",
    ]
