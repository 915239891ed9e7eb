"""Amounts are exact in both directions, and divisions round for the seller."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.protocol.money import DECIMALS_MAX, div_ceil, format_minor, parse_minor

decimals_of_assets = st.integers(0, DECIMALS_MAX)


@given(st.integers(0, 10**50), decimals_of_assets)
def test_minor_units_survive_their_text(minor, decimals):
    assert parse_minor(format_minor(minor, decimals), decimals) == minor


@given(st.integers(0, 10**20), st.text("0123456789", max_size=40), decimals_of_assets)
def test_an_amount_is_exact_or_refused(whole, fraction, decimals):
    text = f"{whole}.{fraction}" if fraction else str(whole)
    exact = Fraction(text) * 10**decimals

    if exact.denominator == 1:
        assert parse_minor(text, decimals) == exact
    else:
        with pytest.raises(ValueError, match="decimals"):
            parse_minor(text, decimals)


@given(st.text(max_size=40), decimals_of_assets)
def test_any_text_is_an_exact_amount_or_a_value_error(text, decimals):
    try:
        minor = parse_minor(text, decimals)
    except ValueError:
        return
    assert minor == Fraction(text) * 10**decimals


@given(st.integers(0, 10**40), st.integers(1, 10**20))
def test_a_division_never_gives_the_seller_less_and_never_a_whole_unit_more(numerator, denominator):
    assert 0 <= div_ceil(numerator, denominator) * denominator - numerator < denominator
