"""An upstream over real sockets whose answers a test writes byte for byte."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
START_S = 60


@dataclass
class Seen:
    """One request that reached the upstream."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    connection: int = 0
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


type Respond = Callable[[Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]


class Upstream:
    """Counts and keeps what arrives. `respond` writes the answer; True keeps the connection."""

    def __init__(
        self, respond: Respond | bytes = OK, *, read_body: bool = True, ssl=None, port: int = 0
    ) -> None:
        self.seen: list[Seen] = []
        self.heads = 0
        self.connections = 0
        self.port = port
        self._respond = respond
        self._read_body = read_body
        self._ssl = ssl
        self._serving: set[asyncio.Task[None] | None] = set()
        """While it reads no more, nobody else knows of a connection: it would be collected."""
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> "Upstream":
        self._thread.start()
        assert self._ready.wait(START_S)
        return self

    def stop(self) -> None:
        if self._loop and self._stop:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._ssl)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def _exchange(self, reader, writer, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads += 1
        first, *lines = head[:-4].split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = [
            tuple(line.split(": ", 1)) if ": " in line else (line.rstrip(":"), "") for line in lines
        ]
        seen = Seen(method, target, headers, connection=number)
        if self._read_body:
            await _body(seen, reader)
        self.seen.append(seen)
        if isinstance(self._respond, bytes):
            writer.write(self._respond)
            await writer.drain()
            return True
        return bool(await self._respond(seen, reader, writer))


async def _body(seen: Seen, reader: asyncio.StreamReader) -> None:
    length = seen.get("content-length")
    if length:
        seen.body = await reader.readexactly(int(length))
    elif "chunked" in (seen.get("transfer-encoding") or ""):
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                break
            seen.body += await reader.readexactly(size)
            await reader.readexactly(2)
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().strip().partition(": ")
            seen.trailers.append((name, value))


def answering(raw: bytes, *, keep: bool = False) -> Respond:
    """Return a responder that writes `raw` and then closes, or keeps the connection."""

    async def respond(_: Seen, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        await writer.drain()
        return keep

    return respond


@contextmanager
def upstream(respond: Respond | bytes = OK, **more):
    """Run an upstream for the length of the block."""
    server = Upstream(respond, **more).start()
    try:
        yield server
    finally:
        server.stop()
