"""What `check` and `explain` say of a method of Stripe's."""

import json

import pytest

from tests.support.command import run

SERVICES = """\
services:
  api: {base_url: "https://a.example", routes: {"GET /x": {charge: "%s"}}}
"""
METHOD = "  stripe: {secret_key: sk_test_marked, network_id: profile_1%s}\n"
EVM = """\
  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: "0xabababababababababababababababababababab"
    submit: {facilitator: "http://127.0.0.1:9"}
"""


def written(tmp_path, price: str, methods: str):
    file = tmp_path / "gateway.yaml"
    file.write_text(f"secret_key: {'k' * 32}\nmethods:\n{methods}{SERVICES % price}")
    return file


@pytest.mark.parametrize(("more", "settles"), [("", "before"), (", capture: manual", "on_success")])
def test_check_and_explain_say_when_a_charge_settles(tmp_path, more, settles):
    file = written(tmp_path, "1.00", METHOD % more)

    checked = run("check", "--config", str(file), home=tmp_path)
    explained = run("explain", "GET", "/api/x", "--config", str(file), home=tmp_path)

    assert settles in checked.out
    said = "settles before the upstream is called"
    assert (said in explained.out) is (settles == "before")
    assert "marked" not in checked.out + checked.err


def test_check_and_explain_tell_the_ways_apart_that_settle_at_other_times(tmp_path):
    file = written(tmp_path, "1.00", EVM + METHOD % "")

    checked = run("check", "--config", str(file), home=tmp_path)
    explained = run("explain", "GET", "/api/x", "--config", str(file), home=tmp_path)

    assert json.loads(checked.out)["routes"][0]["settle"] == "on_success; before (stripe)"
    evm, stripe = json.loads(explained.out)["reasons"][-2:]
    assert evm.startswith("By evm: the payment settles when the upstream has answered 2xx; else")
    assert stripe.startswith("By stripe: it settles before, and is given back if the upstream")


def test_check_warns_of_a_price_that_stripe_does_not_charge(tmp_path):
    file = written(tmp_path, "0.10", METHOD % "" + EVM)

    checked = run("check", "--config", str(file), home=tmp_path)

    assert checked.code == 0
    said = json.loads(checked.out)
    assert [route["methods"] for route in said["routes"]] == ["evm"]
    assert any(
        warning.endswith("stripe is not offered: Stripe charges no less than 0.50 usd")
        for warning in said["warnings"]
    )
