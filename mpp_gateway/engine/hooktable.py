"""Hooks looked up once for each chain, not once a request."""

import inspect
from collections.abc import Callable
from typing import Any

from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager, safecall, traverse


class HookTable(AddonManager):
    """mitmproxy asks every addon for every hook of every request; few of them have it."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)  # type: ignore[no-untyped-call]
        self._chain: list[Any] = []
        self._table: dict[str, tuple[Callable[..., Any], ...]] = {}

    async def trigger_event(self, event: hooks.Hook) -> None:
        """Call every addon's hook in order; what one of them raises stops no other."""
        if self._chain != self.chain:
            self._chain, self._table = list(self.chain), {}
        found = self._table.get(event.name)
        if found is None:
            every = (getattr(addon, event.name, None) for addon in traverse(self._chain))
            found = self._table[event.name] = tuple(hook for hook in every if callable(hook))
        for hook in found:
            try:
                result = hook(*event.args())
                if inspect.isawaitable(result):
                    await result
            except exceptions.AddonHalt:
                return
            except Exception:
                with safecall():
                    raise
