"""Two guards that outlive the script they came with: a broken reload leaves them standing."""

from mitmproxy import ctx, http
from mitmproxy.proxy import layer, server_hooks

from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.context import Engine
from mpp_gateway.engine.gate import Gate, fail_closed, is_granted
from mpp_gateway.engine.layers import claim
from mpp_gateway.errors import GatewayFault
from mpp_gateway.gateway.answers import problem_answer


class Doorkeeper:
    """First of all addons: no connection falls to the stock layers while our addons are away."""

    name = "gateway_doorkeeper"

    def __init__(self) -> None:
        self._engine = Engine()

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """Claim what `Host` is not there to claim."""
        if ctx.master.addons.get("host") is None:
            claim(next_layer, self._engine)


class Sentinel:
    """Last of all addons: refuses what nobody aimed, and connections that no verdict asked for."""

    name = "gateway_sentinel"

    @fail_closed
    async def requestheaders(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Refuse a request that went through the chain without a verdict."""
        if gate.body_limit_bytes is None:
            self._refuse_unaimed(flow, gate)

    @fail_closed
    async def request(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Refuse a request whose body brought no verdict either."""
        self._refuse_unaimed(flow, gate)

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Open no connection but those that a stream with a verdict asked for."""
        if not is_granted(data.server):
            data.server.error = "not granted"

    @staticmethod
    def _refuse_unaimed(flow: http.HTTPFlow, gate: Gate) -> None:
        # An addon that is missing raises nothing: only the lack of a verdict shows it.
        if gate.forward is None:
            gate.shut()
            flow.response = response_of(problem_answer(GatewayFault()))


def post() -> None:
    """Put both on their posts, once for the life of the process."""
    addons = ctx.master.addons
    if addons.get(Sentinel.name) is None:
        addons.add(Doorkeeper(), Sentinel())
    take_places()


def take_places() -> None:
    """Let the doorkeeper be first and the sentinel last, whatever was added since."""
    chain = ctx.master.addons.chain
    for name, place in ((Doorkeeper.name, 0), (Sentinel.name, len(chain))):
        guard = ctx.master.addons.get(name)
        chain.remove(guard)
        chain.insert(place, guard)
