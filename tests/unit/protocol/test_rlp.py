"""RLP: every value has one encoding, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.protocol import rlp

ITEMS = st.recursive(
    st.binary(max_size=80), lambda inner: st.lists(inner, max_size=5), max_leaves=20
)


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"dog", "83646f67"),
        ([b"cat", b"dog"], "c88363617483646f67"),
        (b"", "80"),
        ([], "c0"),
        (b"\x00", "00"),
        (b"\x0f", "0f"),
        (b"\x04\x00", "820400"),
        ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"),
        (b"Lorem ipsum dolor sit amet, consectetur adipisicing elit",
         ("b8384c6f72656d20697073756d20646f6c6f722073697420616d65742c20636f6e7365637465747572206164"
         "697069736963696e6720656c6974")),
    ],
)  # fmt: skip
def test_the_published_examples_are_written_and_read(item, encoded: str):
    assert rlp.encode(item).hex() == encoded
    assert rlp.decode(bytes.fromhex(encoded)) == item


@given(ITEMS)
def test_what_is_written_is_read(item):
    if depth(item) <= rlp.DEPTH_MAX:
        assert rlp.decode(rlp.encode(item)) == item


def depth(item) -> int:
    return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0


@given(st.binary(max_size=60))
def test_what_is_read_has_no_other_encoding(data: bytes):
    try:
        item = rlp.decode(data)
    except rlp.RlpError:
        return
    assert rlp.encode(item) == data


@pytest.mark.parametrize(
    "encoded",
    ["", "8100", "817f", "b800", "b837" + "00" * 55, "b90038" + "00" * 56, "f800", "83646f",
     "c883636174", "00 00", "c0c0", "bfffffffffffffffff", "b9", "c1" * 9 + "c0"],
)  # fmt: skip
def test_other_forms_are_refused(encoded: str):
    with pytest.raises(rlp.RlpError):
        rlp.decode(bytes.fromhex(encoded))


def test_items_without_end_are_refused():
    with pytest.raises(rlp.RlpError, match="too many"):
        rlp.decode(rlp.encode([b""] * (rlp.ITEMS_MAX + 1)))


@pytest.mark.parametrize("item", [b"\0", b"\0\1", b"\1" * 9, []])
def test_an_integer_has_one_form(item):
    with pytest.raises(rlp.RlpError):
        rlp.decode_uint(item, 64)
