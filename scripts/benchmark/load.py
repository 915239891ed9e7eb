"""A load generator in a process of its own: a bounded number of requests over raw sockets.

Reads an order from stdin: `port`, `path`, `connections` and either `count` or `authorizations`,
one request for each; prints what came back. `collect` also prints every challenge.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

TIMEOUT_S = 120


@dataclass
class Result:
    """What all connections saw together."""

    statuses: Counter[int] = field(default_factory=Counter)
    receipts: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    challenges: list[str] = field(default_factory=list)


async def _connection(port: int, requests: Iterator[bytes], result: Result, collect: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for request in requests:
            start_s = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            fields = _fields(head)
            await _body(reader, fields)
            result.latencies_ms.append(1000 * (time.perf_counter() - start_s))
            result.statuses[int(head.split(" ", 2)[1])] += 1
            result.receipts += "payment-receipt" in fields
            if collect:
                result.challenges.append(fields["www-authenticate"])
    finally:
        writer.close()


def _fields(head: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.split("\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> None:
    if "content-length" in fields:
        await reader.readexactly(int(fields["content-length"]))
        return
    while size := int((await reader.readline()).split(b";")[0], 16):
        await reader.readexactly(size + 2)
    await reader.readline()


def _requests(order: dict) -> Iterator[bytes]:
    head = f"GET {order['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
    if "authorizations" not in order:
        return iter([f"{head}\r\n".encode()] * order["count"])
    paid = order["authorizations"]
    return iter([f"{head}Authorization: {value}\r\n\r\n".encode() for value in paid])


async def main() -> None:
    """Carry out the order."""
    order, result = json.load(sys.stdin), Result()
    requests = _requests(order)
    start_s = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        for _ in range(order["connections"]):
            group.create_task(
                _connection(order["port"], requests, result, order.get("collect", False))
            )
    elapsed_s = time.perf_counter() - start_s
    ranked = sorted(result.latencies_ms)
    answer = {
        "statuses": result.statuses,
        "receipts": result.receipts,
        "seconds": elapsed_s,
        "p50_ms": ranked[len(ranked) // 2],
        "p99_ms": ranked[len(ranked) * 99 // 100],
        "challenges": result.challenges,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    asyncio.run(main())
