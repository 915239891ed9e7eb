"""Starts the commands of this environment by forking: what they import is imported once.

`python -m tests.support.forkserver 5` imports the programs and then forks for whoever asks at its
socket, number 5. A process starts in a tenth of the time, and is as real as any: its own number,
files, environment and folder, its own exit code and whatever signal ends it. `start` is its other
end, for the tests. What a console script does before its first import is shown where the scripts
themselves are run: `test_interrupts`, `test_scripts`, `test_modes`.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.support.authority import share_authority

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROGRAMS = {
    "mpp-gateway": ("mpp_gateway.cli.start", "main"),
    "mitmdump": ("mitmproxy.tools.main", "mitmdump"),
    "mitmweb": ("mitmproxy.tools.main", "mitmweb"),
}
IMPORTED = (
    "aiohttp.web",
    "coincurve",
    "mitmproxy.addons",
    "mitmproxy.tools.dump",
    "mitmproxy.tools.web.master",
    "mpp_gateway.addons.build",
    "mpp_gateway.cli.main",
    "mpp_gateway.engine.server",
    "mpp_gateway.rails.evm.opening",
    "mpp_gateway.rails.evm.wallet",
    "psycopg",
)
"""What the programs import sooner or later; the rest each of them imports for itself."""
INTERPRETER = ("PYTHON", "LANG", "LC_")
"""Variables with such names are read when an interpreter starts."""
MESSAGE_MAX = 1 << 17


# The process that forks


def _main(number: int) -> NoReturn:
    for name in IMPORTED:
        importlib.import_module(name)
    share_authority()
    assert threading.active_count() == 1, "a fork would lose a thread"
    gc.collect()
    gc.freeze()
    sys.exit(_serve(socket.socket(fileno=number)))


def _serve(asked_for: socket.socket) -> Any:
    """Fork for each request; return what the program returns, in the forked process."""
    waiting = selectors.DefaultSelector()
    waiting.register(asked_for, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.data is not None:
                _report_end(waiting, key.fd, *key.data)
                continue
            message, files, _, _ = socket.recv_fds(asked_for, MESSAGE_MAX, 4)
            if not message:
                return 0
            report = socket.socket(fileno=files.pop())
            if pid := os.fork():
                for file in files:
                    os.close(file)
                report.send(str(pid).encode())
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))
                continue
            _leave_to_the_parent([asked_for, report, waiting, *waiting.get_map().values()])
            return _become(json.loads(message), files)


def _report_end(waiting: selectors.BaseSelector, watch: int, pid: int, report: socket.socket):
    _, status = os.waitpid(pid, 0)
    waiting.unregister(watch)
    os.close(watch)
    with report:
        try:
            report.send(str(os.waitstatus_to_exitcode(status)).encode())
        except OSError:
            return  # nobody wants to know


def _leave_to_the_parent(held: Sequence[Any]) -> None:
    for one in held:
        if isinstance(one, selectors.SelectorKey):
            if one.data is not None:
                os.close(one.fd)
                one.data[1].close()
        else:
            one.close()


def _become(asked: Mapping[str, Any], files: Sequence[int]) -> Any:
    """Run the program as a fresh interpreter would."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # As an interpreter opens them: a terminal is written line by line, all else in blocks.
    sys.stdin = _opened(0, "r", sys.__stdin__)
    sys.stdout = _opened(1, "w", sys.__stdout__)
    sys.stderr = _opened(2, "w", sys.__stderr__)
    sys.stderr.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(asked["environ"])
    tempfile.tempdir = None
    time.tzset()
    os.chdir(asked["cwd"])
    program, *arguments = asked["command"]
    sys.argv[:] = [str(BIN / program), *arguments]
    sys.path[0] = str(BIN)
    module, function = PROGRAMS[program]
    return getattr(importlib.import_module(module), function)()


def _opened(number: int, mode: str, like: Any) -> Any:
    return open(number, mode, encoding=like.encoding, errors=like.errors, closefd=False)


# The tests' end


class Child:
    """A started command; to be handled as one of `subprocess.Popen`'s."""

    def __init__(self, pid: int, report: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._report = report

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._look(timeout)) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def _look(self, wait_s: float | None) -> int | None:
        if self.returncode is None:
            self._report.settimeout(wait_s)
            try:
                said = self._report.recv(64)
            except (BlockingIOError, TimeoutError):
                return None
            self._report.close()
            assert said, "what forks has died"
            self.returncode = int(said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    """The one that this test process has, for as long as it lives."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        command = [sys.executable, "-m", "tests.support.forkserver", str(number)]
        started = subprocess.Popen(command, cwd=ROOT, env=_plain(os.environ), pass_fds=[number])
    atexit.register(started.wait)
    atexit.register(ours.close)
    return ours


def start(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
) -> "Child | subprocess.Popen[bytes]":
    """Start a command with these open files, as `subprocess.Popen` does.

    What is no program of ours, or wants an interpreter of its own, is started like that; and so is
    everything where the system does not tell of a process's end, as Linux does.
    """
    program = Path(command[0])
    is_ours = program.parent == BIN and program.name in PROGRAMS and hasattr(os, "pidfd_open")
    if not is_ours or _asks_the_interpreter(env) != _asks_the_interpreter(_plain(os.environ)):
        return subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=stdin, stdout=stdout, stderr=stderr
        )
    words = [program.name, *command[1:]]
    asked = json.dumps({"command": words, "cwd": str(cwd), "environ": dict(env)}).encode()
    report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        files = [stdin, stdout, stderr, theirs.fileno()]
        socket.send_fds(_server(), [asked], files)
    return Child(int(report.recv(64)), report)


def _plain(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what only those set who run tests."""
    return {n: v for n, v in env.items() if n not in ("PYTHONUNBUFFERED", "PYTHONPATH")}


def _asks_the_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(INTERPRETER)}


if __name__ == "__main__":
    _main(int(sys.argv[1]))
