"""What a facilitator says it supports, when one is passed over, and how one is configured."""

import pytest

from mpp_gateway.rails.evm.breaker import Breaker
from mpp_gateway.rails.evm.supported import Supported

SEPOLIA = "eip155:84532"
SPONSORED = "eip2612GasSponsoring"
FACILITATOR = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"


def answer(*kinds, extensions=()):
    return {
        "kinds": [{"x402Version": v, "scheme": s, "network": n, **more} for v, s, n, more in kinds],
        "extensions": list(extensions),
        "signers": {"eip155:*": [FACILITATOR]},
    }


EXACT = (2, "exact", SEPOLIA, {})


@pytest.mark.parametrize(
    ("said", "asked", "expected"),
    [
        (answer(EXACT), (2, "exact", SEPOLIA), True),
        (answer(EXACT), (2, "exact", SEPOLIA, "eip3009"), True),
        (answer(EXACT), (2, "exact", SEPOLIA, "permit2"), None),
        (answer(EXACT, extensions=["bazaar"]), (2, "exact", SEPOLIA, "permit2"), None),
        (
            answer(EXACT, extensions=["eip2612GasSponsoring"]),
            (2, "exact", SEPOLIA, "permit2"),
            True,
        ),
        (answer(EXACT), (1, "exact", SEPOLIA), False),
        (answer(EXACT), (2, "upto", SEPOLIA), False),
        (answer(EXACT), (2, "exact", "eip155:8453"), False),
        (answer((2, "exact", "eip155:*", {})), (2, "exact", SEPOLIA), True),
        (answer((2, "exact", "solana:*", {})), (2, "exact", SEPOLIA), False),
        (answer(), (2, "exact", SEPOLIA), None),
        ({}, (2, "exact", SEPOLIA), None),
    ],
    ids=str,
)
def test_what_is_listed_is_offered_and_silence_is_no_refusal(said, asked, expected):
    assert Supported.read(said).offers(*asked) is expected


@pytest.mark.parametrize(("method", "expected"), [("permit2", True), ("eip3009", False)])
def test_a_kind_that_names_its_transfer_method_has_no_other(method, expected):
    extra = {"extra": {"assetTransferMethod": "permit2"}}
    said = Supported.read(answer((2, "exact", SEPOLIA, extra)))

    assert said.offers(2, "exact", SEPOLIA, method) is expected


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([EXACT], True),
        ([(2, "exact", SEPOLIA, {"extra": {"assetTransferMethod": "permit2"}})], True),
        ([(2, "exact", SEPOLIA, {"extra": {"assetTransferMethod": "eip3009"}})], False),
        ([(1, "exact", SEPOLIA, {})], False),
        ([(2, "exact", "eip155:8453", {})], False),
        ([], False),
    ],
    ids=str,
)
def test_permits_for_a_price_are_settled_by_who_lists_exact_and_names_no_other_way(kinds, expected):
    assert Supported.read(answer(*kinds)).settles_permits("exact", SEPOLIA) is expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [(FACILITATOR.lower(), FACILITATOR), ("0x12", None), (5, None), (None, None)],
)
def test_the_address_that_upto_needs_is_read_in_its_checksum_form(named, expected):
    said = Supported.read(answer((2, "upto", SEPOLIA, {"extra": {"facilitatorAddress": named}})))

    assert said.facilitator_address("upto", SEPOLIA) == expected
    assert said.facilitator_address("exact", SEPOLIA) is None
    assert said.signers == {"eip155:*": (FACILITATOR,)}


def test_failures_one_behind_the_other_begin_a_rest():
    breaker = Breaker(failures_max=2, rest_s=30)

    assert breaker.failed(100) is False
    assert breaker.admits(100)
    assert breaker.failed(100) is True
    assert not breaker.admits(129)


def test_an_answer_in_between_begins_the_count_anew():
    breaker = Breaker(failures_max=2, rest_s=30)

    breaker.failed(100)
    breaker.worked()
    breaker.failed(100)

    assert breaker.admits(100)


def test_after_a_rest_one_trial_decides():
    breaker = Breaker(failures_max=1, rest_s=30)
    breaker.failed(100)

    assert [breaker.admits(130), breaker.admits(130), breaker.admits(159)] == [True, False, False]
    breaker.failed(131)
    assert [breaker.admits(160), breaker.admits(161)] == [False, True]
    breaker.worked()
    assert [breaker.admits(162), breaker.admits(162)] == [True, True]


def test_a_trial_without_an_end_makes_room_for_another():
    breaker = Breaker(failures_max=1, rest_s=30)
    breaker.failed(100)

    assert [breaker.admits(130), breaker.admits(160)] == [True, True]
