"""A bucket holds a minute's tokens; the table of them stays small whoever comes."""

import pytest

from mpp_gateway.limits.buckets import TokenBuckets

SECOND_MS, MINUTE_MS = 1000, 60_000


def drained(per_minute, client="a", now_ms=0, **more):
    buckets = TokenBuckets(per_minute, **more)
    assert [buckets.take(client, now_ms) for _ in range(per_minute)] == [0] * per_minute
    return buckets


def test_a_minutes_worth_comes_at_once_and_then_one_by_one():
    buckets = drained(60)

    assert buckets.take("a", 0) == SECOND_MS
    assert buckets.take("a", 400) == 600
    assert buckets.take("a", 999) == 1
    assert buckets.take("a", 1000) == 0
    assert buckets.take("a", 1000) == SECOND_MS


def test_the_wait_is_rounded_up_so_that_it_is_never_too_short():
    buckets = drained(7)
    wait_ms = buckets.take("a", 0)

    assert wait_ms == 8572  # of 8571.43
    assert buckets.take("a", wait_ms - 1) == 1
    assert buckets.take("a", wait_ms) == 0


def test_being_refused_costs_nothing():
    buckets = drained(60)

    assert [buckets.take("a", 0) for _ in range(1000)] == [SECOND_MS] * 1000
    assert buckets.take("a", SECOND_MS) == 0


def test_one_client_does_not_slow_another():
    buckets = drained(3)

    assert buckets.take("a", 0)
    assert not buckets.take("b", 0)


def test_a_long_pause_fills_a_bucket_and_no_more():
    buckets = drained(3)
    later_ms = 100 * MINUTE_MS

    assert [buckets.take("a", later_ms) for _ in range(4)] == [0, 0, 0, 20 * SECOND_MS]


def test_what_is_given_back_can_be_taken_again():
    buckets = drained(3)
    buckets.give_back("a", 2)

    assert [buckets.take("a", 0) for _ in range(3)] == [0, 0, 20 * SECOND_MS]


def test_giving_back_never_makes_a_bucket_larger():
    buckets = TokenBuckets(3)
    buckets.take("a", 0)
    buckets.give_back("a", 50)
    buckets.give_back("never seen", 50)

    for client in ("a", "never seen"):
        assert [bool(buckets.take(client, 0)) for _ in range(4)] == [False] * 3 + [True]


def test_without_a_limit_nobody_waits_and_nobody_is_remembered():
    buckets = TokenBuckets(0)

    assert not any(buckets.take("a", 0) for _ in range(10_000))
    buckets.give_back("a")
    assert len(buckets) == 0


def test_the_table_forgets_full_buckets_before_any_other():
    buckets = drained(2, "flood", clients_max=4)
    for number in range(3):
        buckets.take(f"once {number}", 0)
    assert len(buckets) == 4
    # The three are full again after half a minute, the drained one is not.
    buckets.take("new", 30 * SECOND_MS)

    assert len(buckets) == 2
    assert not buckets.take("flood", 30 * SECOND_MS)
    assert buckets.take("flood", 30 * SECOND_MS)


@pytest.mark.parametrize("clients_max", [1, 4, 32])
def test_when_no_bucket_is_full_the_one_granted_longest_ago_is_forgotten(clients_max):
    buckets = TokenBuckets(1, clients_max)
    for number in range(clients_max + 1):
        buckets.take(f"{number}", 0)

    assert len(buckets) <= clients_max
    assert buckets.take(f"{clients_max}", 0)
    assert not buckets.take("0", 0)


def test_a_table_that_was_searched_for_room_has_some():
    buckets = TokenBuckets(1, 160)
    for number in range(161):
        buckets.take(f"{number}", 0)

    assert len(buckets) == 150
