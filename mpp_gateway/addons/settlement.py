"""Finishes the money of an exchange, whatever became of its request."""

import logging

from mitmproxy import http

from mpp_gateway.engine import backpressure
from mpp_gateway.engine.fields import text_of
from mpp_gateway.engine.gate import Gate, gate_of, is_granted
from mpp_gateway.errors import GatewayFault
from mpp_gateway.failpoints import FailPoint, reach
from mpp_gateway.gateway import idempotency, settlement
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.machine import Clock
from mpp_gateway.gateway.steps import Deliver
from mpp_gateway.protocol.messages import Answer

log = logging.getLogger(__name__)


class Settlement:
    """`response` and `error` call one idempotent function: one of them runs last, never both."""

    async def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Settle on the upstream's head; nothing of the answer is passed on before."""
        gate = gate_of(flow)
        if gate is None or gate.exchange is None or flow.response is None or not gate.forward:
            return
        reach(FailPoint.UPSTREAM_ANSWERED)
        reader = backpressure.reader_of(flow.server_conn)
        if reader:
            reader.pause()
        try:
            executor = gate.serving.executor
            gate.delivery = await executor.run(
                settlement.deliver(
                    gate.exchange,
                    flow.response.status_code,
                    text_of(flow.response.headers),
                    executor.clock(),
                ),
                gate.began_ms,
            )
        except Exception:
            log.exception("settlement failed; the answer is withheld")
            gate.delivery = problem_answer(GatewayFault())
            await self._tell_of_a_fault(gate)
        finally:
            if reader:
                reader.resume()
        reach(FailPoint.HEAD_DUE)

    async def _tell_of_a_fault(self, gate: Gate) -> None:
        try:
            executor = gate.serving.executor
            telling = settlement.fault(gate.exchange, executor.clock())
            gate.delivery = await executor.run(telling, gate.began_ms)
        except Exception:
            log.exception("what became of the money could not be told")

    async def response(self, flow: http.HTTPFlow) -> None:
        """Close the books after the last byte, or after an answer of our own."""
        reach(FailPoint.ANSWER_PASSED)
        gate = gate_of(flow)
        at_end = gate is not None and gate.exchange is not None and gate.exchange.settles_at_end
        if gate and gate.keeping and not at_end:
            await self._keep(flow, gate)
        # Not kept, with nobody there: as any other call that its client has left. A credit for each
        # try would run the upstream for one payment as often as a client likes to ask and hang up.
        left = gate is not None and gate.exchange is not None and gate.exchange.client_left
        await self._finish(flow, abandoned=left)
        if gate and gate.keeping and at_end:
            await self._keep(flow, gate)
        if gate and gate.delivered and gate.exchange.settles_at_end and flow.response:
            # The head is long gone: a receipt of what was used can only follow the body.
            fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in gate.exchange.receipt]
            own = flow.response.trailers.fields if flow.response.trailers else ()
            flow.response.trailers = http.Headers([*own, *fields])

    async def _keep(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Keep the whole answer for a buyer who loses it; with nobody there that delivers it."""
        if gate.keeping is None or flow.response is None or not isinstance(gate.delivery, Deliver):
            return
        body = gate.keeping.take_answer()
        if body is None:
            return
        answer = Answer(flow.response.status_code, text_of(flow.response.headers), body)
        try:
            executor = gate.serving.executor
            digest, clock = gate.keeping.request_digest, Clock(executor.clock())
            keeping = idempotency.keep(gate.exchange, digest, answer, clock)
            if await executor.run(keeping, gate.began_ms):
                gate.delivered = True
        except Exception:
            log.exception("an answer was not kept")

    async def error(self, flow: http.HTTPFlow) -> None:
        """Give the money back for an upstream that failed, keep the paid call for a lost client."""
        gate = gate_of(flow)
        if gate and gate.exchange and gate.failure and not gate.delivered:
            try:
                executor = gate.serving.executor
                gate.delivery = await executor.run(
                    settlement.fail(gate.exchange, gate.failure, executor.clock()), gate.began_ms
                )
            except Exception:
                log.exception("giving the money back failed; the store has the exchange")
        is_abandoned = gate is not None and gate.failure is None
        if gate is not None and is_abandoned and gate.exchange is not None:
            # Also of one who left before the upstream was asked: refunded, he could have the seller
            # pay the fee of charge and refund as often as he likes to connect and hang up.
            gate.exchange.client_left = True
        await self._finish(flow, abandoned=is_abandoned)

    async def _finish(self, flow: http.HTTPFlow, abandoned: bool) -> None:
        gate = gate_of(flow)
        if gate is None or gate.exchange is None:
            return
        status = flow.response.status_code if flow.response else 0
        try:
            executor = gate.serving.executor
            await executor.run(
                settlement.finish(
                    gate.exchange,
                    status,
                    gate.delivered,
                    abandoned and is_granted(flow.server_conn),
                    executor.clock(),
                ),
                gate.began_ms,
            )
        except Exception:
            log.exception("an exchange was not closed; the store has it open")
        finally:
            gate.serving.books.close(gate)
