"""Recursive Length Prefix, the encoding of transactions (Ethereum Yellow Paper, appendix B).

Strict: each value has exactly one encoding here, so that one transaction never has two hashes.
"""

type Item = bytes | list["Item"]

ITEMS_MAX = 4_096
DEPTH_MAX = 8

_SINGLE, _TEXT, _LONG_TEXT, _LIST, _LONG_LIST = 0x80, 0x80, 0xB7, 0xC0, 0xF7
_SHORT = 55


class RlpError(ValueError):
    """The bytes are not the encoding of anything."""


def encode(item: Item) -> bytes:
    """Return the encoding of a byte string, or of a list of items."""
    if isinstance(item, list):
        body = b"".join(encode(inner) for inner in item)
        return _head(len(body), _LIST) + body
    if len(item) == 1 and item[0] < _SINGLE:
        return item
    return _head(len(item), _TEXT) + item


def encode_uint(value: int) -> bytes:
    """Return an integer as the byte string that stands for it: big-endian, zero is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8)


def decode(data: bytes) -> Item:
    """Return the one item that `data` encodes; raises RlpError for anything else."""
    reader = _Reader(data)
    item = reader.item(0, len(data), 0)
    if reader.end != len(data):
        raise RlpError("there are bytes after the item")
    return item


def decode_uint(item: Item, bits: int) -> int:
    """Return the integer that a byte string stands for; raises RlpError for leading zeros."""
    if isinstance(item, list) or len(item) > bits // 8 or item[:1] == b"\0":
        raise RlpError(f"not an unsigned integer of {bits} bits")
    return int.from_bytes(item)


def _head(length: int, base: int) -> bytes:
    if length <= _SHORT:
        return bytes((base + length,))
    size = encode_uint(length)
    return bytes((base + _SHORT + len(size),)) + size


class _Reader:
    """Reads items one behind the other; `end` is where the last one ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = ITEMS_MAX
        self.end = 0

    def item(self, start: int, limit: int, depth: int) -> Item:
        self._left -= 1
        if self._left < 0 or depth > DEPTH_MAX:
            raise RlpError("too many or too deeply nested items")
        if start >= limit:
            raise RlpError("the encoding ends in the middle")
        first = self._data[start]
        if first < _SINGLE:
            self.end = start + 1
            return self._data[start : self.end]
        is_list = first >= _LIST
        begin, length = self._body(start, limit, first - (_LIST if is_list else _TEXT))
        stop = begin + length
        if stop > limit:
            raise RlpError("the encoding ends in the middle")
        if is_list:
            return self._list(begin, stop, depth)
        self.end = stop
        text = self._data[begin:stop]
        if len(text) == 1 and text[0] < _SINGLE:
            raise RlpError("a single byte in the long form")
        return text

    def _body(self, start: int, limit: int, code: int) -> tuple[int, int]:
        """Return where the content of an item begins, and how long it is."""
        if code <= _SHORT:
            return start + 1, code
        begin = start + 1 + code - _SHORT
        size = self._data[start + 1 : min(begin, limit)]
        length = int.from_bytes(size)
        if len(size) != code - _SHORT or size[0] == 0 or length <= _SHORT:
            raise RlpError("a length in a form that is not the shortest")
        return begin, length

    def _list(self, begin: int, stop: int, depth: int) -> Item:
        items: list[Item] = []
        at = begin
        while at < stop:
            items.append(self.item(at, stop, depth + 1))
            at = self.end
        self.end = stop
        return items
