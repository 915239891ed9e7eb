"""The hook table calls what mitmproxy's own manager would call, in the same order."""

import asyncio
from types import SimpleNamespace

import pytest
from mitmproxy import exceptions, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.test import taddons, tflow

from mpp_gateway.engine.hooktable import HookTable, install


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


def call(made):
    asyncio.run(made.trigger_event(HttpRequestHook(tflow.tflow())))


def test_a_manager_in_use_becomes_a_table():
    heard = []
    made = manager(AddonManager, [Plain("a", heard)])
    install(made)

    call(made)

    assert type(made) is HookTable
    assert heard == ["a"]


class Loader:
    """As mitmproxy's script addons: what is below it changes while it stays."""

    name = "loader"

    def __init__(self):
        self.addons = []


@pytest.mark.parametrize("kind", [AddonManager, HookTable])
def test_a_reloaded_script_is_heard_and_its_old_self_is_not(kind):
    heard = []
    with taddons.context() as context:
        made = context.master.addons
        if kind is HookTable:
            install(made)
        loader, old, new = Loader(), Plain("old", heard), Plain("new", heard)
        made.add(loader)
        made.register(old)
        loader.addons = [old]
        call(made)
        made.remove(old)
        loader.addons = []
        call(made)
        made.register(new)
        loader.addons = [new]
        call(made)

    assert heard == ["old", "new"]


def test_an_order_that_changes_with_an_option_is_followed():
    heard = []
    with taddons.context() as context:
        made = context.master.addons
        install(made)
        loader, a, b = Loader(), Plain("a", heard), Plain("b", heard)
        loader.addons = [a, b]
        loader.configure = lambda updated: loader.addons.reverse()
        made.add(loader)
        call(made)
        context.options.update(http2=False)
        call(made)

    assert heard == ["a", "b", "b", "a"]
