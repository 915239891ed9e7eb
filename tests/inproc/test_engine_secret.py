"""The upstream's secret is on the wire to the upstream and nowhere else."""

import json

import pytest
from mitmproxy import flow as mitmflow
from mitmproxy import io

from mpp_gateway.addons.build import build_addons
from tests.support.scene import UPSTREAM_SECRET, VERSIONS, call, eventually, marked, paying, scene

MARK = UPSTREAM_SECRET.encode()
EVENTS = ("requestheaders", "request", "responseheaders", "response", "error")


class Recorder:
    """Takes the state of every flow in every hook, as a dump or an inspector would."""

    def __init__(self):
        self.states = []
        for name in EVENTS:
            setattr(self, name, self._take)

    def _take(self, flow: mitmflow.Flow) -> None:
        self.states.append(repr(flow.get_state()) + repr(flow.__dict__) + repr(vars(flow.request)))


async def breaks_off(_, __, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
    await writer.drain()
    return False


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("respond", [marked(), b"garbage\r\n\r\n", breaks_off])
def test_no_flow_no_dump_and_no_log_line_holds_the_upstream_secret(version, respond, tmp_path):
    recorder, dump = Recorder(), tmp_path / "flows"
    with scene(
        respond,
        addons=lambda runtime: [*build_addons(runtime), recorder],
        save_stream_file=str(dump),
    ) as play:
        call(version, play.port, "GET", "/api/free")
        call(version, play.port, "GET", "/api/paid", paying())
        call(version, play.port, "POST", "/api/digest", paying("toy-2"), body=b"hello")
        assert eventually(lambda: play.clients == 0)
        sent = [seen.get("authorization") for seen in play.upstream.seen]
        assert sent == [f"Bearer {UPSTREAM_SECRET}"] * 3, "else this test proves nothing"
        log = list(play.proxy.log)
    assert len(recorder.states) > 6
    assert not [state for state in recorder.states if UPSTREAM_SECRET in state]
    assert not [line for line in log if UPSTREAM_SECRET in line]
    raw = dump.read_bytes()
    assert MARK not in raw
    with dump.open("rb") as file:
        assert len(list(io.FlowReader(file).stream())) == 3


def test_no_page_of_the_inspector_shows_the_upstream_secret():
    from mitmproxy.tools.web.app import flow_to_json

    kept = []

    class Inspector:
        def response(self, flow):
            kept.append(json.dumps(flow_to_json(flow), default=repr))

    with scene(marked(), addons=lambda runtime: [*build_addons(runtime), Inspector()]) as play:
        assert call("http/1.1", play.port, "GET", "/api/paid", paying()).status == 200
        assert eventually(lambda: bool(kept))
        assert play.upstream.seen[0].get("authorization") == f"Bearer {UPSTREAM_SECRET}"
    assert UPSTREAM_SECRET not in kept[0]
