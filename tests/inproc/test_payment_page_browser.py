"""The payment page in a real browser, with a wallet, an upstream and a chain: what people live
through, and where their money is then."""

from contextlib import contextmanager

import pytest

from mpp_gateway.gateway.page import contents
from mpp_gateway.gateway.page.chains import Chain
from tests.inproc.test_payment_page import EVIL
from tests.support.browser import Browser, Page, Wallet
from tests.support.components import need
from tests.support.paid import PRICE, PURSE_MINOR, paid_gateway, wait_until

PAID = "Paid 0.01"
LATE_S = 400
"""Longer than a challenge is good for."""


@pytest.fixture(scope="module")
def browser():
    need("chromium")
    with Browser().opened() as browser:
        yield browser


class Visit:
    """One person's browser at one gateway."""

    def __init__(self, paid, browser, wallet):
        self.paid, self.wallet = paid, wallet
        self._browser = browser
        self._context = browser.context()
        self.page = self.tab()

    def tab(self, target: str = "/api/paid") -> Page:
        page = self._browser.page(self._context, self.wallet)
        page.go(f"http://127.0.0.1:{self.paid.port}{target}")
        return page

    def expect_paid(self, calls: int = 1) -> None:
        assert self.paid.balance() == calls * PRICE
        assert self.paid.purse() == PURSE_MINOR - calls * PRICE
        self.paid.reaches(settled=calls)

    def expect_unpaid(self) -> None:
        assert (self.paid.balance(), self.paid.states(), self.paid.hits) == (0, {}, 0)


@contextmanager
def visit(tmp_path, browser, *, has_wallet=True, **options):
    with paid_gateway(tmp_path, **options) as paid:
        demo = paid.chain.demo
        wallet = Wallet(paid.key, demo.chain_id, demo.rpc_url) if has_wallet else None
        visit = Visit(paid, browser, wallet)
        yield visit
        assert visit.page.violations == []
        assert not [line for line in visit.page.said if "Error:" in line], visit.page.said
        assert paid.crashes() == []


def test_a_person_pays_with_a_wallet_and_gets_answer_and_receipt(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.page.sees("#amount", "0.01")
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        assert '"ok": true' in v.page.text("#text")
        v.expect_paid()
        assert v.page.text("#receipt-rows").split("\n")[:4] == [
            "status",
            "success",
            "method",
            "evm",
        ]
        v.paid.reaches(settled=1)
        assert v.paid.rows()[0]["reference"] in v.page.text("#receipt-rows")
        assert v.paid.hits == 1
        assert "payment" not in str(v.paid.upstream.seen[0].headers).lower()


def test_a_person_without_a_mouse_pays(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        for _ in range(3):
            v.page.press("Tab", 9)
            if v.page.run("document.activeElement.id") == "pay":
                break
        assert v.page.run("document.activeElement.id") == "pay"
        assert v.page.run("document.activeElement.matches(':focus-visible')")
        v.page.press("Enter", 13, "\r")
        v.page.sees("#state", PAID)
        assert v.page.run("document.activeElement.id") == "answer-title"
        v.expect_paid()


def test_who_declines_in_the_wallet_has_paid_nothing_and_can_still_pay(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        for method in ("eth_requestAccounts", "eth_signTypedData_v4"):
            v.wallet.declines = {method}
            v.page.click("#pay")
            v.page.sees("#state", "You declined")
            wait_until(lambda: v.page.text("#pay"), "the button is back")
            v.page.run("document.getElementById('state').textContent = ''")
        v.expect_unpaid()
        v.wallet.declines = set()
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        v.expect_paid()


def test_a_wallet_on_another_chain_is_switched(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.wallet.chain_id = 1
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        assert v.wallet.chain_id == v.paid.chain.demo.chain_id
        v.expect_paid()


def test_a_wallet_that_does_not_know_the_chain_signs_nothing(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.wallet.chain_id, v.wallet.known = 1, {1}
        v.page.click("#pay")
        v.page.sees("#state", "does not know chain")
        v.wallet.known |= {v.paid.chain.demo.chain_id}
        v.wallet.declines = {"wallet_switchEthereumChain"}
        v.page.click("#pay")
        v.page.sees("#state", "You declined")
        assert v.wallet.signatures == 0
        v.expect_unpaid()


def test_a_wallet_is_told_of_a_well_known_chain(tmp_path, browser, monkeypatch):
    with visit(tmp_path, browser) as v:
        demo = v.paid.chain.demo
        known = Chain("Demo", "ETH", "https://rpc.example", "https://explorer.example")
        monkeypatch.setattr(contents, "CHAINS", {demo.chain_id: known})
        v.wallet.chain_id, v.wallet.known = 1, {1}
        page = v.page = v.tab()
        page.click("#pay")
        page.sees("#state", PAID)
        assert v.wallet.added == [
            {
                "chainId": hex(demo.chain_id),
                "chainName": "Demo",
                "nativeCurrency": {"name": "ETH", "symbol": "ETH", "decimals": 18},
                "rpcUrls": ["https://rpc.example"],
                "blockExplorerUrls": ["https://explorer.example"],
            }
        ]
        link = page.run("document.querySelector('#receipt-rows a').href")
        assert link == f"https://explorer.example/tx/{v.paid.rows()[0]['reference']}"
        v.expect_paid()


def test_who_has_too_little_is_told_before_signing(tmp_path, browser):
    with visit(tmp_path, browser, purse_minor=PRICE - 1) as v:
        v.page.click("#pay")
        v.page.sees("#state", "0.009999", "costs 0.01")
        assert v.wallet.signatures == 0
        v.expect_unpaid()


def test_an_expired_price_is_asked_for_anew(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.page.run(f"(() => {{ const t = Date.now; Date.now = () => t() + {LATE_S}e3; }})()")
        v.page.sees("#state", "has expired")
        v.page.run("window.isOld = true")
        v.page.click("#anew")
        v.page.renewed()
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        v.expect_paid()


def test_a_price_that_expires_while_the_wallet_waits_costs_nothing(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        executor = v.paid.proxy.runtime.serving.executor
        clock = executor.clock
        v.wallet.signs.clear()
        v.page.click("#pay")
        v.page.sees("#state", "your signature")
        executor.clock = lambda: clock() + LATE_S
        v.wallet.signs.set()
        v.page.sees("#state", "was not accepted")
        v.page.sees("#more", "nothing was charged")
        executor.clock = clock
        v.expect_unpaid()


def test_an_upstream_that_fails_costs_nothing_and_the_same_payment_buys_the_call(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.paid.keeper.answers("500 Oops", body=b"broken")
        v.page.click("#pay")
        v.page.sees("#state", "Nothing was charged")
        assert (v.paid.balance(), v.paid.states()) == (0, {"released": 1})
        v.paid.keeper.answers("200 OK", "Content-Type: text/plain", body=b"at last")
        v.page.click("#again")
        v.page.sees("#state", PAID)
        assert v.page.text("#text") == "at last"
        assert v.wallet.signatures == 1
        v.expect_paid()


def test_what_was_paid_first_and_not_delivered_is_said_to_be_owed(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.paid.keeper.answers("500 Oops", body=b"broken")
        page = v.page = v.tab("/api/first")
        page.sees("#more", "before the API is asked")
        page.click("#pay")
        page.sees("#state", "You have paid", "owes you this call")
        v.paid.keeper.answers("200 OK", "Content-Type: text/plain", body=b"at last")
        page.click("#again")
        page.sees("#state", PAID)
        v.expect_paid()
        assert v.wallet.signatures == 1


def test_a_double_click_signs_and_pays_once(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.page.sees("#pay")
        v.wallet.signs.clear()
        v.page.run("for (let i = 0; i < 5; i++) document.getElementById('pay').click()")
        v.page.sees("#state", "your signature")
        v.wallet.signs.set()
        v.page.sees("#state", PAID)
        assert v.wallet.signatures == 1
        v.expect_paid()


def test_a_reload_shows_the_answer_again_and_pays_nothing_more(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        v.page.reload()
        v.page.sees("#state", "You have paid for this call")
        assert v.page.text("#pay") == ""
        v.page.click("#again")
        v.page.sees("#state", PAID)
        assert '"ok": true' in v.page.text("#text")
        assert (v.wallet.signatures, v.paid.hits) == (1, 1)
        v.expect_paid()
        v.page.run("window.isOld = true")
        v.page.click("#anew")
        v.page.renewed()
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        v.expect_paid(calls=2)


def test_the_back_button_leads_to_what_was_paid_and_not_to_a_second_payment(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        v.page.go(f"http://127.0.0.1:{v.paid.port}/api/free")
        v.page.run("history.back()")
        v.page.loaded(f"http://127.0.0.1:{v.paid.port}/api/paid")
        v.page.sees("#state", "aid")
        assert v.page.text("#pay") == ""
        assert v.wallet.signatures == 1
        v.expect_paid()


def test_a_reload_while_the_call_is_under_way_goes_on_with_the_same_payment(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.paid.keeper.opened.clear()
        v.page.click("#pay")
        v.page.sees("#state", "Waiting for the answer")
        wait_until(lambda: v.paid.hits == 1, "the upstream is asked")
        v.page.reload()
        v.page.sees("#state", "was signed")
        assert v.page.text("#pay") == ""
        v.paid.keeper.opened.set()
        wait_until(lambda: "under way" not in str(v.paid.states()), "books")

        def is_paid() -> bool:
            if v.page.text("#again"):
                v.page.click("#again")
            return PAID in v.page.text("#state")

        wait_until(is_paid, "the answer is there")
        assert v.wallet.signatures == 1
        v.expect_paid()


def test_two_tabs_pay_once(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        other = v.tab()
        v.wallet.signs.clear()
        v.page.click("#pay")
        v.page.sees("#state", "your signature")
        other.click("#pay")
        other.sees("#state", "Another tab")
        v.wallet.signs.set()
        v.page.sees("#state", PAID)
        other.sees("#state", "You have paid for this call")
        assert (v.wallet.signatures, other.text("#pay")) == (1, "")
        v.expect_paid()


def test_two_tabs_without_locks_send_one_payment(tmp_path, browser):
    """As on a site without TLS, where a browser has no locks."""
    without = "Object.defineProperty(navigator, 'locks', {value: undefined})"
    with visit(tmp_path, browser) as v:
        other = v.tab()
        v.wallet.signs.clear()
        for page in (v.page, other):
            page.run(without)
            page.click("#pay")
            page.sees("#state", "your signature")
        v.wallet.signs.set()
        for page in (v.page, other):
            page.sees("#state", "aid")
        wait_until(lambda: len(v.paid.rows()) >= 1, "a payment")
        v.expect_paid()
        assert v.paid.hits == 1


def test_an_upstreams_page_is_shown_as_text_and_runs_nothing(tmp_path, browser):
    answer = b"<!doctype html><script>window.hacked = 1</script><img src=x onerror=hacked=1>"
    with visit(tmp_path, browser) as v:
        v.paid.keeper.answers("200 OK", "Content-Type: text/html", body=answer)
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        assert v.page.text("#text") == answer.decode()
        assert v.page.run("window.hacked") is None
        assert v.page.run("document.querySelectorAll('img').length") == 0
        assert v.page.run("document.getElementById('file').download") == "paid.html"


def test_a_problem_of_the_upstream_is_text_too(tmp_path, browser):
    body = b'{"detail": "<img src=x onerror=hacked=1>", "type": "<b>"}'
    with visit(tmp_path, browser) as v:
        fields = "Content-Type: application/problem+json"
        v.paid.keeper.answers("400 Bad", fields, body=body)
        v.page.click("#pay")
        v.page.sees("#state", "<img src=x onerror=hacked=1>", "Nothing was charged")
        assert v.page.run("document.querySelectorAll('img').length") == 0
        assert v.page.run("window.hacked") is None


def test_what_is_no_text_is_a_file(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        v.paid.keeper.answers("200 OK", "Content-Type: image/png", body=b"\x89PNG\r\n\x1a\n")
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        assert v.page.text("#text") == ""
        assert v.page.sees("#file", "Download")
        assert v.page.run("document.getElementById('file').href").startswith("blob:")
        assert v.page.run("document.getElementById('file').download") == "paid.png"


def test_a_script_in_title_description_and_address_is_inert(tmp_path, browser):
    routes = f"""
      "GET /paid":
        charge: "0.01"
        title: '{EVIL.replace("'", "''")}'
        description: '{EVIL.replace("'", "''")}'"""
    with visit(tmp_path, browser, routes=routes) as v:
        page = v.page = v.tab("/api/paid?<script>hacked=1</script>")
        assert page.text("h1") == EVIL
        assert page.text(".about") == EVIL
        page.click("#pay")
        page.sees("#state", PAID)
        assert page.run("window.hacked") is None
        v.expect_paid()


def test_without_a_wallet_the_page_says_so_and_shows_the_line(tmp_path, browser):
    with visit(tmp_path, browser, has_wallet=False) as v:
        v.page.sees("#state", "No wallet was found")
        assert v.page.text("#pay") == ""
        line = v.page.text(".command")
        assert line.startswith("mpp-gateway pay --max 0.01 http")
        v.page.run("Object.defineProperty(navigator, 'clipboard', {value:"
                   " {writeText: async (text) => { window.copied = text; }}})")  # fmt: skip
        v.page.click(".copy")
        v.page.sees(".copy", "Copied")
        assert v.page.run("window.copied") == line


def test_no_frame_of_another_page_shows_it(tmp_path, browser):
    with visit(tmp_path, browser) as v:
        shown = v.tab("/api/free")
        shown.run("document.body.append(Object.assign(document.createElement('iframe'),"
                  " {src: '/api/paid', onload: () => { window.framed = 1; }}))")  # fmt: skip
        wait_until(lambda: shown.run("window.framed"), "the frame has loaded something")
        inside = "(() => { try { return document.querySelector('iframe').contentDocument.body"
        assert not shown.run(f"{inside}.innerText }} catch {{ return '' }} }})()")


@pytest.mark.parametrize("width", [320, 375, 1200])
def test_it_fits_and_nothing_jumps(tmp_path, browser, width):
    routes = """
      "GET /paid":
        charge: "0.01"
        title: Weather now
        description: The weather of any city at this minute, from 40 000 stations.
      "GET /first": {charge: "0.01", settle: before}"""
    more = "title: Acme Weather"
    with visit(tmp_path, browser, routes=routes, more=more) as v:
        name = {320: "small", 375: "phone", 1200: "wide"}[width]
        for dark in (False, True):
            scheme = "dark" if dark else "light"
            v.page.picture(f"payment-page-{name}-{scheme}", dark=dark, width=width)
        assert v.page.run("document.documentElement.scrollWidth <= innerWidth")
        place = "document.querySelector('.terminal').getBoundingClientRect().top"
        before = v.page.run(place)
        v.wallet.signs.clear()
        v.page.click("#pay")
        v.page.sees("#state", "your signature")
        assert abs(v.page.run(place) - before) < 2
        v.wallet.signs.set()
        v.page.sees("#state", PAID)
        assert v.page.run("document.documentElement.scrollWidth <= innerWidth")
        v.page.picture(f"payment-page-{name}-paid", width=width)


def test_of_several_offers_the_chosen_one_is_paid(tmp_path, browser):
    routes = """
      "GET /paid":
        title: Weather now
        offers:
          - {method: second, amount: "0.05"}
          - {method: evm, amount: "0.01"}
          - {method: tempo, amount: "0.04"}"""
    other = "0x00000000000000000000000000000000000000AA"
    tempo = (
        '  tempo: {chain_id: 42431, rpc_url: "http://127.0.0.1:1", currency:'
        f' "0x20C0000000000000000000000000000000000000", recipient: "{other}"}}\n'
    )
    routes_now = '\n      "GET /paid": {charge: "0.01"}'
    with paid_gateway(tmp_path, routes=routes_now) as paid:
        own = next(line for line in paid.config.split("\n") if line.startswith("  evm:"))
        # Of another chain, in the hands of a facilitator that is never asked.
        token = own.partition("token: ")[2].partition("}")[0]
        second = (
            f"  second: {{kind: evm, chain_id: 8453, token: {token}}}, recipient: "
            f'"{other}", submit: {{facilitator: "http://127.0.0.1:1"}}}}'
        )
        text = paid.config.replace(own, f"{second}\n{own}\n{tempo}").replace(routes_now, routes)
        paid.stop()
        paid.start(text)
        wallet = Wallet(paid.key, paid.chain.demo.chain_id, paid.chain.demo.rpc_url)
        page = Visit(paid, browser, wallet).page
        assert page.text(".offers").count("with a wallet") == 2
        page.sees("#pay", "Pay 0.05")
        page.picture("payment-page-offers")
        page.run("document.querySelector('input[value=\"1\"]').click()")
        page.sees("#pay", "Pay 0.01")
        page.sees("#amount", "0.01")
        page.click("#pay")
        page.sees("#state", PAID)
        assert paid.balance() == PRICE


def test_a_script_that_finds_its_way_in_does_not_run_and_is_reported(tmp_path, browser):
    """Shows too that the tests which see no violation would see one."""
    with visit(tmp_path, browser) as v:
        page = v.tab()
        page.run(
            "document.body.append(Object.assign(document.createElement('script'),"
            " {text: 'window.hacked = 1'}))"
        )
        wait_until(lambda: page.violations, "the violation is reported")
        page.run("fetch('http://127.0.0.1:9/').catch(() => { window.isBlocked = 1; })")
        wait_until(lambda: page.run("window.isBlocked"), "the other address is not asked")
        assert page.run("window.hacked") is None
        assert any(line.startswith("connect-src") for line in page.run("window.violations"))


def test_where_callers_have_own_accounts_the_payment_goes_beside(tmp_path, browser):
    with visit(tmp_path, browser, auth="requires_auth: true") as v:
        v.page.click("#pay")
        v.page.sees("#state", PAID)
        v.expect_paid()
        assert v.paid.upstream.seen[0].get("payment-authorization") is None
