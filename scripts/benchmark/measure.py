"""The runs: every server is up from the start, and the rounds go through all cells in turn."""

import http.client
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import goods
from benchmark.processes import cpu_ns, free_port, running, wait_until_serving
from benchmark.subjects import HERE, SERVERS, STATUS, SUBJECTS

CONNECTIONS = 16
WARM_UP_SHARE = 2
"""The warm-up is this part of a round."""

_batches = itertools.count()


@dataclass
class Cell:
    """One number of the table and the rounds it is the median of."""

    subject: str
    path: str
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


@dataclass
class _Server:
    pid: int
    port: int
    prefix: str


class Hall:
    """The running servers, and the upstream and facilitator that all of them call."""

    def __init__(self, stack: ExitStack, cells: list[Cell]) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._standins_port = self._start_standins(stack, folder)
        self._servers = {
            name: self._start(stack, folder / name, name)
            for name in dict.fromkeys(_server_of(cell) for cell in cells)
        }

    def _start_standins(self, stack: ExitStack, folder: Path) -> int:
        log = folder / "standins.log"
        process = stack.enter_context(running([sys.executable, HERE / "standins.py"], log))
        while not (text := log.read_text()).endswith("\n"):
            if process.poll() is not None:
                sys.exit(f"the stand-ins do not start: {text}")
        return int(text)

    def _start(self, stack: ExitStack, folder: Path, name: str) -> _Server:
        folder.mkdir()
        port, log = free_port(), folder / "log"
        start = SERVERS[name](f"http://127.0.0.1:{self._standins_port}", port, folder)
        process = stack.enter_context(running(start.command, log, start.environ))
        wait_until_serving(process, port, f"{start.prefix}/free", log)
        return _Server(process.pid, port, start.prefix)

    def run(self, cell: Cell, count: int, *, keep: bool) -> None:
        """Send `count` requests of one kind and add what they cost to the cell."""
        server = self._servers[_server_of(cell)]
        target = f"{server.prefix}/{'free' if cell.path == 'free' else 'paid'}"
        order: dict[str, Any] = {"port": server.port, "path": target, "connections": CONNECTIONS}
        if cell.path == "paid":
            asked = _load(order | {"count": count, "collect": True}, 402, count)
            order["authorizations"] = goods.credentials(asked["challenges"], next(_batches))
        settled, before_ns = self._settled(), cpu_ns(server.pid)
        result = _load(order | {"count": count}, STATUS[cell.path], count)
        used_ns = cpu_ns(server.pid) - before_ns
        paid = count if cell.path == "paid" else 0
        if (result["receipts"], self._settled() - settled) != (paid, paid):
            sys.exit(f"{cell}: {result['receipts']} receipts for {paid} payments")
        if keep:
            cell.cpu_us.append(used_ns / count / 1000)
            cell.per_s.append(count / result["seconds"])
            cell.p50_ms.append(result["p50_ms"])
            cell.p99_ms.append(result["p99_ms"])

    def _settled(self) -> int:
        client = http.client.HTTPConnection("127.0.0.1", self._standins_port)
        client.request("GET", "/counts")
        counts: dict[str, int] = json.load(client.getresponse())
        client.close()
        return counts.get("/settle", 0)


def measure(
    chosen: list[Cell], rounds: int, requests: int, say: Callable[[str], None]
) -> list[Cell]:
    """Fill the cells, round by round, so that what else the machine does falls on all alike."""
    with ExitStack() as stack:
        say("starting the servers ...")
        hall = Hall(stack, chosen)
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "warming up ...")
            for cell in chosen:
                count = requests if number else max(1, requests // WARM_UP_SHARE)
                hall.run(cell, count, keep=number > 0)
    return chosen


def _server_of(cell: Cell) -> str:
    return SUBJECTS[cell.subject].servers[cell.path]


def _load(order: dict[str, Any], status: int, count: int) -> dict[str, Any]:
    """Have the order carried out by another process; every answer must have `status`."""
    done = subprocess.run(
        [sys.executable, HERE / "load.py"],
        input=json.dumps(order).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr.decode())
    result: dict[str, Any] = json.loads(done.stdout)
    if result["statuses"] != {str(status): count}:
        sys.exit(f"{order['path']} answered {result['statuses']}, not {count} times {status}")
    return result
