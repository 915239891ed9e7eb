"""Functions for `auth_hook`: what the next calls do is set by a test."""

import asyncio
import threading
import time
from collections import deque
from typing import Any

from mpp_gateway.rails.evm.facilitator_client import FacilitatorRequest

MARK = "marked-facilitator-token"
POLL_S = 0.01
GIVE_UP_S = 30

asked: list[FacilitatorRequest] = []
tokens: deque[Any] = deque()
"""What the next calls give, one each: a token, an exception, or a value; the last one stays."""
held = threading.Event()
"""While it is cleared, calls wait."""


def reset(*given: Any) -> None:
    """Let the next calls give this."""
    asked.clear()
    tokens.clear()
    tokens.extend(given or (f"Bearer {MARK}",))
    held.set()


def sign(request: FacilitatorRequest) -> Any:
    """Sign as a function that takes its time and does not know of the loop."""
    asked.append(request)
    assert held.wait(GIVE_UP_S)
    return _given()


async def sign_async(request: FacilitatorRequest) -> Any:
    """Sign as a coroutine function."""
    asked.append(request)
    end = time.monotonic() + GIVE_UP_S
    while not held.is_set() and time.monotonic() < end:  # noqa: ASYNC110 - set from a thread
        await asyncio.sleep(POLL_S)
    return _given()


def _given() -> Any:
    given = tokens.popleft() if len(tokens) > 1 else tokens[0]
    if isinstance(given, BaseException):
        raise given
    return {"Authorization": given} if isinstance(given, str) else given
