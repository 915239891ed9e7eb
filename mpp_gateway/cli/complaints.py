"""What the gateway itself complains of while `serve` runs: its own log, a line each, on stderr.

mitmproxy puts a handler of its own on the root logger, so that Python prints nothing by itself.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mpp_gateway.cli.output import plain, styled
from mpp_gateway.discovery.health import public_reason

PACKAGE = "mpp_gateway"
FRAMES_MAX = 12
CHAIN_MAX = 4


class Complaint(logging.Formatter):
    """A record as one line in the form of `serve`'s others; an exception follows it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and where it went wrong."""
        is_error = record.levelno >= logging.ERROR
        word, style, gap = ("error", "red", "    ") if is_error else ("warning", "yellow", "  ")
        line = f"{styled(word, style, sys.stderr)}{gap}{_one_line(record.getMessage())}"
        error = record.exc_info[1] if record.exc_info else None
        return "\n".join([line, *(f"  {part}" for part in _trace(error))])


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """Show the package's warnings and errors for the length of the block."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(Complaint())
    logger = logging.getLogger(PACKAGE)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _one_line(text: str) -> str:
    return plain(" ".join(text.split()))


def _trace(error: BaseException | None) -> list[str]:
    """Return where `error` and what caused it were raised.

    The text of an exception of the operator's own hook may quote a field of the request or the
    secret for the upstream: only what looks like neither is shown. Local values are never.
    """
    lines: list[str] = []
    for _ in range(CHAIN_MAX):
        if error is None:
            break
        frames = traceback.extract_tb(error.__traceback__, limit=-FRAMES_MAX)
        lines += [plain(part) for frame in frames.format() for part in frame.splitlines()]
        reason = public_reason(str(error))
        lines.append(f"{type(error).__name__}: {plain(reason)}" if reason else type(error).__name__)
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
        if error is not None:
            lines.append("after")
    return lines
