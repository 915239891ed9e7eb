"""The servers under test, and which of them gives which number."""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark import goods

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HERE = Path(__file__).resolve().parent
PATHS = ("free", "402", "paid")
"""A free route, a paid one without payment, a paid one with payment."""
STATUS = {"free": 200, "402": 402, "paid": 200}


@dataclass(frozen=True)
class Start:
    """How to start a server, and below which path it serves."""

    command: tuple[str | Path, ...]
    environ: Mapping[str, str]
    prefix: str


@dataclass(frozen=True)
class Subject:
    """One row of the table: a title, and the server behind each of its numbers."""

    title: str
    servers: Mapping[str, str]


def _mitmdump(port: int, folder: Path, mode: str, *more: str | Path) -> tuple[str | Path, ...]:
    listen = ("--listen-host", "127.0.0.1", "--listen-port", str(port))
    return (BIN / "mitmdump", "-q", "--mode", mode, *listen, "--set", f"confdir={folder}", *more)


def _script(standins: str, port: int, folder: Path) -> Start:
    config = _config(standins, folder)
    script = ("-s", ROOT / "addons" / "gateway.py", "--set", f"gateway_config={config}")
    return Start(_mitmdump(port, folder, "reverse:http://127.0.0.1:1", *script), {}, "/api")


def _serve(standins: str, port: int, folder: Path) -> Start:
    config = _config(standins, folder)
    command = (BIN / "mpp-gateway", "serve", "--config", config, "--port", str(port))
    return Start(command, {}, "/api")


def _bare(standins: str, port: int, folder: Path) -> Start:
    return Start(_mitmdump(port, folder, f"reverse:{standins}"), {}, "")


def _bare_402(standins: str, port: int, folder: Path) -> Start:
    script = ("-s", HERE / "constant_402.py")
    return Start(_mitmdump(port, folder, f"reverse:{standins}", *script), {}, "")


def _mppx(standins: str, port: int, _: Path) -> Start:
    peers = ROOT / "tests" / "peers"
    if shutil.which("node") is None or not (peers / "node_modules" / "mppx").is_dir():
        sys.exit("mppx is missing; run ./scripts/bench, or leave it out: --only script,serve,bare")
    proxy = peers / "mppx" / "proxy.mjs"
    environ = {"BENCH_SITE": goods.mppx_site(standins, port), "NODE_ENV": "production"}
    return Start(("node", proxy), environ, "/api")


def _config(standins: str, folder: Path) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(goods.gateway_config(standins, folder / "gateway.db"))
    return path


SERVERS: Mapping[str, Callable[[str, int, Path], Start]] = {
    "script": _script,
    "serve": _serve,
    "bare": _bare,
    "bare-402": _bare_402,
    "mppx": _mppx,
}
SUBJECTS: Mapping[str, Subject] = {
    "script": Subject("mitmdump -s addons/gateway.py", dict.fromkeys(PATHS, "script")),
    "serve": Subject("mpp-gateway serve", dict.fromkeys(PATHS, "serve")),
    "bare": Subject("bare mitmdump", {"free": "bare", "402": "bare-402"}),
    "mppx": Subject("mppx proxy (Node)", dict.fromkeys(PATHS, "mppx")),
}
