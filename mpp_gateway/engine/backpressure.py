"""Stops reading from a peer whose bytes nobody may pass on, or nobody takes, for now."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from mitmproxy.connection import Connection
from mitmproxy.proxy import events

SETTLING = "settling"
BACKLOG = "backlog"
UNTAKEN_BYTES = 64 * 1024
"""So much may wait for an upstream to take it; then the sender of an upload has to wait too."""

CRUMB_BYTES = 64
"""A chunk should carry as much, on the average."""
CRUMBS = 16
"""So many smaller ones in one read make a sender slow."""
SLOW_BYTES = 1024
SLOW_S = 0.01
"""How much is read of a slow sender at once, and how long it waits before that."""


@dataclass
class UpstreamTakes(events.Event):
    """An upstream has taken most of what waited for it."""


class Reader(Protocol):
    """What the connection handler reads from."""

    async def read(self, n: int) -> bytes:
        """Return up to `n` bytes, none at the end."""
        ...


class CountingWriter:
    """Counts what is written to a client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.written_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, data: bytes) -> None:
        """Send, or keep until the client takes it; see `asyncio.StreamWriter`."""
        self.written_bytes += len(data)
        self._writer.write(data)


class GatedReader:
    """Reads only while open; the transport's own buffer then fills and TCP holds the peer back.

    Pausing the transport itself does not last: the stream reader resumes it on its own account.
    """

    def __init__(self, reader: Reader, writer: CountingWriter | None = None) -> None:
        self._reader = reader
        self._writer = writer
        self._reasons: set[str] = set()
        self._is_slow = False
        self.has_read = False
        """Whether the peer has sent anything yet."""
        self._open = asyncio.Event()
        self._open.set()

    async def read(self, n: int) -> bytes:
        """Wait for the gate, then read."""
        if self._is_slow:
            await asyncio.sleep(SLOW_S)
            n = min(n, SLOW_BYTES)
        if not self._open.is_set():
            await self._open.wait()
        data = await self._reader.read(n)
        self.has_read = True
        return data

    def has_carried(self, chunks: int, size: int) -> None:
        """Take note of the chunks in one read; of a sender of crumbs less is read at once.

        A chunk costs the same time whatever it carries, and everybody waits while one read is
        worked off. Such a sender may go on, for its chunks are sound, at a pace that leaves room.
        """
        self._is_slow = chunks > CRUMBS and size < chunks * CRUMB_BYTES

    @property
    def unsent_bytes(self) -> int:
        """How much of what we wrote waits for the peer to take it."""
        return 0 if self._writer is None else int(self._writer.transport.get_write_buffer_size())

    @property
    def taken_bytes(self) -> int:
        """How much of what we wrote the peer has taken."""
        return 0 if self._writer is None else self._writer.written_bytes - self.unsent_bytes

    def pause(self, reason: str = SETTLING) -> None:
        """Take nothing more from the peer until every reason that was given is gone."""
        self._reasons.add(reason)
        self._open.clear()

    def resume(self, reason: str = SETTLING) -> None:
        """Drop `reason`; go on if it was the last one."""
        self._reasons.discard(reason)
        if not self._reasons:
            self._open.set()


class PatientWriter:
    """Writes to one upstream; what it does not take holds up nobody.

    mitmproxy drains all sockets of a client under one lock, after every event. One upstream that
    takes nothing would keep it from reading the answers of the others, and those may be paid for.
    """

    def __init__(self, writer: asyncio.StreamWriter, tell: Callable[[], Awaitable[None]]) -> None:
        self._writer = writer
        self._tell = tell
        self._held = bytearray()
        """What came after it was full: in one piece, for a client may send it byte by byte."""
        self._waiting: asyncio.Task[None] | None = None
        writer.transport.set_write_buffer_limits(high=UNTAKEN_BYTES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    @property
    def is_full(self) -> bool:
        """Whether the upstream has to take something before more is sent to it."""
        return self._waiting is not None and not self._writer.is_closing()

    def write(self, data: bytes) -> None:
        """Send, or keep what the upstream does not take yet."""
        if self._waiting is not None:
            self._held += data
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > UNTAKEN_BYTES:
            name = "upstream takes nothing"
            self._waiting = asyncio.create_task(self._wait_until_taken(), name=name)

    async def drain(self) -> None:
        """Return at once: whoever has to wait is told so by `is_full`."""

    def write_eof(self) -> None:
        """Send the end after all that is held."""
        self._let_go()
        self._writer.write_eof()

    def close(self) -> None:
        """Close, after all that is held."""
        self._let_go()
        self._writer.close()

    def _let_go(self) -> None:
        if self._held and not self._writer.is_closing():
            self._writer.write(bytes(self._held))
        self._held.clear()

    async def _wait_until_taken(self) -> None:
        # That it is lost is told by its reader, as for any other connection.
        with suppress(OSError):
            await self._writer.drain()
            while self._held:
                self._let_go()
                await self._writer.drain()
        self._held.clear()
        self._waiting = None
        await self._tell()


_readers: WeakKeyDictionary[Connection, GatedReader] = WeakKeyDictionary()
_writers: WeakKeyDictionary[Connection, PatientWriter] = WeakKeyDictionary()


def install(
    connection: Connection, reader: Reader, writer: CountingWriter | None = None
) -> GatedReader:
    """Put a gate before the reader of `connection`."""
    gated = _readers[connection] = GatedReader(reader, writer)
    return gated


def install_writer(
    connection: Connection, writer: asyncio.StreamWriter, tell: Callable[[], Awaitable[None]]
) -> PatientWriter:
    """Let nobody wait for the upstream at `connection`; `tell` is called when it takes again."""
    patient = _writers[connection] = PatientWriter(writer, tell)
    return patient


def is_full(connection: Connection) -> bool:
    """Whether an upstream holds its sender up, by taking nothing of what waits for it."""
    writer = _writers.get(connection)
    return writer is not None and writer.is_full


def unsent_bytes(connection: Connection) -> int:
    """Return how much of what was written to `connection` its peer has not taken yet."""
    reader = _readers.get(connection)
    return 0 if reader is None else reader.unsent_bytes


def taken_bytes(connection: Connection) -> int:
    """Return how much of what was written to `connection` its peer has taken."""
    reader = _readers.get(connection)
    return 0 if reader is None else reader.taken_bytes


def reader_of(connection: Connection) -> GatedReader | None:
    """Return the gate of `connection`, or None where there is no such connection."""
    return _readers.get(connection)
