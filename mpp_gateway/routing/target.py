"""Reading a request target so that the upstream cannot read another path out of it than we did.

Nothing is normalised: a target is refused, or kept byte for byte.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from mpp_gateway.errors import BadTarget

MAX_TARGET_LENGTH = 16 * 1024
ASTERISK = "*"

_VISIBLE = re.compile(r"[!-~]*\Z")  # no controls, spaces, or bytes outside ASCII
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEPARATORS = re.compile(r"[/\\]")
_MAY_HIDE_DOTS = re.compile(r"/\.|%2[eEfF]")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin-form (RFC 9112 section 3.2.1), or `*` of an OPTIONS request.

    `query` is what follows the first `?`: None without one, and "" when nothing follows.
    """

    path: str
    query: str | None


def parse_target(method: str, raw: str) -> Target:
    """Split a request target; BadTarget when two servers could disagree on what it names.

    Source: RFC 9112 section 3.2, RFC 3986 sections 3.3 and 5.2.4.
    """
    if raw == ASTERISK and method == "OPTIONS":
        return Target(ASTERISK, None)
    if len(raw) > MAX_TARGET_LENGTH:
        raise BadTarget(f"The request target is longer than {MAX_TARGET_LENGTH} characters.")
    if not raw.startswith("/"):
        raise BadTarget("The request target must start with '/'.")
    if raw.startswith("//"):
        # "//evil.example/x" is a path here and a host name to whatever resolves it as a reference.
        raise BadTarget("The request target must not start with '//'.")
    if not _VISIBLE.match(raw):
        raise BadTarget("The request target must be visible ASCII, the rest percent-encoded.")
    if "#" in raw:
        raise BadTarget("The request target must not have a fragment.")
    if "\\" in raw:
        raise BadTarget("The request target must not have a backslash.")
    path, mark, query = raw.partition("?")
    if "%" in raw:
        _check_escapes(raw, path)
    if _MAY_HIDE_DOTS.search(path):
        _check_dot_segments(path)
    return Target(path, query if mark else None)


def _check_escapes(raw: str, path: str) -> None:
    if _BROKEN_ESCAPE.search(raw):
        raise BadTarget("The request target has a percent sign without two hexadecimal digits.")
    if "%00" in raw:
        raise BadTarget("The request target must not have a NUL.")
    if "%5c" in path.lower():
        raise BadTarget("The path must not have a backslash, encoded or not.")


def _check_dot_segments(path: str) -> None:
    """Refuse `.` and `..` in any spelling that one decoding turns into them.

    An encoded slash stays inside its segment, except for this: `..%2fadmin` is a step up for every
    server that decodes before it resolves. A `;parameter` does not make a dot segment harmless
    either, servlet containers drop it first.
    """
    decoded = unquote(path, encoding="latin-1")
    for segment in _SEPARATORS.split(decoded):
        if segment.partition(";")[0] in {".", ".."}:
            raise BadTarget("The path must not have '.' or '..' segments, encoded or not.")
