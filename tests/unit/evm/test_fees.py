"""What is offered for gas: rising in steps that a node accepts, never above the ceiling."""

from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.rails.evm.submissions import Fees

WEI = st.integers(0, 10**14)
CEILINGS = st.none() | st.integers(1, 10**14)


@st.composite
def fees(draw) -> Fees:
    most = draw(WEI)
    return Fees(most, draw(st.integers(0, most)))


@given(fees(), CEILINGS)
def test_capped_fees_are_within_the_ceiling_and_else_unchanged(offer, ceiling_wei):
    capped = offer.capped(ceiling_wei)
    assert capped.tip_wei <= capped.max_fee_wei
    if ceiling_wei is None or offer.max_fee_wei <= ceiling_wei:
        assert capped == offer
    else:
        assert capped.max_fee_wei == ceiling_wei


@given(fees(), fees(), CEILINGS)
def test_a_bump_is_a_tenth_more_at_least_and_never_above_the_ceiling(last, market, ceiling_wei):
    last, market = last.capped(ceiling_wei), market.capped(ceiling_wei)
    bumped = last.bumped(market, ceiling_wei)
    if bumped is None:
        assert last.max_fee_wei * 9 // 8 + 1 > ceiling_wei
        return
    assert bumped.max_fee_wei * 10 >= last.max_fee_wei * 11
    assert bumped.tip_wei * 10 >= last.tip_wei * 11
    assert bumped.tip_wei <= bumped.max_fee_wei
    assert bumped.max_fee_wei >= market.max_fee_wei
    assert ceiling_wei is None or bumped.max_fee_wei <= ceiling_wei


@given(fees(), fees())
def test_without_a_ceiling_there_is_always_a_next_bid(last, market):
    assert last.bumped(market, None) is not None
