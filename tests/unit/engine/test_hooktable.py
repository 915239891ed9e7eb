"""The hook table calls what mitmproxy's own manager would call, in the same order."""

import asyncio
from types import SimpleNamespace

import pytest
from mitmproxy import exceptions, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.test import tflow

from mpp_gateway.engine.hooktable import HookTable


class Recorder:
    def __init__(self, name, heard, error=None):
        self.name = name
        self.heard = heard
        self.error = error

    async def request(self, flow):
        self.heard.append(self.name)
        if self.error:
            raise self.error


class Plain(Recorder):
    def request(self, flow):
        self.heard.append(self.name)


def manager(kind, addons):
    master = SimpleNamespace(options=options.Options(), commands=None, should_exit=None)
    made = kind(master)
    made.chain = list(addons)
    return made


@pytest.mark.parametrize("kind", [AddonManager, HookTable])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ["a", "b", "inner", "c"]),
        (ValueError("bug"), ["a", "b", "inner", "c"]),
        (exceptions.AddonHalt(), ["a"]),
    ],
)
def test_the_table_calls_as_the_stock_manager_does(kind, error, expected):
    heard = []
    nested = SimpleNamespace(addons=[Plain("inner", heard)])
    addons = [Recorder("a", heard, error), Plain("b", heard), nested, Recorder("c", heard)]
    made = manager(kind, addons)

    asyncio.run(made.trigger_event(HttpRequestHook(tflow.tflow())))

    assert heard == expected


def test_an_addon_that_comes_later_is_called_too():
    heard = []
    made = manager(HookTable, [Plain("a", heard)])
    asyncio.run(made.trigger_event(HttpRequestHook(tflow.tflow())))
    made.chain.append(Plain("b", heard))

    asyncio.run(made.trigger_event(HttpRequestHook(tflow.tflow())))

    assert heard == ["a", "a", "b"]
