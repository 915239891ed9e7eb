"""The `mpp-gateway` command as a process of its own: piped, or on a terminal."""

import os
import pty
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from tests.support import forkserver
from tests.support.process import BIN, ROOT

WAIT_S = 60
COMMAND = str(BIN / "mpp-gateway")


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def environ(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command: this one's, without what would change its answers."""
    left_out = {
        "NO_COLOR",
        "MPP_PRIVATE_KEY",
        "MPP_CREDENTIAL",
        "MPP_CREDENTIAL_FOR",
        "MPP_IDEMPOTENCY_KEY",
        "MPP_SPT",
        "MPP_STRIPE_SECRET_KEY",
        "MPP_STRIPE_API_BASE",
        "COLUMNS",
        "FORCE_COLOR",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
    }
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HOME": str(home), **more}


def run(*arguments: str | Path, home: Path, cwd: Path = ROOT, **more: str) -> Done:
    """Run `mpp-gateway` with pipes for its output."""
    with (
        Path(os.devnull).open("rb") as nothing,
        _pipe() as (out, said),
        _pipe() as (err, complained),
        ThreadPoolExecutor(2) as readers,
    ):
        child = forkserver.start(
            [COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=environ(home, **more),
            stdin=nothing.fileno(),
            stdout=said.fileno(),
            stderr=complained.fileno(),
        )
        said.close()
        complained.close()
        texts = [readers.submit(TextIOWrapper(end).read) for end in (out, err)]
        try:
            code = child.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        return Done(code, *[text.result(WAIT_S) for text in texts])


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    ours, theirs = os.pipe()
    with open(ours, "rb") as read, open(theirs, "wb") as written:  # noqa: PTH123 - they are numbers
        yield read, written


def run_on_terminal(*arguments: str | Path, home: Path, **more: str) -> tuple[int, str]:
    """Run `mpp-gateway` on a terminal; return its exit code and what it shows."""
    ours, theirs = pty.openpty()
    with Path(os.devnull).open("rb") as nothing:
        child = forkserver.start(
            [COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env=environ(home, **({"TERM": "xterm"} | more)),
            stdin=nothing.fileno(),
            stdout=theirs,
            stderr=theirs,
        )
    os.close(theirs)
    shown = b""
    try:
        while more_bytes := _read(ours):
            shown += more_bytes
        return child.wait(WAIT_S), shown.decode().replace("\r\n", "\n")
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: the other side is closed
        return b""
