"""What is left to do for a client that has left: every call of its own comes to an end."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from mitmproxy.connection import Client
from mitmproxy.proxy import events

from mpp_gateway.engine.download import DownloadClock
from mpp_gateway.engine.limits import Limits

MARGIN_S = 1.0


@dataclass
class ClientGone(events.Event):
    """The client's connection is over. Told although `ConnectionClosed` may have said it before.

    That one gets lost when mitmproxy cancels the task that is about to tell it, and the timers that
    would have ended what is left are cancelled too.
    """


@dataclass
class UpstreamsGone(events.Event):
    """No upstream connection of the client is left either: who waits for one waits in vain."""


class Departures:
    """Knows the calls that outlive their client, and sees clients off."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[Client, dict[object, float]] = {}
        self._none_left: dict[Client, asyncio.Event] = {}

    def expect(self, client: Client) -> None:
        """See `client` off one day: a layer of ours carries its connection."""
        _expected[client] = self

    def __len__(self) -> int:
        return sum(map(len, self._calls.values()))

    def adopt(self, client: Client, call: object, until_s: float | None) -> None:
        """Let `call` outlive its client until `until_s` on the clock; may be said again."""
        calls = self._calls.setdefault(client, {})
        if until_s is not None or call not in calls:
            calls[call] = self._clock() if until_s is None else until_s

    def let_go(self, client: Client, call: object) -> None:
        """Wait for `call` no longer: its books are closed."""
        calls = self._calls.get(client, {})
        calls.pop(call, None)
        if not calls:
            self._calls.pop(client, None)
            if none_left := self._none_left.get(client):
                none_left.set()

    async def see_off(self, handler: Any) -> None:
        """End what a client that is gone has begun; runs in the hook that mitmproxy waits for.

        `handler` is mitmproxy's of this client. A stream that nobody told would keep its money
        without an owner, and its place among the unpaid bodies, for ever.
        """
        client = handler.client
        await handler.server_event(ClientGone())
        await self._outlive(client)
        # mitmproxy does just this next, and tells nobody whose connection was not up yet.
        tasks = [io.handler for io in handler.transports.values() if io.handler is not None]
        for task in tasks:
            task.cancel("client disconnected")
        if tasks:
            await asyncio.wait(tasks)
        for io in handler.transports.values():
            _close(io)
        await handler.server_event(UpstreamsGone())

    async def _outlive(self, client: Client) -> None:
        calls = self._calls.get(client)
        if not calls:
            return
        none_left = self._none_left[client] = asyncio.Event()
        try:
            while calls:
                left_s = max(calls.values()) - self._clock() + MARGIN_S
                if left_s <= 0:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await none_left.wait()
        finally:
            self._none_left.pop(client, None)
            self._calls.pop(client, None)


_expected: WeakKeyDictionary[Client, Departures] = WeakKeyDictionary()
"""Of the process: a script that is reloaded must see off the clients of its former self."""


async def see_off(handler: Any) -> None:
    """End what the client of `handler` has begun, if a layer of ours carries its connection."""
    client = handler.client
    _close(handler.transports.pop(client, None))
    departures = _expected.get(client)
    if departures is not None:
        await departures.see_off(handler)


def _close(io: Any) -> None:
    """Close a socket whose task was cancelled before it could: it would stay open for ever."""
    if io is not None and io.writer is not None:
        io.writer.close()


def abort_when_stuck(transport: asyncio.WriteTransport, limits: Limits) -> None:
    """Give up a closing connection whose peer does not take its last bytes, or only crumbs of them.

    Closing waits for them without end, and nobody counts the connection any more.
    """
    loop = asyncio.get_running_loop()
    clock = DownloadClock(loop.time(), limits)

    def look(before_bytes: int) -> None:
        unread_bytes, now_s = transport.get_write_buffer_size(), loop.time()
        clock.taken(before_bytes - unread_bytes, now_s)
        if unread_bytes and clock.deadline_s <= now_s:
            transport.abort()
        elif unread_bytes:
            loop.call_at(clock.deadline_s, look, unread_bytes)

    look(transport.get_write_buffer_size())
