"""How far a long work has come, on stderr, for whoever waits at a terminal."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 2
"""What takes no longer says nothing."""
EVERY_S = 0.5

type Tick = Callable[[int], None]
type Wait = Callable[[float], bool]
"""Waits for that many seconds; True as soon as the work is done."""


class Line:
    """The line that tells of a work, written over itself again and again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._number: int | None = None
        self._width = 0

    def tick(self, number: int) -> None:
        """Note how far it is; costs next to nothing."""
        self._number = number

    def show(self) -> None:
        """Write it."""
        so_far = " ..." if self._number is None else f": {self._number:,}"
        text = f"{self._what}{so_far}"
        self._width = max(self._width, len(text))
        print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)

    def wipe(self) -> None:
        """Take it away, if it was ever there."""
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)


@contextmanager
def progress(what: str) -> Iterator[Tick]:
    """Show `what`, and the number that the yielded function was given last, once it takes long.

    A thread does it: one question to a large store takes its time in one piece. The line is gone
    at the end. Nothing is shown where stderr is no terminal.
    """
    line = Line(what)
    if not sys.stderr.isatty():
        yield line.tick
        return
    done = threading.Event()
    shower = threading.Thread(target=keep_showing, args=(line, done.wait), daemon=True)
    shower.start()
    try:
        yield line.tick
    finally:
        done.set()
        shower.join()
        line.wipe()


def keep_showing(line: Line, wait: Wait) -> None:
    """Show `line` every now and then until the work is done; nothing if that is soon."""
    pause_s: float = PATIENCE_S
    while not wait(pause_s):
        line.show()
        pause_s = EVERY_S
