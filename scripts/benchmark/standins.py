"""Upstream and facilitator in one process, both as cheap as Python allows; prints its port.

Neither costs the process under test anything: every answer is there at once, and there is no chain
behind the facilitator. GET /counts tells what was asked, so that a bench can prove what it did.
"""

import asyncio
import json
from collections import Counter

ITEMS = [{"id": number, "name": f"item-{number}"} for number in range(10)]
TRANSACTION = "0x" + "ab" * 32
COUNTS: Counter[str] = Counter()


class StandIn(asyncio.Protocol):
    """One keep-alive connection; bodies come with a Content-Length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            size = end + 4 + _content_length(head)
            if len(self._buffer) < size:
                return
            self._buffer = self._buffer[size:]
            assert self._transport is not None
            self._transport.write(_answer(head.split(b" ", 2)[1].decode()))


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _answer(path: str) -> bytes:
    if path == "/counts":
        return _response(COUNTS)
    COUNTS[path] += 1
    return ANSWERS.get(path, ANSWERS["/"])


def _response(value: object) -> bytes:
    body = json.dumps(value).encode()
    lines = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


SETTLED = {"success": True, "transaction": TRANSACTION, "network": "eip155:31337"}
ANSWERS = {
    "/": _response({"ok": True, "items": ITEMS}),
    "/verify": _response({"isValid": True}),
    "/settle": _response(SETTLED),
}


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
