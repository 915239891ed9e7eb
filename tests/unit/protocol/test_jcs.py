import json
from decimal import Decimal
from types import MappingProxyType

import pytest

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError


def test_members_sort_by_utf16_units_as_in_rfc_8785_section_3_2_3():
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }

    names = list(json.loads(jcs.dumps(value)))

    assert names == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_strings_are_escaped_as_in_rfc_8785_section_3_2_2_2():
    text = '\u20ac$\u000f\nA\'B"\\\\"/\b\f\r\t\x7f\u2028<>&'

    assert jcs.dumps(text) == (
        b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/\\b\\f\\r\\t\x7f\xe2\x80\xa8<>&"'
    )


def test_literals_arrays_and_empty_containers_have_no_spaces():
    assert jcs.dumps([None, True, False, 0, -1, (), {}]) == b"[null,true,false,0,-1,[],{}]"
    assert jcs.dumps(MappingProxyType({"b": 1, "a": MappingProxyType({})})) == b'{"a":{},"b":1}'


@pytest.mark.parametrize(
    "value",
    [1.0, 0.1, Decimal("0.1"), float("nan"), 2**53, -(2**53), {1: 2}, {None: 1}, b"x", {1},
     "\ud800", {"\udc00": 1}, object()],
)  # fmt: skip
def test_what_two_writers_could_spell_differently_is_refused(value):
    with pytest.raises(ValueError, match=r"."):
        jcs.dumps({"member": value})


def test_the_largest_exact_integers_pass_both_ways():
    for value in (jcs.INTEGER_MAX, -jcs.INTEGER_MAX):
        assert jcs.loads(jcs.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[1,]", "{'a':1}", "nul", '"a', '"\x01"', "01", "1.", "+1", "NaN", "Infinity",
     "-Infinity", "[1] x", "\ufeff{}", '{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', "9007199254740992",
     "-9007199254740992", "9" * 5000, '"\\ud800"', '{"\\udc00":1}', '["\\ud83d\\u0041"]'],
)  # fmt: skip
def test_broken_or_ambiguous_json_is_refused(text):
    with pytest.raises(ParseError):
        jcs.loads(text)


@pytest.mark.parametrize("data", [b"\xff", b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}"])
def test_bytes_that_are_not_plain_utf8_are_refused(data):
    with pytest.raises(ParseError):
        jcs.loads(data)


def test_paired_surrogate_escapes_are_one_character():
    assert jcs.loads('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_ten_thousand_levels_are_our_error_and_no_recursion(opening):
    with pytest.raises(ParseError, match="deeper"):
        jcs.loads(opening * 10_000)


def test_depth_counts_levels_and_not_brackets():
    flat = "[" + ",".join(["[]", '"[[[["', '"\\"[["'] * 100) + "]"

    assert len(jcs.loads(flat)) == 300
    assert jcs.loads("[" * 32 + "]" * 32) is not None
    with pytest.raises(ParseError, match="deeper"):
        jcs.loads("[" * 33 + "]" * 33)


def test_a_value_that_contains_itself_is_refused():
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(ValueError, match="deeper"):
        jcs.dumps(endless)


def test_size_is_checked_before_anything_is_decoded():
    with pytest.raises(ParseError, match="larger"):
        jcs.loads("!" * 65_537)
    with pytest.raises(ParseError, match="longer"):
        jcs.decode_object("!" * 101, size_max=100)


def test_the_error_holds_no_copy_of_the_document():
    with pytest.raises(ParseError) as caught:
        jcs.loads('{"secret":"spt_1", x}')

    assert "spt_1" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_numbers_with_a_fraction_arrive_exactly_and_not_as_binary():
    assert jcs.loads("[1.10, 1e3]") == [Decimal("1.10"), Decimal(1000)]
    assert not any(isinstance(item, float) for item in jcs.loads("[1.10, 1e3]"))


def test_an_encoded_object_is_an_object():
    assert jcs.decode_object(jcs.encode_object({"b": 1, "a": "x"})) == {"a": "x", "b": 1}
    for text in ("W10", "MQ", "bnVsbA"):
        with pytest.raises(ParseError, match="object"):
            jcs.decode_object(text)
