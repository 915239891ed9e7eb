"""One command sells one host: no file, no prefix, and no way past the gate while it starts."""

import stat

import pytest

from mpp_gateway.config.zero import GAS_KEY_VARIABLE
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.rails.evm.payer import Purse, pay
from tests.support.client import get
from tests.support.evm import GAS_KEY, PAYEE, PAYER, PURSE_MINOR, now, settings_of
from tests.support.process import START_S, free_port, process
from tests.support.upstream import OK, upstream

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
ENVIRON = {GAS_KEY_VARIABLE: f"0x{GAS_KEY.hex()}"}
OWN_DOCUMENT = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"own":1}'
)


async def _documented(seen, _, writer):
    path = seen.target.split("?")[0]
    answer = OWN_DOCUMENT if path == "/openapi.json" else NOT_FOUND if path == "/llms.txt" else OK
    writer.write(answer)
    await writer.drain()
    return True


def command(api, chain, port, tmp_path, *doubled, **changed):
    options = {
        "charge": "0.01",
        "recipient": PAYEE,
        "network": "demo",
        "rpc_url": chain.demo.rpc_url,
        "store": tmp_path / "gateway.db",
    } | changed
    sets = [part for k, v in options.items() for part in ("--set", f"gateway_{k}={v}")]
    mode = f"reverse:{api.url}@127.0.0.1:{port}"
    return ("mitmdump", "-s", "addons/gateway.py", "--mode", mode, *sets, *doubled)


@pytest.fixture
def shop(chain, tmp_path):
    """A host sold by one command, its port, and the process."""
    port = free_port()

    with (
        upstream(_documented) as api,
        process(*command(api, chain, port, tmp_path), environ=ENVIRON) as started,
    ):
        started.wait_for_text("the gateway is open")
        started.wait_for_port(port)
        yield api, port, started


def test_one_host_is_sold_as_it_stands(shop, chain, tmp_path):
    api, port, started = shop
    served_at_start = len(api.seen)
    status, fields, _ = get(port, "/any/path?q=1")
    assert status == 402
    challenge = Challenge.parse(fields["www-authenticate"])
    assert challenge.request_object["amount"] == "10000"
    credential = pay(challenge, Purse(settings_of(chain.demo).domain, PURSE_MINOR), PAYER, now())
    before = chain.balance(PAYEE)

    status, fields, body = get(port, "/any/path?q=1", f"Authorization: {credential.format()}")

    assert (status, body) == (200, b'{"ok":true}')
    assert "payment-receipt" in fields
    assert chain.balance(PAYEE) - before == 10_000
    assert [seen.target for seen in api.seen[served_at_start:]] == ["/any/path?q=1"]
    assert f"selling {api.url} at 0.01 a call" in started.output()
    assert "Traceback" not in started.output()


def test_the_secret_is_made_once_and_is_the_owners_alone(shop, tmp_path):
    secret = tmp_path / "gateway.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_text().strip()) == 64


def test_our_documents_stand_aside_for_the_upstreams_own(shop):
    _, port, _ = shop
    status, _, body = get(port, "/.well-known/mpp-gateway/openapi.json")
    assert status == 200
    assert b"x-payment-info" in body
    assert get(port, "/openapi.json")[2] == b'{"own":1}'
    status, fields, body = get(port, "/llms.txt")
    assert (status, fields["content-type"].split(";")[0]) == (200, "text/plain")
    assert b"0.01" in body


def test_the_documents_stay_those_of_an_upstream_that_was_down_at_the_start(chain, tmp_path):
    port = free_port()
    own = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nown"
    with upstream(own) as api:
        pass  # a port where nobody listens any more
    with process(*command(api, chain, port, tmp_path), environ=ENVIRON) as started:
        started.wait_for_text("the gateway is open")
        started.wait_for_port(port)
        assert get(port, "/llms.txt")[0] == 502

        with upstream(own, port=api.port) as back:
            status, _, body = get(port, "/llms.txt")

        assert (status, body) == (200, b"own")
        assert [seen.target for seen in back.seen] == ["/llms.txt"]
        assert get(port, "/.well-known/mpp-gateway/llms.txt")[0] == 200


def test_nothing_passes_unpaid_from_the_first_connection_on(chain, tmp_path):
    """Ask from before the port opens until the gateway is open: the upstream must see nothing."""
    port = free_port()

    with (
        upstream(_documented) as api,
        process(*command(api, chain, port, tmp_path), environ=ENVIRON) as started,
    ):
        answers = []
        while "the gateway is open" not in started.output():
            assert started.popen.poll() is None, started.output()
            try:
                answers.append(get(port, "/early")[0])
            except (OSError, EOFError):
                continue
        assert get(port, "/early")[0] == 402
        assert set(answers) <= {402, 500, 503}, answers
        assert [seen.target for seen in api.seen if seen.target == "/early"] == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"charge": "0.0a"}, "gateway: gateway_charge: found '0.0a', expected a decimal string"),
        ({"recipient": "0x12"}, "gateway: gateway_recipient: found '0x12', expected an address"),
        ({"network": "moon"}, "gateway: gateway_network: one of"),
        ({"chrage": "0.02"}, "gateway_chrage: unknown option; did you mean `gateway_charge`?"),
        ({"config": "gateway.yaml"}, "gateway_store: not read beside gateway_config"),
    ],
)
def test_a_wrong_option_stops_the_start_in_one_line(chain, tmp_path, changed, said):
    with upstream() as api:
        port = free_port()
        with process(*command(api, chain, port, tmp_path, **changed), environ=ENVIRON) as started:
            assert started.popen.wait(START_S) == 1
            assert said in started.output()
            assert "Traceback" not in started.output()
            assert "<options>" not in started.output()
        assert api.seen == []


def test_a_mistyped_option_alone_does_not_leave_an_open_proxy():
    """mitmproxy keeps it for a script that may yet declare it, and would go on without a price."""
    with upstream() as api:
        mode = ("--mode", f"reverse:{api.url}@127.0.0.1:{free_port()}")
        script = ("mitmdump", "-s", "addons/gateway.py", *mode, "--set", "gateway_chrage=0.01")
        with process(*script) as started:
            assert started.popen.wait(30) == 1
            assert "did you mean `gateway_charge`?" in started.output()
        assert api.seen == []


def test_a_doubled_option_does_not_leave_an_open_proxy(chain, tmp_path):
    """mitmproxy drops the script over it and would go on as a plain proxy to the upstream."""
    with upstream() as api:
        port = free_port()
        doubled = ("--set", "gateway_charge=0.02")
        with process(*command(api, chain, port, tmp_path, *doubled), environ=ENVIRON) as started:
            assert started.popen.wait(START_S) == 1, started.output()
            assert "not loaded" in started.output()
        assert api.seen == []
