"""Whoever sends at the pace that is asked for has time without end; whoever drips has not."""

import pytest

from mpp_gateway.engine.limits import Limits
from mpp_gateway.engine.upload import UploadClock

LIMITS = Limits(body_s=60, upload_bytes_per_s=1024)


def is_over(clock: UploadClock, now_s: float) -> bool:
    return clock.deadline_s is not None and clock.deadline_s <= now_s


@pytest.fixture
def clock():
    clock = UploadClock()
    clock.start(100.0, LIMITS)
    return clock


def test_nobody_is_late_before_the_start():
    clock = UploadClock()
    clock.received(5)
    assert clock.deadline_s is None
    assert not is_over(clock, 10**9)


def test_there_is_a_grace_and_a_second_for_each_kibibyte(clock):
    assert clock.deadline_s == 160
    clock.received(10 * 1024)
    assert clock.deadline_s == 170
    assert not is_over(clock, 169)
    assert is_over(clock, 170)


def test_a_byte_a_minute_is_too_slow(clock):
    now_s = 100.0
    while not is_over(clock, now_s):
        clock.received(1)
        now_s += 60
    assert now_s == 220


def test_a_kibibyte_a_second_is_not(clock):
    for now_s in range(100, 100_000):
        clock.received(1024)
        assert not is_over(clock, now_s)


def test_time_in_which_we_hold_the_sender_is_not_its_own(clock):
    clock.hold(150.0)
    assert clock.is_held
    assert clock.deadline_s is None
    assert not is_over(clock, 10**9)
    clock.go_on(1150.0)
    assert clock.deadline_s == 1160
    assert not clock.is_held


def test_an_upload_that_has_ended_has_no_deadline(clock):
    clock.hold(150.0)
    clock.stop()
    clock.go_on(200.0)
    assert clock.deadline_s is None
