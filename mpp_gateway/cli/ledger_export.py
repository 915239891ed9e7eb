"""Where an export goes: a file that is whole or not there, or stdout, after the store is let go."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mpp_gateway.cli.exits import USAGE
from mpp_gateway.cli.output import CommandFailed

MEMORY_BYTES = 1 << 20


@contextmanager
def exported(target: Path | None) -> Iterator[IO[str]]:
    """Yield what to write to; it arrives at `target`, or on stdout, when the block is left.

    Written to a pipe at once, the pace of its reader would decide how long the store is held.
    """
    if target is not None:
        with _file(target) as out:
            yield out
        return
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES, "w+", encoding="utf-8", newline="") as spool:
        yield spool
        spool.seek(0)
        sys.stdout.flush()
        for part in iter(lambda: spool.read(MEMORY_BYTES), ""):
            sys.stdout.buffer.write(part.encode())


@contextmanager
def _file(target: Path) -> Iterator[IO[str]]:
    place = target.resolve()
    if place.exists() and not stat.S_ISREG(place.stat().st_mode):
        # Put in place of a device, it would be gone for all programs of the machine.
        raise CommandFailed(f"--output {target}: this is no file; leave --output out", USAGE)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    except OSError as error:
        raise CommandFailed(f"--output {target}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(place)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CommandFailed(f"--output {target}: {error.strerror}") from None
        raise
