"""An HTTP/2 client over TLS that sees every frame's effect; nothing is verified."""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions


@dataclass
class Stream:
    """What came back for one request."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    interim: list[int] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    trailers: dict[str, str] = field(default_factory=dict)


def tls_context(*alpn: str) -> ssl.SSLContext:
    # Not the default context: it reads all the authorities of the machine, and none is asked.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class H2Client:
    """One connection. With `takes_all` off each stream takes its first 64 KiB and no more."""

    def __init__(self, port: int, *, timeout_s: float = 60, takes_all: bool = True) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket = tls_context("h2").wrap_socket(raw, server_hostname="gateway.test")
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self.h2 = h2.connection.H2Connection(config)
        self.takes_all = takes_all
        self.streams: dict[int, Stream] = {}
        self.closed = False
        self.goaway: int | None = None
        self.pongs = 0
        self.h2.initiate_connection()
        if not takes_all:
            self.h2.increment_flow_control_window(2**24)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            try:
                self.socket.sendall(data)
            except (ConnectionError, ssl.SSLError):
                self.closed = True

    def request(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        end: bool = True,
    ) -> int:
        head = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "gateway.test"),
            (":path", target),
            *((name.lower(), value) for name, value in headers),
        ]
        return self.send_head(head, end=end)

    def send_head(self, head: Sequence[tuple[str, str]], *, end: bool = True) -> int:
        """Open a stream with the fields as they are, sound or not."""
        self.h2.config.validate_outbound_headers = False
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, head, end_stream=end)
        self.streams[stream_id] = Stream()
        self.flush()
        return stream_id

    def upload(self, stream_id: int, data: bytes, *, end: bool = True) -> int:
        """Send as much of `data` as the gateway takes until it answers; return how much."""
        sent = 0
        stream = self.streams[stream_id]
        while sent < len(data) and not stream.ended and stream.reset is None and not self.closed:
            window = min(
                self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size
            )
            if window <= 0:
                self.receive()
                continue
            part = data[sent : sent + window]
            try:
                self.h2.send_data(stream_id, part)
            except h2.exceptions.ProtocolError:
                break
            sent += len(part)
            self.flush()
        if end and sent == len(data) and not stream.ended and stream.reset is None:
            self.h2.end_stream(stream_id)
            self.flush()
        return sent

    def receive(self) -> bool:
        """Take in one read; False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionError, ssl.SSLError):
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self._event(event)
        self.flush()
        return True

    def _event(self, event: h2.events.Event) -> None:  # noqa: C901 - one case for each event
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0, Stream())
        match event:
            case h2.events.InformationalResponseReceived():
                stream.interim.append(int(dict(event.headers)[":status"]))
            case h2.events.ResponseReceived():
                for name, value in event.headers:
                    if name == ":status":
                        stream.status = int(value)
                    elif name in stream.fields:
                        stream.fields[name] += "\n" + value
                    else:
                        stream.fields[name] = value
            case h2.events.DataReceived():
                stream.body += event.data
                if self.takes_all:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                stream.trailers = dict(event.headers)
            case h2.events.StreamEnded():
                stream.ended = True
            case h2.events.StreamReset():
                stream.reset = event.error_code
            case h2.events.PingAckReceived():
                self.pongs += 1
            case h2.events.ConnectionTerminated():
                self.goaway = event.error_code

    def open_window(self, stream_id: int, size: int) -> None:
        self.h2.increment_flow_control_window(size, stream_id)
        self.h2.increment_flow_control_window(size)
        self.flush()

    def reset(self, stream_id: int) -> None:
        self.h2.reset_stream(stream_id, 8)
        self.flush()

    def ping(self, then: bytes = b"") -> None:
        """Wait until the gateway has read all so far, and what it gets in the same record."""
        answered = self.pongs + 1
        self.h2.ping(b"8 octets")
        self.socket.sendall(self.h2.data_to_send() + then)
        while self.pongs < answered:
            assert self.receive(), "the gateway hung up"

    def head(self, stream_id: int) -> Stream:
        stream = self.streams[stream_id]
        while not stream.status and stream.reset is None and self.receive():
            pass
        return stream

    def response(self, stream_id: int) -> Stream:
        """Return the stream once it has ended, was reset, or the connection is gone."""
        stream = self.streams[stream_id]
        while not stream.ended and stream.reset is None and self.receive():
            pass
        return stream

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
