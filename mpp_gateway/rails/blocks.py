"""A chain read as history: the block of a time, and long ranges of blocks window by window."""

from collections.abc import AsyncIterator, Awaitable, Callable

from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

LOG_WINDOWS = (5_000, 500, 50)
"""Blocks in one question about logs, the most first: public nodes cap the range differently."""

WINDOWS_MAX = 40
"""How many windows back something is looked for: with the widest about five days of a two-second
chain."""


async def first_block_at(unix_s: int, height: int, time_of: Callable[[int], Awaitable[int]]) -> int:
    """Return the first block of that time or later, found by halves; `height` if none is.

    Errors: those of `time_of`.
    """
    low, high = 0, height
    while low < high:
        middle = (low + high) // 2
        if await time_of(middle) < unix_s:
            low = middle + 1
        else:
            high = middle
    return low


async def by_windows[T](
    ask: Callable[[int, int], Awaitable[T]], first: int, last: int
) -> AsyncIterator[tuple[int, T]]:
    """Yield the last block of each window and what `ask(first, last)` said of it.

    A window that a node refuses is made smaller for all that follow: nodes cap the blocks of one
    question, and what an answer may weigh. Errors: `RpcFailed`, `RpcRefused` at the smallest.
    """
    windows = list(LOG_WINDOWS)
    while first <= last:
        end = min(first + windows[0] - 1, last)
        try:
            found = await ask(first, end)
        except (RpcFailed, RpcRefused):
            if len(windows) == 1:
                raise
            windows.pop(0)
            continue
        yield end, found
        first = end + 1


async def search_back[T](ask: Callable[[int, int], Awaitable[T | None]], last: int) -> T | None:
    """Return what `ask(first, last)` finds first, from block `last` back; None if it finds nothing.

    Errors: those of `ask`; a window that a node refuses is made smaller for all that follow.
    """
    windows = list(LOG_WINDOWS)
    for _ in range(WINDOWS_MAX + len(windows)):
        if not windows or last < 0:
            break
        first = last - windows[0]
        try:
            found = await ask(first, last)
        except RpcRefused:
            windows.pop(0)
            continue
        if found is not None:
            return found
        last = first - 1
    return None
