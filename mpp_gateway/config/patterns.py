"""The language of route keys: `METHOD /pattern` or `/pattern`.

`:name` stands for one segment that is not empty, a `*` as the last segment for the rest of the
path. Everything else stands for itself, byte for byte and case for case.
"""

import re
from dataclasses import dataclass

PARAMETER = re.compile(r":[A-Za-z_][A-Za-z0-9_]*\Z")
LITERAL = re.compile(
    r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%[0-9A-Fa-f]{2})*\Z"
)  # RFC 3986 pchar, no "*"
METHOD = re.compile(r"[A-Z][A-Z0-9-]{0,31}\Z")
NEVER_ROUTED = frozenset({"CONNECT", "TRACE", "TRACK"})
"""TRACE and TRACK make a server echo the request, and with it the upstream's secret; CONNECT asks
for a tunnel."""
COMMON = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REGISTERED = frozenset(
    {
        "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD",
        "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF",
        "MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH", "PATCH", "POST", "PROPFIND", "PROPPATCH",
        "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK",
        "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
    }
)  # fmt: skip
"""The methods of IANA's registry (RFC 9110 section 18.2) that can be routed. Others can be too."""
MAX_PATTERN_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Pattern:
    """One path pattern, split at its slashes; `open_ended` when it ended with `/*`."""

    segments: tuple[str, ...]
    open_ended: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the `:name` segments, in order."""
        return tuple(segment[1:] for segment in self.segments if segment.startswith(":"))

    @property
    def is_literal(self) -> bool:
        """Whether the pattern stands for one path only."""
        return not self.open_ended and not self.parameters

    def covers(self, other: "Pattern") -> bool:
        """Tell whether every path that matches `other` matches this pattern too."""
        if other.open_ended and not self.open_ended:
            return False
        if self.open_ended and len(other.segments) < len(self.segments) + (not other.open_ended):
            return False
        if not self.open_ended and len(other.segments) != len(self.segments):
            return False
        pairs = zip(self.segments, other.segments, strict=False)
        return all(a == b or (a.startswith(":") and b != "") for a, b in pairs)

    def meets(self, other: "Pattern") -> bool:
        """Tell whether some path matches both patterns."""
        mine, others = len(self.segments), len(other.segments)
        if (mine > others and not other.open_ended) or (others > mine and not self.open_ended):
            return False
        if self.open_ended != other.open_ended and mine == others:
            return False
        pairs = zip(self.segments, other.segments, strict=False)
        return all(a == b or _may_equal(a, b) or _may_equal(b, a) for a, b in pairs)


def _may_equal(parameter: str, segment: str) -> bool:
    return parameter.startswith(":") and segment != ""


def parse_pattern(text: str) -> Pattern:
    """Read a path pattern; ValueError says what is wrong with it."""
    if not text.startswith("/"):
        raise ValueError("a pattern that starts with '/'")
    if len(text) > MAX_PATTERN_LENGTH:
        raise ValueError(f"a pattern of at most {MAX_PATTERN_LENGTH} characters")
    if text.startswith("//"):
        raise ValueError("a pattern that does not start with '//', which no request may")
    segments = text[1:].split("/")
    open_ended = segments[-1] == "*"
    if open_ended:
        segments.pop()
    for segment in segments:
        _check_segment(segment)
    pattern = Pattern(tuple(segments), open_ended)
    if len(set(pattern.parameters)) != len(pattern.parameters):
        raise ValueError("a different name for each ':name' segment")
    return pattern


def _check_segment(segment: str) -> None:
    if segment.startswith(":"):
        if not PARAMETER.match(segment):
            raise ValueError("a parameter such as ':id' (letters, digits, '_') filling its segment")
    elif "*" in segment:
        raise ValueError("'*' only as the whole last segment")
    elif "{" in segment or "}" in segment:
        raise ValueError("parameters written ':id', not '{id}'")
    elif "?" in segment or "#" in segment:
        raise ValueError("a path only: no query and no fragment takes part in the match")
    elif not LITERAL.match(segment):
        raise ValueError("a path of URL characters, others percent-encoded")
    elif segment.lower().replace("%2e", ".") in {".", ".."}:
        raise ValueError("no '.' or '..' segment, which no request may have")


def parse_route_key(key: str) -> tuple[str | None, str, Pattern]:
    """Split `METHOD /pattern` into method (None: any), pattern text and pattern; or ValueError."""
    method, separator, path = key.partition(" ")
    if not separator:
        method, path = "", key
    pattern = parse_pattern(path)
    if not method and not separator:
        return None, path, pattern
    if not METHOD.match(method):
        raise ValueError("'METHOD /pattern' with one space and the method in capitals")
    if method in NEVER_ROUTED:
        raise ValueError(f"another method: {method} is never forwarded")
    return method, path, pattern
