"""HTTP/2 from the client: bounded heads and bodies, and an end to uploads answered already."""

from collections.abc import Callable

import h2.errors
import h2.events
import h2.settings
import h2.stream
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData, ResponseEndOfMessage

from mpp_gateway.engine.limits import Limits

type Commands = layer.CommandGenerator[None]

STREAMS_MAX = 100


class GatewayHttp2Server(_http2.Http2Server):
    """The client's side of an HTTP/2 connection."""

    def __init__(
        self,
        context: Context,
        limits: Limits,
        takes_no_data: Callable[[int], bool] = lambda _: False,
    ) -> None:
        super().__init__(context)
        self._takes_no_data = takes_no_data
        self._unacknowledged: dict[int, int] = {}
        self._answered: set[int] = set()
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
        self.h2_conn.decoder.max_header_list_size = limits.head_bytes

    def _handle_event(self, event: events.Event) -> Commands:
        yield from super()._handle_event(event)
        if isinstance(event, ResponseEndOfMessage):
            self._answered.add(event.stream_id)
        if self._answered:
            yield from self._stop_uploads()

    def handle_h2_event(self, event: h2.events.Event) -> layer.CommandGenerator[bool]:
        if not isinstance(event, h2.events.DataReceived):
            return (yield from super().handle_h2_event(event))
        if event.stream_id in self.streams and event.data:
            yield ReceiveHttp(RequestData(event.stream_id, event.data))
        held = self._unacknowledged.get(event.stream_id, 0)
        self._unacknowledged[event.stream_id] = held + event.flow_controlled_length
        yield from self.acknowledge()
        return False

    def acknowledge(self) -> Commands:
        """Open the window of every stream that takes data; the others' senders have to wait."""
        taken = [s for s in self._unacknowledged if not self._takes_no_data(s)]
        for stream_id in taken:
            size = self._unacknowledged.pop(stream_id)
            self.h2_conn.acknowledge_received_data(size, stream_id)
        if taken and (data := self.h2_conn.data_to_send()):
            yield commands.SendData(self.conn, data)

    def unsent_bytes(self, stream_id: int) -> int:
        """Return how much of an answer waits for the client to open its window."""
        return sum(len(part.data) for part in self.h2_conn.stream_buffers.get(stream_id, ()))

    def _stop_uploads(self) -> Commands:
        """Tell a client whose request was answered early to send no more (RFC 9113 section 8.1).

        The stock connection acknowledges what nobody reads, so a refused upload would go on.
        """
        for stream_id in list(self._answered):
            stream = self.h2_conn.streams.get(stream_id)
            if stream is None or self.is_closed(stream_id):
                self._answered.discard(stream_id)
            elif stream.state_machine.state is h2.stream.StreamState.HALF_CLOSED_LOCAL:
                self._answered.discard(stream_id)
                self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
                self.streams.pop(stream_id, None)
                yield commands.SendData(self.conn, self.h2_conn.data_to_send())
