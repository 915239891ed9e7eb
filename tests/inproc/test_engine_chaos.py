"""Whatever frames a client sends: no crash, nothing kept, every payment with an owner."""

import os
import random

from tests.support.h2chaos import Chaos
from tests.support.scene import call, eventually, paying, scene
from tests.support.upstream import OK

SESSIONS = int(os.environ.get("CHAOS_SESSIONS", "60"))
FIRST_SEED = int(os.environ.get("CHAOS_SEED", "1"))
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"
OPEN = {"claimed", "verified", "settling", "unknown"}


class Moody:
    """An upstream that answers, cuts, hangs up or takes its time; seeded like the clients."""

    def __init__(self) -> None:
        self.pick = random.Random(FIRST_SEED)  # noqa: S311 - repeatable is the point

    async def __call__(self, _, reader, writer):
        mood = self.pick.random()
        if mood < 0.1:
            return False
        if mood < 0.2:
            # Silent until the gateway gives up.
            await reader.read(1)
            return False
        writer.write(HALF if mood < 0.3 else CHUNKS if mood < 0.5 else OK)
        await writer.drain()
        return mood >= 0.3


def test_no_sequence_of_frames_crashes_a_layer_or_leaves_anything_behind():
    times = "connect_s: 2, first_byte_s: 0.5, idle_s: 0.5, settle_s: 2"
    with scene(Moody(), timeouts=times) as play:
        for seed in range(FIRST_SEED, FIRST_SEED + SESSIONS):
            Chaos(seed).run(play.port)
            assert play.complaints == [], f"CHAOS_SEED={seed}"
        assert eventually(lambda: play.clients == 0)
        assert eventually(lambda: not play.open_books)
        assert eventually(lambda: not OPEN & set(play.states()))
        assert play.upstream.heads > SESSIONS
        assert eventually(
            lambda: (
                call("h2", play.port, "POST", "/api/digest", paying("toy-last"), body=b"x").status
                in {200, 502, 504}
            )
        )
