"""Attacks that an independent audit found; each was good for a free call or a double charge."""

import contextlib

import pytest

from tests.inproc.test_engine_farewells import limit
from tests.support.client import RawClient, get
from tests.support.clock import Clock
from tests.support.h2client import H2Client
from tests.support.paid import PRICE, paid_gateway, refused, wait_until
from tests.support.proxy import config_text, running
from tests.support.scene import scene
from tests.support.upstream import upstream


def test_a_length_without_a_body_cannot_smuggle_a_request(tmp_path):
    """h2 GET, END_STREAM and a length: an h1 upstream would eat the next head as the body, and
    read what is left of it as a request of its own, with our key in it."""
    with scene() as played, H2Client(played.port) as client:
        stream = client.request("GET", "/api/free", [("content-length", "47")])
        assert client.response(stream).status == 400
        assert played.upstream.seen == []


def test_a_method_in_other_letters_is_not_another_route(tmp_path):
    routes = '      "POST /paid": {charge: "0.01"}\n      "/*": free'
    with scene(routes=routes) as played:
        for method in ("post", "Post", "pOST"):
            assert get(played.port, "/api/paid", method=method)[0] == 400
        assert played.upstream.seen == []


def test_a_payment_to_one_store_buys_nothing_at_another(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with paid_gateway(first) as gateway:
        credential = gateway.buy()
        assert gateway.send(credential)[0] == 200
        hits = gateway.hits
        gateway.stop()
        config = gateway.config.replace(str(first), str(second))
        gateway.start(config)
        refused(gateway.send(credential), "invalid-challenge")
        assert (gateway.hits, gateway.balance()) == (hits, PRICE)


def test_hanging_up_on_a_prepaid_call_does_not_earn_another(tmp_path):
    """`settle: before`, ask, hang up, ask again: one payment ran the upstream without end."""
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy("/api/first")
        gateway.keeper.opened.clear()
        with RawClient(gateway.port) as client:
            client.send(
                "GET /api/first HTTP/1.1\r\nHost: gateway.test\r\n"
                f"Authorization: {credential.format()}\r\n\r\n".encode()
            )
            wait_until(lambda: gateway.hits == 1, "the upstream is asked")
        wait_until(lambda: gateway.proxy.orphans == 1, "the gateway knows that the client is gone")
        gateway.keeper.opened.set()
        wait_until(lambda: gateway.clients == 0, "the call has ended without it")
        refused(gateway.send(credential, "/api/first"), "invalid-challenge")
        assert (gateway.hits, gateway.balance(), gateway.states()) == (1, PRICE, {"settled": 1})


@pytest.mark.parametrize(
    "field",
    [
        "X-Original-URL: /paid",
        "X-Rewrite-URL: /paid",
        "X-HTTP-Method-Override: POST",
        "X_Forwarded_For: 1.2.3.4",
        "Content_Length: 3",
        "Proxy: http://evil.example",
        "Remote-User: admin",
    ],
)
def test_a_field_that_turns_the_request_into_another_never_passes(field):
    with scene() as played:
        assert get(played.port, "/api/free", field)[0] == 200
        (seen,) = played.upstream.seen
        assert seen.get(field.split(":")[0]) is None


def test_the_debug_log_of_the_host_does_not_show_the_secret():
    with scene(proxy_debug=True) as played:
        assert get(played.port, "/api/free")[0] == 200
        assert not [line for line in played.proxy.log if "marked-upstream-secret" in line]


def test_a_connection_that_says_nothing_is_given_up():
    with scene(more="limits: {head_s: 0.3}") as played, RawClient(played.port) as client:
        assert client.is_closed()
        limit(played, head_s=60)
        assert get(played.port, "/api/free")[0] == 200


def test_a_redirect_cannot_lead_away_under_our_name():
    answer = b"HTTP/1.1 302 Found\r\nLocation: %s//evil.example/x\r\nContent-Length: 0\r\n\r\n"

    async def redirect(seen, reader, writer):
        url = f"http://{seen.get('host')}".encode()
        writer.write(answer % url)
        await writer.drain()
        return True

    with scene(redirect) as played:
        status, fields, _ = get(played.port, "/api/free")
        assert (status, fields["location"]) == (302, "/api/evil.example/x")


def drained(client: H2Client) -> None:
    """Take in all that comes until the other side closes."""
    while client.receive():
        pass


def flood_of_resets(client: H2Client) -> None:
    for _ in range(400):
        client.reset(client.request("GET", "/api/free", end=False))


def flood_of_empty_data(client: H2Client) -> None:
    stream = client.request("POST", "/api/free", end=False)
    for _ in range(400):
        client.h2.send_data(stream, b"")
    client.flush()


def flood_of_pings(client: H2Client) -> None:
    for _ in range(400):
        client.h2.ping(b"12345678")
    client.flush()


@pytest.mark.parametrize("frames", [5, 300])
def test_how_many_frames_without_a_purpose_are_free_is_the_operators_choice(frames):
    limits = f"limits: {{http2_control_frames: {frames}}}"
    # The client's settings and its word that it has ours are two of them.
    for pings, is_too_many in ((frames - 2, False), (frames - 1, True)):
        with scene(more=limits) as played:
            Clock(played.proxy)  # it stands still, so none is free again meanwhile
            with H2Client(played.port) as client:
                for _ in range(pings):
                    client.h2.ping(b"12345678")
                client.flush()
                if is_too_many:
                    drained(client)
                    assert client.goaway == 11  # ENHANCE_YOUR_CALM
                else:
                    assert client.response(client.request("GET", "/api/free")).status == 200


@pytest.mark.parametrize("flood", [flood_of_resets, flood_of_empty_data, flood_of_pings])
def test_a_flood_of_frames_without_a_purpose_ends_its_connection(flood):
    with scene() as played:
        Clock(played.proxy)
        with H2Client(played.port) as client:
            with contextlib.suppress(OSError):  # it may be closed in mid-flood
                flood(client)
            drained(client)
            assert client.goaway in {11, None}  # ENHANCE_YOUR_CALM, if the close left it readable
            assert client.closed
        with H2Client(played.port) as honest:
            for _ in range(300):
                assert honest.response(honest.request("GET", "/api/free")).status == 200


TRAILERS = (
    b"X-Api-Key: theirs\r\nX_Api_Key: theirs\r\nX-Org-Id: theirs\r\nAuthorization: theirs\r\n"
    b"X-Forwarded-Host: theirs\r\nX-Sum: 7\r\n"
)


def test_a_trailer_field_steers_no_account_either(tmp_path):
    """Upstreams that merge trailers into the head would read what was stripped from it."""
    with upstream() as asked:
        services = [
            "  api:",
            f"    base_url: {asked.url}",
            "    auth: {header: {name: X-Api-Key, value: ours}}",
            "    headers: {X-Org-Id: ours}",
            "    routes: {'POST /free': free}",
        ]
        text = config_text("\n".join(services), store=tmp_path / "gateway.db")
        with running(text) as proxy, RawClient(proxy.port) as client:
            client.send(
                b"POST /api/free HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\nhi\r\n0\r\n" + TRAILERS + b"\r\n"
            )
            assert client.response()[0] == 200
        (seen,) = asked.seen
        assert seen.trailers == [("x-sum", "7")]
