"""How long `mpp-gateway pay` waits: for a head, and between the bytes of an answer."""

import asyncio
import io
import threading

import pytest

from mpp_gateway.cli import buyer, call
from mpp_gateway.cli.exits import OK, OWED
from mpp_gateway.cli.main import parser
from mpp_gateway.cli.output import CommandFailed
from tests.process.test_pay_attacks import KEY, answer, seller

PIECES = 4


class Leaping(asyncio.SelectorEventLoop):
    """A loop whose clock a test sets ahead."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Paced(io.BytesIO):
    """The stdout of a command: each piece that is printed takes `gap_s` by the loop's clock."""

    def __init__(self, loop: Leaping, gap_s: float, go_on: threading.Semaphore) -> None:
        super().__init__()
        self.pace = loop, gap_s, go_on

    def write(self, data) -> int:
        loop, gap_s, go_on = self.pace
        if data:
            loop.ahead_s += gap_s
            # After the timers: what is overdue at the new time is over before the next piece.
            loop.call_later(0, loop.call_soon, go_on.release)
        return super().write(data)


def run_paced(monkeypatch, asked, gap_s: float, go_on: threading.Semaphore) -> tuple[int, bytes]:
    loop = Leaping()
    out = Paced(loop, gap_s, go_on)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, write_through=True))
    monkeypatch.setenv("MPP_PRIVATE_KEY", KEY)
    options = parser().parse_args(["pay", f"{asked.url}/"])
    try:
        return loop.run_until_complete(buyer.pay(options)), out.getvalue()
    except CommandFailed as failed:
        return failed.code, out.getvalue()
    finally:
        go_on.release(PIECES)
        loop.close()


@pytest.mark.parametrize(
    ("gap_s", "code", "body"),
    [(call.TIMEOUT_S - 20, OK, b"piece" * PIECES), (call.TIMEOUT_S + 1, OWED, b"piece")],
)
def test_a_paid_answer_may_take_long_as_long_as_it_goes_on(gap_s, code, body, monkeypatch, capfd):
    go_on = threading.Semaphore(0)
    head = answer("200 OK", b"", "Payment-Receipt: e30", length=len(b"piece") * PIECES)

    async def paid(writer):
        writer.write(head)
        for _ in range(PIECES):
            writer.write(b"piece")
            await writer.drain()
            await asyncio.to_thread(go_on.acquire)

    with seller(paid=paid) as asked:
        ended = run_paced(monkeypatch, asked, gap_s, go_on)

    assert ended == (code, body)
    assert ("MPP_CREDENTIAL=" in capfd.readouterr().err) is (code == OWED)
