"""Two guards that outlive the script they came with: a broken reload leaves them standing."""

import asyncio
import sys

from mitmproxy import addonmanager, ctx, http
from mitmproxy.proxy import layer, server_hooks

from mpp_gateway.addons.runtime import CLOSING, give_up_retired
from mpp_gateway.engine.context import Engine
from mpp_gateway.engine.gate import Gate, fail_closed, is_granted, refuse_fault
from mpp_gateway.engine.layers import claim


class Doorkeeper:
    """First of all addons: no connection falls to the stock layers while our addons are away."""

    name = "gateway_doorkeeper"

    def __init__(self) -> None:
        self._engine = Engine()

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """Claim what `Host` is not there to claim."""
        if not _host_is_live():
            claim(next_layer, self._engine)


class Sentinel:
    """Last of all addons: refuses what nobody aimed, and connections that no verdict asked for."""

    name = "gateway_sentinel"

    def running(self) -> None:
        """End the process if the script that posted us was not taken in (a doubled option, say)."""
        if not _host_is_live():
            print("gateway: the script was not loaded; see above", file=sys.stderr, flush=True)
            raise SystemExit(1)

    async def done(self) -> None:
        """Let the process end only when the books are closed; a reload never calls this."""
        give_up_retired()
        await asyncio.gather(*CLOSING, return_exceptions=True)

    @fail_closed
    async def requestheaders(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Refuse a request that went through the chain without a verdict."""
        if gate.body_limit_bytes is None:
            await self._refuse_unaimed(flow, gate)

    @fail_closed
    async def request(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Refuse a request whose body brought no verdict either."""
        await self._refuse_unaimed(flow, gate)

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Open no connection but those that a stream with a verdict asked for."""
        if not is_granted(data.server):
            data.server.error = "not granted"

    @staticmethod
    async def _refuse_unaimed(flow: http.HTTPFlow, gate: Gate) -> None:
        # An addon that is missing raises nothing: only the lack of a verdict shows it.
        if gate.forward is None:
            await refuse_fault(flow, gate)


def _host_is_live() -> bool:
    # A script that failed half-way is still looked up by name; only the chain says who is called.
    live = addonmanager.traverse(ctx.master.addons.chain)
    return any(type(addon).__name__ in {"Chain", "Host"} for addon in live)


def post() -> None:
    """Add both, once for the life of the process; `take_places` follows when the proxy runs."""
    addons = ctx.master.addons
    if addons.get(Sentinel.name) is None:
        addons.add(Doorkeeper(), Sentinel())


def take_places() -> None:
    """Let the doorkeeper be first and the sentinel last, whatever was added since."""
    addons = ctx.master.addons
    first, last = addons.get(Doorkeeper.name), addons.get(Sentinel.name)
    # A new list: mitmproxy may be on its way through the old one, and would call an addon twice.
    others = [addon for addon in addons.chain if addon not in (first, last)]
    addons.chain = [first, *others, last]
