"""HTTP/1 as the gateway speaks it: bounded heads, trailers, no interim answers, no HTML errors."""

import time
from collections.abc import Callable

import h11
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
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

from mpp_gateway.engine import backpressure
from mpp_gateway.engine.answers import problem_bytes
from mpp_gateway.engine.authority import is_authority
from mpp_gateway.engine.context import DeadlineReached
from mpp_gateway.engine.failures import CLOSED, HEAD_CUT, HEAD_TOO_LARGE, SWITCHED_PROTOCOLS
from mpp_gateway.engine.limits import Limits
from mpp_gateway.errors import BadTarget, HeadTimeout, HeadTooLarge
from mpp_gateway.protocol.problems import BadRequest, Problem

type Commands = layer.CommandGenerator[None]

LINE_BREAK = b"\r\n"
LOOK_AGAIN_S = 0.1
EMPTY_LINES = 8
"""So many are skipped before a request line; an old client sends one after a body."""


class _Trailers(_http1.Http1Connection):
    """Reads bodies for both roles; the stock reader gives up on trailers and hangs the peer."""

    ReceiveTrailers: type[RequestTrailers | ResponseTrailers]
    limits: Limits

    def _framing_too_long(self) -> Commands:
        """Give up on a chunk's extension, or trailers, without end: nobody else bounds them."""
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(
            self.ReceiveProtocolError(
                self.stream_id, "framing without end", code=self.ReceiveProtocolError.code
            )
        )

    def read_body(self, event: events.Event) -> Commands:
        assert self.stream_id is not None
        pieces = []
        while isinstance(part := self._next_part(event), h11.Data):
            pieces.append(bytes(part.data))
        if data := b"".join(pieces):
            self.carried(len(pieces), len(data))
            # What came together goes on together: a chunk may be a single byte, and to pass it on
            # costs us many times what it costs to send.
            yield from self.body_data(data)
        if isinstance(part, h11.ProtocolError):
            yield commands.CloseConnection(self.conn)
            yield ReceiveHttp(
                self.ReceiveProtocolError(
                    self.stream_id,
                    f"HTTP/1 protocol error: {part}",
                    code=self.ReceiveProtocolError.code,
                )
            )
        elif part is None:
            if len(self.buf) > self.limits.head_bytes:
                yield from self._framing_too_long()
        else:
            if part.headers:
                trailers = http.Headers([(bytes(k), bytes(v)) for k, v in part.headers])
                yield ReceiveHttp(self.ReceiveTrailers(self.stream_id, trailers))
            yield ReceiveHttp(self.ReceiveEndOfMessage(self.stream_id))
            is_request = isinstance(self, GatewayHttp1Server)
            yield from self.mark_done(request=is_request, response=not is_request)

    def _next_part(
        self, event: events.Event
    ) -> h11.Data | h11.EndOfMessage | h11.ProtocolError | None:
        try:
            if isinstance(event, events.DataReceived):
                return self.body_reader(self.buf)
            return self.body_reader.read_eof()
        except h11.ProtocolError as error:
            return error

    def carried(self, chunks: int, size: int) -> None:
        """Take note of how a body comes."""

    def body_data(self, data: bytes) -> Commands:
        assert self.stream_id is not None
        yield ReceiveHttp(self.ReceiveData(self.stream_id, data))


class GatewayHttp1Server(_Trailers, _http1.Http1Server):
    """The client's side of an HTTP/1 connection."""

    ReceiveTrailers = RequestTrailers

    def __init__(
        self,
        context: Context,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(context)
        self.limits = limits
        self.clock = clock
        self.deadline_s: float | None = clock() + limits.keep_alive_s
        """When to give up on the client: on its next request, a head, a body that nobody wants."""
        self._head_begun = False
        self._is_over = False
        self._empty_lines = 0
        self._discarded_bytes = 0
        self._chunked_end: bytes | None = None
        self._unread_since_s: float | None = None

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, DeadlineReached) and self._unread_since_s is not None:
            yield from self.state(events.DataReceived(self.conn, b""))
            return
        if isinstance(event, DeadlineReached):
            if self.deadline_s is not None and self.deadline_s <= event.now_s:
                yield from self._give_up()
            return
        yield from super()._handle_event(event)

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if not isinstance(event, events.DataReceived):
            # Not the stock way: it logs the half of a head, and with it a credential.
            self.stop()
            yield commands.CloseConnection(self.conn)
            return
        if self.buf and not self._head_begun and (yield from self._has_to_read_first()):
            return
        if self.buf and not self._head_begun:
            self._head_begun = True
            self.deadline_s = self.clock() + self.limits.head_s
        lines = yield from self._head_lines()
        if lines is None:
            return
        self._head_begun = False
        self._empty_lines = 0
        self.deadline_s = None
        if sum(map(len, lines)) + 2 * len(lines) > self.limits.head_bytes:
            yield from self._refuse(HeadTooLarge("The request head is too large."))
            return
        try:
            self.request = _read_request_head(lines)
            size = http1.expected_http_body_size(self.request)
        except ValueError:
            self.request = None
            yield from self._refuse(BadRequest("The request head does not parse."))
            return
        problem = _host_problem(self.request)
        if problem is not None:
            yield from self._refuse(problem)
            return
        yield ReceiveHttp(RequestHeaders(self.stream_id, self.request, size == 0))
        self.body_reader = _http1.make_body_reader(size)
        self.state = self.read_body
        yield from self.state(event)

    def _head_lines(self) -> layer.CommandGenerator[list[bytearray] | None]:
        """The lines of a head; None while they are not complete, or if they are refused."""
        lines: list[bytearray] | None = self.buf.maybe_extract_lines()
        while lines is not None and not lines:
            # An empty line before the request line (RFC 9112 section 2.2). A few of them: one read
            # may hold thousands, and everybody waits until it is worked off.
            self._empty_lines += 1
            if self._empty_lines > EMPTY_LINES:
                yield from self._refuse(BadRequest("There is no request, only empty lines."))
                return None
            lines = self.buf.maybe_extract_lines()
        if lines is None and len(self.buf) > self.limits.head_bytes:
            yield from self._refuse(HeadTooLarge("The request head is too large."))
        return lines

    def stop(self) -> None:
        """Read no further request: a pipelined one would be run, and charged, with nobody there.

        For good: the end of an answer that is still under way would read on.
        """
        self._is_over = True
        self.state = self.done
        self.deadline_s = self._unread_since_s = None
        self._head_begun = False

    def _has_to_read_first(self) -> layer.CommandGenerator[bool]:
        """Let the next of many requests wait while the answers to the last ones are not taken.

        Requests are small and answers are not: sent in one go and never read, they are free memory.
        """
        now_s = self.clock()
        if backpressure.unsent_bytes(self.conn) <= self.limits.backlog_bytes:
            self._unread_since_s = None
            return False
        if self._unread_since_s is None:
            self._unread_since_s = now_s
        if now_s - self._unread_since_s > self.limits.unread_s:
            yield from self._hang_up()
        else:
            self.deadline_s = now_s + LOOK_AGAIN_S
        return True

    def carried(self, chunks: int, size: int) -> None:
        """Slow down a client that sends crumbs; an upstream is trusted with its own events."""
        if reader := backpressure.reader_of(self.conn):
            reader.has_carried(chunks, size)

    def body_data(self, data: bytes) -> Commands:
        if not self.response_done:
            yield ReceiveHttp(RequestData(self.stream_id, data))
            return
        # The answer is out and nobody reads on. Hanging up now would reset the connection before
        # the client has read the answer; reading on for ever would be free storage for anybody.
        self._discarded_bytes += len(data)
        if self._discarded_bytes > self.limits.discard_bytes:
            yield from self._hang_up()

    def _give_up(self) -> Commands:
        """Give up on a head that never ends or never begins, or on a body that nobody wants."""
        self.deadline_s = None
        if self._head_begun:
            yield from self._refuse(HeadTimeout("The request head took too long."))
        else:
            yield from self._hang_up()

    def mark_done(self, *, request: bool = False, response: bool = False) -> Commands:
        if self._is_over:
            return
        if response and not self.request_done:
            self._discarded_bytes = 0
            self.deadline_s = self.clock() + self.limits.discard_s
        else:
            self.deadline_s = None
        # Last, for it goes on to the next request where one is waiting.
        yield from super().mark_done(request=request, response=response)
        is_waiting = self.state == self.read_headers and not self._head_begun
        if is_waiting and self._unread_since_s is None:
            self.deadline_s = self.clock() + self.limits.keep_alive_s

    def send(self, event: HttpEvent) -> Commands:
        goes_on = isinstance(event, ResponseData | ResponseTrailers | ResponseEndOfMessage)
        if goes_on and (self.response is None or self.response.status_code < 200):
            return  # the rest of an answer whose head had nobody to go to any more
        if isinstance(event, ResponseTrailers):
            self._chunked_end = _last_chunk(event.trailers)
            return
        if isinstance(event, ResponseHeaders):
            self._chunked_end = None
        if isinstance(event, ResponseProtocolError):
            # Every refusal was answered by the stream. What is left is an answer cut short, and
            # the client must see it cut: no last chunk, no stock error page.
            if self.conn.state & ConnectionState.CAN_WRITE:
                yield commands.CloseConnection(self.conn)
            return
        if self._chunked_end is not None and isinstance(event, ResponseEndOfMessage):
            assert self.response is not None
            if "chunked" in self.response.headers.get("transfer-encoding", "").lower():
                yield commands.SendData(self.conn, self._chunked_end)
                yield from self.mark_done(response=True)
                return
        yield from super().send(event)

    def _refuse(self, problem: Problem) -> Commands:
        yield commands.SendData(self.conn, problem_bytes(problem))
        yield from self._hang_up()

    def _hang_up(self) -> Commands:
        self.stop()
        yield commands.CloseConnection(self.conn)


class GatewayHttp1Client(_Trailers, _http1.Http1Client):
    """The upstream's side of an HTTP/1 connection; one request at a time."""

    ReceiveTrailers = ResponseTrailers

    def __init__(self, context: Context, limits: Limits) -> None:
        super().__init__(context)
        self.limits = limits

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, RequestTrailers):
            assert self.request is not None
            if "chunked" in self.request.headers.get("transfer-encoding", "").lower():
                yield commands.SendData(self.conn, _last_chunk(event.trailers))
                yield from self.mark_done(request=True)
            return
        if isinstance(event, RequestEndOfMessage) and self.request_done:
            return
        starts_or_stops = isinstance(event, RequestHeaders | RequestProtocolError)
        if starts_or_stops or self.request is not None:
            yield from super().send(event)

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if not isinstance(event, events.DataReceived):
            yield from self._closed()
        elif self.request is None:
            # Bytes that nobody asked for: the answer to a request that somebody smuggled in.
            yield commands.CloseConnection(self.conn)
        elif (yield from self._read_final_head()):
            self.state = self.read_body
            yield from self.state(event)

    def _read_final_head(self) -> layer.CommandGenerator[bool]:
        """Skip interim answers; False when the head is not complete yet, or is refused."""
        assert self.request is not None
        while True:
            lines = self.buf.maybe_extract_lines()
            if lines is None:
                if len(self.buf) > self.limits.head_bytes:
                    yield from self._fail(HEAD_TOO_LARGE)
                return False
            try:
                self.response = http1.read_response_head(_plain_lines(lines))
                size = http1.expected_http_body_size(self.request, self.response)
            except ValueError as error:
                yield from self._fail(f"Cannot parse HTTP response: {error}")
                return False
            status = self.response.status_code
            if status == 101:
                # Nobody asked to switch. Passing it on would open a raw tunnel past the gate.
                yield from self._fail(SWITCHED_PROTOCOLS)
                return False
            if not 100 <= status < 600:
                yield from self._fail("no such status")
                return False
            if status >= 200:
                break
        assert self.stream_id is not None
        yield ReceiveHttp(ResponseHeaders(self.stream_id, self.response, size == 0))
        self.body_reader = _http1.make_body_reader(size)
        return True

    def _closed(self) -> Commands:
        if self.conn.state & ConnectionState.CAN_WRITE:
            yield commands.CloseConnection(self.conn)
        if self.stream_id is None:
            return
        message = CLOSED
        if self.buf:
            message = HEAD_CUT if bytes(self.buf).startswith(b"HTTP/1") else "not HTTP"
        yield ReceiveHttp(
            ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR)
        )

    def _fail(self, message: str) -> Commands:
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(
            ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR)
        )
        self.state = self.done


def _read_request_head(lines: list[bytearray]) -> http.Request:
    request = http1.read_request_head(_plain_lines(lines))
    if not (request.is_http11 or request.is_http10):
        raise ValueError("no version of HTTP/1")
    return request


def _host_problem(request: http.Request) -> Problem | None:
    hosts = [value for name, value in request.headers.fields if name.lower() == b"host"]
    if len(hosts) > 1 or (request.is_http11 and not hosts):
        return BadTarget("Send exactly one Host field.")
    if not all(map(is_authority, hosts)):
        return BadTarget("The Host field is no host and port.")
    return None


def _plain_lines(lines: list[bytearray]) -> list[bytes]:
    """Return the lines of a head, if every server finds the same fields in them.

    A folded line or a lone CR ends a field for some servers and not for others (RFC 9112 sections
    2.2 and 5.2): what one takes for a value the next one reads as a field of its own.
    """
    plain = [bytes(line) for line in lines]
    if not plain or any(b"\r" in line or b"\0" in line for line in plain):
        raise ValueError("a stray character")
    if any(line[:1] in {b" ", b"\t"} for line in plain):
        raise ValueError("a folded line")
    return plain


def _last_chunk(trailers: http.Headers) -> bytes:
    lines = [b"0", *(name + b": " + value for name, value in trailers.fields), b"", b""]
    return LINE_BREAK.join(lines)
