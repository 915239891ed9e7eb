"""What the console script calls: it answers Ctrl-C from here on, also while the rest is imported.

It imports next to nothing at its top: whoever interrupts an import would see a traceback from
wherever it was.
"""

import os
import signal

from mpp_gateway.cli.exits import INTERRUPTED


def leave(*_: object) -> None:
    """Leave at once and say nothing: nothing is open yet, or everything is closed again."""
    os._exit(INTERRUPTED)


def main() -> int:
    """Run the command line and return its exit code."""
    # A shell that starts us with `&` has us ignore Ctrl-C: that stays.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, leave)
    from mpp_gateway.cli.main import main as run  # noqa: PLC0415 - the slow part

    try:
        return run()
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, leave)
