"""`mpp-gateway` as its users meet it: real processes, exit codes, pipes and terminals."""

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading

import pytest

from mpp_gateway.cli.exits import EXIT_CODES, LEDGER_EXIT_CODES
from mpp_gateway.cli.main import parser
from mpp_gateway.cli.reference import verbs
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.timestamps import format_rfc3339
from tests.support.certificates import self_signed
from tests.support.client import RawClient, get
from tests.support.command import COMMAND, environ, run, run_on_terminal
from tests.support.evm import PAYEE, now
from tests.support.market import open_market, pay, serving
from tests.support.paid import fresh_key, wait_until
from tests.support.process import ROOT, START_S, free_port, process
from tests.support.proxy import SECRET
from tests.support.upstream import upstream

MARKED = "marked-secret-0123456789"
ROUTES = """
      "GET /free": free
      "GET /paid": {charge: "0.01"}
      "POST /paid": {charge: "0.01"}
      "GET /dear": {charge: "0.09"}
"""
SHOP = f"""\
secret_key: {SECRET}
store: sqlite:///STORE
methods:
  evm:
    chain_id: 84532
    token: {{address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}}
    recipient: "{PAYEE}"
    submit: {{facilitator: https://facilitator.example}}
services:
  weather:
    base_url: http://127.0.0.1:9/v1
    auth: {{bearer: ${{TOKEN}}}}
    routes:
      "GET /free": free
      "GET /now/:city": {{charge: "0.01"}}
      "POST /report": {{charge: "0.10", settle: before, digest: true}}
"""
TABLE = """\
service  route                   price       paid by  settles
weather  GET /weather/free       free        -        -
weather  GET /weather/now/:city  0.01 (evm)  evm      on_success
weather  POST /weather/report    0.10 (evm)  evm      before
"""
WRONG = """\
secret_key: short
listen: 0.0.0.0:99999
nonsense: true
methods:
  evm: {chain_id: 84532, recipient: "0x12"}
services:
  weather:
    base_url: ftp://127.0.0.1
    auth: {bearer: ${TOKEN}, basic: {username: a, password: ${TOKEN}}}
    routes: {"GET /now": {charge: 0.01}}
"""


@pytest.fixture
def shop(tmp_path):
    """A sound configuration file."""
    path = tmp_path / "gateway.yaml"
    path.write_text(SHOP.replace("STORE", str(tmp_path / "gateway.db")))
    return path


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


# --- help ----------------------------------------------------------------------------------------


def test_the_help_names_every_verb_with_examples_and_exit_codes(tmp_path):
    done = run("--help", home=tmp_path)

    assert done.code == 0
    top = [verb for verb in verbs(parser()) if " " not in verb]
    assert all(re.search(rf"^    {verb} +\w", done.out, re.MULTILINE) for verb in top)
    assert "examples:\n  mpp-gateway demo" in done.out
    assert EXIT_CODES in done.out


@pytest.mark.parametrize("verb", list(verbs(parser())))
def test_the_help_of_a_verb_teaches_it(verb, tmp_path):
    done = run(*verb.split(), "--help", home=tmp_path)

    assert (done.code, done.err) == (0, "")
    examples = re.search(r"^examples:\n((?:  .+\n)+)", done.out, re.MULTILINE)
    assert examples
    assert f"mpp-gateway {verb}" in examples[1]
    assert (LEDGER_EXIT_CODES if verb.startswith("ledger") else EXIT_CODES) in done.out
    assert ("MPP_CREDENTIAL" in done.out) is not verb.startswith("ledger")
    for action in verbs(parser())[verb]._actions:
        assert action.help, action.dest


def test_the_version_is_printed(tmp_path):
    assert re.fullmatch(r"mpp-gateway \d+\.\d+\.\d+\n", run("--version", home=tmp_path).out)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sell",),
        ("serve", "--port", "70000"),
        ("serve", "--port", "http"),
        ("explain", "GET"),
        ("check", "--confg", "x"),
        ("check", "--jsn"),
        ("check", "gateway.yaml"),
        ("ledger",),
        ("ledger", "balance"),
        ("ledger", "show"),
        ("ledger", "balances", "--by", "rail"),
        ("ledger", "exchanges", "--limit", "0"),
        ("ledger", "exchanges", "--since", "yesterday"),
        ("ledger", "exchanges", "--state", "lost"),
        ("ledger", "export", "--format", "xls"),
        ("ledger", "reconcile", "--from-block", "-1"),
        ("pay", "nonsense"),
        ("pay", "http://[::1/"),
        ("pay", "http://a..b/"),
        ("pay", "http://127.0.0.1:9/", "-X", "BAD METHOD"),
        ("pay", "http://127.0.0.1:9/", "-H", ": no name"),
        ("pay", "http://127.0.0.1:9/", "-H", "a: b\r\nc: d"),
        ("pay", "ftp://127.0.0.1/x"),
        ("pay", "http://127.0.0.1:9/", "-H", "no colon"),
        ("pay", "http://127.0.0.1:9/", "-d", "@/nonexistent"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, tmp_path):
    done = run(*arguments, home=tmp_path)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("mpp-gateway")
    assert one_line(done.err), done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "--confg", "x"), "unknown option --confg; did you mean `--config`?"),
        (("serve", "--prot=1"), "unknown option --prot; did you mean `--port`?"),
        (("check", "gateway.yaml"), "unexpected argument 'gateway.yaml'"),
        (("ledger", "verify", "--jsn"), "unknown option --jsn; did you mean `--json`?"),
        (("ledger", "show", "x", "y"), "unexpected argument 'y'"),
        (("chek",), "choose from 'serve', 'check', 'explain', 'pay', 'demo', 'ledger'"),
    ],
)
def test_wrong_usage_names_what_was_meant_and_where_it_is_described(arguments, said, tmp_path):
    done = run(*arguments, home=tmp_path)

    assert said in done.err
    assert re.search(r"; see `mpp-gateway( \w+){0,2} --help`\n\Z", done.err)


# --- check ---------------------------------------------------------------------------------------


def test_check_prints_json_into_a_pipe(shop, tmp_path):
    done = run("check", "--config", shop, home=tmp_path, TOKEN=MARKED)

    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert [row["route"] for row in found["routes"]] == [
        "GET /weather/free",
        "GET /weather/now/:city",
        "POST /weather/report",
    ]
    assert found["routes"][1]["price"] == "0.01 (evm)"
    assert "rpc_url" in found["warnings"][0]
    assert MARKED not in done.out


def test_check_prints_a_table_on_a_terminal(shop, tmp_path):
    code, shown = run_on_terminal("check", "--config", shop, home=tmp_path, TOKEN=MARKED)

    assert code == 0
    headings = TABLE.splitlines()[0]
    assert shown.startswith(f"\x1b[1m{headings}\x1b[0m\n")
    assert "\x1b[33mwarning: " in shown


@pytest.mark.parametrize("wish", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_nobody_wants_it(wish, shop, tmp_path):
    options = ("check", "--config", shop)
    code, shown = run_on_terminal(*options, home=tmp_path, TOKEN=MARKED, **wish)

    assert code == 0
    assert "\x1b" not in shown
    table, warning = shown[: len(TABLE)], shown[len(TABLE) :]
    assert table == TABLE
    assert warning.startswith("warning: ")
    code, shown = run_on_terminal(*options, "--json", home=tmp_path, TOKEN=MARKED)
    assert json.loads(shown)["realm"] == "127.0.0.1"


def test_check_reports_every_mistake_at_once_and_no_secret(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text(WRONG)

    done = run("check", "--config", path, home=tmp_path, TOKEN=MARKED)

    assert (done.code, done.out) == (3, "")
    *mistakes, count = done.err.strip().split("\n")
    assert count == f"{len(mistakes)} mistakes"
    for named in (
        ":1: secret_key",
        ":2: listen",
        ":3: nonsense",
        ":5: methods.evm.recipient",
        ":8: services.weather.base_url",
        ":9: services.weather.auth",
        ':10: services.weather.routes."GET /now".charge',
    ):
        assert any(named in line for line in mistakes), (named, mistakes)
    assert MARKED not in done.err
    assert "short" not in done.err


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        (("check",), "missing"),
        (("check",), "long"),
        (("check",), "folder"),
        (("check",), "variable"),
        (("check",), "empty"),
        (("check",), "latin"),
        (("check",), "utf-16"),
        (("check",), "utf-16-le"),
        (("check",), "tab"),
        (("serve",), "missing"),
        (("serve",), "variable"),
        (("explain", "GET", "/x"), "missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_exit_code_3_and_no_traceback(verb, fault, shop, tmp_path):
    path = {"missing": tmp_path / "none.yaml", "long": tmp_path / ("a" * 300), "folder": tmp_path}
    contents = {
        "empty": b"",
        "latin": "title: caf\u00e9\n".encode("latin-1"),
        "utf-16": SHOP.encode("utf-16"),
        "utf-16-le": SHOP.encode("utf-16-le"),
        "tab": b"services:\n\tweather: {}\n",
    }
    file = path.get(fault, shop)
    if fault in contents:
        file.write_bytes(contents[fault])

    done = run(*verb, "--config", file, home=tmp_path)

    assert (done.code, done.out) == (3, "")
    lines = done.err.strip().split("\n")
    assert str(file) in lines[0]
    assert lines[1:] in ([], ["1 mistake"])
    assert CURES[fault] in lines[0]


CURES = {
    "missing": "no such file (name one with --config",
    "long": "cannot be read: File name too long (name one with --config",
    "folder": "this is a folder (name one with --config",
    "variable": "the environment variable TOKEN is not set; export it before the start",
    "empty": ":1: the file is empty (start from configs/minimal.yaml)",
    "latin": ":1: this is not UTF-8 text; save the file as UTF-8",
    "utf-16": ":1: this is not UTF-8 text; save the file as UTF-8",
    "utf-16-le": ":1: not YAML: the character U+0000 may not stand in a text; take it out, or save",
    "tab": ":2: not YAML: a tab stands where the line is indented; indent with spaces",
}


@pytest.mark.parametrize("form", ["byte order mark", "crlf"])
def test_a_file_of_a_windows_editor_is_read(form, shop, tmp_path):
    text = shop.read_bytes()
    shop.write_bytes(b"\xef\xbb\xbf" + text if form != "crlf" else text.replace(b"\n", b"\r\n"))

    done = run("check", "--config", shop, home=tmp_path, TOKEN=MARKED)

    assert (done.code, done.err) == (0, "")
    assert len(json.loads(done.out)["routes"]) == 3


def test_a_method_that_nobody_registered_is_a_warning_and_no_failure(shop, tmp_path):
    shop.write_text(shop.read_text().replace("GET /free", "GTE /free"))

    code, shown = run_on_terminal("check", "--config", shop, home=tmp_path, TOKEN=MARKED)

    assert code == 0
    assert "GTE is no registered HTTP method; did you mean `GET`?" in shown


@pytest.mark.parametrize("arguments", [("check", "--config", "SHOP"), ("--help",)])
def test_a_reader_who_has_seen_enough_is_no_failure(arguments, shop, tmp_path):
    """As with `| head -1`, with the reader gone before the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [COMMAND, *(str(shop) if part == "SHOP" else part for part in arguments)],
            cwd=ROOT,
            env=environ(tmp_path, TOKEN=MARKED),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)

    assert done.stderr == ""
    # argparse keeps quiet about its own broken pipe where output is not buffered.
    assert done.returncode in ({0, 141} if arguments == ("--help",) else {141})


# --- explain -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "status", "said"),
    [
        ("GET", "/weather/now/Oslo", 402, "402 with these offers"),
        ("GET", "/weather/now/Oslo?x=1", 402, "settles when the upstream has answered 2xx"),
        ("get", "/weather/now/Oslo", 400, ""),
        ("POST", "/weather/report", 402, "settles before the upstream is called"),
        ("GET", "/weather/free", 200, "The route is free"),
        ("HEAD", "/weather/now/Oslo", 402, "HEAD follows the route of GET"),
        ("OPTIONS", "/weather/now/Oslo", 204, "answers OPTIONS itself"),
        ("GET", "/weather/nowhere", 404, ""),
        ("GET", "/nobody/free", 404, ""),
        ("DELETE", "/weather/free", 405, "It takes GET, HEAD, OPTIONS."),
        ("GET", "/weather/%2e%2e/free", 400, ""),
        ("GET", "weather", 400, ""),
    ],
)
def test_explain_says_what_would_happen(method, target, status, said, shop, tmp_path):
    done = run("explain", method, target, "--config", shop, home=tmp_path, TOKEN=MARKED)

    found = json.loads(done.out)
    assert (done.code, found["status"]) == (int(status >= 400 and status != 402), status)
    assert found["reasons"]
    assert said in " ".join(found["reasons"])
    assert (found["upstream"] != "") == (status in {200, 402})
    assert bool(found["offers"]) == (status == 402)
    assert MARKED not in done.out


@pytest.mark.parametrize(
    ("method", "target", "status", "said"),
    [
        ("GET", "/openapi.json", 200, "A document of the gateway's own"),
        ("HEAD", "/llms.txt?x=1", 200, "no route is looked at"),
        ("OPTIONS", "/discover", 204, "answers OPTIONS itself"),
        ("GET", "/readyz", 200, "else 503"),
        ("GET", "/discover/nobody", 404, "No service has this name"),
        ("get", "/healthz", 405, "It takes GET, HEAD, OPTIONS."),
    ],
)
def test_explain_knows_the_gateways_own_documents(method, target, status, said, shop, tmp_path):
    done = run("explain", method, target, "--config", shop, home=tmp_path, TOKEN=MARKED)

    found = json.loads(done.out)
    assert (done.code, found["status"]) == (int(status >= 400), status)
    assert said in " ".join(found["reasons"])
    assert (found["request"], found["offers"], found["upstream"]) == (f"{method} {target}", [], "")


def test_explain_is_text_on_a_terminal(shop, tmp_path):
    code, shown = run_on_terminal(
        "explain", "GET", "/weather/now/Oslo", "--config", shop, home=tmp_path, TOKEN=MARKED
    )

    assert code == 0
    lines = shown.splitlines()
    assert lines[0] == "GET /weather/now/Oslo -> 402"
    assert "  upstream: http://127.0.0.1:9/v1/now/Oslo" in lines
    assert MARKED not in shown


# --- serve ---------------------------------------------------------------------------------------


@pytest.fixture
def held():
    """An upstream whose answers wait for `release`."""
    arrived, release = threading.Event(), threading.Event()

    async def respond(seen, _, writer):
        arrived.set()
        await asyncio.to_thread(release.wait, START_S)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nheld")
        await writer.drain()
        return True

    with upstream(respond) as api:
        api.arrived, api.release = arrived, release
        yield api
        release.set()


def test_serve_says_what_it_sells_and_answers_402(shop, tmp_path):
    with serving(shop, TOKEN="t") as (started, port):
        status, fields, _ = get(port, "/weather/now/Oslo")

        assert status == 402
        assert fields["www-authenticate"].startswith("Payment ")
        printed = started.output()
        assert TABLE + "warning: " in printed  # after what the log says of the facilitator
        assert f"\nserving on http://127.0.0.1:{port} (Ctrl-C stops)\n" in printed
        assert started.stop() == 0
        assert "Traceback" not in started.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_the_call_under_way_and_takes_no_other(number, held, shop, tmp_path):
    shop.write_text(shop.read_text().replace("http://127.0.0.1:9/v1", held.url))
    with serving(shop, TOKEN="t") as (started, port):
        with RawClient(port) as client:
            client.send(b"GET /weather/free HTTP/1.1\r\nHost: a\r\n\r\n")
            assert held.arrived.wait(START_S)

            started.popen.send_signal(number)

            wait_until(lambda: _refuses(port), "the listener is closed")
            assert started.popen.poll() is None
            held.release.set()
            status, _, body = client.response()
        assert (status, body) == (200, b"held")
        assert started.popen.wait(START_S) == 0
        assert "Traceback" not in started.output()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=START_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_signal_stops_at_once(held, shop):
    shop.write_text(shop.read_text().replace("http://127.0.0.1:9/v1", held.url))
    with serving(shop, TOKEN="t") as (started, port), RawClient(port) as client:
        client.send(b"GET /weather/free HTTP/1.1\r\nHost: a\r\n\r\n")
        assert held.arrived.wait(START_S)
        started.popen.terminate()
        wait_until(lambda: _refuses(port), "the listener is closed")
        started.popen.terminate()
        assert started.popen.wait(START_S) == 0


def test_a_port_in_use_is_one_line_and_exit_code_4(shop, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--config", shop, "--port", port, home=tmp_path, TOKEN="t")

    assert done.code == 4
    reason = "Address already in use (--port names another)"
    assert done.err == f"mpp-gateway: cannot listen on 127.0.0.1:{port}: {reason}\n"


@pytest.mark.parametrize("fault", ["no folder", "no database", "newer"])
def test_a_store_that_cannot_be_used_is_one_line_and_exit_code_4(fault, shop, tmp_path):
    store = tmp_path / ("none/gateway.db" if fault == "no folder" else "gateway.db")
    if fault == "no database":
        store.write_bytes(b"this is no database " * 100)
    if fault == "newer":
        with sqlite3.connect(store) as db:
            db.execute("PRAGMA user_version=999")
    shop.write_text(SHOP.replace("STORE", str(store)))

    done = run("serve", "--config", shop, "--port", "0", home=tmp_path, TOKEN="t")

    assert done.code == 4
    assert one_line(done.err), done.err
    assert "store" in done.err


def test_a_listener_for_the_world_needs_the_files_word_for_it(shop, tmp_path):
    done = run("serve", "--config", shop, "--host", "192.0.2.1", home=tmp_path, TOKEN="t")

    assert done.code == 2
    assert one_line(done.err)
    assert "clear text" in done.err


def test_tls_is_served_with_the_files_certificate_and_no_copy_of_its_key_stays(shop, tmp_path):
    self_signed(tmp_path)
    temp, home = tmp_path / "temp", tmp_path / "home"
    temp.mkdir()
    home.mkdir()
    files = f"{{cert: {tmp_path / 'upstream.pem'}, key: {tmp_path / 'upstream.key'}}}"
    shop.write_text(f"tls: {files}\n{shop.read_text()}")
    with serving(shop, TOKEN="t", TMPDIR=str(temp), HOME=str(home)) as (started, port):
        started.wait_for_text(f"serving on https://127.0.0.1:{port} ")
        trusting = ssl.create_default_context(cafile=tmp_path / "upstream.pem")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=START_S) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            wrapped.sendall(b"GET /weather/now/Oslo HTTP/1.1\r\nHost: a\r\n\r\n")
            assert wrapped.recv(12) == b"HTTP/1.1 402"
        (left,) = [path for path in temp.rglob("*") if path.is_file()]
        assert b"PRIVATE KEY" not in left.read_bytes()
        assert list(home.iterdir()) == []


@pytest.mark.parametrize("verb", ["check", "serve", "mitmdump"])
def test_a_key_of_another_certificate_ends_it_before_a_port_is_open(verb, shop, tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        self_signed(tmp_path / name)
    files = f"{{cert: {tmp_path}/own/upstream.pem, key: {tmp_path}/other/upstream.key}}"
    shop.write_text(f"tls: {files}\n{shop.read_text()}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])  # whoever came so far as to bind it would say so
        if verb == "mitmdump":
            script = ("-s", "addons/gateway.py", "--set", f"gateway_config={shop}")
            with process("mitmdump", *script, "-p", port, environ={"TOKEN": "t"}) as started:
                code, said = started.popen.wait(START_S), started.output()
        else:
            more = ("--port", port) if verb == "serve" else ()
            done = run(verb, "--config", shop, *more, home=tmp_path, TOKEN="t")
            code, said = done.code, done.err

    assert code == (1 if verb == "mitmdump" else 3)
    assert "gateway.yaml:1: tls.key: found " in said
    assert "expected the private key of the certificate in `tls.cert`" in said
    assert "address already in use" not in said
    assert "Traceback" not in said


# --- pay -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A gateway process before a chain and an upstream, and a buyer with a purse."""
    folder = tmp_path_factory.mktemp("market")
    with open_market(folder, ROUTES) as parts:
        yield parts


def test_a_dry_run_shows_the_price_and_pays_nothing(market):
    before, hits = market.balance(), market.hits

    done = pay(market, "/api/dear", "--dry-run", MPP_PRIVATE_KEY="")

    assert (done.code, done.err) == (0, "")
    shown = json.loads(done.out)
    assert shown["price"] == "0.090000"
    assert shown["recipient"] == market.payee
    assert (market.balance(), market.hits) == (before, hits)
    home = market.store.parent
    url = f"http://127.0.0.1:{market.port}/api/dear"
    code, text = run_on_terminal("pay", url, "--dry-run", home=home)
    assert code == 0
    assert "price:     0.090000\n" in text


def test_a_paid_call_prints_the_answer_and_the_receipt(market):
    before = market.balance()

    done = pay(market, "/api/paid", key=None)

    assert (done.code, done.out) == (0, '{"ok":true}')
    assert market.balance() - before == 10_000
    receipt = json.loads(done.err.split("receipt: ")[1])
    assert receipt["reference"].startswith("0x")
    assert market.key.hex() not in done.out + done.err
    assert "\x1b" not in done.err


def test_a_paid_post_carries_its_body_and_fields(market, tmp_path):
    body = tmp_path / "body.json"
    body.write_text('{"city":"Oslo"}')

    done = pay(market, "/api/paid", "-d", f"@{body}", "-H", "Content-Type: application/json")

    assert done.code == 0, done.err
    seen = market.upstream.seen[-1]
    assert (seen.method, seen.body) == ("POST", b'{"city":"Oslo"}')
    assert seen.get("content-type") == "application/json"


@pytest.mark.parametrize(
    ("more", "environ_", "node", "code", "said"),
    [
        (("--max", "0.001"), {}, True, 5, "above --max 0.001; nothing was paid"),
        (("--max", "much"), {}, True, 2, "--max much"),
        ((), {"MPP_PRIVATE_KEY": ""}, True, 2, "set MPP_PRIVATE_KEY"),
        ((), {"MPP_PRIVATE_KEY": "0x12"}, True, 2, "set MPP_PRIVATE_KEY"),
        ((), {"MPP_PRIVATE_KEY": "0" * 64}, True, 2, "set MPP_PRIVATE_KEY"),
        ((), {"MPP_PRIVATE_KEY": "f" * 64}, True, 2, "set MPP_PRIVATE_KEY"),
        ((), {"MPP_CREDENTIAL": "Payment nonsense"}, True, 2, "MPP_CREDENTIAL is no credential"),
        ((), {"MPP_CREDENTIAL": "Bearer x"}, True, 2, "MPP_CREDENTIAL is no credential"),
        ((), {}, False, 5, "none of the dollars that are known here"),
    ],
)
def test_what_is_not_paid_says_why(more, environ_, node, code, said, market):
    before = market.balance()

    done = pay(market, "/api/paid", *more, node=node, **environ_)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert market.balance() == before


def test_max_is_told_to_the_seller_who_refuses_without_a_challenge(market):
    done = pay(market, "/api/paid", "--max", "0.001")

    assert (done.code, done.out) == (5, "")
    assert "the price 0.01 Demo Dollar is above --max 0.001; nothing was paid" in done.err


def test_a_limit_that_the_caller_writes_itself_is_not_written_twice(market):
    done = pay(market, "/api/paid", "--max", "0.05", "-H", "x-max-price: 0.02 usd")

    assert done.code == 0, done.err


def test_a_node_of_another_chain_or_without_the_token_is_not_believed(market):
    done = pay(market, "/api/paid", "--rpc-url", f"http://127.0.0.1:{free_port()}", node=False)

    assert done.code == 5
    assert "the token cannot be asked" in done.err


def test_a_purse_without_money_is_refused_and_said_so(market):
    done = pay(market, "/api/paid", key=fresh_key("poor"))

    assert done.code == 1
    assert "HTTP 402" in done.err
    assert json.loads(done.out)["type"].endswith("payment-insufficient")


def test_what_costs_nothing_is_shown_as_it_is(market):
    free = pay(market, "/api/free", MPP_PRIVATE_KEY="")
    missing = pay(market, "/api/none", MPP_PRIVATE_KEY="")

    assert (free.code, free.out) == (0, '{"ok":true}')
    assert missing.code == 1
    assert json.loads(missing.out)["status"] == 404


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (b"", "offered: nothing"),
        (b'WWW-Authenticate: Basic realm="x"\r\n', "offered: nothing"),
        (b"WWW-Authenticate: Payment id=\r\n", "cannot be read"),
    ],
)
def test_a_402_of_somebody_else_is_never_paid(fields, said, market):
    raw = b"HTTP/1.1 402 Payment Required\r\n" + fields + b"Content-Length: 0\r\n\r\n"
    with upstream(raw) as other:
        home = market.store.parent
        done = run("pay", f"{other.url}/", home=home, MPP_PRIVATE_KEY=market.key.hex())

    assert done.code in {1, 5}
    assert said in done.err
    assert len(other.seen) == 1


@pytest.mark.parametrize("token", ["well known", "asked at the node"])
def test_a_seller_cannot_shift_the_decimals_to_get_a_price_below_the_limit(token, market):
    """A hundred whole units, shown as 0.0000000001 by eighteen decimals that the token lacks."""
    demo = market.chain.demo
    is_known = token == "well known"
    chain_id = 84532 if is_known else demo.chain_id
    currency = "0x036CbD53842c5426634e7929541eC2318f3dCF7e" if is_known else demo.token_address
    request = {
        "amount": "100000000",
        "currency": currency,
        "recipient": PAYEE,
        "methodDetails": {
            "chainId": chain_id,
            "credentialTypes": ["authorization"],
            "decimals": 18,
        },
    }
    challenge = ChallengeKeys.from_secrets([SECRET]).issue(
        realm="shop.example",
        method="evm",
        intent="charge",
        request=jcs.encode_object(request),
        expires=format_rfc3339(now() + 300),
    )
    field = f"WWW-Authenticate: {challenge.format()}\r\n".encode()
    raw = b"HTTP/1.1 402 Payment Required\r\n" + field + b"Content-Length: 0\r\n\r\n"
    node = () if is_known else ("--rpc-url", market.node.url)
    with upstream(raw) as other:
        home = market.store.parent
        done = run("pay", f"{other.url}/", *node, home=home, MPP_PRIVATE_KEY=market.key.hex())

    assert done.code == 5
    assert "counts 18 decimals, the token has 6; nothing was paid" in done.err
    assert len(other.seen) == 1


def test_nobody_at_the_url_is_exit_code_1_in_one_line(tmp_path):
    done = run("pay", f"http://127.0.0.1:{free_port()}/", home=tmp_path)

    assert done.code == 1
    assert one_line(done.err)


def test_the_answer_goes_into_a_pipe_unchanged(market):
    """Bytes, not text: what comes out is what the upstream sent."""
    market.keeper.answers("200 OK", body=bytes(range(256)))
    try:
        done = subprocess.run(
            [COMMAND, "pay", f"http://127.0.0.1:{market.port}/api/free"],
            cwd=ROOT,
            env=environ(market.store.parent),
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        market.keeper.answers("200 OK", body=b'{"ok":true}')

    assert done.stdout == bytes(range(256))


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">/dev/full", 1, "the output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_told_in_one_line(tmp_path, redirected, code, said):
    config = ROOT / "configs" / "minimal.yaml"
    needed = {"MPP_SECRET_KEY": "k" * 44, "RECIPIENT": "0x" + "ab" * 20}

    done = subprocess.run(
        ["sh", "-c", f"{COMMAND} check --config {config} {redirected}"],
        cwd=ROOT,
        env=environ(tmp_path, **needed),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (code, said)
