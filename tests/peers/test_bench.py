"""scripts/bench measures every cell and prints what people and programs read; no speed is asserted.

How fast the gateway is cannot be a test: the machine that runs the suite does other things too.
"""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.support.components import ROOT, need

BENCH = [sys.executable, str(ROOT / "scripts" / "bench")]
CELLS = {
    (subject, path)
    for subject in ("script", "serve", "bare", "mppx")
    for path in ("free", "402", "paid")
} - {("bare", "paid")}


@pytest.fixture(scope="module")
def report() -> dict:
    need("mppx")
    done = subprocess.run(
        [*BENCH, "--rounds", "2", "--requests", "32"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_every_cell_is_measured_in_every_round(report):
    assert {(cell["subject"], cell["path"]) for cell in report["cells"]} == CELLS
    for cell in report["cells"]:
        assert len(cell["cpu_us_rounds"]) == 2
        assert min(cell["cpu_us_rounds"]) > 0
        assert min(cell["cpu_us_rounds"]) <= cell["cpu_us"] <= max(cell["cpu_us_rounds"])
        assert cell["per_s"] > 0
        assert 0 < cell["p50_ms"] <= cell["p99_ms"]


def test_every_cell_is_compared_with_what_did_the_same(report):
    for cell in report["cells"]:
        against = {"mppx"} if cell["path"] == "paid" else {"bare", "mppx"}
        assert set(cell["ratio"]) == against
        if cell["subject"] in cell["ratio"]:
            assert cell["ratio"][cell["subject"]] == 1


def test_the_report_says_what_it_was_measured_on(report):
    assert set(report["machine"]) == {"python", "node", "cores", "load"}
    assert (report["rounds"], report["requests"]) == (2, 32)


def test_a_terminal_gets_a_table():
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as shown:  # noqa: PTH123 - a descriptor, not a path
        done = subprocess.run(
            [*BENCH, "--rounds", "1", "--requests", "16", "--only", "serve,bare,402"],
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(terminal)
        assert done.returncode == 0, done.stderr
        head, ours, ratio, bare = shown.read(10_000).decode().splitlines()
    assert head.split() == ["CPU", "µs", "a", "request", "free", "402", "paid"]
    assert ours.startswith("mpp-gateway serve")
    assert ratio.split()[:3] == [":", "bare", "mitmdump"]
    assert float(ratio.split()[4]) > 0
    assert bare.startswith("bare mitmdump")


def test_an_unknown_word_is_refused_before_anything_starts():
    done = subprocess.run([*BENCH, "--only", "nginx"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--only does not know nginx" in done.stderr
