"""How far a long work has come, on stderr, for whoever waits at a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 2
"""What takes no longer says nothing."""
EVERY_S = 0.2

type Clock = Callable[[], float]
type Tick = Callable[[int], None]


@contextmanager
def progress(what: str, clock: Clock = time.monotonic) -> Iterator[Tick]:
    """Show `what` and the number that the yielded function is given, once it takes long.

    The line is gone at the end. Nothing is shown where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    due_s = clock() + PATIENCE_S
    width = 0

    def tick(number: int) -> None:
        nonlocal due_s, width
        if clock() < due_s:
            return
        due_s = clock() + EVERY_S
        text = f"{what}: {number:,}"
        width = max(width, len(text))
        print(f"\r{text.ljust(width)}", end="", file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        if width:
            print(f"\r{' ' * width}\r", end="", file=sys.stderr, flush=True)
