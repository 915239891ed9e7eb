"""The `mpp-gateway` command as a process of its own: piped, or on a terminal."""

import os
import pty
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
        "COLUMNS",
        "FORCE_COLOR",
        "PYTHONPATH",
    }
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HOME": str(home), **more}


def run(*arguments: str | Path, home: Path, cwd: Path = ROOT, **more: str) -> Done:
    """Run `mpp-gateway` with pipes for its output."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environ(home, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_on_terminal(*arguments: str | Path, home: Path, **more: str) -> tuple[int, str]:
    """Run `mpp-gateway` on a terminal; return its exit code and what it shows."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        cwd=ROOT,
        env=environ(home, **({"TERM": "xterm"} | more)),
        stdin=subprocess.DEVNULL,
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
