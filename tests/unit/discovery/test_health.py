"""Alive, ready, and what strangers may learn about why not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.discovery.health import (
    READ_MAX,
    REASON_LENGTH_MAX,
    RuntimeState,
    alive,
    public_reason,
    ready,
)


def test_a_process_that_answers_is_alive():
    found = alive()
    assert (found.status, json.loads(found.body)) == (200, {"status": "ok"})
    assert ("Cache-Control", "no-store") in found.headers


def test_an_open_gateway_whose_rails_are_well_is_ready():
    found = ready(RuntimeState(is_open=True))
    assert (found.status, json.loads(found.body)) == (200, {"status": "ready"})


def test_a_gateway_that_is_not_open_is_not_ready():
    found = ready(RuntimeState(is_open=False, problems={"base": "x"}))
    assert found.status == 503
    assert "rails" not in json.loads(found.body)


def test_what_is_wrong_is_said_rail_by_rail():
    found = ready(
        RuntimeState(
            is_open=True, problems={"tempo": "no gas", "base": "The node does not answer."}
        )
    )
    assert found.status == 503
    assert ("Content-Type", "application/problem+json") in found.headers
    assert json.loads(found.body)["rails"] == {
        "base": "The node does not answer.",
        "tempo": "no gas",
    }


@pytest.mark.parametrize(
    "secret",
    [
        "https://base.node.example/v2/marked-key",
        "http://10.0.0.7:8545",
        "(https://user:marked@node.example)",
        "10.0.0.7:8545",
        "10.0.0.7",
        "[fe80::1]:8545",
        "::1",
        "localhost:8545",
        "node.internal.example",
        "/var/lib/gateway/ledger",
        "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "key=0x036CbD53842c5426634e7929541eC2318f3dCF7e,",
        "bWFya2VkLXNlY3JldC1tYXJrZWQ=",
        "user@host",
    ],
)
def test_a_reason_shows_no_address_and_no_secret(secret):
    found = public_reason(f"cannot reach {secret} because it is down")
    assert found == "cannot reach [redacted] because it is down"


@pytest.mark.parametrize(
    "text", ["The node does not answer.", "chain_id is 8453, not 84532", "base: out of gas"]
)
def test_an_ordinary_reason_stays_as_it_is(text):
    assert public_reason(text) == text


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_around_an_address_saves_it(before, after):
    found = public_reason(f"{before} https://node.example/marked-key {after}")
    assert "marked-key" not in found
    assert len(found) <= REASON_LENGTH_MAX
    assert "\n" not in found


def test_a_long_reason_is_cut_without_cutting_a_secret_in_two():
    url = "https://node.example/marked-key"
    for size in range(READ_MAX - len(url) - 3, READ_MAX + 2):
        text = " " * size + url
        assert "node" not in public_reason(text)
        assert "http" not in public_reason("x " + text)
