"""Starts a gateway for each configuration and asks it, once it listens, what it has cost so far."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

START_S = 60
KIB = 1024
ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "0x00000000000000000000000000000000000000AA"
NOWHERE = "http://127.0.0.1:9"
EVM = f'kind: evm, token: USDC, recipient: "{ADDRESS}"'
METHODS = {
    "evm": f'{{{EVM}, network: base-sepolia, submit: {{facilitator: "{NOWHERE}"}}}}',
    "evm-own-key": (
        f'{{{EVM}, network: base, rpc_url: "{NOWHERE}", submit: {{private_key: "0x{"11" * 32}"}}}}'
    ),
    "stripe": "{kind: stripe, secret_key: sk_test_1, network_id: profile_1}",
    "tempo": (
        f'{{kind: tempo, chain_id: 42431, rpc_url: "{NOWHERE}", currency:'
        f' "0x20C0000000000000000000000000000000000000", recipient: "{ADDRESS}"}}'
    ),
}
CONFIGURATIONS = {"none": (), **{name: (name,) for name in METHODS}, "all": tuple(METHODS)}
LIBRARIES = ("stripe", "web3", "eth_account", "psycopg", "eth_tester")
"""What only some configurations need, by the name under which Python imports it."""
PROGRAM = """
import asyncio, json, sys, time
from mpp_gateway.config import load_text
from mpp_gateway.engine.server import Server

server = Server(load_text(sys.argv[1], "footprint.yaml", {}))

def started(port):
    ready_ns = time.monotonic_ns()
    status = open("/proc/self/status").read()
    memory = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines()
              if line.startswith(("VmRSS", "VmHWM"))}
    loaded = [name for name in sys.argv[2:] if name in sys.modules]
    print(json.dumps({"ready_ns": ready_ns, "modules": len(sys.modules), "loaded": loaded}
                     | memory), flush=True)
    server.drain(0)

asyncio.run(server.run(started))
"""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one configuration costs: medians of several starts."""

    configuration: str
    ready_ms: int
    """From the start of the process until it listens."""
    memory_mib: int
    peak_mib: int
    modules: int
    loaded: tuple[str, ...]
    """Those of `LIBRARIES` that were imported."""


class CannotStart(Exception):
    """A gateway did not come up; the text is what it said."""


def config_text(methods: tuple[str, ...], store: Path) -> str:
    """Return a configuration with these methods, or with nothing to sell."""
    declared = "".join(f"  {name}: {METHODS[name]}\n" for name in methods)
    route = '{charge: "1"}' if methods else "free"
    return (
        f"secret_key: {'k' * 32}\nlisten: 127.0.0.1:0\nstore: sqlite:///{store}\n"
        + (f"methods:\n{declared}" if declared else "")
        + f'services:\n  api: {{base_url: "{NOWHERE}", routes: {{"GET /x": {route}}}}}\n'
    )


def measure(name: str, runs: int) -> Footprint:
    """Start a gateway `runs` times and return the medians."""
    said = [_start(CONFIGURATIONS[name]) for _ in range(runs)]

    def median(key: str) -> int:
        return round(statistics.median(each[key] for each in said))

    return Footprint(
        name,
        round(median("ready_ns") / 1_000_000),
        round(median("VmRSS") / KIB),
        round(median("VmHWM") / KIB),
        median("modules"),
        tuple(said[0]["loaded"]),
    )


def _start(methods: tuple[str, ...]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        text = config_text(methods, Path(folder) / "gateway.db")
        command = [sys.executable, "-c", PROGRAM, text, *LIBRARIES]
        began_ns = time.monotonic_ns()
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False
        )
    if done.returncode or not done.stdout:
        raise CannotStart(done.stderr.strip() or "it said nothing")
    said = json.loads(done.stdout)
    return said | {"ready_ns": said["ready_ns"] - began_ns}


def main() -> int:
    """Measure what the command line names; a table for people, JSON for programs."""
    parser = argparse.ArgumentParser(prog="scripts/footprint", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CONFIGURATION", help=", ".join(CONFIGURATIONS))
    parser.add_argument("--runs", type=int, default=3, help="starts of each (default: 3)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CONFIGURATIONS]
    if unknown or options.runs < 1:
        parser.error(f"no such configuration: {unknown[0]}" if unknown else "--runs: at least 1")
    try:
        found = [measure(name, options.runs) for name in options.names or CONFIGURATIONS]
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    if not sys.stdout.isatty():
        print(json.dumps([asdict(each) for each in found], indent=2))
        return 0
    print(f"{'configuration':14}{'ready ms':>10}{'MiB':>6}{'peak':>6}{'modules':>9}  loaded")
    for each in found:
        figures = f"{each.ready_ms:10}{each.memory_mib:6}{each.peak_mib:6}{each.modules:9}"
        print(f"{each.configuration:14}{figures}  {', '.join(each.loaded) or '-'}")
    return 0
