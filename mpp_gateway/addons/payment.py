"""Answers 402, or checks what pays for the call."""

from mitmproxy import http

from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.gate import Gate, fail_closed
from mpp_gateway.gateway import admission


class Payment:
    """Runs the admission of a matched request: before its body where the body does not matter."""

    @fail_closed
    async def requestheaders(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Admit on the head alone, or ask for the body first."""
        route = gate.exchange.route
        if not route.digest or route.free:
            await self._admit(flow, gate)
            return
        executor = gate.serving.executor
        looking = admission.before_body(gate.exchange, executor.clock())
        refusal = await executor.run(looking, gate.began_ms)
        if refusal is not None:
            flow.response = response_of(refusal)
        else:
            gate.body_limit_bytes = route.body_limit_bytes

    @fail_closed
    async def request(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Admit a request whose body had to be read for it."""
        if gate.body is not None and not gate.admitted:
            await self._admit(flow, gate)

    async def _admit(self, flow: http.HTTPFlow, gate: Gate) -> None:
        executor = gate.serving.executor
        refusal = await executor.run(
            admission.admit(gate.exchange, executor.clock(), gate.entropy),
            gate.began_ms,
            gate.body,
        )
        if refusal is not None:
            flow.response = response_of(refusal)
        else:
            gate.admitted = True
