import pytest

from mpp_gateway.protocol.negotiation import rank

OFFERS = [("tempo", "session"), ("tempo", "charge"), ("stripe", "charge"), ("solana", "charge")]


@pytest.mark.parametrize(
    ("header", "order"),
    [
        ("tempo/charge, tempo/session;q=0, solana/charge;q=0.8, stripe/charge;q=0.4", [1, 3, 2]),
        ("*/*", [0, 1, 2, 3]),
        ("*/charge", [1, 2, 3]),
        ("tempo/*", [0, 1]),
        ("stripe/charge, */*;q=0.1", [2, 0, 1, 3]),
        ("*/*, tempo/session;q=0", [1, 2, 3]),
        ("tempo/*;q=0.5, */charge;q=0.9", [1, 2, 3, 0]),
        ("*/charge ; q=0.001 , solana/charge;Q=0.002,", [3, 1, 2]),
        ("tempo/charge;q=1.000, stripe/charge;q=0.999", [1, 2]),
        ("tempo/charge;q=0.2, tempo/charge;q=0.7, stripe/charge;q=0.5", [1, 2]),
    ],
)
def test_offers_come_by_quality_then_in_our_order(header, order):
    assert rank(OFFERS, header) == order


@pytest.mark.parametrize(
    "header",
    [
        None, "", ",", "tempo", "tempo/", "/charge", "tempo/charge;q=2", "tempo/charge;q=-1",
        "tempo/charge;q=0.1234", "tempo/charge;q=", "tempo/charge;level=1", "tempo/charge;q=1e0",
        "tempo/charge stripe/charge", "tempo/charge;q=٠", "a/b," * 65, "x" * 5_000, "\ud800",
        "cashu/charge", "*/*;q=0", "tempo/*;q=0.000",
    ],
)  # fmt: skip
def test_a_header_that_is_absent_broken_or_matches_nothing_leaves_every_offer(header):
    assert rank(OFFERS, header) == [0, 1, 2, 3]


def test_no_offers_rank_as_none():
    assert rank([], "tempo/charge") == []
