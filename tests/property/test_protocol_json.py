"""Canonical JSON: one text for one value, whatever order or spelling it came in."""

import json
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError

texts = st.text()
integers = st.integers(-jcs.INTEGER_MAX, jcs.INTEGER_MAX)
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def shuffled(value, seed):
    if isinstance(value, dict):
        members = [(name, shuffled(item, seed)) for name, item in value.items()]
        random.Random(seed).shuffle(members)  # noqa: S311 - an order, not a secret
        return dict(members)
    if isinstance(value, list):
        return [shuffled(item, seed) for item in value]
    return value


def member_names(value):
    if isinstance(value, dict):
        yield list(value)
        for item in value.values():
            yield from member_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from member_names(item)


@given(values)
def test_canonical_text_reads_back_as_the_value_and_writes_the_same_again(value):
    text = jcs.dumps(value)

    assert jcs.loads(text) == value
    assert json.loads(text) == value
    assert jcs.dumps(jcs.loads(text)) == text


@given(values, st.integers())
def test_member_order_and_escapes_leave_no_trace(value, seed):
    loose = json.dumps(shuffled(value, seed), indent=2, ensure_ascii=True)

    assert jcs.dumps(jcs.loads(loose)) == jcs.dumps(value)


@given(values)
def test_members_are_in_utf16_order_and_no_byte_is_a_space_of_layout(value):
    for names in member_names(json.loads(jcs.dumps(value))):
        units = [name.encode("utf-16-be") for name in names]
        assert units == sorted(units)


@given(
    values, st.floats() | st.integers(min_value=jcs.INTEGER_MAX + 1) | st.binary() | st.just({1})
)
def test_what_has_no_canonical_form_is_refused_wherever_it_stands(value, foreign):
    for candidate in (foreign, [value, foreign], {"a": {"b": foreign}}):
        with pytest.raises(ValueError, match=r"canonical|string"):
            jcs.dumps(candidate)


@given(st.integers(0, 100), st.sampled_from(["[]", "{}"]))
def test_nesting_is_bounded_the_same_on_both_sides(depth, kind):
    value = None
    for _ in range(depth):
        value = [value] if kind == "[]" else {"a": value}
    text = json.dumps(value)

    if depth <= jcs.DEPTH_MAX:
        assert jcs.loads(jcs.dumps(value)) == value
    else:
        with pytest.raises(ParseError, match="deeper"):
            jcs.loads(text)
        with pytest.raises(ValueError, match="deeper"):
            jcs.dumps(value)


@given(st.lists(st.text('[{]}"\\', max_size=20), max_size=30))
def test_brackets_inside_strings_are_no_nesting(items):
    assert jcs.loads(json.dumps(items)) == items


@given(st.integers(0, 10**30), st.integers(1, 20))
def test_fractions_arrive_exactly(whole, digits):
    text = f"{whole}.{'1' * digits}"

    assert jcs.loads(text) == Decimal(text)
