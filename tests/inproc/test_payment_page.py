"""The payment page as bytes: who gets it, what its head says, and what cannot be smuggled in."""

import base64
import hashlib
import html
import json
import re
import shlex

import pytest

from mpp_gateway.cli.main import parser
from mpp_gateway.gateway.page.parts import SCRIPT, STYLE, TEMPLATE
from mpp_gateway.gateway.page.showing import wants_page
from mpp_gateway.protocol.challenge import Challenge
from tests.support.client import RawClient
from tests.support.paid import paid_gateway
from tests.support.stripe_server import PROFILE, stand_in_stripe
from tests.support.stripe_shop import stripe_shop
from tests.support.tempo import tempo_shop

FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7"
)
BROWSER = f"Accept: {FIREFOX}"
PAGE_BYTES_MAX = 60_000
EVIL = "</script></title><script>hacked = 1</script><img src=x onerror=hacked=1>'\"&"


@pytest.mark.parametrize("accept", [FIREFOX, CHROME, "text/html", "text/html;q=0.2", "TEXT/HTML"])
def test_who_asks_for_html_gets_the_page(accept):
    assert wants_page([accept])


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/*",
        "application/json",
        "application/json, text/plain, */*",
        "application/json, text/html",
        "application/problem+json, text/html;q=0.9",
        "text/html;q=0.5, */*",
        "text/html;q=0, */*",
        "text/htmlx",
        "text/*, application/x-text/html",
        "text/html;q=two",
        "image/avif,image/webp,*/*;q=0.8",
    ],
)
def test_no_program_gets_the_page_for_a_vague_word(accept):
    assert not wants_page([accept] if accept else [])


def ask_at(port: int, host: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return the page as somebody sees it who says that the gateway has that name."""
    fields = [f"Host: {host}", BROWSER] + ([f"Content-Length: {len(body)}"] if body else [])
    with RawClient(port) as client:
        head = "\r\n".join([f"{method} /api/paid HTTP/1.1", *fields, "", ""])
        client.send(head.encode() + body)
        return client.response(method)[2]


def data_of(page: str) -> dict:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def commands_of(page: str) -> list[list[str]]:
    found = re.findall(r'<code class="command">(.*?)</code>', page, re.DOTALL)
    return [shlex.split(html.unescape(line)) for line in found]


def command_of(page: str) -> list[str]:
    (words,) = commands_of(page)
    return words


def test_a_browser_gets_the_same_402_with_another_body(tmp_path):
    with paid_gateway(tmp_path) as paid:
        status, fields, body = paid.ask("/api/paid", BROWSER)
        plain = paid.ask("/api/paid", "Accept: */*")
        head = paid.ask("/api/paid", BROWSER, method="HEAD")
        assert paid.hits == 0
    assert (status, fields["content-type"]) == (402, "text/html; charset=utf-8")
    assert len(body) < PAGE_BYTES_MAX
    assert (plain[0], plain[1]["content-type"]) == (402, "application/problem+json")
    for answer in (fields, plain[1], head[1]):
        assert Challenge.parse(answer["www-authenticate"]).method == "evm"
        assert (answer["cache-control"], answer["vary"]) == ("no-store", "Accept")
    assert (head[0], head[2]) == (402, b"")
    assert head[1]["content-type"] == fields["content-type"]
    assert head[1]["content-security-policy"] == fields["content-security-policy"]


def test_the_policy_lets_the_pages_own_script_and_style_run_and_nothing_else(tmp_path):
    with paid_gateway(tmp_path) as paid:
        _, fields, body = paid.ask("/api/paid", BROWSER)
    policy = dict(part.split(" ", 1) for part in fields["content-security-policy"].split("; "))
    page = body.decode()
    for name, element in (("script-src", "script"), ("style-src", "style")):
        text = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in text]
        assert policy.pop(name) == f"'sha256-{digests[0]}'"
        assert len(text) == 1
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert fields["x-frame-options"] == "DENY"
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["referrer-policy"] == "no-referrer"


def test_the_page_has_no_inline_handlers_and_its_script_writes_no_markup():
    assert not re.search(r"<[^>]*\son\w+=|javascript:|\sstyle=", TEMPLATE.template)
    doors = "innerHTML|outerHTML|insertAdjacent|document.write|eval|Function(|import(|srcdoc"
    assert not [door for door in doors.split("|") if door in SCRIPT]
    assert not re.search(r"https?://(?!www\.w3\.org)", TEMPLATE.template + SCRIPT + STYLE)
    assert "@import" not in STYLE
    assert "url(" not in STYLE


def test_nothing_of_the_configuration_or_the_request_becomes_markup(tmp_path):
    routes = f"""
      "GET /paid":
        charge: "0.01"
        title: {json.dumps(EVIL)}
        description: {json.dumps(EVIL)}
      "GET /item/:id": {{charge: "0.01"}}"""
    more = f"title: {json.dumps(EVIL)}"
    with paid_gateway(tmp_path, routes=routes, more=more) as paid:
        pages = [paid.ask("/api/paid", BROWSER)[2].decode()]
        pages.append(paid.ask("/api/item/1?<script>hacked=1</script>&'\"", BROWSER)[2].decode())
    for page in pages:
        assert page.count("<script") == 2
        assert "<img" not in page
        assert set(re.findall(r"<script[^>]*>", page)) == {
            "<script>",
            '<script id="data" type="application/json">',
        }
    assert html.escape(EVIL) in pages[0]
    assert data_of(pages[0])["offers"]["0"]["echo"]["description"] == EVIL


def test_a_switch_turns_the_page_off(tmp_path):
    with paid_gateway(tmp_path, more="payment_page: false") as paid:
        status, fields, _ = paid.ask("/api/paid", BROWSER)
    assert (status, fields["content-type"]) == (402, "application/problem+json")
    assert "vary" not in fields


def test_a_wrong_payment_is_told_on_the_page_with_a_fresh_offer(tmp_path):
    with paid_gateway(tmp_path) as paid:
        status, fields, body = paid.ask("/api/paid", BROWSER, "Authorization: Payment e30")
    assert status == 402
    assert Challenge.parse(fields["www-authenticate"])
    assert 'role="alert">The credential' in body.decode()


def test_what_is_no_402_is_no_page(tmp_path):
    with paid_gateway(tmp_path) as paid:
        for target in ("/api/none", "/none"):
            status, fields, _ = paid.ask(target, BROWSER)
            assert (status, fields["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("target", ["/api/item/1", "/api/item/1?a=$(id)&b='x'`y`!z;|", "/api/paid"])
def test_the_line_for_a_terminal_is_quoted_for_a_shell(tmp_path, target):
    with paid_gateway(tmp_path) as paid:
        page = paid.ask(target, BROWSER)[2].decode()
        url = f"http://127.0.0.1:{paid.port}{target}"
    words = command_of(page)
    assert words[:4] == ["mpp-gateway", "pay", "--max", "0.01"]
    assert len(words) == 5
    assert words[4].partition("/api")[2] == url.partition("/api")[2]


def test_the_line_names_the_public_url_and_not_what_a_client_says_of_the_host(tmp_path):
    more = "public_url: https://api.example.com"
    with paid_gateway(tmp_path, more=more) as paid:
        page = ask_at(paid.port, "evil.example").decode()
    assert command_of(page)[4] == "https://api.example.com/api/paid"


def test_a_request_with_a_body_says_that_the_page_cannot_repeat_it(tmp_path):
    with paid_gateway(tmp_path) as paid:
        page = paid.ask("/api/paid", BROWSER, method="POST", body=b"secret body")[2].decode()
    assert data_of(page)["offers"] == {}
    assert command_of(page)[4:8] == ["--request", "POST", "--data", "@body"]
    assert "this page cannot see it" in page
    assert "secret body" not in page


def test_a_request_without_a_body_is_not_given_one(tmp_path):
    with paid_gateway(tmp_path) as paid:
        fields = (BROWSER, "Content-Length: 0")
        page = paid.ask("/api/paid", *fields, method="POST")[2].decode()
    assert command_of(page)[4:6] == ["--request", "POST"]
    assert len(command_of(page)) == 7
    assert "this page cannot see it" not in page


def test_a_page_for_tempo_alone_has_the_line_that_pays_it(tmp_path):
    routes = """
      "GET /item/:id": {charge: "0.01"}
      "POST /item/:id": {charge: "0.01"}
"""
    target = "/api/item/1?a=$(id)&b='x'"
    with tempo_shop(tmp_path, routes=routes) as shop:
        page = shop.ask(target, BROWSER)[2].decode()
        posted = shop.ask(target, BROWSER, method="POST", body=b"secret body")[2].decode()
    words = command_of(page)
    assert words[:6] == ["mpp-gateway", "pay", "--method", "tempo", "--max", "0.01"]
    assert words[6].endswith(target)
    assert len(words) == 7
    assert command_of(posted)[6:10] == ["--request", "POST", "--data", "@body"]
    assert "secret body" not in posted
    for text in (page, posted):
        assert "MPP_PRIVATE_KEY holds the key that pays. The fee of the network comes" in text
        assert "mppx" not in text


def test_a_page_for_cards_alone_has_the_line_and_says_what_a_buyer_needs(tmp_path):
    with stand_in_stripe() as server, stripe_shop(server, tmp_path) as shop:
        page = shop.ask("/api/paid", BROWSER)[2].decode()
    assert command_of(page)[:6] == ["mpp-gateway", "pay", "--method", "stripe", "--max", "1.00"]
    assert f"MPP_SPT holds a shared payment token for the seller {PROFILE}" in page


MANY = """
  evm: {network: base, token: USDC, recipient: "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", submit: {facilitator: "http://127.0.0.1:9"}}
  sepolia: {kind: evm, network: base-sepolia, token: USDC, recipient: "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", submit: {facilitator: "http://127.0.0.1:9"}}
  tempo: {chain_id: 1337, rpc_url: "http://127.0.0.1:9", currency: "0x20c0000000000000000000000000000000000000", recipient: "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"}
"""  # noqa: E501


def test_each_way_has_a_line_that_takes_it_and_no_other(tmp_path):
    with (
        stand_in_stripe() as server,
        stripe_shop(server, tmp_path, methods=MANY, more="payment_page: true") as shop,
    ):
        page = shop.ask("/api/paid", BROWSER)[2].decode()
        long = shop.ask("/api/paid?" + "x" * 15_000, BROWSER)[2]
    lines = commands_of(page)
    assert [words[2:-1] for words in lines] == [
        ["--method", "stripe", "--max", "1.00"],
        ["--method", "evm", "--chain", "8453", "--max", "1.00"],
        ["--method", "evm", "--chain", "84532", "--max", "1.00"],
        ["--method", "tempo", "--max", "1.00"],
    ]
    assert len({words[-1] for words in lines}) == 1
    assert "Add --rpc-url with a node of chain 1337" in page
    assert [html.unescape(name) for name in re.findall(r'<h3 class="by">(.*?)</h3>', page)] == [
        "1.00 usd with Stripe",
        "1.00 USD Coin on Base",
        "1.00 USDC on Base Sepolia",
        "1.00 USD with Tempo",
    ]
    assert len(commands_of(long.decode())) == 1
    assert len(long) < PAGE_BYTES_MAX
    for words in lines:  # as the command reads them
        assert parser().parse_args(words[1:]).max == "1.00"


def test_the_page_stays_small_whatever_the_configuration_says(tmp_path):
    long = json.dumps("é" * 10_000)
    routes = f"""
      "GET /paid": {{charge: "0.01", title: {json.dumps("T" * 200)}}}
      "GET /long": {{charge: "0.01"}}"""
    services = f"\n    description: {long}"
    with paid_gateway(tmp_path, routes=routes, services=services) as paid:
        for target in ("/api/paid", "/api/long", "/api/paid?" + "x" * 30_000):
            assert len(paid.ask(target, BROWSER)[2]) < PAGE_BYTES_MAX


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_everything_written_can_be_read(scheme):
    root = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", root))
    pairs = [(ink, ground) for ink in ("ink", "soft") for ground in ("card", "ground", "code")]
    pairs += [("on-accent", "accent"), ("accent", "card"), ("bad", "card"), ("bad", "bad-soft")]
    for ink, ground in pairs:
        dark, light = sorted(luminance(colours[name]) for name in (ink, ground))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
