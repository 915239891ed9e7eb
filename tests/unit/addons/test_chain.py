"""The chain passes every hook of its links on: one that it forgot would be a missing guard."""

from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.chain import HOOKS, Chain

NOT_HOOKS = {"runtime", "library", "opening"}


def test_every_hook_of_every_link_is_passed_on():
    public = {
        name
        for link in build_addons()
        for name in dir(link)
        if not name.startswith("_") and callable(getattr(link, name)) and name not in NOT_HOOKS
    }
    assert public
    assert public <= set(HOOKS)
    assert all(callable(getattr(Chain, hook)) for hook in HOOKS)
