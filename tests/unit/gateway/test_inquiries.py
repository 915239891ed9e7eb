"""How often a rail is asked for a buyer: by payment, by the clock, and for how many at most."""

from mpp_gateway.gateway.inquiries import ASK_AGAIN_S, KEPT_MAX, Inquiries

NOW_S = 1_000


def test_a_payment_is_asked_about_once_in_a_while_and_others_meanwhile():
    asked = Inquiries()
    assert asked.may_ask("a", NOW_S)
    for later_s in range(ASK_AGAIN_S):
        assert not asked.may_ask("a", NOW_S + later_s)
    assert asked.may_ask("b", NOW_S)
    assert asked.may_ask("a", NOW_S + ASK_AGAIN_S)
    assert not asked.may_ask("a", NOW_S + ASK_AGAIN_S + 1)


def test_what_has_ended_is_asked_about_anew():
    """A later attempt of the same payment is another question."""
    asked = Inquiries()
    asked.may_ask("a", NOW_S)
    asked.ended("a")
    asked.ended("nobody")
    assert asked.may_ask("a", NOW_S)


def test_a_clock_that_is_set_back_keeps_nobody_waiting():
    asked = Inquiries()
    asked.may_ask("a", NOW_S)
    assert asked.may_ask("a", NOW_S - 1)


def test_only_so_many_payments_are_remembered_and_the_oldest_go_first():
    asked = Inquiries()
    for number in range(KEPT_MAX + 1):
        assert asked.may_ask(str(number), NOW_S)
    assert not asked.may_ask("1", NOW_S)
    assert asked.may_ask("0", NOW_S)
