"""What a test needs that Python's own packages do not bring."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "tests" / "peers"
ANVIL = PEERS / "node_modules" / ".bin" / "anvil"
X402 = PEERS / "x402"
X402_PYTHON = X402 / ".venv" / "bin" / "python"
PYMPP_PYTHON = PEERS / ".venv" / "bin" / "python"

_SET_UP = "./scripts/test installs it"


def need(component: str) -> None:
    """Go on if `component` is there (a key below); else skip and say what to install.

    Under CI=true a missing component is a failure: a check that never runs checks nothing.
    """
    if component in ("mppx", "@x402/fetch"):
        need("node")
    here, remedy = {
        "node": (shutil.which("node"), "install Node.js 20 or newer"),
        "mppx": ((PEERS / "node_modules" / "mppx").is_dir(), _SET_UP),
        "anvil": (ANVIL.exists(), f"{_SET_UP} on Linux on x86-64, the only machine npm has it for"),
        "pympp": (PYMPP_PYTHON.exists(), _SET_UP),
        "x402": (X402_PYTHON.exists(), _SET_UP),
        "@x402/fetch": ((X402 / "node_modules" / "@x402" / "fetch").is_dir(), _SET_UP),
    }[component]
    if here:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{component} is missing: {remedy}", pytrace=False)
    pytest.skip(f"{component} is missing: {remedy}")
