"""Lists of challenges and credentials (RFC 9110 section 11), read within bounds and written safely.

The list is split at commas outside quotes, so a scheme's name inside a quoted string is no
boundary. Several field lines are one list (RFC 9110 section 5.3): they are joined before splitting,
and so any way of cutting the list into lines reads the same.
"""

import re
from collections.abc import Sequence

from mpp_gateway.protocol.problems import ParseError

FIELD_CHARS_MAX = 64 * 1024
"""Of all lines of one field together; the bound that the SDKs use for `Authorization`."""
ELEMENTS_MAX = 512
PARAMETERS_MAX = 64

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # noqa: S105 - RFC 9110 `token`, nothing secret
_QUOTED_BODY = r'(?:[^"\\]++|\\.)*+'
_ELEMENT = re.compile(rf'(?:[^",]++|"{_QUOTED_BODY}"?)++', re.DOTALL)
_HEAD = re.compile(rf"({_TOKEN})(?:[ \t]*+(=)|[ \t]++|\Z)")
_PARAMETER = re.compile(
    rf'({_TOKEN})[ \t]*+=[ \t]*+(?:"({_QUOTED_BODY})(")?|([^\s",]*+))', re.DOTALL
)
_ESCAPE = re.compile(r"(?:\\u[0-9a-fA-F]{4})++|\\(.)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN_ONLY = re.compile(_TOKEN)
_NEEDS_ESCAPE = re.compile(r'["\\]|[^\x20-\x7e]')


def split(values: Sequence[str], scheme: str) -> list[list[str]]:
    """Return the list elements of each occurrence of `scheme` (any case) in a field's lines.

    The first element is what stands after the scheme's name, the others are the parameters that
    follow it up to the next scheme. Raises ParseError when the field is too long, has too many
    elements, or holds control characters.
    """
    text = values[0] if len(values) == 1 else ", ".join(values)
    if len(text) > FIELD_CHARS_MAX:
        raise ParseError(f"field is longer than {FIELD_CHARS_MAX} characters")
    if not text.isprintable() and _CONTROL.search(text):
        raise ParseError("control character in a field value")
    wanted = scheme.lower()
    found: list[list[str]] = []
    current: list[str] | None = None
    for count, match in enumerate(_ELEMENT.finditer(text)):
        if count >= ELEMENTS_MAX:
            raise ParseError(f"field has more than {ELEMENTS_MAX} elements")
        element = match[0].strip(" \t")
        if not element:
            continue
        head = _HEAD.match(element)
        if head is not None and head[2] is None:
            current = None
            if head[1].lower() == wanted:
                current = [element[head.end() :]]
                found.append(current)
        elif current is not None:
            current.append(element)
    return found


def read_parameters(elements: Sequence[str]) -> dict[str, str | None]:
    """Return the parameters by lower-case name; None marks a quoted string that never ends.

    Text after a closing quote is ignored, and so are elements without `=`, as the SDKs do. Raises
    ParseError when a name comes twice (in any case) or when there are too many.
    """
    parameters: dict[str, str | None] = {}
    for element in elements:
        match = _PARAMETER.match(element)
        if match is None:
            continue
        name = match[1].lower()
        if name in parameters:
            raise ParseError("duplicate parameter")
        if len(parameters) >= PARAMETERS_MAX:
            raise ParseError(f"more than {PARAMETERS_MAX} parameters")
        quoted: str | None = match[2]
        if quoted is None:
            parameters[name] = match[4]
        elif match[3] is None:
            parameters[name] = None
        else:
            parameters[name] = _ESCAPE.sub(_unescape, quoted) if "\\" in quoted else quoted
    return parameters


def is_token(text: str) -> bool:
    """Say whether `text` is an RFC 9110 token, as field names and schemes are."""
    return _TOKEN_ONLY.fullmatch(text) is not None


def quote(value: str) -> str:
    """Return `value` as a quoted-string; raises ValueError unless it is printable ASCII."""
    # A line break would end the header and let the value write the next one.
    if not (value.isascii() and value.isprintable()):
        raise ValueError("a parameter holds only printable ASCII")
    if '"' in value or "\\" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def quote_text(value: str) -> str:
    r"""Return display text as a quoted-string in ASCII, other characters as `\uXXXX`.

    The escapes are the SDKs' convention, UTF-16 units, because header bytes above Latin-1 break
    clients. Raises ValueError for control characters and lone surrogates.
    """
    if value.isascii() and value.isprintable():
        return quote(value)
    if _CONTROL.search(value) or "\t" in value:
        raise ValueError("display text holds no control characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("display text holds half of a surrogate pair") from error
    return f'"{_NEEDS_ESCAPE.sub(_escape, value)}"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in '"\\':
        return "\\" + character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _unescape(match: re.Match[str]) -> str:
    if match[1] is not None:
        return match[1]
    units = bytes.fromhex(match[0].replace("\\u", ""))
    return units.decode("utf-16-be", "replace")
