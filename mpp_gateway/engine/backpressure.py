"""Stops reading from a peer whose bytes nobody may pass on, or nobody takes, for now."""

import asyncio
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from mitmproxy.connection import Connection

SETTLING = "settling"
BACKLOG = "backlog"


class Reader(Protocol):
    """What the connection handler reads from."""

    async def read(self, n: int) -> bytes:
        """Return up to `n` bytes, none at the end."""
        ...


class GatedReader:
    """Reads only while open; the transport's own buffer then fills and TCP holds the peer back.

    Pausing the transport itself does not last: the stream reader resumes it on its own account.
    """

    def __init__(self, reader: Reader, writer: Any = None) -> None:
        self._reader = reader
        self._writer = writer
        self._reasons: set[str] = set()
        self.has_read = False
        """Whether the peer has sent anything yet."""
        self._open = asyncio.Event()
        self._open.set()

    async def read(self, n: int) -> bytes:
        """Wait for the gate, then read."""
        if not self._open.is_set():
            await self._open.wait()
        data = await self._reader.read(n)
        self.has_read = True
        return data

    @property
    def unsent_bytes(self) -> int:
        """How much of what we wrote waits for the peer to take it."""
        return 0 if self._writer is None else int(self._writer.transport.get_write_buffer_size())

    def pause(self, reason: str = SETTLING) -> None:
        """Take nothing more from the peer until every reason that was given is gone."""
        self._reasons.add(reason)
        self._open.clear()

    def resume(self, reason: str = SETTLING) -> None:
        """Drop `reason`; go on if it was the last one."""
        self._reasons.discard(reason)
        if not self._reasons:
            self._open.set()


_readers: WeakKeyDictionary[Connection, GatedReader] = WeakKeyDictionary()


def install(connection: Connection, reader: Reader, writer: Any = None) -> GatedReader:
    """Put a gate before the reader of `connection`."""
    gated = _readers[connection] = GatedReader(reader, writer)
    return gated


def unsent_bytes(connection: Connection) -> int:
    """Return how much of what was written to `connection` its peer has not taken yet."""
    reader = _readers.get(connection)
    return 0 if reader is None else reader.unsent_bytes


def reader_of(connection: Connection) -> GatedReader | None:
    """Return the gate of `connection`, or None where there is no such connection."""
    return _readers.get(connection)
