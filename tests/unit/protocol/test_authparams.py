import time

import pytest

from mpp_gateway.protocol import authparams
from mpp_gateway.protocol.problems import ParseError


def split(*values):
    return authparams.split(values, "Payment")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Payment abc", [["abc"]]),
        ("payment  abc==", [["abc=="]]),
        ("PAYMENT\tabc", [["abc"]]),
        ("Bearer x, Payment y", [["y"]]),
        ("Payment y, Bearer x", [["y"]]),
        ("Payment y,Payment z", [["y"], ["z"]]),
        ("Payment", [[""]]),
        ("Payment , Bearer x", [[""]]),
        ("Negotiate, Payment y", [["y"]]),
        ("Bearer Payment", []),
        ("Bearer Payment y", []),
        ("PaymentX y", []),
        ("x-Payment y", []),
        ('Digest realm="a, Payment b", Payment c', [["c"]]),
        (r'Digest realm="a\", Payment b", Payment c', [["c"]]),
        ('Digest realm="a, Payment b', []),
        ("Payment = x", []),
        ("Payment id=a, realm = b, Bearer c, realm=d", [["id=a", "realm = b"]]),
        (", , Payment y, ,", [["y"]]),
        ("", []),
    ],
)
def test_a_list_is_split_at_schemes_outside_quotes(value, found):
    assert split(value) == found


def test_several_lines_are_one_list():
    assert split("Bearer x", "Payment y") == split("Bearer x, Payment y") == [["y"]]
    assert split('Payment a="1"', 'b="2"') == [['a="1"', 'b="2"']]


@pytest.mark.parametrize(
    "value",
    ["Payment a\r\nX: y", "Payment \x00", "Payment \x7f", "Payment " + "a" * 65_536, "a," * 600],
)
def test_long_lists_and_control_characters_are_refused(value):
    with pytest.raises(ParseError):
        split(value)


def test_the_length_of_all_lines_together_is_bounded():
    with pytest.raises(ParseError, match="longer"):
        split("a" * 40_000, "a" * 40_000)


@pytest.mark.parametrize(
    ("elements", "parameters"),
    [
        (['a="1"', "B = 2", 'c\t=\t"3"'], {"a": "1", "b": "2", "c": "3"}),
        ([r'a="\"\\\x"'], {"a": '"\\x'}),
        ([r'a="\u00e9\ud83e\udd16 \\u0041"'], {"a": "é\U0001f916 \\u0041"}),
        ([r'a="\ud800x"'], {"a": "�x"}),
        (['a="x" y "z"'], {"a": "x"}),
        (['a="x'], {"a": None}),
        (['a="x\\'], {"a": None}),
        (["a=", 'b=""'], {"a": "", "b": ""}),
        (["a", "", '"q"', "=x"], {}),
    ],
)
def test_parameters_are_read_as_the_sdks_read_them(elements, parameters):
    assert authparams.read_parameters(elements) == parameters


@pytest.mark.parametrize("second", ["a=2", "A=2", 'a="', "a = 1"])
def test_a_name_that_comes_twice_is_refused_in_any_case(second):
    with pytest.raises(ParseError, match="duplicate"):
        authparams.read_parameters(["a=1", second])


def test_the_number_of_parameters_is_bounded():
    assert len(authparams.read_parameters([f"p{n}=1" for n in range(64)])) == 64
    with pytest.raises(ParseError, match="more than"):
        authparams.read_parameters([f"p{n}=1" for n in range(65)])


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\x00b", "a\tb", "\x7f", "é", "—", "\ud800"])
def test_only_printable_ascii_is_quoted(value):
    with pytest.raises(ValueError, match="ASCII"):
        authparams.quote(value)


@pytest.mark.parametrize(
    "value", ["a\r\nb", "a\nb é", "\x00", "é\tb", "é\x7f", "\ud800", "a\udc00é"]
)
def test_display_text_that_could_break_a_header_is_refused(value):
    with pytest.raises(ValueError, match=r"control|surrogate|ASCII"):
        authparams.quote_text(value)


def test_display_text_is_ascii_on_the_wire():
    assert authparams.quote_text('5 ¢ – "\\" \U0001f916\x85') == (
        r'"5 \u00a2 \u2013 \"\\\" \ud83e\udd16\u0085"'
    )


@pytest.mark.parametrize(
    "value",
    ['Payment a="' + '\\"' * 32_000, '"' * 65_536, '"\\' * 32_768, "\\" * 65_536, " " * 65_536,
     "Payment a" + " " * 65_000 + "b", "a" * 65_536],
)  # fmt: skip
def test_reading_takes_time_in_proportion_to_the_length(value):
    started_s = time.thread_time()  # what other work takes does not count

    for elements in split(value):
        authparams.read_parameters(elements)

    assert time.thread_time() - started_s < 0.5
