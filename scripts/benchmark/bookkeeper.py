"""One process of the ledger's benchmark: waits for a word, works, prints what it cost as JSON.

python bookkeeper.py '{"store": "sqlite:////tmp/x.db", "work": "claim", "callers": 64, …}'
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mpp_gateway.config.model import PostgresStore, SqliteStore, Store
from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.book import Claim, Claimed, ClaimRequest, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.states import State
from mpp_gateway.ledger.stores import driver_of

NOW_S = 1_800_000_000
SETTLED: dict[str, Any] = {
    "reference": "0x" + "ee" * 32,
    "receipt": (("Payment-Receipt", "r" * 200),),
    "due_s": NOW_S + 90,
}
BEAT_S = 0.001
WARM_UP = 512
CHANCE = random.Random()  # noqa: S311 - as many names as from the system, at less cost


def _store(url: str) -> Store:
    if url.startswith("sqlite:///"):
        return SqliteStore(Path(url.removeprefix("sqlite:///")))
    return PostgresStore(SecretStr(url))


def _request(payer: int) -> ClaimRequest:
    """Return what a payment of `payer` claims: names, nonces and challenges like real ones."""
    proof = f"eip3009:8453:0x{'ab' * 20}:0x{payer:040x}:0x{CHANCE.getrandbits(256):064x}"
    purse = f"eip155:8453/erc20:0x{'ab' * 20}/0x{payer:040x}"
    return ClaimRequest(
        exchange_id=f"{time.time_ns() // 1_000_000:012x}{CHANCE.getrandbits(48):012x}",
        proof_id=proof,
        rail="base",
        asset=f"eip155:8453/erc20:0x{'ab' * 20}",
        account=purse,
        payee=f"eip155:8453/erc20:0x{'ab' * 20}/0x{'ef' * 20}",
        amount_minor=10_000,
        scope="s" * 43,
        valid_until_s=NOW_S + 600,
        due_s=NOW_S + 700,
        credit_s=2_592_000,
        challenge_id=f"{CHANCE.getrandbits(256):043x}",
    )


async def _claim(books: Exchanges, request: ClaimRequest) -> Claimed:
    claimed = await books.claim(request, NOW_S)
    assert claimed.claim is Claim.FRESH
    return claimed


async def _exchange(books: Exchanges, request: ClaimRequest) -> None:
    """What a paid call writes, in its order: claim, hold, settling, settled, delivered."""
    claimed = await _claim(books, request)
    turn = Turn(claimed.exchange_id, claimed.attempt)
    assert await books.hold(turn, 10**9, claimed.seq, NOW_S)
    assert await books.move(turn, State.VERIFIED, State.SETTLING, NOW_S, due_s=NOW_S + 90)
    assert await books.move(turn, State.SETTLING, State.SETTLED, NOW_S, **SETTLED)
    assert await books.mark_delivered(turn)


async def _paid_first(books: Exchanges, request: ClaimRequest) -> None:
    """The same where money moves before the upstream is asked: hold and settling are one write."""
    claimed = await _claim(books, request)
    turn = Turn(claimed.exchange_id, claimed.attempt)
    assert await books.hold(turn, 10**9, claimed.seq, NOW_S, NOW_S + 90)
    assert await books.move(turn, State.SETTLING, State.SETTLED, NOW_S, **SETTLED)
    assert await books.mark_delivered(turn)


WORK: dict[str, Callable[[Exchanges, ClaimRequest], Awaitable[object]]] = {
    "claim": _claim,
    "exchange": _exchange,
    "paid-first": _paid_first,
}


class Pulse:
    """Looks how long the event loop did not come round: what every other call would have waited."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - before - BEAT_S)

    def stop(self) -> None:
        """End it."""
        self._task.cancel()


def _payments(order: dict, count: int) -> list[list[ClaimRequest]]:
    """Return what each caller claims, made before the clock starts: that is the buyers' work."""
    shares: list[list[ClaimRequest]] = [[] for _ in range(order["callers"])]
    for number in range(count):
        payer = number % len(shares)
        shares[payer].append(_request(payer))
    return shares


async def _all(books: Exchanges, order: dict, shares: list[list[ClaimRequest]]) -> list[float]:
    work, waits = WORK[order["work"]], []

    async def caller(share: list[ClaimRequest]) -> None:
        for request in share:
            began = time.perf_counter()
            await work(books, request)
            waits.append(time.perf_counter() - began)

    await asyncio.gather(*map(caller, shares))
    return waits


async def run(order: dict) -> dict[str, float]:
    """Do the work of `order`; return what it cost."""
    database = Database(driver_of(_store(order["store"])), MIGRATIONS)
    database.open()
    books = Exchanges(database, "benchmark")
    await _all(books, order, _payments(order, min(WARM_UP, order["count"])))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    shares = _payments(order, order["count"])
    pulse = Pulse()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    waits = sorted(await _all(books, order, shares))
    took_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    pulse.stop()
    await database.close()
    return {
        "took_s": took_s,
        "cpu_us": used_s * 1e6 / order["count"],
        "p50_ms": waits[len(waits) // 2] * 1e3,
        "longest_ms": waits[-1] * 1e3,
        "stall_ms": pulse.longest_s * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))), flush=True)
