"""A request names one host, and a name that servers could read in two ways reaches none of them."""

import json

import pytest

from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.scene import scene

BAD_HOSTS = [
    "evil@g",
    "g/..",
    "a b",
    "http://x",
    "",
    "g:x",
    "g:99999",
    ":80",
    "g,h",
    "g?x",
    "g#x",
    "g\\h",
    "[::1",
    "::1",
    "[g]",
    "gé",
]
GOOD_HOSTS = [
    "g",
    "g:80",
    "g:",
    "api.example.com",
    "127.0.0.1:8080",
    "[::1]",
    "[::1]:443",
    "a_b-c.",
]


@pytest.fixture(scope="module")
def play():
    with scene() as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_crashes(play):
    yield
    assert play.complaints == []


def is_bad_target(status, body) -> bool:
    return status == 400 and json.loads(body)["type"].endswith("bad-target")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_malformed_host_field_is_refused(play, host, version):
    before = play.upstream.heads
    with RawClient(play.port) as client:
        client.send(f"GET /api/free HTTP/{version}\r\nHost: {host}\r\n\r\n".encode())
        status, _, body = client.response()
        assert is_bad_target(status, body)
        assert client.is_closed()
    assert play.upstream.heads == before


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_with_or_without_a_port_is_served(play, host):
    with RawClient(play.port) as client:
        client.send(f"GET /api/free HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert client.response()[0] == 200
    with H2Client(play.port) as client:
        for name in (":authority", "host"):
            assert client.response(client.send_head(head((name, host)))).status == 200
        both = head((":authority", host), ("host", host))
        assert client.response(client.send_head(both)).status == 200


def head(*named, method="GET", scheme="https"):
    fields = [(":method", method), (":scheme", scheme), (":path", "/api/free"), *named]
    return sorted(fields, key=lambda field: not field[0].startswith(":"))


BAD_HEADS = {
    **{f"authority {host!r}": head((":authority", host)) for host in BAD_HOSTS},
    **{f"host {host!r}": head(("host", host)) for host in BAD_HOSTS},
    "authority and host differ": head((":authority", "g"), ("host", "h")),
    "authority and host differ by a port": head((":authority", "g"), ("host", "g:443")),
    "two hosts": head(("host", "g"), ("host", "g")),
    "two hosts and an authority": head((":authority", "g"), ("host", "g"), ("host", "g")),
    "no host": head(),
    "another scheme": head((":authority", "g"), scheme="ftp"),
    "an empty scheme": head((":authority", "g"), scheme=""),
}


@pytest.mark.parametrize("kind", BAD_HEADS)
def test_a_bad_h2_head_is_answered_on_its_stream_and_harms_no_other(play, kind):
    before = play.upstream.heads
    with H2Client(play.port) as client:
        stream = client.response(client.send_head(BAD_HEADS[kind]))
        assert stream.ended
        assert is_bad_target(stream.status, stream.body)
        assert play.upstream.heads == before
        assert client.response(client.request("GET", "/api/free")).status == 200
        assert client.goaway is None


def test_a_bad_h2_head_is_answered_without_a_body_to_head_and_before_an_upload(play):
    with H2Client(play.port) as client:
        stream = client.response(client.send_head(head((":authority", "a b"), method="HEAD")))
        assert (stream.status, stream.body, stream.ended) == (400, b"", True)
        assert int(stream.fields["content-length"]) > 0
        stream_id = client.send_head(head((":authority", "a b"), method="POST"), end=False)
        stream = client.response(stream_id)
        assert is_bad_target(stream.status, stream.body)
        while stream.reset is None and client.receive():
            pass
        assert stream.reset == 0
        assert client.response(client.request("GET", "/api/free")).status == 200
