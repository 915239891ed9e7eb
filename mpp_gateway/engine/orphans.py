"""Paid calls whose client has left: their upstreams still have the last word on the money."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mitmproxy.connection import Client

MARGIN_S = 1.0


class Orphans:
    """Keeps a client's upstream connections open while calls of its own wait for an answer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[Client, dict[object, float]] = {}
        self._gone: dict[Client, asyncio.Event] = {}

    def __len__(self) -> int:
        return sum(map(len, self._calls.values()))

    def adopt(self, client: Client, call: object, until_s: float | None) -> None:
        """Wait for `call`, until `until_s` on the clock at the latest."""
        self._calls.setdefault(client, {})[call] = until_s or self._clock()

    def let_go(self, client: Client, call: object) -> None:
        """Wait for `call` no longer: its books are closed."""
        calls = self._calls.get(client, {})
        calls.pop(call, None)
        if not calls:
            self._calls.pop(client, None)
            if gone := self._gone.get(client):
                gone.set()

    async def outlive(self, client: Client) -> None:
        """Return when no call of `client` is left, or the last of their deadlines has passed.

        mitmproxy closes the upstream connections of a client that is gone, as soon as the hook
        that awaits this returns; its timers are gone already.
        """
        calls = self._calls.get(client)
        if not calls:
            return
        gone = self._gone[client] = asyncio.Event()
        left_s = max(calls.values()) - self._clock() + MARGIN_S
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left_s, 0)):
                    await gone.wait()
        finally:
            self._gone.pop(client, None)
            self._calls.pop(client, None)
