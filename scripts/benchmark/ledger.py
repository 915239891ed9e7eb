"""The command line of scripts/bench-ledger: which stores, at which load, and a table of it."""

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.options import read_options, say

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
STORES = ("sqlite", "postgresql", "bare")
WORK = ("claim", "paid-first", "exchange")
LOADS = ((1, 1), (1, 16), (1, 64), (2, 64))
"""Processes, and callers in each of them."""
BATCH = 64
ANSWER_S = 300

EPILOG = """\
claim       bind one proof to one exchange: the write that every paid call waits for first
paid-first  all four writes of a call that is paid before the upstream is asked: claim, hold and
            settling, settled, delivered
exchange    all five writes of one that is paid when the upstream has answered: settling is its own

Each write is durable before its caller goes on: SQLite with WAL and synchronous=FULL, PostgreSQL
with fsync and synchronous_commit=on. CPU is that of our process, all threads, user and system; a
server's own is not in it. `stall` is the longest time for which the event loop did not come round,
`longest` the longest wait of a caller. `bare` is SQLite in a loop, 64 claims a transaction, without
a gateway around it: what is left to win. JSON when piped.
"""


@dataclass
class Row:
    """One line of the table: the medians of its rounds."""

    store: str
    work: str
    processes: int
    callers: int
    per_s: float
    cpu_us: float
    p50_ms: float
    longest_ms: float
    stall_ms: float


@contextmanager
def _postgres() -> Iterator[Callable[[], str]]:
    from tests.support.postgres import serving  # noqa: PLC0415 - needs the server's programs

    with serving(("shared_buffers=128MB",)) as server:
        yield server.database


class Places:
    """Makes empty stores."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-", dir=ROOT))
        )
        self._number = 0
        self._database: Callable[[], str] | None = None

    def new(self, store: str) -> str:
        """Return the URL of an empty store of that kind."""
        if store == "postgresql":
            if self._database is None:
                self._database = self._stack.enter_context(_postgres())
            return self._database()
        self._number += 1
        return f"sqlite:///{self._folder / f'{self._number}.db'}"


def _bookkeepers(url: str, work: str, processes: int, callers: int, count: int) -> list[dict]:
    order = {"store": url, "work": work, "callers": callers, "count": count // processes}
    command = [sys.executable, str(HERE / "bookkeeper.py"), json.dumps(order)]
    with ExitStack() as stack:
        started = []
        for _ in range(processes):
            process = stack.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            if process.stdout is None or process.stdout.readline() != "ready\n":
                sys.exit(f"a bookkeeper at {work} does not start")
            started.append(process)
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(p.communicate(timeout=ANSWER_S)[0]) for p in started]


def _bare(path: str, count: int) -> dict[str, float]:
    """Write what a claim writes with nothing around it; return what it cost."""
    insert = "INSERT INTO exchanges VALUES (?, ?, ?, ?, ?, ?, ?)"
    note = "INSERT INTO journal (exchange_id, from_state, to_state, amount) VALUES (?, '', ?, ?)"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(
            "CREATE TABLE exchanges (id TEXT PRIMARY KEY, proof TEXT UNIQUE, account TEXT,"
            " amount TEXT, scope TEXT, state TEXT, challenge TEXT UNIQUE) STRICT"
        )
        db.execute(
            "CREATE TABLE journal (seq INTEGER PRIMARY KEY AUTOINCREMENT, exchange_id TEXT,"
            " from_state TEXT, to_state TEXT, amount TEXT) STRICT"
        )
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for first in range(0, count, BATCH):
            db.execute("BEGIN IMMEDIATE")
            for number in range(first, min(first + BATCH, count)):
                name = f"{number:016x}"
                proof = f"eip3009:8453:0x{'ab' * 20}:0x{'cd' * 20}:0x{name:0>64}"
                db.execute(insert, (name, proof, "purse", "10000", "s" * 43, "claimed", name * 2))
                db.execute(note, (name, "claimed", "10000"))
            db.execute("COMMIT")
        took_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return {"took_s": took_s, "cpu_us": used_s * 1e6 / count, "p50_ms": 0, "longest_ms": 0,
            "stall_ms": 0}  # fmt: skip


def _row(store: str, work: str, load: tuple[int, int], count: int, rounds: list[list[dict]]) -> Row:
    def median(name: str, of: Callable[[Sequence[float]], float]) -> float:
        return statistics.median(of([told[name] for told in told_by]) for told_by in rounds)

    return Row(
        store,
        work,
        *load,
        per_s=round(count / median("took_s", max)),
        cpu_us=round(median("cpu_us", statistics.mean), 1),
        p50_ms=round(median("p50_ms", statistics.mean), 2),
        longest_ms=round(median("longest_ms", max), 2),
        stall_ms=round(median("stall_ms", max), 1),
    )


def measure(only: Sequence[str], rounds: int, count: int, say: Callable[[str], None]) -> list[Row]:
    """Run every cell that `only` leaves, each on an empty store of its own."""
    stores = [name for name in STORES if name in only] or list(STORES)
    works = [name for name in WORK if name in only] or list(WORK)
    rows = []
    with ExitStack() as stack:
        places = Places(stack)
        for store in stores:
            for work in works:
                for load in LOADS if store != "bare" else ((1, BATCH),):
                    if store == "bare" and work != "claim":
                        continue
                    say(f"{store} {work}: {load[0]} x {load[1]}")
                    total = max(load[0], count // (16 if load == (1, 1) else 1))
                    told = []
                    for _ in range(rounds):
                        url = places.new(store)
                        if store == "bare":
                            told.append([_bare(url.removeprefix("sqlite:///"), total)])
                        else:
                            told.append(_bookkeepers(url, work, *load, total))
                    rows.append(_row(store, work, load, total, told))
    return rows


def as_table(rows: list[Row]) -> str:
    """Return the rows for people."""
    head = f"{'store':11}{'work':10}{'processes':>10}{'callers':>9}{'per s':>9}{'CPU us':>8}"
    head += f"{'p50 ms':>9}{'longest ms':>12}{'stall ms':>10}"
    return "\n".join(
        [head]
        + [
            f"{r.store:11}{r.work:10}{r.processes:>10}{r.callers:>9}{r.per_s:>9}{r.cpu_us:>8}"
            f"{r.p50_ms:>9}{r.longest_ms:>12}{r.stall_ms:>10}"
            for r in rows
        ]
    )


def main() -> int:
    """Measure and print."""
    options = read_options(
        "scripts/bench-ledger",
        "What durable writes cost, at 1, 16 and 64 callers and in two processes.",
        EPILOG,
        (*STORES, *WORK),
        rounds=3,
        count=20_000,
    )
    rows = measure(options.only, options.rounds, options.count, say)
    options.show(lambda: [asdict(row) for row in rows], lambda: as_table(rows))
    return 0
