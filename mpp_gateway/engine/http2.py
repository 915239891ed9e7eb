"""HTTP/2 from the client: bounded heads, and an end to uploads that were answered already."""

import h2.errors
import h2.settings
import h2.stream
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._events import ResponseEndOfMessage

from mpp_gateway.engine.limits import Limits

type Commands = layer.CommandGenerator[None]

STREAMS_MAX = 100


class GatewayHttp2Server(_http2.Http2Server):
    """The client's side of an HTTP/2 connection."""

    def __init__(self, context: layer.Context, limits: Limits) -> None:
        super().__init__(context)
        settings = h2.settings.SettingCodes
        self.h2_conn.local_settings.update(
            {
                settings.MAX_HEADER_LIST_SIZE: limits.head_bytes,
                settings.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
            }
        )
        # Settings count once acknowledged; nobody has seen others yet, and the first frame states
        # the acknowledged ones.
        self.h2_conn.local_settings.acknowledge()
        self.h2_conn.decoder.max_header_list_size = limits.head_bytes

    def _handle_event(self, event: events.Event) -> Commands:
        yield from super()._handle_event(event)
        if isinstance(event, ResponseEndOfMessage):
            yield from self._stop_upload(event.stream_id)

    def _stop_upload(self, stream_id: int) -> Commands:
        """Tell a client whose request was answered early to send no more (RFC 9113 section 8.1).

        The stock connection acknowledges what nobody reads, so a refused upload would go on.
        """
        stream = self.h2_conn.streams.get(stream_id)
        if (
            stream is not None
            and stream.state_machine.state is h2.stream.StreamState.HALF_CLOSED_LOCAL
            and not self.is_closed(stream_id)
        ):
            self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
            self.streams.pop(stream_id, None)
            yield commands.SendData(self.conn, self.h2_conn.data_to_send())
