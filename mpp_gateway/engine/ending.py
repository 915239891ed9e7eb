"""The ways in which a request ends, besides the upstream's answer passed on to its last byte."""

import math
import time

from mitmproxy import flow
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as stock
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHook

from mpp_gateway import errors
from mpp_gateway.engine import backpressure, framing
from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.context import Engine
from mpp_gateway.engine.gate import Gate
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.steps import Deliver, Forward
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.problems import Problem

type Commands = layer.CommandGenerator[None]

CLIENT_GONE = "Client disconnected."
LONG_ANSWER_BYTES = 16 * 1024


class EndingStream(stock.HttpStream):
    """What every ending shares: each runs one last hook, so that the money finds its owner."""

    def __init__(self, context: Context, stream_id: int, engine: Engine) -> None:
        super().__init__(context, stream_id)
        self.engine = engine
        self.gate = Gate()
        self.deadline_s: float | None = None
        self._finished = False
        self._framing_is_sound = True
        self._request_ended = False
        self._counted_body = False
        self._is_orphan = False
        self._orphan_until_s = math.inf
        self.client_unsent_bytes = 0
        """How much of all its answers waits in HTTP/2 for the client to open windows."""

    @property
    def is_orphan(self) -> bool:
        """Whether the client has left and the upstream's answer is waited for all the same."""
        return self._is_orphan

    # The verdicts. Nothing reaches the upstream or the client but through these two.

    def verdict(self) -> Forward | None:
        """Return the positive verdict on the request, or None."""
        return self.gate.forward

    def _to_upstream(self, event: HttpEvent) -> Commands:
        # It may be gone already, with the news of it waiting in line behind this event.
        if self.context.server.state is not ConnectionState.CLOSED:
            yield stock.SendHttp(event, self.context.server)

    def _close_upstream(self) -> Commands:
        gone = RequestProtocolError(self.stream_id, "given up", ErrorCode.CANCEL)
        yield from self._to_upstream(gone)

    # Answers of our own

    def _refuse(self, problem: Problem) -> Commands:
        self.gate.shut()
        self.flow.response = response_of(problem_answer(problem))
        yield from self._answer()

    def _answer(self) -> Commands:
        """Send `flow.response` as it stands, at once, however much of the request is to come."""
        if self._is_client_full():
            self.flow.response = response_of(
                problem_answer(
                    errors.NotReady("Take the answers that wait for you first.", retry_after_s=1)
                )
            )
        response = self.flow.response
        assert response is not None
        self._uncount_body()
        framing.set_answer_head(self.flow, self._keeps_connection(), self.engine.cors)
        response.timestamp_start = response.timestamp_end = time.time()
        yield HttpResponseHook(self.flow)
        yield from self._send_answer()

    def _is_client_full(self) -> bool:
        """Whether the answer is long and its client leaves others untaken.

        Nobody presses back on what we have already: kept answers and documents, asked for by the
        hundred and never read, would be free memory.
        """
        content = self.flow.response.raw_content if self.flow.response else None
        if not content or len(content) < LONG_ANSWER_BYTES:
            return False
        untaken_bytes = self.client_unsent_bytes + backpressure.unsent_bytes(self.context.client)
        return untaken_bytes > self.engine.limits.backlog_bytes

    def _send_answer(self) -> Commands:
        response = self.flow.response
        assert response is not None
        content = b"" if self.flow.request.method == "HEAD" else response.raw_content
        head = ResponseHeaders(self.stream_id, response, not content)
        yield stock.SendHttp(head, self.context.client)
        if content:
            yield stock.SendHttp(ResponseData(self.stream_id, content), self.context.client)
        yield from self._finish()

    def _keeps_connection(self) -> bool:
        """Whether what is left of a refused request is worth reading for the connection's sake."""
        if not self._framing_is_sound:
            return False
        if self._request_ended:
            return True
        if "expect" in self.flow.request.headers:
            return False
        length = framing.content_length(self.flow.request.headers)
        return length is not None and length <= self.engine.limits.keep_alive_body_bytes

    # Failures

    def _upstream_failed(self, problem: Problem) -> Commands:
        """Answer for an upstream that gave nothing usable; the addons release the money first."""
        self.server_state = self.state_errored
        self.gate.fail(problem)
        self.flow.error = flow.Error(problem.title)
        self.flow.response = response_of(problem_answer(problem))
        yield HttpErrorHook(self.flow)
        if isinstance(self.gate.delivery, Answer):
            self.flow.response = response_of(self.gate.delivery)
        if self._client_left():
            yield from self._finish()
            return
        framing.set_answer_head(self.flow, self._keeps_connection(), self.engine.cors)
        yield from self._send_answer()

    def _give_up_upload(self) -> Commands:
        """The client took too long for its body; what was paid is given back, and said so."""
        slow, forward = errors.HeadTimeout("The request body took too long."), self.verdict()
        if forward is not None and forward.outlives_client:
            yield from self._upstream_failed(slow)
        else:
            yield from self._refuse(slow)

    def _cut(self) -> Commands:
        """The upstream broke off in mid-answer: the client must see that it did."""
        self.flow.error = flow.Error("The upstream broke off.")
        yield HttpErrorHook(self.flow)
        self._end()
        yield stock.SendHttp(
            ResponseProtocolError(self.stream_id, "cut", ErrorCode.CANCEL), self.context.client
        )
        yield stock.DropStream(self.stream_id)

    def _abandon(self) -> Commands:
        """The client has left. Whoever holds its money hears of it through the error hook."""
        self._finished = True
        self._uncount_body()
        self.deadline_s = None
        self.flow.error = self.flow.error or flow.Error(CLIENT_GONE)
        yield HttpErrorHook(self.flow)
        self._end()
        yield stock.DropStream(self.stream_id)

    def _is_killed(self) -> bool:
        error = self.flow.error
        return error is not None and error.msg == flow.Error.KILLED_MESSAGE

    def _kill(self) -> Commands:
        """An addon, or somebody at mitmweb, has killed the flow: it goes no further, unpaid."""
        self.gate.fail(errors.Forbidden("This call was stopped."))
        self._uncount_body()
        yield from self._close_upstream()
        yield HttpErrorHook(self.flow)
        self._end()
        killed = ResponseProtocolError(self.stream_id, "killed", ErrorCode.KILL)
        yield stock.SendHttp(killed, self.context.client)
        yield stock.DropStream(self.stream_id)

    def _client_left(self) -> bool:
        return self._is_orphan or any(
            isinstance(e, RequestProtocolError) for e in self._paused_event_queue
        )

    def _outlive_client(self) -> None:
        """Let the upstream answer although nobody is left to read it: it decides about the money.

        Given up here, a call that was verified and not settled would cost its seller the work and
        its buyer nothing: ask, hang up, ask again.
        """
        self._is_orphan = True
        if isinstance(self.gate.exchange, Exchange):
            self.gate.exchange.client_left = True
        self.engine.departures.adopt(self.context.client, self, self.deadline_s)

    def _is_kept(self) -> bool:
        """Whether the buyer may come back for this very answer: then it is read to its end."""
        keeping = self.gate.keeping
        if keeping is None or not (keeping.outlives_client and keeping.is_possible):
            return False
        return isinstance(self.gate.delivery, Deliver)

    def _bound_orphan(self) -> None:
        """Read the answer for so long, and not for as long as the upstream drips: nobody is there
        to end it."""
        forward = self.verdict()
        patience_s = forward.deadlines.first_byte_s if forward else 0.0
        self._orphan_until_s = min(self._orphan_until_s, self.engine.clock() + patience_s)

    # The end

    def _finish(self) -> Commands:
        self._end()
        self.client_state = self.server_state = self.state_errored
        yield stock.DropStream(self.stream_id)
        yield stock.SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def _end(self) -> None:
        self._finished = True
        self.deadline_s = None
        self.flow.live = False
        if self._is_orphan:
            self.engine.departures.let_go(self.context.client, self)

    def _uncount_body(self) -> None:
        if self._counted_body:
            self._counted_body = False
            self.engine.release_body(self.gate.client)
