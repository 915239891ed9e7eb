"""Real processes on real ports, started and ended by the tests that need them."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import forkserver
from tests.support.forkserver import BIN, ROOT

__all__ = ["BIN", "ROOT", "Process", "free_port", "process"]

START_S = 90
POLL_S = 0.05


_taken: list[socket.socket] = []


def free_port() -> int:
    """Return a port that this process alone gives away: nobody listens there until it is told to.

    It stays bound and never listens. Who asks to reuse an address, as servers do, may have it; who
    asks for any port, or connects to somewhere, gets another one.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _taken.append(probe)
    return probe.getsockname()[1]


class Process:
    """A started command; its output is in `output()`."""

    def __init__(self, command: Sequence[str], environ: dict[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("wb")
        written = self._file.fileno()
        self.popen = forkserver.start(
            command, cwd=ROOT, env=environ, stdin=0, stdout=written, stderr=written
        )

    def output(self) -> str:
        """Return everything printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for_port(self, port: int) -> None:
        """Poll until the port accepts connections, or fail with the output."""
        for _ in range(int(START_S / POLL_S)):
            if self.popen.poll() is not None:
                raise AssertionError(f"exit {self.popen.returncode}: {self.output()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(POLL_S)
            else:
                return
        raise AssertionError(f"port {port} never opened: {self.output()}")

    def wait_for_text(self, text: str) -> None:
        """Poll until the output holds `text`, or fail with the output."""
        for _ in range(int(START_S / POLL_S)):
            if text in self.output():
                return
            if self.popen.poll() is not None:
                break
            time.sleep(POLL_S)
        raise AssertionError(f"{text!r} never printed: {self.output()}")

    def stop(self) -> int:
        """End the process and return its exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(START_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise
        finally:
            self._file.close()


@contextmanager
def process(*command: str, environ: dict[str, str] | None = None):
    """Run a command of the project's environment for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "HOME": folder, "NO_COLOR": "1", **(environ or {})}
        # What a user's shell does not set must not be what makes a test pass.
        env.pop("PYTHONUNBUFFERED", None)
        first = BIN / command[0]
        started = Process([str(first), *command[1:]], env, Path(folder) / "log")
        try:
            yield started
        finally:
            started.stop()
