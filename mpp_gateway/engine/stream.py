"""One request and its answer, from the client's head to the last byte: the gate's own HttpStream.

The stock stream reads a whole body before it answers, says 100 Continue to anybody and shows the
upstream's address in its errors. This one keeps the hooks, so that mitmweb sees ordinary flows.
"""

import time

from mitmproxy import http
from mitmproxy.net.http.validate import validate_headers
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as stock
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import (
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
)

from mpp_gateway import errors
from mpp_gateway.engine import backpressure, failures, framing, modules
from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.context import DeadlineReached, Engine
from mpp_gateway.engine.download import SocketClock
from mpp_gateway.engine.ending import EndingStream
from mpp_gateway.engine.fields import fields_of, text_of
from mpp_gateway.engine.gate import install
from mpp_gateway.engine.record import BodyRecord
from mpp_gateway.engine.upload import UploadClock
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.steps import Forward
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.problems import BadRequest, Problem
from mpp_gateway.upstream.hygiene import request_trailers, response_trailers

type Commands = layer.CommandGenerator[None]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class GatewayStream(EndingStream):
    """See the module. `gate` holds the verdicts; the addons reach it through the live flow only."""

    def __init__(self, context: Context, stream_id: int, engine: Engine) -> None:
        super().__init__(context, stream_id, engine)
        self.connecting: stock.GetHttpConnection | None = None
        self._timed_out = False
        self._started_s = 0.0
        self._retried = False
        self._body_sent = False
        self.unsent_bytes = 0
        """How much of the answer waits in HTTP/2 for the client to open its window."""
        self._upstream_until_s = 0.0
        self._taking = SocketClock(context.client, engine.limits)
        self._upload = UploadClock()
        self._asked = BodyRecord(engine.limits.inspected_body_bytes)
        self._answered = BodyRecord(engine.limits.inspected_body_bytes)

    @property
    def is_waiting(self) -> bool:
        """Whether a hook or a connection attempt runs; events queue up meanwhile."""
        return self._paused is not None

    @property
    def is_held_up(self) -> bool:
        """Whether the sender of its body waits until the upstream takes what it was sent."""
        is_uploading = self.client_state == self.state_stream_request_body
        return is_uploading and backpressure.is_full(self.context.server)

    def watch_upload(self) -> None:
        """Note whether the sender of the body has to wait: that time is not the client's."""
        if self.is_held_up == self._upload.is_held:
            return
        now_s = self.engine.clock()
        if self.is_held_up:
            self._upload.hold(now_s)
        else:
            self._upload.go_on(now_s)
        if not self.is_waiting:
            self._await_answer_still()

    def backlog_bytes(self, kind: type[RequestData | ResponseData]) -> int:
        """Return how much of one body is queued up."""
        return sum(len(e.data) for e in self._paused_event_queue if isinstance(e, kind))

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, DeadlineReached):
            yield from self._deadline_reached(event)
        elif not (self._finished and isinstance(event, HttpEvent)):
            yield from super()._handle_event(event)

    # Request

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request = event.request
        self.flow.live = True
        assert self.context.server.address
        # The flow keeps the address of the mode option, where nothing listens: neither a replay
        # nor a stock layer can carry this request to a real upstream.
        self.flow.request.data.host, self.flow.request.data.port = self.context.server.address[:2]
        self.flow.request.scheme = "http"
        install(self.flow, self.gate)
        refusal = self._invalid(event)
        if refusal:
            self.flow.response = response_of(problem_answer(refusal))
        yield HttpRequestHeadersHook(self.flow)
        self._request_ended = event.end_stream
        if self._is_killed():
            yield from self._kill()
        elif self._client_left():
            yield from self._abandon()
        elif self.flow.response:
            yield from self._answer()
        elif self.gate.body_limit_bytes is not None:
            yield from self._collect_body()
        else:
            yield from self._forward()

    def _invalid(self, event: RequestHeaders) -> Problem | None:
        if event.replay_flow is not None:
            return errors.Forbidden("Replayed requests are not served.")
        request = self.flow.request
        if request.method == "CONNECT":
            return errors.BadTarget("CONNECT is not served here.")
        try:
            validate_headers(request)
        except ValueError:
            return self._ambiguous()
        return self._ambiguous() if framing.is_unsound(request.headers, event.end_stream) else None

    def _ambiguous(self) -> Problem:
        # Where this request ends is anybody's guess: what follows it must not be read as one.
        self._framing_is_sound = False
        return BadRequest("The request head is ambiguous.")

    def _collect_body(self) -> Commands:
        assert self.gate.body_limit_bytes is not None
        length = framing.content_length(self.flow.request.headers)
        if length is not None and length > self.gate.body_limit_bytes:
            yield from self._refuse(errors.ContentTooLarge("The request body is too large."))
            return
        if not self._request_ended:
            # Unpaid bodies cost memory before they cost money: their number is bounded too.
            if not self.engine.admit_body(self.gate.client):
                yield from self._refuse(
                    errors.NotReady("Too many requests are waiting.", retry_after_s=1)
                )
                return
            self._counted_body = True
            yield from self._continue_100()
        self.client_state = self.state_consume_request_body
        self.deadline_s = self.engine.clock() + self.engine.limits.body_s

    def state_consume_request_body(self, event: events.Event) -> Commands:
        if isinstance(event, RequestData):
            self.request_body_buf += event.data
            assert self.gate.body_limit_bytes is not None
            if len(self.request_body_buf) > self.gate.body_limit_bytes:
                yield from self._refuse(errors.ContentTooLarge("The request body is too large."))
        elif isinstance(event, RequestTrailers):
            self.flow.request.trailers = event.trailers
        elif isinstance(event, RequestEndOfMessage):
            self.deadline_s = None
            self._request_ended = True
            self.gate.body = bytes(self.request_body_buf)
            self.request_body_buf.clear()
            self.flow.request.data.content = self.gate.body
            self.flow.request.timestamp_end = time.time()
            self.gate.body_limit_bytes = None
            yield HttpRequestHook(self.flow)
            self._uncount_body()
            if self._is_killed():
                yield from self._kill()
            elif self._client_left():
                yield from self._abandon()
            elif self.flow.response:
                yield from self._answer()
            else:
                yield from self._forward()

    def _forward(self) -> Commands:
        if self.verdict() is None:
            yield from self._refuse(errors.GatewayFault())
            return
        if not self._request_ended and self.gate.body is None:
            yield from self._continue_100()
        self._started_s = self.engine.clock()
        if not (yield from self._connect()):
            return
        yield from self._send_request_head()
        self.server_state = self.state_wait_for_response_headers
        if self.gate.body is None:
            self.client_state = self.state_stream_request_body
        else:
            yield from self._send_collected_body()

    def _continue_100(self) -> Commands:
        if self.flow.request.headers.get("expect", "").lower() == "100-continue":
            interim = http.Response.make(100)
            interim.headers.clear()
            yield stock.SendHttp(ResponseHeaders(self.stream_id, interim), self.context.client)

    def _connect(self) -> layer.CommandGenerator[bool]:
        forward = self.verdict()
        assert forward is not None
        self.deadline_s = self.engine.clock() + forward.deadlines.connect_s
        self.connecting = stock.GetHttpConnection(
            (forward.host, forward.port), forward.scheme == "https", None, "tcp"
        )
        connection, error = yield self.connecting
        self.connecting = None
        self.deadline_s = None
        if self._client_left():
            yield from self._abandon()
            return False
        if error:
            yield from self._upstream_failed(failures.of_connecting(error, self._timed_out))
            return False
        assert connection is not None
        self.context.server = self.flow.server_conn = connection
        return True

    def _send_request_head(self) -> Commands:
        forward = self.verdict()
        assert forward is not None
        request = framing.upstream_request(
            forward, self.flow.request, self.gate.body, ends=self._request_ended
        )
        if not self._request_ended and forward.deadlines.answer_s is None:
            self._upload.start(self.engine.clock(), self.engine.limits)
        self._await_answer(forward)
        yield from self._to_upstream(RequestHeaders(self.stream_id, request, self._request_ended))

    def _send_collected_body(self) -> Commands:
        self.client_state = self.state_done
        if self.gate.keeping:
            self.gate.keeping.asked(self.gate.body or b"")
            self.gate.keeping.asked_all()
        if self.gate.body:
            yield from self._to_upstream(RequestData(self.stream_id, self.gate.body))
        yield from self._to_upstream(RequestEndOfMessage(self.stream_id))

    def state_stream_request_body(self, event: events.Event) -> Commands:
        if isinstance(event, RequestData):
            self._body_sent = True
            self._upload.received(len(event.data))
            self._asked.add(event.data)
            if self.gate.keeping:
                self.gate.keeping.asked(event.data)
            yield from self._to_upstream(event)
        elif isinstance(event, RequestTrailers):
            forward = self.verdict()
            steering = forward.steering if forward else ()
            safe = request_trailers(text_of(event.trailers), steering)
            trailers = self.flow.request.trailers = fields_of(safe)
            if forward and trailers.fields:
                yield from self._to_upstream(RequestTrailers(self.stream_id, trailers))
        elif isinstance(event, RequestEndOfMessage):
            self._request_ended = True
            if self.gate.keeping:
                self.gate.keeping.asked_all()
            self._upload.stop()
            self.client_state = self.state_done
            self.flow.request.data.content = self._asked.take()
            self.flow.request.timestamp_end = time.time()
            yield from self._to_upstream(event)
            yield HttpRequestHook(self.flow)
            if self._is_killed():
                yield from self._kill()
                return
        if not self._upload.is_held:
            # A client that drips bytes behind its back must not win time for a stuck upstream.
            self._await_answer_still()

    # Response

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> Commands:
        self.deadline_s = None
        self.engine.used.add(self.context.server)
        if framing.is_ambiguous(event.response):
            yield from self._close_upstream()
            yield from self._upstream_failed(
                errors.UpstreamMalformed("The upstream's answer is ambiguous.")
            )
            return
        self.flow.response = event.response
        yield HttpResponseHeadersHook(self.flow)
        delivery = self.gate.delivery
        if self._is_killed():
            yield from self._kill()
        elif self._client_left() and not self._is_kept():
            yield from self._close_upstream()
            yield from self._abandon()
        elif delivery is None:
            # Settlement failed or never ran: without its word the answer is not ours to give.
            yield from self._close_upstream()
            yield from self._upstream_failed(errors.GatewayFault())
        elif isinstance(delivery, Answer):
            yield from self._close_upstream()
            self.flow.response = response_of(delivery)
            yield from self._answer()
        else:
            keeps_length = modules.keeps_length(self.gate)
            framing.set_delivered_head(
                self.flow, delivery, event.end_stream, keeps_length, self.engine.cors
            )
            self._await_upstream()
            self.server_state = self.state_stream_response_body
            if self._client_left():
                self._read_on_without_client()
                return
            self.gate.delivered = True
            head = ResponseHeaders(self.stream_id, self.flow.response, event.end_stream)
            yield stock.SendHttp(head, self.context.client)

    def state_stream_response_body(self, event: events.Event) -> Commands:
        assert self.flow.response is not None
        self._await_upstream()
        if isinstance(event, ResponseData):
            yield from self._pass_on(event.data)
        elif isinstance(event, ResponseTrailers):
            safe = response_trailers(text_of(event.trailers))
            self.flow.response.trailers = fields_of(safe)
        elif isinstance(event, ResponseEndOfMessage):
            yield from self._pass_on(b"")
            if self._finished:
                return
            self.deadline_s = None
            self.flow.response.data.content = self._answered.take()
            self.flow.response.timestamp_end = time.time()
            yield HttpResponseHook(self.flow)
            trailers = self.flow.response.trailers
            if trailers is not None and trailers.fields and not self._is_orphan:
                last = ResponseTrailers(self.stream_id, trailers)
                yield stock.SendHttp(last, self.context.client)
            if not self._request_ended:
                yield from self._close_upstream()
            yield from self._finish()

    def _pass_on(self, data: bytes) -> Commands:
        passed = modules.through(self.gate, data)
        if passed is None:
            yield from self._close_upstream()
            yield from self._cut()
            return
        self._answered.add(passed)
        if self.gate.keeping:
            self.gate.keeping.answered(passed)
        if self._is_orphan and not self._is_kept():
            yield from self._close_upstream()
            yield from self._abandon()
        elif self._is_orphan:
            return
        elif passed:
            yield stock.SendHttp(ResponseData(self.stream_id, passed), self.context.client)

    # Failures

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> Commands:
        if isinstance(event, RequestProtocolError):
            yield from self._client_leaves()
        elif self.server_state == self.state_wait_for_response_headers:
            if self._may_retry(event):
                yield from self._retry()
            else:
                yield from self._upstream_failed(failures.of_answering(event.message))
        elif self.server_state == self.state_stream_response_body:
            yield from self._cut()

    def client_gone(self) -> None:
        """Take note at once, even while a hook runs: the upstream's connection hangs on it."""
        if self._outlives_client() and not self._finished:
            self._read_on_without_client()

    def _read_on_without_client(self) -> None:
        if self.server_state == self.state_stream_response_body:
            self._bound_orphan()
            self.deadline_s = self._body_deadline_s(self.engine.clock())
        self._outlive_client()

    def _outlives_client(self) -> bool:
        forward = self.verdict()
        is_asked = self.server_state == self.state_wait_for_response_headers
        is_kept = self.server_state == self.state_stream_response_body and self._is_kept()
        return (is_asked or is_kept) and forward is not None and forward.outlives_client

    def _client_leaves(self) -> Commands:
        if self._outlives_client():
            self._read_on_without_client()
        else:
            yield from self._close_upstream()
            yield from self._abandon()

    def _may_retry(self, event: ResponseProtocolError) -> bool:
        # Only a connection that has served before can be stale. Where it was new, the upstream
        # may have seen this request and hung up on it: sending it twice could run it twice.
        return (
            not (self._retried or self._is_orphan)
            and event.message == failures.CLOSED
            and self.context.server in self.engine.used
            and self.flow.request.method in IDEMPOTENT_METHODS
            and self._request_ended
            and not self._body_sent
        )

    def _retry(self) -> Commands:
        self._retried = True
        if not (yield from self._connect()):
            return
        yield from self._send_request_head()
        if self.gate.body:
            yield from self._to_upstream(RequestData(self.stream_id, self.gate.body))
        yield from self._to_upstream(RequestEndOfMessage(self.stream_id))

    def _deadline_reached(self, event: DeadlineReached) -> Commands:
        if self._finished or self.deadline_s is None or event.now_s < self.deadline_s:
            return
        self.deadline_s = None
        is_answering = self.server_state == self.state_stream_response_body
        if is_answering and (until_s := self._body_deadline_s(event.now_s)) > event.now_s:
            self.deadline_s = until_s
            return
        is_collecting = self.client_state == self.state_consume_request_body
        is_slow = is_collecting or self._waits_for_upload()
        yield from self._close_upstream()
        if is_slow:
            yield from self._give_up_upload()
        elif is_answering:
            yield from self._cut()
        else:
            yield from self._upstream_failed(
                errors.UpstreamTimedOut("The upstream did not answer in time.")
            )

    def _waits_for_upload(self) -> bool:
        """Whether the client is what is waited for: the upstream takes all that comes, and more is
        to come. Then nothing may be said of the upstream's time."""
        is_unanswered = self.server_state == self.state_wait_for_response_headers
        is_whole = self._request_ended or self.gate.body is not None
        return is_unanswered and not (is_whole or self.is_held_up or self._is_orphan)

    def _body_deadline_s(self, now_s: float) -> float:
        """Return when to give up on the upstream, or on a client that holds the answer up."""
        client_until_s = None if self._is_orphan else self._taking.deadline_s(now_s)
        is_unsent = bool(self.unsent_bytes) and not self._is_orphan
        if is_unsent or client_until_s is not None:
            # Not the upstream's time: it may be waiting for the client too.
            self._upstream_until_s = now_s + self._idle_s()
        # What waits in HTTP/2 has a clock there.
        client_until_s = client_until_s or self._upstream_until_s
        return min(self._upstream_until_s, client_until_s, self._orphan_until_s)

    def connect_timed_out(self) -> None:
        """Remember why the connection attempt is about to fail."""
        self._timed_out = True
        self.deadline_s = None

    def _await_answer(self, forward: Forward) -> None:
        deadlines = [self.engine.clock() + forward.deadlines.first_byte_s]
        if forward.deadlines.answer_s is not None:
            # A slow upload must not outlive the payment: the upstream would work for nothing.
            deadlines.append(self._started_s + forward.deadlines.answer_s)
        if self._upload.deadline_s is not None:
            deadlines.append(self._upload.deadline_s)
        self.deadline_s = min(deadlines)

    def _await_answer_still(self) -> None:
        forward = self.verdict()
        if forward and self.server_state == self.state_wait_for_response_headers:
            self._await_answer(forward)

    def _await_upstream(self) -> None:
        now_s = self.engine.clock()
        self._upstream_until_s = now_s + self._idle_s()
        self.deadline_s = self._body_deadline_s(now_s)

    def _idle_s(self) -> float:
        forward = self.verdict()
        return forward.deadlines.idle_s if forward else 0.0
