"""`serve` tells its operator of money and of failures, and is silent about unpaid asking."""

import pytest

from mpp_gateway import events
from mpp_gateway.cli.sales import sales_log
from mpp_gateway.config import load_text
from tests.support.proxy import config_text
from tests.support.toy_rail import TOY_METHOD

ASSET = "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e"
ABOUT = {
    "request_id": "r",
    "at_s": 1,
    "service": "api",
    "route": "GET /paid",
    "amount_minor": 10_000,
    "asset": ASSET,
}


def told(tmp_path, *happened) -> list[str]:
    services = '  api:\n    base_url: http://127.0.0.1:1\n    routes: {"GET /free": free}'
    config = load_text(config_text(services, TOY_METHOD, store=tmp_path / "x.db"), "x.yaml", {})
    lines: list[str] = []
    sink = sales_log(config, lines.append)
    for event in happened:
        sink(event)
    return lines


def test_a_sale_is_one_line_with_its_price_and_reference(tmp_path):
    lines = told(tmp_path, events.PaymentSettled(reference="0xabc", **ABOUT))
    assert [line.split() for line in lines] == [
        ["sold", "api", "GET", "/paid", "0.010000", "0xabc"]
    ]


def test_unpaid_asking_and_ordinary_refusals_are_silent(tmp_path):
    assert (
        told(
            tmp_path,
            events.RequestReceived(request_id="r", at_s=1),
            events.PaymentRequired(**ABOUT),
            events.RequestRefused(slug="invalid-challenge", status=402, **ABOUT),
        )
        == []
    )


def test_what_an_operator_must_mend_is_told(tmp_path):
    lines = told(
        tmp_path,
        events.UpstreamFailed(slug="upstream-refused", **ABOUT),
        events.PaymentUnknown(**ABOUT),
        events.PaymentCredited(**ABOUT),
        events.RequestRefused(slug="rail-unavailable", status=503, **ABOUT),
    )
    assert [line.split()[0] for line in lines] == ["failed", "unknown", "credited", "refused"]


def test_an_answer_that_is_repeated_is_no_sale(tmp_path):
    lines = told(tmp_path, events.AnswerRepeated(status=200, **ABOUT))
    assert lines == ["repeated api GET /paid  200"]


FREE = {"request_id": "r", "at_s": 1, "service": "api", "route": "GET /free"}
BROKEN = events.UpstreamAnswered(status=503, **ABOUT)
FINISHED = events.ExchangeFinished(status=503, **ABOUT)


@pytest.mark.parametrize(
    ("happened", "lines"),
    [
        (
            [BROKEN, events.PaymentReleased(**ABOUT), FINISHED],
            ["answered api GET /paid  503  nothing was charged  request r"],
        ),
        (
            [BROKEN, events.PaymentCredited(**ABOUT), FINISHED],
            [
                "credited api GET /paid  0.010000  paid, not delivered: good once more",
                "answered api GET /paid  503  request r",
            ],
        ),
        (
            [events.UpstreamAnswered(status=500, **FREE)],
            ["answered api GET /free  500  request r"],
        ),
        (
            [
                events.UpstreamAnswered(status=500, **FREE),
                events.ExchangeFinished(status=500, **FREE),
            ],
            ["answered api GET /free  500  request r"],
        ),
        ([events.PaymentReleased(**ABOUT), FINISHED], []),
        (
            [
                events.UpstreamAnswered(status=404, **ABOUT),
                events.PaymentReleased(**ABOUT),
                events.ExchangeFinished(status=404, **ABOUT),
            ],
            [],
        ),
    ],
    ids=["released", "credited", "free", "free and finished", "no answer", "a client's mistake"],
)
def test_an_upstreams_own_failure_is_one_line_and_says_what_became_of_the_money(
    tmp_path, happened, lines
):
    assert told(tmp_path, *happened) == lines
