"""What a test needs that not every machine has: the only place that skips a test."""

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "tests" / "peers"
ANVIL = PEERS / "node_modules" / ".bin" / "anvil"
X402 = PEERS / "x402"
X402_PYTHON = X402 / ".venv" / "bin" / "python"
PYMPP_PYTHON = PEERS / ".venv" / "bin" / "python"

_SET_UP = "./scripts/test installs it"
VECTORS = "set MPP_VECTORS to the folder of the MPP conformance vectors (tempoxyz/mpp-tools)"


def chromium() -> str | None:
    """Return the browser's program, or None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None where it is not installed."""
    packaged: Sequence[Path] = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in (*packaged, *map(Path, os.get_exec_path())):
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    return None


def need(component: str) -> None:
    """Go on if `component` is there (a key below); else skip and say what to install."""
    if component in ("mppx", "@x402/fetch"):
        need("node")
    here, remedy = {
        "node": (shutil.which("node"), "install Node.js 20 or newer"),
        "mppx": ((PEERS / "node_modules" / "mppx").is_dir(), _SET_UP),
        "anvil": (ANVIL.exists(), f"{_SET_UP} on Linux on x86-64, the only machine npm has it for"),
        "pympp": (PYMPP_PYTHON.exists(), _SET_UP),
        "x402": (X402_PYTHON.exists(), _SET_UP),
        "@x402/fetch": ((X402 / "node_modules" / "@x402" / "fetch").is_dir(), _SET_UP),
        "openapi-spec-validator": (find_spec("openapi_spec_validator"), _SET_UP),
        "chromium": (chromium(), "install Debian's chromium"),
        "postgres": (postgres(), "install Debian's postgresql"),
        "root": (os.geteuid() == 0, "only root becomes somebody else"),
    }[component]
    if not here:
        do_without(component, remedy)


def do_without(component: str, remedy: str) -> NoReturn:
    """Skip the test, or under CI=true fail it: a check that never runs checks nothing."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
        f"{component} is missing: {remedy}"
    )
