"""What is wrong with text that is no YAML: on which line, and what would mend it.

The parser's own words name its machinery ("did not find expected key"). Nothing of the file is
quoted but single characters that start no value: what stands around them may be a secret.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # YAML 1.2 section 5.1

_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_TAB_INDENT = re.compile(r" *\t")
_KEY_AND_VALUE = re.compile(r":\s+\S")
_KEY = re.compile(r":(\s|\Z)")

_QUOTES = "put quotes around the value"
_NO_COLON = "a ':' and a space are missing after the key"
_TABS = "a tab stands where the line is indented; indent with spaces"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the parser stopped, and where what it was reading began; lines count from 1."""

    lines: tuple[str, ...]
    line: int
    column: int
    began: int

    def text(self, line: int) -> str:
        return self.lines[line - 1] if 0 < line <= len(self.lines) else ""

    @property
    def before(self) -> str:
        return self.text(self.line)[: self.column].strip()

    @property
    def at(self) -> str:
        return self.text(self.line)[self.column : self.column + 1]

    @property
    def above(self) -> int:
        """The nearest line above that says something."""
        for line in range(self.line - 1, 0, -1):
            if self.text(line).split("#")[0].strip():
                return line
        return 0

    @property
    def is_below_a_key(self) -> bool:
        return not self.above or _KEY.search(self.text(self.above).strip()) is not None


type _Finding = tuple[int, str]


def diagnose(error: yaml.MarkedYAMLError, text: str) -> _Finding:
    """Return the line of a mistake, and what it is with its cure."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "unreadable"
    if mark is None:
        return 1, problem
    began = error.context_mark or mark
    # At the end of the file the parser stands on a line below it.
    lines = tuple(_BREAK.split(text.rstrip()))
    last = len(lines)
    place = _Place(lines, min(mark.line + 1, last), mark.column, min(began.line + 1, last))
    if _TAB_INDENT.match(place.text(place.line)):
        return place.line, _TABS
    for pattern, finding in _FINDINGS:
        if re.search(pattern, f"{error.context or ''}: {problem}"):
            return finding(place)
    return place.line, problem


def forbidden_character(text: str) -> _Finding:
    """Return the line of the first character that YAML forbids, and its name."""
    match = FORBIDDEN.search(text)
    if match is None:
        return 1, "a character that may not stand in a text"
    line = len(_BREAK.split(text[: match.start()]))
    name = f"U+{ord(match[0]):04X}"
    return line, f"the character {name} may not stand in a text; take it out, or save as UTF-8"


def _no_token(place: _Place) -> _Finding:
    if place.at == "\t":
        return place.line, _TABS
    return place.line, f"a value cannot start with '{place.at}'; {_QUOTES}"


def _two_colons(place: _Place) -> _Finding:
    """Handle a ':' that opens a mapping where none can stand."""
    if _KEY.search(place.before):
        return place.line, f"a value has ': ' in it; {_QUOTES}"
    if not place.is_below_a_key:
        return _without_key(place)
    cure = "a value cannot have keys below it; indent with the lines beside it"
    return place.line, f"this line is indented below a line that has a value; {cure}"


def _outside(place: _Place) -> _Finding:
    if not place.is_below_a_key:
        return _without_key(place)
    message = "this line stands outside of the mapping above; keys of one start in one column"
    return place.line, message


def _without_key(place: _Place) -> _Finding:
    """Handle a line above that was meant to have a key, and has none for YAML."""
    has_colon = ":" in place.text(place.above)
    return place.above, "a space is missing after the ':'" if has_colon else _NO_COLON


def _no_colon(place: _Place) -> _Finding:
    has_colon = ":" in place.text(place.began).partition("#")[0].strip('"')
    missing = "a space is missing after the ':', or the ':' after the key"
    return place.began, missing if has_colon else _NO_COLON


def _misplaced(place: _Place) -> _Finding:
    """Handle what is no key where the next key of a mapping is due."""
    if place.before == "":
        cure = "keys of one mapping start in one column"
        return place.line, f"this line is indented unlike those it belongs to; {cure}"
    if not _KEY_AND_VALUE.search(place.before):
        return place.line, _NO_COLON
    ended = "the value has ended before this, at a quote or a bracket"
    return place.line, f"{ended}; {_QUOTES} (a ' inside '…' is written '')"


def _unclosed(place: _Place) -> _Finding:
    where = "" if place.began == place.line else f" of line {place.began}"
    cure = "close it, look for a missing ',' or ':', or put quotes around a value that starts so"
    return place.line, f"the '{{' or '['{where} is not closed before this; {cure}"


def _says(message: str) -> Callable[[_Place], _Finding]:
    return lambda place: (place.line, message)


_FINDINGS: tuple[tuple[str, Callable[[_Place], _Finding]], ...] = (
    # The words are those of libyaml and of PyYAML's own parser, which differ.
    (r"tab character", _says(_TABS)),
    (r"cannot start any token", _no_token),
    (r"mapping values are not allowed", _two_colons),
    (r"could not find expected ':'", _no_colon),
    (
        r"undefined alias|scanning an (alias|anchor)",
        _says(
            f"a value that starts with '*' or '&' is an alias or an anchor; for a text {_QUOTES}"
        ),
    ),
    (r"expected ',' or '[}\]]'", _unclosed),
    (
        r"quoted scalar: found unexpected end",
        lambda place: (place.began, "a quote that opens on this line is never closed"),
    ),
    (
        r"quoted scalar",
        _says("in double quotes a '\\' starts an escape; use single quotes, or write '\\\\'"),
    ),
    (
        r"block collection",
        _says("a key among the items of a list; indent it, or start it with '-'"),
    ),
    (r"expected key|expected <block end>", _misplaced),
    (r"another document", _says("a configuration is one document; take the '---' out")),
    (r"expected '?<document start>", _outside),
    (
        r"entries are not allowed",
        _says(f"a list starts on a line of its own; for a text that starts with '-' {_QUOTES}"),
    ),
    (r"mapping keys are not allowed", _says(f"a value cannot start with '? '; {_QUOTES}")),
    (
        r"block scalar",
        _says(f"after '|' or '>' the text starts on the next line; for a text like that {_QUOTES}"),
    ),
    (
        r"node content",
        _says("before this a value is missing, a bracket is open, or a ',' too much"),
    ),
    (r"scanning a (tag|directive)", _says(f"a value cannot start with '!' or '%'; {_QUOTES}")),
)
