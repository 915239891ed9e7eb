"""Canonical JSON (RFC 8785) out, bounded JSON in.

Numbers with a fraction are refused on the way out: two writers could render one value in two ways,
and the bytes are signed. Amounts are strings. Integers stay within what every JSON reader holds
exactly (RFC 7493 section 2.2).
"""

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NoReturn

from mpp_gateway.protocol import base64url
from mpp_gateway.protocol.problems import ParseError

DEPTH_MAX = 32
SIZE_MAX = 64 * 1024
INTEGER_MAX = 2**53 - 1
_INTEGER_CHARS_MAX = len(str(-INTEGER_MAX))

_quote = json.JSONEncoder(ensure_ascii=False).encode
_BRACKET_OR_STRING = re.compile(r'[\[{]|[\]}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def dumps(value: Any) -> bytes:
    """Return the canonical bytes of `value`: keys in UTF-16 order, no spaces, UTF-8.

    Takes mappings with string keys, lists, tuples, strings, ints, booleans and None. Raises
    ValueError for numbers with a fraction, ints beyond 2**53-1, lone surrogates, deep nesting and
    any other type.
    """
    parts: list[str] = []
    _write(value, parts.append, DEPTH_MAX)
    try:
        return "".join(parts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a string holds half of a surrogate pair") from error


def loads(data: str | bytes, *, size_max: int = SIZE_MAX) -> Any:
    """Return the JSON value of `data`, or raise ParseError; nothing else escapes.

    Refused beyond JSON's own grammar: more than `size_max` bytes or characters, nesting deeper than
    32, duplicate member names, integers beyond 2**53-1, NaN and infinities, lone surrogates.
    Numbers with a fraction or an exponent arrive as Decimal.
    """
    if len(data) > size_max:
        raise ParseError(f"JSON text is larger than {size_max}")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        _check_depth(text)
        value = _DECODER.decode(text)
        if _SURROGATE_ESCAPE.search(text):
            _check_surrogates(value)
    except ParseError:
        raise
    except ValueError:
        # The cause carries the whole document, which may be a credential: no log may meet it.
        raise ParseError("not JSON") from None
    return value


def encode_object(value: Mapping[str, Any]) -> str:
    """Return base64url of the canonical bytes: how `request`, `opaque` and receipts travel."""
    return base64url.encode(dumps(value))


def decode_object(text: str, *, size_max: int = SIZE_MAX) -> dict[str, Any]:
    """Return the JSON object that `text` carries in base64url, or raise ParseError."""
    if len(text) > size_max:
        raise ParseError(f"encoded object is longer than {size_max} characters")
    value = loads(base64url.decode(text), size_max=size_max)
    if not isinstance(value, dict):
        raise ParseError("not a JSON object")
    return value


def _write(value: Any, emit: Callable[[str], None], depth_left: int) -> None:
    kind = type(value)
    if kind is str:
        emit(_quote(value))
    elif kind is dict or isinstance(value, Mapping):
        _write_object(value, emit, depth_left - 1)
    elif value is None:
        emit("null")
    elif kind is bool:
        emit("true" if value else "false")
    elif kind is int:
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise ValueError("an integer beyond 2**53-1 goes on the wire as a string")
        emit(str(value))
    elif kind is list or kind is tuple:
        _write_array(value, emit, depth_left - 1)
    else:
        raise ValueError(f"{kind.__name__} has no canonical JSON form here; amounts are strings")


def _write_object(value: Mapping[str, Any], emit: Callable[[str], None], depth_left: int) -> None:
    if depth_left < 0:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    before = "{"
    for name in _in_utf16_order(value):
        emit(f"{before}{_quote(name)}:")
        _write(value[name], emit, depth_left)
        before = ","
    emit("{}" if before == "{" else "}")


def _write_array(
    value: list[Any] | tuple[Any, ...], emit: Callable[[str], None], depth_left: int
) -> None:
    if depth_left < 0:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    before = "["
    for item in value:
        emit(before)
        _write(item, emit, depth_left)
        before = ","
    emit("[]" if before == "[" else "]")


def _in_utf16_order(value: Mapping[str, Any]) -> list[str]:
    ascii_only = True
    for name in value:
        if type(name) is not str:
            raise ValueError("member names are strings")
        ascii_only = ascii_only and name.isascii()
    if ascii_only:
        return sorted(value)
    # RFC 8785 section 3.2.3: code points above U+FFFF sort by their surrogates, before U+E000.
    return sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))


def _check_depth(text: str) -> None:
    # The decoder recurses in C. RecursionError is no guard: libraries that we import raise Python's
    # limit so far that a deep document would end the process instead.
    if text.count("{") + text.count("[") <= DEPTH_MAX:
        return
    depth = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        character = text[match.start()]
        if character in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ParseError(f"JSON nested deeper than {DEPTH_MAX}")
        elif character != '"':
            depth -= 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParseError("a string holds half of a surrogate pair") from error


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    # Readers disagree on which duplicate counts, so a signed field could mean two things.
    if len(members) != len(pairs):
        raise ParseError("duplicate member name")
    return members


def _bounded_integer(text: str) -> int:
    if len(text) > _INTEGER_CHARS_MAX:
        raise ParseError("integer beyond 2**53-1")
    value = int(text)
    if not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise ParseError("integer beyond 2**53-1")
    return value


def _no_constant(_text: str) -> NoReturn:
    raise ParseError("NaN and infinities are not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_int=_bounded_integer,
    parse_float=Decimal,
    parse_constant=_no_constant,
)
