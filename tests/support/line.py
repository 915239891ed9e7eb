"""A TCP line to a server that can go dead, as when a host loses its power or a cable is pulled."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

START_S = 30


class Line:
    """Passes bytes on until `die` or a word that kills it; dead, it says nothing, not even goodbye.

    Who was connected when it died stays so for ever: nobody hears that anything is wrong. `heal`
    lets new connections through, and leaves the old ones dead.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = 0
        self.is_dead = False
        self._kills_before: bytes | None = None
        self._kills_after: bytes | None = None
        self._generation = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._held: list[object] = []
        """What the loop alone would forget, and with it close what is to stay dead and open."""
        self._thread = threading.Thread(target=self._main, daemon=True)

    def die(self) -> None:
        self.is_dead, self._generation = True, self._generation + 1

    def heal(self) -> None:
        self.is_dead, self._kills_before, self._kills_after = False, None, None

    def die_before(self, word: bytes) -> None:
        """Die when the client next says `word`: the server never hears it."""
        self._kills_before = word

    def die_after(self, word: bytes) -> None:
        """Die when the client has said `word`: the server hears it, and nobody hears the server."""
        self._kills_after = word

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = self._loop.run_until_complete(serving)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._held += [asyncio.current_task(), client, back]
        if self.is_dead:
            await asyncio.Event().wait()
        born = self._generation
        server, there = await asyncio.open_connection(*self._target)
        self._held += [server, there]
        await asyncio.gather(self._pump(client, there, born, asks=True),
                             self._pump(server, back, born, asks=False))  # fmt: skip

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, born: int, *, asks: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                if asks and self._kills_before and self._kills_before in data:
                    self.die()
                if self._generation != born:
                    await asyncio.Event().wait()
                sink.write(data)
                await sink.drain()
                if asks and self._kills_after and self._kills_after in data:
                    self.die()
        except OSError:
            pass
        if self._generation != born:
            await asyncio.Event().wait()
        sink.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """Lay a line to a server of this machine for the length of the block."""
    with Line("127.0.0.1", port) as line:
        yield line
