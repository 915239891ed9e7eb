"""Time that passes only when a test says so: no machine is too slow for it."""

from mitmproxy.proxy import events

from mpp_gateway.engine.layers import GatewayLayer
from tests.support.proxy import Proxy

START_S = 1000.0


class Clock:
    """The engine's clock, standing still. Every limit on connections still to come is under it.

    Alarms ring in real time all the same; whoever hears one looks at this clock and waits on.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.passed_s = 0.0
        proxy.call(self._install)

    def __call__(self) -> float:
        return START_S + self.passed_s

    def advance(self, seconds: float) -> None:
        """Let time pass, and ring the alarm of every connection."""
        self._proxy.call(lambda: self.advance_on_loop(seconds))

    async def advance_on_loop(self, seconds: float) -> None:
        """As `advance`, for a test that is on the proxy's loop."""
        self.passed_s += seconds
        assert self._proxy.master is not None
        for handler in list(self._proxy.master.addons.get("proxyserver").connections.values()):
            for layer in handler.layer.context.layers:
                if isinstance(layer, GatewayLayer) and layer._alarm is not None:
                    await handler.server_event(events.Wakeup(layer._alarm))

    def _install(self) -> None:
        self._proxy.runtime.engine.clock = self
