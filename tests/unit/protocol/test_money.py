import pytest

from mpp_gateway.protocol.money import (
    Amount,
    Asset,
    convert_minor,
    div_ceil,
    format_minor,
    format_short,
    parse_minor,
)

USDC = Asset("usdc", 6)


@pytest.mark.parametrize(
    ("text", "decimals", "minor"),
    [
        ("0.05", 6, 50_000),
        ("0", 0, 0),
        ("12", 2, 1_200),
        ("1.50", 1, 15),
        ("1.00", 0, 1),
        ("0.000000000000000001", 18, 1),
        ("123456789012345678901234567890.1", 1, 1234567890123456789012345678901),
    ],
)
def test_plain_decimals_become_exact_minor_units(text, decimals, minor):
    assert parse_minor(text, decimals) == minor


@pytest.mark.parametrize(
    "text",
    [
        "", " 1", "1 ", "1\n", "+1", "-1", "-0", "1e2", "1E2", ".5", "5.", "1_000", "1,5", "01",
        "0x1", "NaN", "inf", "١", "１", "1.٥", "½", "1.2.3", "9" * 97, "\ud800",
    ],
)  # fmt: skip
def test_everything_but_a_plain_decimal_is_refused(text):
    with pytest.raises(ValueError, match="plain decimal"):
        parse_minor(text, 6)


@pytest.mark.parametrize(("text", "decimals"), [("0.0000001", 6), ("0.5", 0), ("1.001", 2)])
def test_a_price_below_the_smallest_unit_is_refused_not_rounded(text, decimals):
    with pytest.raises(ValueError, match="more than"):
        parse_minor(text, decimals)


def test_minor_units_print_with_all_their_decimals():
    assert format_minor(50_000, 6) == "0.050000"
    assert format_minor(0, 2) == "0.00"
    assert format_minor(7, 0) == "7"
    assert str(Amount(50_000, USDC)) == "0.050000 usdc"


@pytest.mark.parametrize("minor", [True, 1.0, "1", None])
def test_an_amount_is_an_int_and_nothing_that_passes_for_one(minor):
    with pytest.raises(TypeError):
        Amount(minor, USDC)


def test_a_negative_amount_does_not_exist():
    with pytest.raises(ValueError, match="never negative"):
        Amount(-1, USDC)
    with pytest.raises(ValueError, match="never negative"):
        format_minor(-1, 6)


@pytest.mark.parametrize("decimals", [-1, 37])
def test_an_asset_has_a_sane_number_of_decimals(decimals):
    with pytest.raises(ValueError, match="between"):
        Asset("x", decimals)


@pytest.mark.parametrize("decimals", [True, 2.0, "2"])
def test_decimals_are_an_int(decimals):
    with pytest.raises(TypeError):
        Asset("x", decimals)


def test_an_asset_has_a_code():
    with pytest.raises(ValueError, match="code"):
        Asset("", 2)


def test_amounts_of_two_assets_are_never_equal_or_ordered():
    assert Amount(5, USDC) != Amount(5, Asset("usd", 2))
    with pytest.raises(TypeError):
        assert Amount(5, USDC) < Amount(6, USDC)


def test_division_rounds_up_for_the_seller():
    assert [div_ceil(n, 3) for n in range(5)] == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(("numerator", "denominator"), [(-1, 3), (1, 0), (1, -3)])
def test_division_outside_its_domain_is_refused(numerator, denominator):
    with pytest.raises(ValueError, match="div_ceil"):
        div_ceil(numerator, denominator)


@pytest.mark.parametrize(
    ("minor", "decimals", "shown"),
    [
        (10_000, 6, "0.01"),
        (1_500_000, 6, "1.50"),
        (1, 6, "0.000001"),
        (0, 6, "0.00"),
        (5, 1, "0.5"),
        (7, 0, "7"),
    ],
)
def test_people_see_no_needless_zeros_and_all_the_cents(minor, decimals, shown):
    assert format_short(minor, decimals) == shown


def test_an_asset_is_called_by_its_symbol_and_known_by_its_code():
    called = Asset("eip155:1/erc20:0x1", 6, "USDC")
    assert called == Asset("eip155:1/erc20:0x1", 6)
    assert (called.name, Asset("usd", 2).name) == ("USDC", "usd")


@pytest.mark.parametrize(
    ("text", "rate", "decimals", "minor"),
    [
        ("1", "0.925", 6, 925_000),
        ("0.05", "0.925", 2, 5),  # 4.625 cents: the seller gets no less than it asked for
        ("0.000001", "0.925", 6, 1),
        ("0", "0.925", 6, 0),
        ("3", "1" + "0" * 20, 18, 3 * 10**38),
    ],
)
def test_a_converted_price_is_exact_or_rounded_up(text, rate, decimals, minor):
    assert convert_minor(text, rate, decimals) == minor
