"""How the command line speaks: text for people, JSON for pipes, colour only where it is welcome."""

import codecs
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from mpp_gateway.cli.exits import FAILED

_STYLES = {"bold": "1", "dim": "2", "green": "32", "red": "31", "yellow": "33"}


class CommandFailed(Exception):
    """Ends the command with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def for_people() -> bool:
    """Whether stdout is a terminal; otherwise it gets JSON."""
    return sys.stdout.isatty()


def styled(text: str, style: str, stream: Any = None) -> str:
    """Return `text` in a style, or plain where that is not welcome or nobody looks."""
    stream = stream or sys.stdout
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if is_plain or not stream.isatty():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def plain(text: str) -> str:
    """Return a stranger's text with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class BodyPrinter:
    """Prints a stranger's bytes on stdout: untouched into a pipe, as harmless text on a terminal.

    A terminal obeys what it is sent: it would fill the clipboard, or move up and write another
    price over ours. New lines and tabs stay, everything else is shown escaped.
    """

    def __init__(self) -> None:
        self._text: io.IncrementalNewlineDecoder | None = None
        if for_people():
            decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
            self._text = io.IncrementalNewlineDecoder(decoder, translate=True)

    def print(self, chunk: bytes, *, is_last: bool = False) -> None:
        """Print the next bytes; what a character lacks is waited for, unless they are the last."""
        if self._text is not None:
            text = self._text.decode(chunk, final=is_last)
            shown = "".join(c if c in "\n\t" else plain(c) for c in text)
            chunk = shown.encode(sys.stdout.encoding, "backslashreplace")
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def say(text: str = "") -> None:
    """Tell people something that is no result: it goes to stderr and leaves pipes clean."""
    print(text, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """Print a result for a program."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], stream: Any = None) -> str:
    """Return rows under headings in columns as wide as they need to be."""
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([styled(text[0], "bold", stream), *text[1:]])
