"""Aims an admitted request at the upstream, with the upstream's secret."""

from mitmproxy import http

from mpp_gateway.engine.gate import Gate, fail_closed
from mpp_gateway.gateway import aiming


class AuthInjection:
    """Gives the positive verdict. Nothing else ever names a real destination."""

    @fail_closed
    async def requestheaders(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Aim a request that was admitted on its head."""
        await self._aim(gate)

    @fail_closed
    async def request(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Aim a request that was admitted on its body."""
        if gate.forward is None:
            await self._aim(gate)

    async def _aim(self, gate: Gate) -> None:
        if gate.admitted:
            executor = gate.serving.executor
            machine = aiming.forward(gate.exchange, executor.clock())
            gate.forward = await executor.run(machine, gate.began_ms)
