"""Three guards, each alone enough: whatever breaks, nothing goes upstream that was not admitted."""

from itertools import combinations

import pytest
from mitmproxy import http

from mpp_gateway.addons import host, sentinel, takeover
from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.injection import AuthInjection
from mpp_gateway.addons.payment import Payment
from mpp_gateway.addons.routing import Routing
from mpp_gateway.addons.sentinel import Sentinel
from mpp_gateway.engine.gate import gate_of
from mpp_gateway.engine.stream import GatewayStream
from mpp_gateway.gateway import admission, aiming
from mpp_gateway.gateway.steps import Deadlines, Forward
from tests.support.client import RawClient
from tests.support.scene import UPSTREAM_SECRET, Reply, eventually, marked, read_reply, scene

GUARDS = ("option", "wrapper", "verdict")
SUBSETS = [taken for size in range(len(GUARDS)) for taken in combinations(GUARDS, size)]
HOOKS = ("requestheaders", "request")
ADMISSION = (*{type(addon) for addon in build_addons()}, Sentinel)


# --- taking guards away --------------------------------------------------------------------------


def take_away_wrapper(monkeypatch):
    """Leave the admission hooks as mitmproxy would have them: what raises is logged and passed."""
    for addon in ADMISSION:
        for name in HOOKS:
            guarded = addon.__dict__.get(name)
            if hasattr(guarded, "__wrapped__"):
                monkeypatch.setattr(addon, name, bare(guarded.__wrapped__))
    monkeypatch.setattr(Sentinel, "_refuse_unaimed", staticmethod(_let_pass))


async def _let_pass(flow, gate):
    pass


def bare(hook):
    async def unguarded(self, flow):
        if not flow.response:
            await hook(self, flow, gate_of(flow))

    return unguarded


def take_away_verdict(monkeypatch):
    """Let the stream do as the stock one does: send the request wherever the flow points."""

    def whatever_the_flow_says(self):
        request = self.flow.request
        return self.gate.forward or Forward(
            scheme=request.scheme,
            host=request.host,
            port=request.port,
            method=request.method,
            target=request.path,
            headers=(("Host", "upstream.test"),),
            deadlines=Deadlines(5, 5, 5),
        )

    monkeypatch.setattr(GatewayStream, "verdict", whatever_the_flow_says)
    monkeypatch.setattr(Sentinel, "server_connect", lambda self, data: None)


async def _leave_the_mode(_listen, *, may_be_public):
    """Stand in for the takeover, which aims the user's own mode at nowhere."""


def take_away(monkeypatch, guards):
    if "option" in guards:
        monkeypatch.setattr(takeover, "take_over", _leave_the_mode)
    if "wrapper" in guards:
        take_away_wrapper(monkeypatch)
    if "verdict" in guards:
        take_away_verdict(monkeypatch)


# --- faults --------------------------------------------------------------------------------------


def raises(*_):
    raise RuntimeError("an addon is broken")


def without(kind):
    return lambda runtime: [a for a in build_addons(runtime) if not isinstance(a, kind)]


def break_stage(name, module=admission):
    return lambda monkeypatch: monkeypatch.setattr(module, name, raises)


def force_stock_layer(monkeypatch):
    for module in (host, sentinel):
        monkeypatch.setattr(module, "claim", lambda next_layer, engine: None)


def nothing(monkeypatch):
    pass


def break_reload(play):
    """Do as mitmproxy does with a script whose new text fails: the old addons go, none come."""
    addons = play.proxy.master.addons

    def remove():
        for addon in play.proxy.addons:
            addons.remove(addon)
        return [type(addon).__name__ for addon in addons.chain]

    left = play.proxy.call(remove)
    assert not {type(addon).__name__ for addon in play.proxy.addons} & set(left)
    assert (left[0], left[-1]) == ("Doorkeeper", "Sentinel")


FAULTS = {
    "routing raises": (break_stage("match"), build_addons, "paid"),
    "payment raises": (break_stage("admit"), build_addons, "paid"),
    "injection raises": (break_stage("aim", aiming), build_addons, "free"),
    "payment raises on a body": (break_stage("admit"), build_addons, "digest"),
    "injection raises on a body": (break_stage("aim", aiming), build_addons, "digest"),
    "no routing": (nothing, without(Routing), "paid"),
    "no payment": (nothing, without(Payment), "paid"),
    "no injection": (nothing, without(AuthInjection), "free"),
    "stock layer": (force_stock_layer, build_addons, "paid"),
    "reload broken": (nothing, build_addons, "paid"),
    "reload broken and stock layer": (force_stock_layer, build_addons, "paid"),
}


def befall(play, fault):
    """Let happen to the running proxy what `fault` does to it."""
    if fault.startswith("reload broken"):
        break_reload(play)


def ask(port, route) -> Reply:
    method, body = ("POST", b"x" * 100) if route == "digest" else ("GET", b"")
    pays = "Authorization: Bearer toy-1\r\n" if route == "digest" else ""
    with RawClient(port) as client:
        head = f"{method} /api/{route} HTTP/1.1\r\nHost: g\r\n{pays}"
        client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return read_reply(client)


@pytest.mark.parametrize("taken", SUBSETS, ids=lambda taken: "+".join(taken) or "none")
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_reaches_the_upstream_while_one_guard_stands(monkeypatch, fault, taken):
    break_it, addons, route = FAULTS[fault]
    take_away(monkeypatch, taken)
    break_it(monkeypatch)
    aimed = "option" in taken
    with scene(marked(), addons=addons, aim_option_at_upstream=aimed) as play:
        befall(play, fault)
        reply = ask(play.port, route)
        assert reply.status >= 400 or reply.status == 0
        assert (play.upstream.connections, play.upstream.seen) == (0, [])
        assert UPSTREAM_SECRET.encode() not in reply.everything
        assert b"marked-upstream" not in reply.everything


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_leaks_once_no_guard_stands(monkeypatch, fault):
    break_it, addons, route = FAULTS[fault]
    take_away(monkeypatch, GUARDS)
    break_it(monkeypatch)
    with scene(marked(), addons=addons, aim_option_at_upstream=True) as play:
        befall(play, fault)
        ask(play.port, route)
        assert play.upstream.heads == 1, "this fault proves nothing: it is harmless without guards"


class Keeper:
    """Keeps the flows that pass."""

    def __init__(self):
        self.flows = []

    def response(self, flow: http.HTTPFlow):
        self.flows.append(flow)


def replay(taken):
    keeper = Keeper()
    with scene(
        marked(),
        addons=lambda runtime: [*build_addons(runtime), keeper],
        aim_option_at_upstream="option" in taken,
    ) as play:
        assert ask(play.port, "free").status == 200
        assert eventually(lambda: bool(keeper.flows))
        copy = keeper.flows[0].copy()
        # The flow is as an inspector saves and loads it; metadata and all.
        loaded = http.HTTPFlow.from_state(copy.get_state())
        loaded.metadata.update(keeper.flows[0].metadata)
        play.proxy.call(lambda: play.proxy.master.commands.call("replay.client", [loaded]))
        playback = play.proxy.master.addons.get("clientplayback")
        assert eventually(lambda: playback.inflight is None and playback.count() == 0)
        assert eventually(lambda: loaded.response is not None or loaded.error is not None)
        return play.upstream.seen[1:]


@pytest.mark.parametrize("taken", SUBSETS, ids=lambda taken: "+".join(taken) or "none")
def test_a_replayed_flow_goes_nowhere_while_one_guard_stands(monkeypatch, taken):
    take_away(monkeypatch, taken)
    assert replay(taken) == []


def test_a_replayed_flow_leaks_once_no_guard_stands(monkeypatch):
    take_away(monkeypatch, GUARDS)
    (seen,) = replay(GUARDS)
    assert seen.get("authorization") is None, "even then the secret is not in the flow"


def test_a_replay_through_our_own_stream_is_refused():
    """A stream that is handed a replayed flow does not take its word for anything."""
    from mitmproxy.proxy.layers.http._events import RequestHeaders
    from mitmproxy.test import taddons, tflow

    from mpp_gateway.engine.context import Engine

    flow = tflow.tflow()
    with taddons.context() as context:
        from mitmproxy.connection import Server
        from mitmproxy.proxy.context import Context

        around = Context(flow.client_conn, context.options)
        around.server = Server(address=("127.0.0.1", 1))
        stream = GatewayStream(around, 1, Engine())
        event = RequestHeaders(1, flow.request, True, replay_flow=flow)
        (hook,) = list(stream.state_wait_for_request_headers(event))[:1]
        assert hook.args()[0].response.status_code == 403
        assert hook.args()[0] is not flow
