"""The layers that carry every client connection; `claim` keeps the stock ones out of reach."""

from collections.abc import Iterator
from dataclasses import replace

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events, layer, tunnel
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as stock
from mitmproxy.proxy.layers import modes, tls
from mitmproxy.proxy.layers.http._base import HttpConnection
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestProtocolError,
    ResponseData,
    ResponseProtocolError,
)

from mpp_gateway.engine import backpressure, failures
from mpp_gateway.engine.answers import problem_bytes
from mpp_gateway.engine.context import DeadlineReached, Engine
from mpp_gateway.engine.departure import ClientGone, UpstreamsGone
from mpp_gateway.engine.ending import CLIENT_GONE
from mpp_gateway.engine.gate import grant
from mpp_gateway.engine.http1 import GatewayHttp1Client, GatewayHttp1Server
from mpp_gateway.engine.http2 import GatewayHttp2Server
from mpp_gateway.engine.stream import GatewayStream
from mpp_gateway.protocol.problems import BadRequest

type Commands = layer.CommandGenerator[None]

TLS_RECORD = 0x16
FULL_STREAMS = 4
"""So many full backlogs one client may leave unread before all of its upstreams have to wait."""
GatewayServer = GatewayHttp1Server | GatewayHttp2Server


class GatewayLayer(stock.HttpLayer):
    """HTTP for one client connection: our streams, our connections, one timer for them all."""

    streams: dict[int, GatewayStream]  # type: ignore[assignment]

    def __init__(self, context: Context, engine: Engine) -> None:
        super().__init__(context, stock.HTTPMode.transparent)
        self.engine = engine
        self._upstreams: dict[Server, _UpstreamConnection] = {}
        self._idle_before: set[Server] = set()
        """Idle when the idle ones were last looked for, and not used since."""
        self._sweep_s: float | None = None
        """When to look for them again."""
        self._pressed: set[Connection] = set()
        """Whose bytes wait because of us."""
        self._alarm: commands.RequestWakeup | None = None
        self._alarm_s = 0.0

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Wakeup):
            # An alarm that a nearer one replaced rings too; nobody waits for it.
            if event.command is self._alarm:
                self._alarm = None
                yield from self._deadlines_reached(self.engine.clock())
        elif isinstance(event, events.Start):
            yield from self._start(event)
        elif isinstance(event, ClientGone):
            yield from self._client_gone()
        elif isinstance(event, UpstreamsGone):
            yield from self._upstreams_gone()
        elif isinstance(event, backpressure.UpstreamTakes):
            pass  # whoever waits for it is let go below
        elif isinstance(event, events.ConnectionEvent) and event.connection not in self.connections:
            return  # the last words of an upstream connection that was given up
        else:
            yield from super()._handle_event(event)
            if isinstance(event, events.ConnectionClosed):
                self._forget(event.connection)
        yield from self._press_back()
        yield from self._set_alarm()

    def _start(self, event: events.Start) -> Commands:
        server: HttpConnection
        limits = self.engine.limits
        if self.context.client.alpn == b"h2":
            server = GatewayHttp2Server(
                self.context.fork(), limits, self.engine.clock, self._takes_no_data
            )
        else:
            server = GatewayHttp1Server(self.context.fork(), limits, self.engine.clock)
        self.connections[self.context.client] = server
        self.engine.departures.expect(self.context.client)
        yield from self.event_to_child(server, event)

    def make_stream(self, stream_id: int) -> Commands:
        stream = GatewayStream(self.context.fork(), stream_id, self.engine)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    # Backpressure: what waits for a verdict, a connection or a slow client stays with its sender

    def _press_back(self) -> Commands:
        limit = self.engine.limits.backlog_bytes
        server = self.connections.get(self.context.client)
        if isinstance(server, GatewayHttp2Server):
            yield from server.acknowledge()
        elif isinstance(server, GatewayHttp1Server):
            backlog = sum(s.backlog_bytes(RequestData) for s in self.streams.values())
            is_held_up = any(s.is_held_up for s in self.streams.values())
            self._press(self.context.client, is_held_up or max(backlog, len(server.buf)) > limit)
        unsent = server.unsent() if isinstance(server, GatewayHttp2Server) else {}
        unsent_bytes = sum(unsent.values())
        is_full = unsent_bytes > limit * FULL_STREAMS
        for stream in self.streams.values():
            stream.watch_upload()
            stream.unsent_bytes = unsent.get(stream.stream_id, 0)
            stream.client_unsent_bytes = unsent_bytes
            backlog = stream.backlog_bytes(ResponseData) + stream.unsent_bytes
            is_pressed = (is_full or backlog > limit) and not stream.is_orphan
            self._press(stream.context.server, is_pressed)

    def _press(self, connection: Connection, is_full: bool) -> None:
        if is_full == (connection in self._pressed):
            return
        reader = backpressure.reader_of(connection)
        if reader is None:
            return
        if is_full:
            self._pressed.add(connection)
            reader.pause(backpressure.BACKLOG)
        else:
            self._pressed.discard(connection)
            reader.resume(backpressure.BACKLOG)

    def _takes_no_data(self, stream_id: int) -> bool:
        stream = self.streams.get(stream_id)
        return stream is not None and (stream.is_waiting or stream.is_held_up)

    # The end of the connection

    def _client_gone(self) -> Commands:
        self._alarm = None  # mitmproxy has cancelled it
        self._sweep_s = None  # a timer of its own would keep all of this for as long as it runs
        server = self.connections.get(self.context.client)
        if isinstance(server, GatewayHttp1Server):
            server.stop()
        gone = RequestProtocolError(0, CLIENT_GONE, ErrorCode.CLIENT_DISCONNECTED)
        for stream in list(self.streams.values()):
            stream.client_gone()
            yield from self.event_to_child(stream, replace(gone, stream_id=stream.stream_id))

    def _upstreams_gone(self) -> Commands:
        for connection in list(self.waiting_for_establishment):
            yield from self.register_connection(
                stock.RegisterHttpConnection(connection, CLIENT_GONE)
            )
        gone = ResponseProtocolError(0, failures.CLOSED, ErrorCode.GENERIC_SERVER_ERROR)
        for stream in list(self.streams.values()):
            yield from self.event_to_child(stream, replace(gone, stream_id=stream.stream_id))

    def register_connection(self, command: stock.RegisterHttpConnection) -> Commands:
        # News of an attempt that was given up with its client.
        if command.connection in self.waiting_for_establishment:
            yield from super().register_connection(command)

    # Upstream connections

    def get_connection(self, event: stock.GetHttpConnection, *, reuse: bool = True) -> Commands:
        for connection in [c for c in self._upstreams if c.error]:
            if connection not in self.waiting_for_establishment:
                # A failure is not remembered: the upstream may be back for the next request.
                self._drop(connection)
        found = self._idle(event) if reuse else None
        if found is None:
            yield from self._open(event)
        else:
            self._idle_before.discard(found)
            stream = self.command_sources.pop(event)
            yield from self.event_to_child(
                stream, stock.GetHttpConnectionCompleted(event, (found, None))
            )

    def _idle(self, event: stock.GetHttpConnection) -> Server | None:
        """Return an open upstream connection that carries no request at the moment."""
        return next((c for c in self._all_idle() if event.connection_spec_matches(c)), None)

    def _all_idle(self) -> Iterator[Server]:
        """One whose answer is complete may still be held for a settlement: its stream has it until
        the stream ends."""
        taken = {stream.context.server for stream in self.streams.values()}
        for connection, upstream in self._upstreams.items():
            is_open = connection.state is ConnectionState.OPEN
            if upstream.is_idle and is_open and connection not in taken:
                yield connection

    def _close_idle(self, now_s: float) -> Commands:
        """Close what was idle at the last look already and has carried nothing since.

        A hundred calls at once would leave a hundred connections open, to an upstream that may
        have no more of them, for as long as their client stays.
        """
        limit_s = self.engine.limits.upstream_idle_s
        idle = set(self._all_idle())
        given_up, self._idle_before = idle & self._idle_before, idle - self._idle_before
        self._sweep_s = now_s + limit_s if self._upstreams else None
        unused = RequestProtocolError(0, "unused", ErrorCode.CANCEL)
        for connection in given_up:
            yield from self.event_to_child(self.connections[connection], unused)

    def _open(self, event: stock.GetHttpConnection) -> Commands:
        context = self.context.fork()
        context.server = Server(address=event.address)
        grant(context.server)
        stack = tunnel.LayerStack()
        if event.tls:
            context.server.sni = event.address[0]
            # One request at a time on an upstream connection: pausing it for a settlement must
            # not pause the answer that somebody else has paid for.
            context.server.alpn_offers = (b"http/1.1",)
            stack /= tls.ServerTLSLayer(context)
        upstream = _UpstreamConnection(context, self.engine)
        stack /= upstream
        self._upstreams[context.server] = upstream
        if self._sweep_s is None:
            self._sweep_s = self.engine.clock() + self.engine.limits.upstream_idle_s
        self.connections[context.server] = stack[0]
        self.waiting_for_establishment[context.server].append(event)
        yield from self.event_to_child(stack[0], events.Start())

    def _forget(self, connection: Connection) -> None:
        if (
            isinstance(connection, Server)
            and connection.state is ConnectionState.CLOSED
            and connection not in self.waiting_for_establishment
        ):
            self._drop(connection)

    def _drop(self, connection: Server) -> None:
        self.connections.pop(connection, None)
        self._upstreams.pop(connection, None)
        self._idle_before.discard(connection)
        self._pressed.discard(connection)

    # Time

    def _set_alarm(self) -> Commands:
        nearest = self._nearest_deadline()
        if nearest is None or (self._alarm is not None and self._alarm_s <= nearest):
            return
        self._alarm_s = nearest
        self._alarm = commands.RequestWakeup(max(0.0, nearest - self.engine.clock()))
        yield self._alarm

    def _nearest_deadline(self) -> float | None:
        deadlines = [s.deadline_s for s in self._timed() if s.deadline_s is not None]
        server = self.connections.get(self.context.client)
        if isinstance(server, GatewayServer) and server.deadline_s is not None:
            deadlines.append(server.deadline_s)
        if self._sweep_s is not None:
            deadlines.append(self._sweep_s)
        return min(deadlines, default=None)

    def _timed(self) -> Iterator[GatewayStream]:
        """A stream in a hook cannot be told the time: its deadline counts again afterwards."""
        for stream in self.streams.values():
            if not stream.is_waiting or stream.connecting is not None:
                yield stream

    def _deadlines_reached(self, now_s: float) -> Commands:
        if self._sweep_s is not None and self._sweep_s <= now_s:
            yield from self._close_idle(now_s)
        server = self.connections.get(self.context.client)
        if isinstance(server, GatewayServer):
            yield from self.event_to_child(server, DeadlineReached(0, now_s))
        for stream in list(self._timed()):
            if stream.deadline_s is None or stream.deadline_s > now_s:
                continue
            if stream.connecting is not None:
                stream.connect_timed_out()
                yield from self._abort_connecting(stream.connecting)
            else:
                yield from self.event_to_child(stream, DeadlineReached(stream.stream_id, now_s))

    def _abort_connecting(self, wanted: stock.GetHttpConnection) -> Commands:
        for connection, waiting in self.waiting_for_establishment.items():
            if wanted in waiting:
                yield commands.CloseConnection(connection)
                return


class _UpstreamConnection(layer.Layer):
    """Opens one upstream connection and speaks our HTTP/1 over it."""

    def __init__(self, context: Context, engine: Engine) -> None:
        super().__init__(context)
        self.engine = engine
        self._client: GatewayHttp1Client | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the connection is up and the last answer on it is complete."""
        return self._client is not None and self._client.stream_id is None

    def _handle_event(self, event: events.Event) -> Commands:
        error = yield commands.OpenConnection(self.context.server)
        if not error:
            child = self._client = GatewayHttp1Client(self.context, self.engine.limits)
            self._handle_event = child.handle_event  # type: ignore[method-assign]
            yield from child.handle_event(event)
        else:
            self._handle_event = self._done  # type: ignore[method-assign,assignment]
        yield stock.RegisterHttpConnection(self.context.server, error)

    def _done(self, _: events.Event) -> Commands:
        yield from ()


class GuardedClientTLSLayer(tls.ClientTLSLayer):
    """TLS from the client, with an end to the patience for its handshake."""

    def __init__(self, context: Context, engine: Engine) -> None:
        super().__init__(context)
        self.engine = engine
        # Asked once the handshake is done: a client that then says nothing must have a deadline.
        self.child_layer = layer.NextLayer(self.context, ask_on_start=True)
        self._alarm: commands.RequestWakeup | None = None
        self._child_knows = False

    def event_to_child(self, event: events.Event) -> Commands:
        """See the base. Remembers whether the layers above know that the client is gone."""
        if isinstance(event, events.ConnectionClosed) and event.connection is self.conn:
            self._child_knows = True
        yield from super().event_to_child(event)

    def receive_close(self) -> Commands:
        """See the base, which takes an alert for a goodbye and then tells the layers nothing."""
        if not self._child_knows:
            yield from self.event_to_child(events.ConnectionClosed(self.conn))

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Wakeup) and event.command is self._alarm:
            if self.tunnel_state is not tunnel.TunnelState.OPEN:
                yield commands.CloseConnection(self.context.client)
            return
        if isinstance(event, events.Start):
            self._alarm = commands.RequestWakeup(self.engine.limits.tls_handshake_s)
            yield self._alarm
        yield from super()._handle_event(event)


class ClearTextLayer(layer.Layer):
    """Says once that this listener speaks TLS, and hangs up."""

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.DataReceived):
            refusal = BadRequest("This listener speaks TLS: ask with https.")
            yield commands.SendData(self.context.client, problem_bytes(refusal))
            yield commands.CloseConnection(self.context.client)
            self._handle_event = self._done  # type: ignore[method-assign,assignment]

    def _done(self, _: events.Event) -> Commands:
        yield from ()


def claim(next_layer: layer.NextLayer, engine: Engine) -> None:
    """Put our layer under every TCP connection of the reverse proxy, whatever its first bytes are.

    A test such as "starts with three letters" sends `M-SEARCH`, an early CRLF or one lone byte to
    the stock layers, past every guard.
    """
    context = next_layer.context
    if context.client.transport_protocol != "tcp" or not context.layers:
        return
    top = context.layers[0]
    if not isinstance(top, modes.ReverseProxy):
        return
    under_tls = any(isinstance(below, tls.ClientTLSLayer) for below in context.layers)
    data = next_layer.data_client()
    if not under_tls and data[:1] and data[0] == TLS_RECORD:
        next_layer.layer = GuardedClientTLSLayer(context, engine)
    elif not under_tls and engine.requires_tls:
        next_layer.layer = ClearTextLayer(context)
    else:
        next_layer.layer = GatewayLayer(context, engine)
