"""Answers the documents that say what is sold, and the questions after the gateway's health."""

import dataclasses

from mitmproxy import http

from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.discovery.answering import answer, told
from mpp_gateway.discovery.documents import Library
from mpp_gateway.discovery.health import RuntimeState
from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.gate import Gate, fail_closed


class Discovery:
    """Stands before Routing: what it answers is never matched, charged or forwarded."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.library = Library()

    @fail_closed
    async def requestheaders(self, flow: http.HTTPFlow, gate: Gate) -> None:
        """Answer a request for a document; leave every other one alone."""
        runtime = self.runtime
        if (serving := runtime.serving) is None:
            documents = self.library.of(runtime.config, None, runtime.mount)
            state = RuntimeState(is_open=False)
        else:
            documents = self.library.of(serving.config, serving.snapshot, runtime.mount)
            state = RuntimeState(is_open=True, problems=serving.unready)
        head = runtime.see(flow, gate)
        if head.target in runtime.root_documents:
            head = dataclasses.replace(head, target=runtime.mount + head.target)
        verdict = answer(documents, head, state)
        if verdict is not None:
            flow.response = response_of(verdict)
            runtime.tell(gate, told(documents, head, verdict))
