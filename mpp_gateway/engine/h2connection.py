"""The protocol state of one HTTP/2 client, where h2 and mitmproxy do not do what we need."""

from collections.abc import Callable, Iterable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import hpack
import hyperframe.frame
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection, SendH2Data

from mpp_gateway.engine.patience import FramePatience

HOST_FIELDS = frozenset({b":authority", b"host"})

type Received = tuple[list[hyperframe.frame.Frame], list[h2.events.Event]]


class GoingAway(h2.events.Event):
    """The client will ask for nothing more, and still wants what it has asked for."""


class TooMuch(h2.events.Event):
    """The client has sent too many frames that are of no use."""


class OutOfPatience(Exception):
    """Nothing that the client sent is looked at any more."""


class ClientConnection(BufferedH2Connection):
    """Forgives a graceful goodbye and a window that shrank; tells when buffered bytes leave.

    Reads no further once the client has sent too much that is of no use.
    """

    def __init__(
        self,
        config: h2.config.H2Configuration,
        head_bytes: int,
        on_progress: Callable[[int, int], None],
        patience: FramePatience,
    ) -> None:
        super().__init__(config)
        self._patience = patience
        self._on_progress = on_progress
        self._window_grew = False
        table_bytes = self.decoder.max_allowed_table_size
        self.decoder = Decoder(head_bytes)
        self.decoder.max_allowed_table_size = table_bytes

    def _receive_goaway_frame(self, frame: hyperframe.frame.GoAwayFrame) -> Received:
        # h2 takes every GOAWAY for the end of the connection and forgets what was to be sent. But
        # open streams go on (RFC 9113 section 6.8): their answers may be paid for already.
        if frame.error_code == h2.errors.ErrorCodes.NO_ERROR:
            return [], [GoingAway()]
        received: Received = super()._receive_goaway_frame(frame)
        return received

    def local_flow_control_window(self, stream_id: int) -> int:
        """Return how much may be sent: nothing, where a change of settings made it negative."""
        window: int = super().local_flow_control_window(stream_id)
        return max(0, window)

    def send_data(
        self,
        stream_id: int,
        data: bytes | memoryview,
        end_stream: bool = False,
        pad_length: Any = None,
    ) -> None:
        """Send, or keep until the window is open; see the base, where a negative one is a crash."""
        if len(data) <= self.max_outbound_frame_size:  # else the base comes here for each part
            self._patience.sent(len(data))
        if self._is_negative(stream_id) and not self.stream_buffers.get(stream_id):
            self.stream_buffers[stream_id].append(SendH2Data(bytes(data), end_stream))
        else:
            super().send_data(stream_id, bytes(data), end_stream, pad_length)

    def _is_negative(self, stream_id: int) -> bool:
        return bool(super().local_flow_control_window(stream_id) < 0)

    def receive_data(self, data: bytes) -> list[h2.events.Event]:
        """Take in what the client sent; see the base."""
        self._window_grew = False
        try:
            received: list[h2.events.Event] = super().receive_data(data)
        except OutOfPatience:
            return [TooMuch()]
        if self._window_grew:
            super().connection_window_updated()
        return received

    def _receive_frame(self, frame: hyperframe.frame.Frame) -> list[h2.events.Event]:
        received: list[h2.events.Event] = super()._receive_frame(frame)
        if self._patience.receive(frame, received):
            # Thousands of them may stand in one read, and everybody waits until it is worked off.
            raise OutOfPatience
        return received

    def connection_window_updated(self) -> None:
        """Note it: a walk over all unsent answers for each such frame is a cheap way to stop us."""
        self._window_grew = True

    def stream_window_updated(self, stream_id: int) -> bool:
        """Send what the window takes, and tell how much that was; see the base."""
        before = self.outbound_flow_control_window
        has_sent: bool = super().stream_window_updated(stream_id)
        if has_sent:
            self._on_progress(stream_id, before - self.outbound_flow_control_window)
        return has_sent


class Decoder(hpack.Decoder):
    """Empties the authority of a head that names no host or several.

    h2 would end the whole connection for it; only the one request deserves to fail.
    """

    def decode(self, data: bytes, raw: bool = False) -> Iterable[hpack.HeaderTuple]:
        fields = list(super().decode(data, raw))
        if not any(name == b":method" for name, _ in fields):
            return fields
        named = [value for name, value in fields if name in HOST_FIELDS]
        hosts = sum(name == b"host" for name, _ in fields)
        if len(set(named)) == 1 and hosts <= 1:
            return fields
        others = [field for field in fields if field[0] not in HOST_FIELDS]
        return [hpack.HeaderTuple(b":authority", b""), *others]
