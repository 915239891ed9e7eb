"""Maps a flow to a service and a route."""

import secrets
from functools import partial

from mitmproxy import http

from mpp_gateway import events
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.gate import Gate, fail_closed
from mpp_gateway.errors import NotReady
from mpp_gateway.gateway import admission
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.executor import new_request_id
from mpp_gateway.protocol.messages import Answer

ENTROPY_BYTES = 32


class Routing:
    """Answers 400, 404 and 405; else leaves the exchange on the gate."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @fail_closed
    async def requestheaders(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Match the request against the routes of the current snapshot."""
        serving = self.runtime.serving
        head = self.runtime.see(flow, gate)
        if serving is None:
            problem = NotReady("The gateway is starting.", retry_after_s=1)
            flow.response = response_of(problem_answer(problem))
            refused = partial(events.RequestRefused, slug=problem.slug, status=problem.status)
            self.runtime.tell(gate, refused)
            return
        entropy = secrets.token_bytes(ENTROPY_BYTES)
        matching = admission.match(
            head, serving.snapshot, new_request_id(), serving.executor.clock(), entropy
        )
        verdict = await serving.executor.run(matching, gate.began_ms)
        if isinstance(verdict, Answer):
            flow.response = response_of(verdict)
            return
        gate.exchange = verdict
        gate.serving = serving
        serving.books.open(gate)
        gate.entropy = entropy
