"""Answers 402, or checks what pays for the call."""

from mitmproxy import http

from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.framing import content_length
from mpp_gateway.engine.gate import Gate, fail_closed
from mpp_gateway.engine.keeping import Keeping
from mpp_gateway.gateway import admission
from mpp_gateway.gateway.steps import ReadBody


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
        """Admit a request whose body had to be read for it, or repeat what it was answered."""
        if gate.body is None or gate.admitted:
            return
        if gate.exchange.kept is None:
            await self._admit(flow, gate)
            return
        executor = gate.serving.executor
        repeating = admission.repeat(gate.exchange, gate.body, executor.clock())
        flow.response = response_of(await executor.run(repeating, gate.began_ms))

    async def _admit(self, flow: http.HTTPFlow, gate: Gate) -> None:
        executor = gate.serving.executor
        answer = await executor.run(
            admission.admit(gate.exchange, executor.clock(), gate.entropy),
            gate.began_ms,
            gate.body,
        )
        if isinstance(answer, ReadBody):
            gate.body_limit_bytes = answer.limit_bytes
        elif answer is not None:
            flow.response = response_of(answer)
        else:
            gate.admitted = True
            if gate.exchange.is_kept:
                limit_bytes = gate.exchange.snapshot.config.idempotency.answer_bytes
                # A rail that settles at the end has no money before it: nobody is left to pay.
                outlives = not gate.exchange.settles_at_end
                announced_bytes = content_length(flow.request.headers)
                gate.keeping = Keeping(limit_bytes, announced_bytes, outlives_client=outlives)
