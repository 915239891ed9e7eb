"""scripts/bench-ledger measures every cell and prints what people and programs read."""

import json
import subprocess
import sys

import pytest

from tests.support.components import ROOT

BENCH = [sys.executable, str(ROOT / "scripts" / "bench-ledger")]
LOADS = {(1, 1), (1, 16), (1, 64), (2, 64)}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_every_cell_is_measured(store, request):
    if store == "postgresql":
        request.getfixturevalue("postgres")
    done = run("--only", store, "--rounds", "1", "--count", "128")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    cells = {(row["work"], row["processes"], row["callers"]) for row in rows}
    assert cells == {
        (work, *load) for work in ("claim", "paid-first", "exchange") for load in LOADS
    }
    for row in rows:
        assert row["store"] == store
        assert min(row["per_s"], row["cpu_us"], row["p50_ms"], row["longest_ms"]) > 0
        assert row["longest_ms"] >= row["p50_ms"]


def test_what_is_left_to_win_is_measured_beside_it():
    (row,) = json.loads(run("--only", "bare", "--rounds", "1", "--count", "128").stdout)
    assert (row["store"], row["work"], row["per_s"] > 0) == ("bare", "claim", True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(("--only", "nothing"), "does not know nothing"), (("--rounds", "0"), "at least 1")],
)
def test_what_it_does_not_know_is_refused(words, complaint):
    done = run(*words)
    assert (done.returncode, complaint in done.stderr) == (2, True)
