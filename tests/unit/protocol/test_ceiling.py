import pytest

from mpp_gateway.protocol.ceiling import Ceiling
from mpp_gateway.protocol.problems import BadRequest

USD = ("usd",)
RATES = {"eur": "1.08"}


@pytest.mark.parametrize(
    ("text", "ceiling"),
    [
        ("0.05 usd", Ceiling("0.05", "usd")),
        ("0.05   USD", Ceiling("0.05", "usd")),
        (" 5 \t", Ceiling("5")),
        ("0", Ceiling("0")),
    ],
)
def test_a_limit_is_read(text, ceiling):
    assert Ceiling.of([text]) == ceiling


@pytest.mark.parametrize(
    "text",
    [
        "", "usd", "usd 0.05", "$0.05", "0.05usd", "-1 usd", "+1", "1e3 usd", "1,5 usd", ".5", "5.",
        "05 usd", "0.05 usd, 0.04 eur", "0.05 us d", "0.05\tusd", "١ usd", "1_0", "9" * 81,
        "0." + "0" * 79 + "1", "NaN", "inf", "1 " + "a" * 33,
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_read_is_refused_and_not_guessed_at(text):
    with pytest.raises(BadRequest):
        Ceiling.of([text])


def test_two_limits_are_none():
    with pytest.raises(BadRequest):
        Ceiling.of(["0.05 usd", "0.05 usd"])
    assert Ceiling.of([]) is None


@pytest.mark.parametrize(
    ("text", "minor", "decimals", "covered"),
    [
        ("0.05 usd", 50_000, 6, True),
        ("0.05 usd", 50_001, 6, False),
        ("0.0500001 usd", 50_001, 6, False),
        ("0.05 usd", 5, 2, True),
        ("0.059 usd", 6, 2, False),
        ("0.05", 50_000, 6, True),
        ("0.05", 50_001, 6, False),
        ("0", 0, 6, True),
        ("0", 1, 6, False),
        ("0.05 eur", 54_000, 6, True),
        ("0.05 eur", 54_001, 6, False),
        ("0.01 eur", 2, 2, True),  # as the price 0.01 eur is rounded, up
        ("0.01 eur", 3, 2, False),
        ("1000000 gbp", 1, 6, False),
    ],
)
def test_what_is_above_the_limit_is_not_covered(text, minor, decimals, covered):
    ceiling = Ceiling.of([text])
    assert ceiling is not None
    assert ceiling.covers(minor, decimals, USD, RATES) is covered
