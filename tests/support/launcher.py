"""Starts `mpp-gateway` processes that die by SIGKILL at a point of the exchange that a test names.

`python -m tests.support.launcher` imports the gateway once and forks: a process starts in a quarter
of the time, and is as real, and as dead, as any. `Launcher` is its other end, for the tests.

    {"run": [...], "log": path, "trap": {...}}  ->  {"pid": 12}
    {"poll": 12}                                ->  {"exit": null}, or what waitpid(2) said
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mpp_gateway import failpoints
from mpp_gateway.failpoints import FailPoint
from tests.support.authority import share_authority

ROOT = Path(__file__).parents[2]
START_S = 90
POLL_S = 0.002
POLL_LAST_MS = 200
"""A node of a test's own may be asked oftener than the world's: nonces wait for each other."""


@dataclass(frozen=True)
class Trap:
    """Kills at the `nth` time that `point` is reached, once `after` has been, if that is named."""

    point: FailPoint
    nth: int = 1
    after: FailPoint | None = None

    def __str__(self) -> str:
        once = f" once {self.after}" if self.after else ""
        return f"{self.point}{f' {self.nth}' if self.nth > 1 else ''}{once}"


def set_trap(members: dict[str, Any], grave: Path) -> None:
    """Arm this very process. Before it dies it writes down where."""
    point, after = FailPoint(members["point"]), members["after"]
    left = members["nth"]

    def hook(reached: FailPoint) -> None:
        nonlocal after, left
        if after is not None:
            after = None if reached == after else after
        elif reached is point:
            left -= 1
            if not left:
                grave.write_text(point)
                os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = hook


# The process that forks


def _main() -> None:
    import aiohttp  # noqa: F401 - all of these once, for every process to come
    import psycopg  # noqa: F401
    from mitmproxy.addons import proxyserver  # noqa: F401

    from mpp_gateway.cli import main, shopkeeper  # noqa: F401
    from mpp_gateway.ledger import postgres, sqlite  # noqa: F401
    from mpp_gateway.rails.evm import opening, submitter  # noqa: F401 - as above

    share_authority()
    submitter.POLL_LAST_MS = POLL_LAST_MS
    assert threading.active_count() == 1, "a fork would lose a thread"
    for line in sys.stdin:
        asked = json.loads(line)
        if "run" in asked:
            answer = {"pid": _fork(asked["run"], Path(asked["log"]), asked["trap"])}
        else:
            pid, status = os.waitpid(asked["poll"], os.WNOHANG)
            answer = {"exit": os.waitstatus_to_exitcode(status) if pid else None}
        print(json.dumps(answer), flush=True)


def _fork(command: Sequence[str], log: Path, trap: dict[str, Any] | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, source in ((0, nothing), (1, out), (2, out)):
            os.dup2(source, number)
        signal.signal(signal.SIGUSR1, lambda *_: _take_trap(log))
        if trap is not None:
            set_trap(trap, log.with_suffix(".grave"))
        from mpp_gateway.cli.main import main

        code = main(command)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    finally:
        os._exit(code)


def _take_trap(log: Path) -> None:
    order = log.with_suffix(".trap")
    set_trap(json.loads(order.read_text()), log.with_suffix(".grave"))
    order.unlink()


# The tests' end


@dataclass
class Mortal:
    """One gateway process."""

    launcher: "Launcher"
    pid: int
    port: int
    log: Path
    exit: int | None = None
    traps: list[Trap] = field(default_factory=list)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def is_over(self) -> bool:
        if self.exit is None:
            self.exit = self.launcher.ask({"poll": self.pid})["exit"]
        return self.exit is not None

    def started(self) -> "Mortal":
        """Wait until it serves."""
        _until(lambda: "serving on" in self.output() or self.is_over(), "it serves")
        assert self.exit is None, f"exit {self.exit}: {self.output()}"
        return self

    def arm(self, trap: Trap) -> None:
        """Let it die at `trap`, from here on."""
        order = self.log.with_suffix(".trap")
        fresh = order.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(trap)))
        fresh.rename(order)
        os.kill(self.pid, signal.SIGUSR1)
        _until(lambda: not order.exists(), "the trap is set")

    def died_at(self, trap: Trap) -> None:
        """Wait until it is dead, and see that nothing else killed it."""
        _until(self.is_over, f"it dies at {trap}; {self.output()}")
        grave = self.log.with_suffix(".grave")
        where = grave.read_text() if grave.exists() else "nowhere"
        assert (self.exit, where) == (-signal.SIGKILL, trap.point), self.output()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            if not self.is_over():
                os.kill(self.pid, signal.SIGKILL)
        _until(self.is_over, "it is dead")

    def stop(self) -> int:
        """End it as an operator does; return its exit code."""
        if not self.is_over():
            os.kill(self.pid, signal.SIGTERM)
        _until(self.is_over, "it stops")
        assert self.exit is not None
        return self.exit


class Launcher:
    """Asks the forking process for others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._turn = threading.Lock()
        self._mortals: list[Mortal] = []
        environ = {**os.environ, "HOME": str(folder), "NO_COLOR": "1"}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.launcher"],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._turn:
            assert self._popen.stdin is not None
            assert self._popen.stdout is not None
            self._popen.stdin.write(json.dumps(question) + "\n")
            self._popen.stdin.flush()
            return json.loads(self._popen.stdout.readline())

    def serve(self, config: str, port: int, trap: Trap | None = None) -> Mortal:
        """Start `mpp-gateway serve` with the configuration `config` on `port`."""
        self._count += 1
        path = self._folder / f"gateway-{self._count}.yaml"
        path.write_text(f"{config}\nlisten: 127.0.0.1:{port}\n")
        log = path.with_suffix(".log")
        asked = {
            "run": ["serve", "--config", str(path)],
            "log": str(log),
            "trap": asdict(trap) if trap else None,
        }
        log.touch()
        mortal = Mortal(self, self.ask(asked)["pid"], port, log)
        self._mortals.append(mortal)
        return mortal

    def close(self) -> None:
        for mortal in self._mortals:
            mortal.kill()
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(START_S)


@contextmanager
def launching(folder: Path) -> Iterator[Launcher]:
    """Run a launcher, and see all that it has started dead at the end of the block."""
    launcher = Launcher(folder)
    try:
        yield launcher
    finally:
        launcher.close()


def _until(condition: Any, what: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(POLL_S)
    raise AssertionError(f"never happened: {what}")


if __name__ == "__main__":
    _main()
