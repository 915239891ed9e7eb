"""A gateway process that sells on a chain of its own, and `mpp-gateway pay` as its buyer."""

from contextlib import contextmanager
from pathlib import Path

from tests.support.command import Done, run
from tests.support.paid import Paid, paid_parts
from tests.support.process import free_port, process


@contextmanager
def serving(config: Path, *more: str, **environ: str):
    """Serve a configuration for the length of the block; yields the process and its port."""
    port = free_port()
    command = ("mpp-gateway", "serve", "--config", str(config), "--port", str(port), *more)
    with process(*command, environ=environ) as started:
        started.wait_for_text("serving on")
        yield started, port


@contextmanager
def open_market(folder: Path, routes: str):
    """A gateway process before a chain and an upstream, and a buyer with a purse."""
    with paid_parts(folder, routes=routes) as parts:
        config = folder / "gateway.yaml"
        config.write_text(parts.config)
        with serving(config) as (_, port):
            parts._port = port
            yield parts


def pay(
    market: Paid, path: str, *more: str, key: bytes | None = None, node: bool = True, **environ: str
) -> Done:
    """Run `mpp-gateway pay` with the buyer's key."""
    rpc = ("--rpc-url", market.node.url) if node else ()
    if node and "--max" not in more:
        more = ("--max", "0.10", *more)  # the token of a test is nobody's dollar
    home = market.store.parent
    key_text = (key or market.key).hex()
    url = f"http://127.0.0.1:{market.port}{path}"
    return run("pay", url, *rpc, *more, home=home, **({"MPP_PRIVATE_KEY": key_text} | environ))
