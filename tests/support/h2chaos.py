"""Sessions of random HTTP/2 frames: sound, stale, contradictory, cut off. Seeded, so repeatable."""

import random
import socket
import struct

import hpack
import hyperframe.frame as frames

from tests.support.h2client import tls_context

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CALLS = [
    ("GET", "/api/free"),
    ("POST", "/api/free"),
    ("GET", "/api/paid"),
    ("POST", "/api/paid"),
    ("GET", "/api/first"),
    ("POST", "/api/digest"),
    ("HEAD", "/api/free"),
    ("OPTIONS", "*"),
    ("GET", "/healthz"),
    ("TRACE", "/api/free"),
]
ODD_FIELDS = [("transfer-encoding", "chunked"), ("host", "other"), ("bad name", "x"), ("te", "x")]
PURSES = 100_000
INITIAL_WINDOW_SIZE = 4
PAUSE_S = 0.02


class Chaos:
    """One session of its own seed."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)  # noqa: S311 - repeatable is the point
        self.encoder = hpack.Encoder()
        self.next_id = 1

    def run(self, port: int) -> None:
        """Send it all, reading now and then, and hang up."""
        raw = socket.create_connection(("127.0.0.1", port))
        with tls_context("h2").wrap_socket(raw, server_hostname="gateway.test") as connection:
            connection.settimeout(PAUSE_S)
            out = PREFACE + self._settings(self.pick.choice([65535, 0, 5, 1000]))
            for _ in range(self.pick.randint(5, 60)):
                out += self._frame()
                if self.pick.random() < 0.3:
                    if not _exchange(connection, out):
                        return
                    out = b""
            _exchange(connection, out)

    def _frame(self) -> bytes:
        if self.next_id == 1 or self.pick.random() < 0.45:
            return self._request()
        stream_id = self.pick.randrange(1, self.next_id, 2)
        kinds = [self._data, self._reset, self._window, self._ping, self._priority, self._trailers]
        (kind,) = self.pick.choices(kinds, weights=[15, 10, 8, 4, 3, 5])
        if self.pick.random() < 0.05:
            return self._settings(self.pick.choice([0, 10, 65535, 2**20]))
        if self.pick.random() < 0.02:
            return frames.GoAwayFrame(0, last_stream_id=0, error_code=0).serialize()
        return kind(stream_id)

    def _request(self) -> bytes:
        stream_id, self.next_id = self.next_id, self.next_id + 2
        method, path = self.pick.choice(CALLS)
        head = [(":method", method), (":scheme", self.pick.choice(["https"] * 9 + ["ftp"]))]
        head += [(":authority", "gateway.test"), (":path", path)]
        if self.pick.random() < 0.6:
            head.append(("authorization", f"Bearer toy-{self.pick.randrange(PURSES)}"))
        if self.pick.random() < 0.1:
            head.append(("expect", "100-continue"))
        if self.pick.random() < 0.1:
            head.append(("content-length", self.pick.choice(["0", "3", "5"])))
        if self.pick.random() < 0.03:
            head.append(self.pick.choice(ODD_FIELDS))
        return self._head(stream_id, head, ends=self.pick.random() < 0.5)

    def _head(self, stream_id: int, head: list[tuple[str, str]], *, ends: bool) -> bytes:
        frame = frames.HeadersFrame(stream_id, data=self.encoder.encode(head))
        frame.flags.add("END_HEADERS")
        if ends:
            frame.flags.add("END_STREAM")
        return frame.serialize()

    def _data(self, stream_id: int) -> bytes:
        frame = frames.DataFrame(stream_id, data=b"x" * self.pick.choice([0, 1, 3, 5, 900, 2000]))
        if self.pick.random() < 0.5:
            frame.flags.add("END_STREAM")
        return frame.serialize()

    def _reset(self, stream_id: int) -> bytes:
        return frames.RstStreamFrame(stream_id, error_code=self.pick.choice([0, 5, 8])).serialize()

    def _window(self, stream_id: int) -> bytes:
        size = self.pick.choice([1, 100, 65535, 2**30])
        where = self.pick.choice([0, stream_id])
        return frames.WindowUpdateFrame(where, window_increment=size).serialize()

    def _ping(self, _: int) -> bytes:
        return frames.PingFrame(0, opaque_data=b"8 octets").serialize()

    def _priority(self, stream_id: int) -> bytes:
        frame = struct.pack(">I", 5)[1:] + b"\x02\x00" + struct.pack(">I", stream_id)
        return frame + struct.pack(">IB", 0, 3)

    def _trailers(self, stream_id: int) -> bytes:
        return self._head(stream_id, [("x-trailer", "1")], ends=True)

    def _settings(self, window: int) -> bytes:
        return frames.SettingsFrame(0, settings={INITIAL_WINDOW_SIZE: window}).serialize()


def _exchange(connection: socket.socket, out: bytes) -> bool:
    """Send, and read once; False when the gateway has had enough."""
    try:
        connection.sendall(out)
        connection.recv(65536)
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
