"""Hooks looked up once for each set of addons, not once a request."""

import inspect
from collections.abc import Callable
from typing import Any

from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager, safecall, traverse


class HookTable(AddonManager):
    """Calls the same hooks in the same order as its base, which asks every addon for every hook.

    mitmproxy has some forty addons and eight events a request; few addons hear any one of them.
    Whatever may change who hears what empties the table.
    """

    _chain: list[Any]
    _table: dict[str, tuple[Callable[..., Any], ...]]

    def __init__(self, master: Any) -> None:
        self.forget()
        super().__init__(master)  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Look every hook up anew."""
        self._chain, self._table = [], {}

    def register(self, addon: Any) -> Any:
        """See the base. A script that was reloaded has other hooks than before."""
        self.forget()
        return super().register(addon)  # type: ignore[no-untyped-call]

    def remove(self, addon: Any) -> None:
        """See the base. Called for a reload too, before the new script is there, or fails to be."""
        self.forget()
        super().remove(addon)  # type: ignore[no-untyped-call]

    def trigger(self, event: hooks.Hook) -> None:
        """See the base. An addon may put its sub-addons in another order when options change."""
        super().trigger(event)
        self.forget()

    async def trigger_event(self, event: hooks.Hook) -> None:
        """Call every addon's hook in order; what one of them raises stops no other."""
        if self._chain != self.chain:
            self._chain, self._table = list(self.chain), {}
        found = self._table.get(event.name)
        if found is None:
            every = (getattr(addon, event.name, None) for addon in traverse(self._chain))
            found = self._table[event.name] = tuple(hook for hook in every if callable(hook))
        arguments = event.args() if found else ()
        for hook in found:
            try:
                result = hook(*arguments)
                if result is not None and inspect.isawaitable(result):
                    await result
            except exceptions.AddonHalt:
                return
            except Exception:
                with safecall():
                    raise


def install(manager: AddonManager) -> None:
    """Turn the manager of a running mitmproxy into a table, in place: others hold on to it."""
    if not isinstance(manager, HookTable):
        manager.__class__ = HookTable
        manager.forget()  # type: ignore[attr-defined]
