"""Ctrl-C before anything is served: no traceback, and the exit code that shells know."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import COMMAND, environ
from tests.support.market import open_market
from tests.support.paid import wait_until
from tests.support.process import ROOT, START_S

STALLED = """\
import os, pathlib, signal
pathlib.Path(os.environ["STALLED"]).touch()
while True:
    signal.pause()
"""


@contextmanager
def interrupted(*command: str, stalls_at: str, folder: Path, **more: str):
    """Run a command up to the import of a module, which never ends; yields after Ctrl-C."""
    package = folder / "modules" / stalls_at
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STALLED)
    mark = folder / "stalled"
    env = environ(folder, PYTHONPATH=str(package.parent), STALLED=str(mark), **more)
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(mark.exists, f"{stalls_at} is imported", START_S)
        os.killpg(child.pid, signal.SIGINT)
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("arguments", "stalls_at"),
    [
        (("--version",), "argparse"),
        (("check",), "pydantic"),
        (("serve", "--config", "configs/minimal.yaml"), "mitmproxy"),
        (("pay", "http://127.0.0.1:9/"), "coincurve"),
        (("demo", "--once"), "eth"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_ctrl_c_during_an_import_says_nothing_and_is_exit_code_130(arguments, stalls_at, tmp_path):
    values = {"MPP_SECRET_KEY": "k" * 44, "RECIPIENT": "0x" + "ab" * 20}
    with interrupted(
        COMMAND, *arguments, stalls_at=stalls_at, folder=tmp_path, **values
    ) as command:
        out, err = command.communicate(timeout=START_S)

    assert (command.returncode, out, err) == (130, "", "")


def test_a_command_in_the_background_goes_on_ignoring_ctrl_c(tmp_path):
    """A shell has `command &` ignore SIGINT; hearing it, that would end with the next command."""
    line = f"trap '' INT; exec {COMMAND} check --config configs/minimal.yaml"
    with interrupted("sh", "-c", line, stalls_at="pydantic", folder=tmp_path) as command:
        status = Path(f"/proc/{command.pid}/status").read_text()

        (ignored,) = re.findall(r"^SigIgn:\s+(\w+)$", status, re.MULTILINE)
        assert int(ignored, 16) & 1 << signal.SIGINT - 1
        assert command.poll() is None


def test_these_tests_hold_in_the_background_too():
    """As of `./scripts/test &`: whoever starts it so must not read of failures that are none."""
    tests = f"{sys.executable} -m pytest -q -p no:cacheprovider {__file__} -k argparse"
    done = subprocess.run(
        ["sh", "-c", f"trap '' INT; exec {tests}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * START_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout


SHOP = '\n      "GET /paid": {charge: "0.01"}\n'


def test_ctrl_c_after_the_payment_was_sent_says_that_it_may_have_been_made(tmp_path):
    with open_market(tmp_path, SHOP) as market:
        market.keeper.opened.clear()
        child = subprocess.Popen(
            [
                COMMAND,
                "pay",
                f"http://127.0.0.1:{market.port}/api/paid",
                "--rpc-url",
                market.node.url,
                "--max",
                "0.10",
            ],
            cwd=ROOT,
            env=environ(tmp_path, MPP_PRIVATE_KEY=market.key.hex()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: market.hits, "the upstream is asked", START_S)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=START_S)
        finally:
            child.kill()
            market.keeper.opened.set()

    assert (child.returncode, out) == (130, "")
    assert "payment: not known; it may have been made, so do not pay again\n" in err
    assert "MPP_CREDENTIAL='Payment " in err
    assert "Traceback" not in err


SLOW = """\
import pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])

def end(*_):
    (folder / "ended").touch()
    sys.exit()

signal.signal(signal.SIGTERM, end)
(folder / "started").touch()
signal.pause()
"""


def test_ctrl_c_during_the_set_up_is_one_line_and_ends_what_runs(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW)
    child = subprocess.Popen(
        ["bash", "-c", f"source scripts/setup.sh; run {sys.executable} {slow} {tmp_path}; echo on"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((tmp_path / "started").exists, "it runs", START_S)
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=START_S)
    finally:
        child.kill()

    assert (child.returncode, out, err) == (130, "", "Stopped.\n")
    wait_until((tmp_path / "ended").exists, "what ran has ended", START_S)
