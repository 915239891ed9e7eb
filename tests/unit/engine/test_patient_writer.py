"""What an upstream does not take waits for it, and nobody waits with it."""

import asyncio
import socket

from mpp_gateway.engine.backpressure import PatientWriter

PIECE = b"x" * 65536
LAST = b"last"


class Line:
    """A writer of ours and the socket at its other end."""

    async def __aenter__(self):
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        _, writer = await asyncio.open_connection(sock=ours)
        self.told = asyncio.Event()
        self.writer = PatientWriter(writer, self.tell)
        return self

    async def tell(self):
        self.told.set()

    def fill(self) -> int:
        sent = 0
        while not self.writer.is_full:
            self.writer.write(PIECE)
            sent += len(PIECE)
        return sent

    async def take(self, size) -> bytes:
        loop, taken = asyncio.get_running_loop(), b""
        while len(taken) < size and (more := await loop.sock_recv(self.peer, 1 << 20)):
            taken += more
        return taken

    async def __aexit__(self, *_):
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()
        self.writer.close()
        self.peer.close()


def run(test) -> None:
    async def in_line():
        async with Line() as line, asyncio.timeout(10):
            await test(line)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left)
        assert [task.exception() for task in left] == [None] * len(left)

    asyncio.run(in_line())


def test_draining_waits_for_nobody():
    async def test(line):
        line.fill()
        await line.writer.drain()
        assert line.writer.is_full
        assert not line.told.is_set()

    run(test)


def test_what_is_held_follows_in_its_order_and_the_news_at_once():
    async def test(line):
        sent = line.fill()
        for number in range(256):
            line.writer.write(bytes([number]) * 1000)
        taken = await line.take(sent + 256_000)
        assert taken[sent:] == b"".join(bytes([number]) * 1000 for number in range(256))
        # No clock is waited for: a few turns of the loop are enough.
        for _ in range(5):
            await asyncio.sleep(0)
        assert line.told.is_set()
        assert not line.writer.is_full

    run(test)


def test_the_end_follows_what_is_held():
    async def test(line):
        sent = line.fill()
        line.writer.write(LAST)
        line.writer.write_eof()
        assert (await line.take(sent + len(LAST) + 1)).endswith(LAST)

    run(test)


def test_a_close_follows_what_is_held():
    async def test(line):
        sent = line.fill()
        line.writer.write(LAST)
        line.writer.close()
        assert not line.writer.is_full
        assert (await line.take(sent + len(LAST) + 1)).endswith(LAST)

    run(test)


def test_an_upstream_that_is_lost_is_waited_for_no_longer():
    async def test(line):
        line.fill()
        line.writer.write(LAST)
        line.peer.close()
        await line.told.wait()
        assert not line.writer.is_full

    run(test)


def test_an_upstream_that_is_given_up_is_waited_for_no_longer():
    async def test(line):
        line.fill()
        line.writer.write(LAST)
        line.writer.transport.abort()
        await line.told.wait()
        assert line.writer.transport.get_write_buffer_size() == 0

    run(test)
