"""Patterns compiled for matching; their language is in `config.patterns`."""

import re
from urllib.parse import unquote

from mpp_gateway.config.patterns import Pattern

MAX_DECODINGS = 3
"""One by the upstream's front server, one by its framework, one to be sure."""


def compile_exact(pattern: Pattern) -> re.Pattern[str]:
    """Return the expression that a raw path matches, byte for byte and case for case."""
    parts = [_segment(segment, re.escape(segment)) for segment in pattern.segments]
    rest = "/.*" if pattern.open_ended else ""
    return re.compile("".join(parts) + rest + r"\Z")


def compile_lenient(pattern: Pattern) -> re.Pattern[str]:
    """Return the expression for paths in the form of `lenient_form`, whatever their case."""
    parts = [
        _segment(segment, re.escape(_decoded(segment))) for segment in pattern.segments if segment
    ]
    rest = "(?:/.*)?" if pattern.open_ended else ""
    return re.compile("".join(parts) + rest + r"\Z", re.IGNORECASE | re.DOTALL)


def lenient_form(path: str) -> str:
    """Return the path as the most forgiving upstream might read it.

    Percent-escapes decoded (several times over), backslashes turned, `;parameters` dropped, dot
    segments resolved, empty segments and the last slash removed.
    """
    segments: list[str] = []
    for raw in _decoded(path).replace("\\", "/").split("/"):
        segment = raw.partition(";")[0]
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    return "".join(f"/{segment}" for segment in segments)


def _segment(segment: str, literal: str) -> str:
    return f"/(?P<{segment[1:]}>[^/]+)" if segment.startswith(":") else f"/{literal}"


def _decoded(text: str) -> str:
    for _ in range(MAX_DECODINGS):
        if "%" not in text:
            break
        text = unquote(text, encoding="latin-1")
    return text
