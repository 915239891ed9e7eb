"""HTTP/2 from the client: bounded heads and bodies, and an end to uploads answered already."""

import time
from collections.abc import Callable

import h2.errors
import h2.events
import h2.settings
import h2.stream
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseProtocolError,
)

from mpp_gateway.engine.authority import is_authority, without_empty_port
from mpp_gateway.engine.context import DeadlineReached
from mpp_gateway.engine.download import DownloadClock
from mpp_gateway.engine.h2connection import ClientConnection, GoingAway, TooMuch
from mpp_gateway.engine.limits import Limits
from mpp_gateway.engine.patience import FramePatience
from mpp_gateway.errors import BadTarget
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.protocol.problems import Problem

type Commands = layer.CommandGenerator[None]

STREAMS_MAX = 100
HEAD_FRAMES = frozenset({0x1, 0x9})
"""HEADERS and CONTINUATION."""
TYPE_AT = 3
SCHEMES = frozenset({b"http", b"https"})


class GatewayHttp2Server(_http2.Http2Server):
    """The client's side of an HTTP/2 connection."""

    def __init__(
        self,
        context: Context,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        takes_no_data: Callable[[int], bool] = lambda _: False,
    ) -> None:
        super().__init__(context)
        self.limits = limits
        self._patience = FramePatience(limits.http2_control_frames, clock)
        self.clock = clock
        self._is_over = False
        self._head_since_s: float | None = None
        self._idle_since_s: float | None = None
        self._takes_no_data = takes_no_data
        self._unacknowledged: dict[int, int] = {}
        self._answered: set[int] = set()
        self._taking: dict[int, DownloadClock] = {}
        """Of the answers that wait for the client."""
        self.h2_conn = ClientConnection(
            self.h2_conf, limits.head_bytes, self._progressed, self._patience
        )
        settings = h2.settings.SettingCodes
        self.h2_conn.local_settings.update(
            {
                settings.MAX_HEADER_LIST_SIZE: limits.head_bytes,
                settings.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                settings.INITIAL_WINDOW_SIZE: limits.backlog_bytes,
            }
        )
        # Settings count once acknowledged; nobody has seen others yet, and the first frame states
        # the acknowledged ones.
        self.h2_conn.local_settings.acknowledge()
        self._watch()

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, DeadlineReached):
            yield from self._deadline_reached(event.now_s)
            return
        if isinstance(event, ResponseEndOfMessage | ResponseProtocolError):
            self._answered.add(event.stream_id)
            # Not for a stream that was reset meanwhile: a reset would earn what it costs.
            if self.is_open_for_us(event.stream_id):
                self._patience.answered()
        yield from super()._handle_event(event)
        if self._answered:
            yield from self._stop_uploads()
        self._watch()

    # Time

    @property
    def deadline_s(self) -> float | None:
        """When to give up on the client: on a head that does not end, an answer that it does not
        take, or its next request."""
        if self._is_over:
            return None
        deadlines = [clock.deadline_s for clock in self._taking.values()]
        if self._asking_s is not None:
            deadlines.append(self._asking_s)
        return min(deadlines, default=None)

    @property
    def _asking_s(self) -> float | None:
        if self._head_since_s is not None:
            return self._head_since_s + self.limits.head_s
        if self._idle_since_s is not None:
            return self._idle_since_s + self.limits.keep_alive_s
        return None

    def _deadline_reached(self, now_s: float) -> Commands:
        asking_s = None if self._is_over else self._asking_s
        if asking_s is not None and asking_s <= now_s:
            yield from self._give_up()
            return
        for stream_id, clock in list(self._taking.items()):
            if clock.deadline_s <= now_s:
                yield from self._drop_unread(stream_id)
        self._watch()

    def _drop_unread(self, stream_id: int) -> Commands:
        """End one answer that the client does not take: held for ever, it is free storage."""
        del self._taking[stream_id]
        if not self.is_closed(stream_id):
            self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            yield commands.SendData(self.conn, self.h2_conn.data_to_send())
        if self.streams.pop(stream_id, None) is not None:
            yield ReceiveHttp(
                RequestProtocolError(stream_id, "the answer was not taken", ErrorCode.CANCEL)
            )

    def _watch(self) -> None:
        """Note since when a head is open, and since when no stream is.

        Neither starts anew while it lasts: a client that drips bytes or pings wins no time by it.
        """
        is_idle = not self.h2_conn.open_inbound_streams
        now_s = self.clock()
        if not self._is_in_head(is_idle):
            self._head_since_s = None
        elif self._head_since_s is None:
            self._head_since_s = now_s
        if not is_idle:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        if self._taking or self.h2_conn.stream_buffers:
            unread = [s for s, parts in self.h2_conn.stream_buffers.items() if parts]
            self._taking = {
                s: self._taking.get(s) or DownloadClock(now_s, self.limits) for s in unread
            }

    def _progressed(self, stream_id: int, size: int) -> None:
        clock = self._taking.get(stream_id)
        if clock is not None:
            # One answer's share of the pace: a phone that loads twenty at once is no slower.
            clock.taken(size * len(self._taking), self.clock())

    def _is_in_head(self, is_idle: bool) -> bool:
        # h2 has no public word for what it has not understood yet.
        buffer = self.h2_conn.incoming_buffer
        if buffer._preamble_len or buffer._headers_buffer:  # noqa: SLF001
            return True
        partial = buffer._data  # noqa: SLF001
        if is_idle:
            return bool(partial)
        # The rest of a DATA frame may take as long as its upload does.
        return len(partial) > TYPE_AT and partial[TYPE_AT] in HEAD_FRAMES

    def _give_up(self) -> Commands:
        self.h2_conn.close_connection()
        yield commands.SendData(self.conn, self.h2_conn.data_to_send())
        yield from self.close_connection("The client took too long.")

    def close_connection(self, msg: str) -> Commands:
        self._is_over = True
        yield from super().close_connection(msg)

    # Requests

    def handle_h2_event(self, event: h2.events.Event) -> layer.CommandGenerator[bool]:
        if isinstance(event, TooMuch):
            # Opened and reset, pinged, sent in crumbs: each costs us work and the client nothing.
            calm = h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
            yield from self.protocol_error("too much of nothing", calm)
            return True
        if isinstance(event, GoingAway):
            return False
        if isinstance(event, h2.events.StreamEnded):
            # A reset may stand in the same segment. h2 has read it by now, and the stock connection
            # would forget the stream: its call would go on and be charged, with nobody there.
            if event.stream_id in self.streams:
                yield ReceiveHttp(RequestEndOfMessage(event.stream_id))
            return False
        if isinstance(event, h2.events.RequestReceived):
            if (refusal := _invalid(event)) is None:
                return (yield from super().handle_h2_event(event))
            yield from self._refuse(event, refusal)
            return False
        if not isinstance(event, h2.events.DataReceived):
            return (yield from super().handle_h2_event(event))
        if event.stream_id in self.streams and event.data:
            yield ReceiveHttp(RequestData(event.stream_id, event.data))
        held = self._unacknowledged.get(event.stream_id, 0)
        self._unacknowledged[event.stream_id] = held + event.flow_controlled_length
        yield from self.acknowledge()
        return False

    def _refuse(self, event: h2.events.RequestReceived, problem: Problem) -> Commands:
        if not self.is_open_for_us(event.stream_id):
            return  # taken back in the same segment
        answer = problem_answer(problem)
        has_body = (b":method", b"HEAD") not in event.headers
        fields = [
            (b":status", b"%d" % answer.status),
            *((n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in answer.headers),
            (b"content-length", b"%d" % len(answer.body)),
        ]
        self.h2_conn.send_headers(event.stream_id, fields, end_stream=not has_body)
        if has_body:
            self.h2_conn.send_data(event.stream_id, answer.body, end_stream=True)
        self._answered.add(event.stream_id)
        yield commands.SendData(self.conn, self.h2_conn.data_to_send())

    def acknowledge(self) -> Commands:
        """Open the window of every stream that takes data; the others' senders have to wait."""
        taken = [s for s in self._unacknowledged if not self._takes_no_data(s)]
        for stream_id in taken:
            size = self._unacknowledged.pop(stream_id)
            self.h2_conn.acknowledge_received_data(size, stream_id)
        if taken and (data := self.h2_conn.data_to_send()):
            yield commands.SendData(self.conn, data)

    def unsent(self) -> dict[int, int]:
        """Return by stream how much of an answer waits for the client to open its window."""
        buffers = self.h2_conn.stream_buffers
        return {s: sum(len(part.data) for part in parts) for s, parts in buffers.items()}

    def _stop_uploads(self) -> Commands:
        """Tell a client whose request was answered early to send no more (RFC 9113 section 8.1).

        The stock connection acknowledges what nobody reads, so a refused upload would go on.
        """
        for stream_id in list(self._answered):
            stream = self.h2_conn.streams.get(stream_id)
            if stream is None or self.is_closed(stream_id):
                self._answered.discard(stream_id)
                self.streams.pop(stream_id, None)
            elif stream.state_machine.state is h2.stream.StreamState.HALF_CLOSED_LOCAL:
                self._answered.discard(stream_id)
                self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
                self.streams.pop(stream_id, None)
                yield commands.SendData(self.conn, self.h2_conn.data_to_send())


def _invalid(event: h2.events.RequestReceived) -> Problem | None:
    """Check what the stock connection would end the connection for; tidy up an empty port."""
    fields = dict(event.headers)
    host = fields.get(b":authority", fields.get(b"host", b""))
    if not is_authority(host):
        return BadTarget("Name one host, with or without a port, in :authority.")
    if fields.get(b":scheme", b"").lower() not in SCHEMES:
        return BadTarget("The scheme is neither http nor https.")
    event.headers = [
        (name, without_empty_port(value) if name == b":authority" else value)
        for name, value in event.headers
    ]
    return None
