"""Token buckets against exact arithmetic: never a token too many, never a wait too short."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.limits.buckets import TokenBuckets

MINUTE_MS = 60_000
RATES = st.integers(1, 5000)
STARTS = st.integers(0, 2**50)
MOVES = st.lists(
    st.one_of(
        st.just(("take", 1)),
        st.tuples(st.just("take"), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.integers(0, 2 * MINUTE_MS)),
        st.tuples(st.just("give"), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(RATES, STARTS, MOVES)
def test_a_bucket_is_what_exact_arithmetic_says(per_minute, now_ms, moves):
    buckets, level = TokenBuckets(per_minute), Fraction(per_minute)
    rate = Fraction(per_minute, MINUTE_MS)
    for move, count in moves:
        if move == "wait":
            now_ms += count
            level = min(Fraction(per_minute), level + rate * count)
        elif move == "give":
            buckets.give_back("a", count)
            level = min(Fraction(per_minute), level + count)
        else:
            for _ in range(count):
                wait_ms = buckets.take("a", now_ms)
                assert (wait_ms == 0) == (level >= 1)
                if wait_ms:
                    assert level + rate * (wait_ms - 1) < 1 <= level + rate * wait_ms
                else:
                    level -= 1


@given(RATES, STARTS, MOVES)
def test_no_more_is_granted_than_rate_and_capacity_and_what_came_back(per_minute, now_ms, moves):
    buckets, start_ms = TokenBuckets(per_minute), now_ms
    granted = given_back = 0
    for move, count in moves:
        if move == "wait":
            now_ms += count
        elif move == "give":
            buckets.give_back("a", count)
            given_back += count
        else:
            granted += sum(buckets.take("a", now_ms) == 0 for _ in range(count))
        earned = per_minute * (now_ms - start_ms) // MINUTE_MS
        assert granted <= per_minute + earned + given_back


@given(RATES, STARTS, st.lists(st.integers(1, 10_000), max_size=20), st.integers(0, 20))
def test_giving_back_never_fills_a_bucket_beyond_its_capacity(per_minute, now_ms, gifts, taken):
    buckets = TokenBuckets(per_minute)
    for _ in range(taken):
        buckets.take("a", now_ms)
    for gift in gifts:
        buckets.give_back("a", gift)

    granted = 0
    while not buckets.take("a", now_ms):
        granted += 1
    assert granted <= per_minute


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5000)), max_size=300),
)
def test_the_table_never_grows_past_its_size(clients_max, visits):
    buckets, now_ms = TokenBuckets(10, clients_max), 0
    for number, pause_ms in visits:
        now_ms += pause_ms
        buckets.take(f"{number}", now_ms)
        assert len(buckets) <= clients_max
