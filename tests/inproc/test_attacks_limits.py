"""Whoever does not pay is slowed down; nobody can be slowed for another, or lose money by it."""

import contextlib
import json

import pytest

from mpp_gateway.addons.build import build_addons
from mpp_gateway.rails.base import Settlement
from tests.support.client import RawClient
from tests.support.h2client import H2Client
from tests.support.paid import PRICE, paid_gateway, refused
from tests.support.scene import VERSIONS, call, eventually, paying, scene
from tests.support.toy_rail import ToyRail

PER_MINUTE = 3
A_TOKEN_MS = 20_000
BUYER, OTHER = "203.0.113.7", "203.0.113.8"
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Elsewhere:
    """Makes every connection one from `peer`; empty: from where it is."""

    def __init__(self):
        self.peer = BUYER

    def client_connected(self, client):
        if self.peer:
            client.peername = (self.peer, 4711)


class Limited:
    """A gateway with a limit, seen from the internet, on a clock that a test moves."""

    def __init__(self, play, elsewhere, clock):
        self.play = play
        self._elsewhere = elsewhere
        self._clock = clock

    def come_from(self, peer):
        self._elsewhere.peer = peer

    def wait(self, ms):
        self._clock[0] += ms

    def ask(self, version, *headers, method="GET", target="/api/paid", body=b""):
        return call(version, self.play.port, method, target, *headers, body=body)

    def exhaust(self, version, *headers):
        """Ask for the price until there is no token left."""
        for _ in range(PER_MINUTE):
            if self.ask(version, *headers).status == 429:
                return
        expect_429(self.ask(version, *headers))

    @property
    def is_untouched(self):
        return not (self.play.upstream.seen or self.play.rail.verified or self.play.rail.settled)


@contextlib.contextmanager
def limited(respond=OK, *, limits=f"unpaid_per_minute: {PER_MINUTE}", more="", **options):
    elsewhere, clock = Elsewhere(), [1_000_000]
    more = "\n".join(line for line in (f"limits: {{{limits}}}", more) if line)
    with scene(
        respond,
        more=more,
        addons=lambda runtime: [*build_addons(runtime), elsewhere],
        ticker=lambda: clock[0],
        **options,
    ) as play:
        yield Limited(play, elsewhere, clock)


def expect_429(reply, retry_after_s=None):
    problem = json.loads(reply.body)
    assert (reply.status, problem["status"]) == (429, 429)
    assert problem["type"] == "urn:mpp-gateway:problem:too-many-requests"
    assert "www-authenticate" not in reply.fields
    assert reply.fields["cache-control"] == "no-store"
    assert retry_after_s in {None, int(reply.fields["retry-after"])}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flood_of_unpaid_requests_gets_429_until_time_has_passed(version):
    with limited() as gateway:
        for _ in range(PER_MINUTE):
            assert gateway.ask(version).status == 402
        expect_429(gateway.ask(version), 20)
        gateway.wait(A_TOKEN_MS - 1)
        expect_429(gateway.ask(version), 1)
        gateway.wait(1)
        assert gateway.ask(version).status == 402
        expect_429(gateway.ask(version), 20)
        gateway.come_from(OTHER)
        assert gateway.ask(version).status == 402
        assert gateway.is_untouched


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flood_on_one_connection_is_one_clients_too(version):
    with limited() as gateway:
        if version == "h2":
            with H2Client(gateway.play.port) as client:
                streams = [client.request("GET", "/api/paid") for _ in range(10)]
                found = [client.response(stream).status for stream in streams]
        else:
            with RawClient(gateway.play.port) as client:
                client.send(b"GET /api/paid HTTP/1.1\r\nHost: g\r\n\r\n" * 10)
                found = [client.response()[0] for _ in range(10)]
        assert found == [402] * PER_MINUTE + [429] * (10 - PER_MINUTE)


@pytest.mark.parametrize("version", VERSIONS)
def test_failing_credentials_are_stopped_before_a_rail_or_the_store_sees_them(version):
    with limited(rail=ToyRail(verify_refuses=True)) as gateway:
        for number in range(PER_MINUTE):
            assert gateway.ask(version, paying(f"toy-{number}")).status == 402
        for number in range(PER_MINUTE, 3 * PER_MINUTE):
            expect_429(gateway.ask(version, paying(f"toy-{number}")))
            assert gateway.play.state(f"toy-{number}") is None
        assert len(gateway.play.rail.verified) == PER_MINUTE
        assert gateway.play.upstream.seen == []


@pytest.mark.parametrize("facilitator", [False, True])
def test_failing_payments_are_stopped_before_a_node_or_a_facilitator_is_asked(
    tmp_path, facilitator
):
    more = f"trusted_proxies: [127.0.0.1]\nlimits: {{unpaid_per_minute: {PER_MINUTE}}}"
    attacker = f"X-Forwarded-For: {BUYER}"
    options = {"facilitator": facilitator, "with_rpc": not facilitator, "more": more}
    with paid_gateway(tmp_path, **options) as gateway:
        # Asked for by others: an attacker's own 402s would use up its tokens.
        credentials = [
            gateway.sign(gateway.challenge("/api/paid", f"X-Forwarded-For: 198.51.100.{n}"))
            for n in range(2 * PER_MINUTE)
        ]
        gateway.move_money_away()
        asked = gateway.node.calls
        if gateway.facilitator:
            gateway.facilitator.fault, asked = "error:insufficient_funds", gateway.facilitator.asked
        asked.clear()
        for credential in credentials[:PER_MINUTE]:
            refused(gateway.send(credential, "/api/paid", attacker), "payment-insufficient")
        before = len(asked)
        assert before >= PER_MINUTE
        for credential in credentials[PER_MINUTE:]:
            answer = gateway.send(credential, "/api/paid", attacker)
            refused(answer, "too-many-requests", 429)
        assert len(asked) == before
        gateway.untouched(released=PER_MINUTE)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_a_buyer_who_pays_is_never_slowed(version, target):
    with limited() as gateway:
        for number in range(4 * PER_MINUTE):
            assert gateway.ask(version, target=target).status == 402
            assert gateway.ask(version, paying(f"toy-{number}"), target=target).status == 200
        assert len(gateway.play.rail.settled) == 4 * PER_MINUTE


@pytest.mark.parametrize("version", VERSIONS)
def test_a_buyer_who_pays_is_slowed_by_what_it_did_not_pay(version):
    with limited() as gateway:
        assert gateway.ask(version, paying("toy-1")).status == 200
        gateway.exhaust(version)
        expect_429(gateway.ask(version, paying("toy-2")))
        assert gateway.play.state("toy-2") is None
        gateway.wait(A_TOKEN_MS)
        assert gateway.ask(version, paying("toy-2")).status == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_a_call_that_the_upstream_failed_counts_as_unpaid(version):
    """Else one funded key asks an upstream for errors, and a node for balances, without end."""
    with limited(BROKEN) as gateway:
        for _ in range(PER_MINUTE):
            assert gateway.ask(version, paying("toy-1")).status == 500
            assert gateway.play.ends_as("toy-1", "released")
        expect_429(gateway.ask(version, paying("toy-1")))
        assert len(gateway.play.upstream.seen) == PER_MINUTE
        assert gateway.play.state("toy-1") == "released"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_credit_survives_a_refusal_by_the_limit_and_is_served_later(version):
    answers = [BROKEN]

    async def respond(_, __, writer):
        writer.write(answers[-1])
        await writer.drain()
        return True

    with limited(respond) as gateway:
        assert gateway.ask(version, paying(), target="/api/first").status == 502
        assert gateway.play.ends_as("toy-1", "credited")
        gateway.exhaust(version)
        answers.append(OK)
        for _ in range(3):
            expect_429(gateway.ask(version, paying(), target="/api/first"))
        assert gateway.play.state("toy-1") == "credited"
        gateway.wait(A_TOKEN_MS)
        assert gateway.ask(version, paying(), target="/api/first").status == 200
        assert gateway.play.rail.settled == ["toy-1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_payment_survives_a_refusal_by_the_limit_and_is_served_later(version):
    with limited(rail=ToyRail(settle_as="unknown")) as gateway:
        assert gateway.ask(version, paying()).status == 503
        gateway.exhaust(version)
        gateway.play.rail.look_up_as = Settlement.SETTLED
        expect_429(gateway.ask(version, paying()))
        assert gateway.play.state("toy-1") == "unknown"
        gateway.wait(A_TOKEN_MS)
        assert gateway.ask(version, paying()).status == 200
        assert gateway.play.rail.settled == ["toy-1"]


def test_a_refusal_by_the_limit_moves_no_money_on_the_chain(tmp_path):
    more = f"trusted_proxies: [127.0.0.1]\nlimits: {{unpaid_per_minute: {PER_MINUTE}}}"
    with paid_gateway(tmp_path, more=more) as gateway:
        field = f"X-Forwarded-For: {BUYER}"
        credential = gateway.sign(gateway.challenge("/api/paid", field))
        while gateway.ask("/api/paid", field)[0] == 402:
            pass
        refused(gateway.send(credential, "/api/paid", field), "too-many-requests", 429)
        gateway.untouched()
        # The credential is as good as before; it is not bound to an address.
        elsewhere = gateway.send(credential, "/api/paid", f"X-Forwarded-For: {OTHER}")
        assert (elsewhere[0], gateway.balance()) == (200, PRICE)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_untrusted_client_wins_nothing_by_x_forwarded_for(version):
    with limited(more="trusted_proxies: [10.0.0.0/8]") as gateway:
        invented = [f"198.51.100.{n}" for n in range(PER_MINUTE)]
        for address in invented:
            assert gateway.ask(version, ("X-Forwarded-For", address)).status == 402
        for address in ("198.51.100.99", "127.0.0.1", "10.0.0.1", "x", f"{OTHER}, 10.0.0.2"):
            expect_429(gateway.ask(version, ("X-Forwarded-For", address)))
        # Nor has it used up what belongs to those whom it named.
        gateway.come_from(invented[0])
        assert [gateway.ask(version).status for _ in range(4)] == [402] * PER_MINUTE + [429]


@pytest.mark.parametrize("version", VERSIONS)
def test_behind_a_trusted_proxy_each_client_has_its_own_tokens_and_no_others(version):
    with limited(more="trusted_proxies: [10.0.0.0/8]") as gateway:
        gateway.come_from("10.0.0.1")
        for n in range(PER_MINUTE):
            field = ("X-Forwarded-For", f"198.51.100.{n}, {BUYER}")
            assert gateway.ask(version, field).status == 402
        for field in (BUYER, f"127.0.0.1, {BUYER}", f"{OTHER}, {BUYER}, 10.0.0.2", f"x, {BUYER}"):
            expect_429(gateway.ask(version, ("X-Forwarded-For", field)))
        assert gateway.ask(version, ("X-Forwarded-For", f"{BUYER}, {OTHER}")).status == 402
        # The same client without the proxy is the same client.
        gateway.come_from(BUYER)
        expect_429(gateway.ask(version))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_proxy_says_in_no_known_way_counts_as_its_own(version):
    with limited(more="trusted_proxies: [10.0.0.0/8]") as gateway:
        gateway.come_from("10.0.0.1")
        for fields in ([], [("X-Forwarded-For", "garbage")], [("Forwarded", f"for={OTHER}")]):
            assert gateway.ask(version, *fields).status == 402
        expect_429(gateway.ask(version, ("X-Forwarded-For", "other garbage")))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_64_of_ipv6_is_one_client_and_not_two_to_the_64(version):
    with limited() as gateway:
        for n in range(PER_MINUTE):
            gateway.come_from(f"2001:db8:0:1:{n:x}::{n:x}")
            assert gateway.ask(version).status == 402
        gateway.come_from("2001:db8:0:1:ffff::1")
        expect_429(gateway.ask(version))
        gateway.come_from("2001:db8:0:2::1")
        assert gateway.ask(version).status == 402


@pytest.mark.parametrize("version", VERSIONS)
def test_this_machine_is_not_limited_unless_it_is_named_as_a_proxy(version):
    with limited() as gateway:
        gateway.come_from("")
        field = ("X-Forwarded-For", BUYER)
        assert {gateway.ask(version, field).status for _ in range(3 * PER_MINUTE)} == {402}
    with limited(more="trusted_proxies: [127.0.0.1]") as gateway:
        gateway.come_from("")
        gateway.exhaust(version)
        assert gateway.ask(version, field).status == 402


@pytest.mark.parametrize("version", VERSIONS)
def test_what_has_no_price_is_not_counted(version):
    with limited(limits="unpaid_per_minute: 1") as gateway:
        targets = ("/api/free", "/llms.txt", "/openapi.json", "/discover", "/healthz", "/readyz")
        for target in targets * 2:
            assert gateway.ask(version, target=target).status == 200
        assert gateway.ask(version, target="/api/none").status == 404
        assert gateway.ask(version, target="/api/paid", method="DELETE").status == 405
        assert gateway.ask(version).status == 402
        expect_429(gateway.ask(version))
        assert gateway.ask(version, target="/api/free").status == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_a_limit_of_zero_is_none(version):
    with limited(limits="unpaid_per_minute: 0") as gateway:
        assert {gateway.ask(version).status for _ in range(50)} == {402}


# --- bodies that are read before the verdict -----------------------------------------------------


@contextlib.contextmanager
def uploading(version, port):
    """Begin an upload for a `digest` route and send one byte of it."""
    fields = [("content-length", "10")]
    if version == "h2":
        with H2Client(port) as client:
            stream_id = client.request("POST", "/api/digest", fields, end=False)
            client.upload(stream_id, b"x", end=False)
            yield lambda: client.response(stream_id).status
    else:
        with RawClient(port) as client:
            client.send(b"POST /api/digest HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nx")
            yield lambda: client.response()[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_body_is_not_read_for_a_client_without_a_token(version):
    with limited() as gateway:
        gateway.exhaust(version)
        with uploading(version, gateway.play.port) as answer:
            assert answer() == 429
        assert gateway.play.proxy.runtime.engine._unpaid_bodies.total() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_whose_body_is_read_first_is_counted_once(version):
    with limited() as gateway:
        upload = {"method": "POST", "target": "/api/digest", "body": b"x" * 10}
        for _ in range(PER_MINUTE):
            assert gateway.ask(version, **upload).status == 402
        expect_429(gateway.ask(version, **upload))
        gateway.wait(3 * A_TOKEN_MS)
        for number in range(2 * PER_MINUTE):
            assert gateway.ask(version, **upload).status == 402
            assert gateway.ask(version, paying(f"toy-{number}"), **upload).status == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_one_client_with_slow_uploads_does_not_take_all_places(version):
    limits = "unpaid_bodies: 4, unpaid_bodies_per_client: 2"
    with limited(limits=limits) as gateway, contextlib.ExitStack() as uploads:
        places = gateway.play.proxy.runtime.engine._unpaid_bodies
        upload = {"method": "POST", "target": "/api/digest", "body": b"x" * 10}
        for _ in range(2):
            uploads.enter_context(uploading(version, gateway.play.port))
        assert eventually(lambda: places.total() == 2)
        reply = gateway.ask(version, **upload)
        assert (reply.status, reply.fields["retry-after"]) == (503, "1")
        gateway.come_from(OTHER)
        assert gateway.ask(version, **upload).status == 402
        uploads.close()
        assert eventually(lambda: not places)
        gateway.come_from(BUYER)
        assert gateway.ask(version, **upload).status == 402
        assert eventually(lambda: not places)


def test_this_machine_has_the_places_of_all_and_no_more():
    with limited(limits="unpaid_bodies: 3, unpaid_bodies_per_client: 1") as gateway:
        gateway.come_from("")
        with contextlib.ExitStack() as uploads:
            for _ in range(3):
                uploads.enter_context(uploading("http/1.1", gateway.play.port))
            places = gateway.play.proxy.runtime.engine._unpaid_bodies
            assert eventually(lambda: places.total() == 3)
            upload = {"method": "POST", "target": "/api/digest", "body": b"x" * 10}
            assert gateway.ask("http/1.1", **upload).status == 503
