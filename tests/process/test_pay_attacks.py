"""A seller that means ill, against `mpp-gateway pay`: nothing is signed beyond what was said."""

import asyncio
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mpp_gateway.cli import buyer
from mpp_gateway.cli.main import parser
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.protocol import base64url, jcs
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.networks import NETWORKS
from tests.support.command import COMMAND, WAIT_S, environ, run, run_on_terminal
from tests.support.upstream import upstream

KEY = "11" * 32
USDC_BASE = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
USDC_SEPOLIA = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
EURC = NETWORKS["base-sepolia"].token("EURC").address
OTHER_TOKEN = "0x" + "33" * 20
FAR = "9999-12-31T23:59:59Z"
RECEIPT = base64url.encode(
    b'{"method":"evm","reference":"0x1","status":"success","timestamp":"2026-01-01T00:00:00Z"}'
)
THANKS = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks"


def seller(
    chain_id=84532,
    token=USDC_SEPOLIA,
    amount="1000",
    realm="shop",
    expires=FAR,
    paid=THANKS,
    header="",
):
    """Answers 402 with a challenge of its own making, and `paid` to whoever pays."""
    request = {
        "amount": amount,
        "currency": token,
        "recipient": "0x" + "22" * 20,
        "methodDetails": {"chainId": chain_id, "decimals": 6},
    }
    challenge = (
        f'Payment id="x", realm="{realm}", method="evm", intent="charge",'
        f' request="{jcs.encode_object(request)}", expires="{expires}"'
        + (f', header="{header}"' if header else "")
    )
    field = header or "authorization"

    async def respond(seen, _, writer):
        is_paid = (seen.get(field) or "").startswith("Payment ")
        if is_paid and callable(paid):
            await paid(writer)
        elif is_paid:
            writer.write(paid)
        else:
            head = f"HTTP/1.1 402 Payment Required\r\nWWW-Authenticate: {challenge}\r\n"
            writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return paid == THANKS or not is_paid

    return upstream(respond)


def signed(asked) -> list[Credential]:
    fields = [seen.get("authorization") for seen in asked.seen]
    return [Credential.parse(field.split(" ", 1)[1]) for field in fields if field]


def pay(tmp_path, asked, *more):
    return run("pay", f"{asked.url}/", *more, home=tmp_path, MPP_PRIVATE_KEY=KEY)


def test_a_realm_cannot_repaint_the_price_on_a_terminal(tmp_path):
    with seller(realm=r"\u001b[4A\u000d\u001b[Kprice: 0.001\u009b4B") as asked:
        done = pay(tmp_path, asked, "--dry-run")

    assert not {"\x1b", "\r", "\x9b"} & set(done.err + done.out)
    assert "0.001000" in done.err + done.out


def test_an_authorization_ends_within_the_hour_whatever_the_seller_says(tmp_path):
    started_s = time.time()
    with seller() as asked:
        done = pay(tmp_path, asked)

    (credential,) = signed(asked)
    assert done.code == 0
    assert started_s < int(credential.payload["validBefore"]) <= time.time() + 3600


@pytest.mark.parametrize("token", [OTHER_TOKEN, EURC])
def test_a_token_that_is_no_known_dollar_needs_a_limit_of_its_own(tmp_path, token):
    with seller(token=token) as asked:
        done = pay(tmp_path, asked)

    assert done.code == 5
    assert "none of the dollars" in done.err
    assert signed(asked) == []


@pytest.mark.parametrize(("token", "paid"), [(OTHER_TOKEN, 0), (EURC, 0), (USDC_SEPOLIA, 1)])
def test_a_limit_in_dollars_pays_in_nothing_else(tmp_path, token, paid):
    """Without the unit, the same limit would be a tenth of whatever the seller names."""
    with seller(token=token) as asked:
        done = pay(tmp_path, asked, "--max", "0.10 usd")

    assert (done.code, len(signed(asked))) == (0 if paid else 5, paid)
    assert ("is in no usd that is known here" in done.err) is not bool(paid)


@pytest.mark.parametrize(("chain", "paid"), [("84532", 0), ("8453", 1)])
def test_the_buyer_names_the_chain_and_not_the_seller(tmp_path, chain, paid):
    with seller(chain_id=8453, token=USDC_BASE) as asked:
        done = pay(tmp_path, asked, "--chain", chain)

    assert done.code == (0 if paid else 5)
    assert len(signed(asked)) == paid


def test_a_payment_is_sent_once_and_a_cut_answer_is_no_proof_that_it_was_not_made(tmp_path):
    """aiohttp repeats a GET whose connection broke: its failure says nothing of the first."""
    with seller(paid=b"") as asked:
        done = pay(tmp_path, asked)

    assert done.code == 6
    assert len(signed(asked)) == 1
    assert "MPP_CREDENTIAL='Payment " in done.err
    assert "nothing was paid" not in done.err


# --- what a seller may answer to a payment --------------------------------------------------------


def answer(status: str, body: bytes, *fields: str, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def problem(status: str, body: bytes | dict[str, str]) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer(status, text, "Content-Type: application/problem+json")


def shown_variables(err: str) -> dict[str, str]:
    return dict(re.findall(r"^(MPP_\w+)='?([^'\n]*?)'?(?: \\)?$", err, re.MULTILINE))


def assert_can_be_presented_again(err, asked):
    """What is on the screen is what the seller was sent, and the seller is named."""
    sent = next(seen for seen in asked.seen if seen.get("authorization"))
    assert shown_variables(err) == {
        "MPP_CREDENTIAL_FOR": asked.url,
        "MPP_IDEMPOTENCY_KEY": sent.get("idempotency-key"),
        "MPP_CREDENTIAL": sent.get("authorization"),
    }
    assert re.fullmatch("[0-9a-f]{32}", sent.get("idempotency-key"))


@pytest.mark.parametrize(
    ("paid", "code"),
    [
        (problem("503 X", b"[" * 60_000), 6),
        (problem("500 X", b'{"detail": ' + b"9" * 5000 + b"}"), 6),
        (answer("200 OK", b"abcd", "Content-Encoding: gzip"), 6),
        (answer("200 OK", b"half", "Payment-Receipt: e30", length=100), 6),
        (answer("200 OK", b"half", length=100), 6),
        (b"HTTP/1.1 nonsense\r\n\r\n", 6),
        (answer("500 X", b"no", f"Payment-Receipt: {RECEIPT}"), 6),
        (answer("500 X", b"no", "Payment-Receipt: not-one"), 6),
        (answer("402 X", b"no", f"Payment-Receipt: {RECEIPT}"), 1),
        (answer("302 X", b"", "Location: http://127.0.0.1:9/"), 6),
        (problem("502 X", {"payment": "released"}), 1),
        (problem("402 X", {"detail": "no"}), 1),
        (problem("409 X", {"type": "urn:x:payment-in-progress"}), 6),
        (problem("409 X", {"type": "urn:x:answer-not-kept"}), 6),
    ],
)
def test_whatever_answers_a_payment_leaves_it_in_the_buyers_hands(paid, code, tmp_path):
    with seller(paid=paid) as asked:
        done = pay(tmp_path, asked)

    assert done.code == code
    assert "payment: " in done.err
    assert_can_be_presented_again(done.err, asked)
    assert "Traceback" not in done.err


def test_a_receipt_with_a_fraction_does_not_end_the_answer(tmp_path):
    members = {"method": "evm", "reference": "0x1", "status": "success", "timestamp": FAR}
    text = json.dumps(members | {"fee": 0.5})
    with seller(
        paid=answer("200 OK", b"thanks", f"Payment-Receipt: {base64url.encode(text.encode())}")
    ) as asked:
        done = pay(tmp_path, asked)

    assert (done.code, done.out) == (0, "thanks")
    assert json.loads(done.err.split("receipt: ")[1])["fee"] == "0.5"


def test_a_full_disk_does_not_swallow_what_was_paid(tmp_path):
    paid = answer("200 OK", b"thanks", "Payment-Receipt: e30")
    with seller(paid=paid) as asked, Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [COMMAND, "pay", f"{asked.url}/"],
            env=environ(tmp_path, MPP_PRIVATE_KEY=KEY),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 6
    assert "payment: made, as the receipt says; the answer is not whole" in done.stderr
    assert_can_be_presented_again(done.stderr, asked)


def test_a_key_of_the_buyers_own_is_sent_alone_and_only_the_credential_is_shown(tmp_path):
    with seller(paid=problem("502 X", {"payment": "released"})) as asked:
        done = pay(tmp_path, asked, "--header", "idempotency-key: mine")

    paid = asked.seen[-1]
    sent = [v for n, v in paid.headers if n.lower() == "idempotency-key"]
    assert sent == ["mine"]
    assert set(shown_variables(done.err)) == {"MPP_CREDENTIAL_FOR", "MPP_CREDENTIAL"}


def test_a_payment_goes_beside_the_buyers_own_authorization(tmp_path):
    with seller(header="Payment-Authorization") as asked:
        done = pay(tmp_path, asked, "--header", "Authorization: Bearer mine")

    assert done.out == "thanks"
    assert [seen.get("authorization") for seen in asked.seen] == ["Bearer mine"] * 2
    assert asked.seen[-1].get("payment-authorization").startswith("Payment ")


@pytest.mark.parametrize(
    ("header", "more", "complaint"),
    [
        ("Host", (), "wants the payment in the field 'Host'"),
        ("", ("--header", "authorization: Bearer mine"), "the payment goes in that field"),
    ],
)
def test_a_payment_goes_in_a_field_for_payments_that_is_free(tmp_path, header, more, complaint):
    with seller(header=header) as asked:
        done = pay(tmp_path, asked, *more)

    assert (done.code, complaint in done.err, len(asked.seen)) == (5, True, 1)


def test_no_key_is_made_up_for_a_call_without_a_payment(tmp_path):
    with seller() as asked:
        pay(tmp_path, asked)

    unpaid, paid = asked.seen
    assert unpaid.get("idempotency-key") is None
    assert paid.get("idempotency-key") is not None


HOSTILE = "\x1b]52;c;Y3VybA==\x07\x1b[2J\x9b4A\x08\u202epayment:\ttabs\r\nstay ü".encode()


def test_a_body_cannot_command_the_terminal_that_shows_it(tmp_path):
    with seller(paid=answer("404 X", HOSTILE + b"\xff\xe2\x82")) as asked:
        code, text = run_on_terminal("pay", f"{asked.url}/", home=tmp_path, MPP_PRIVATE_KEY=KEY)

    shown = text.replace("\x1b[1m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert code == 6
    assert not {c for c in shown if not c.isprintable()} - {"\n", "\t"}
    assert "\\x1b]52;c;Y3VybA==\\x07" in shown
    assert "payment:\ttabs\nstay ü\\xff\\xe2\\x82\n" in shown


def test_a_body_goes_into_a_pipe_byte_for_byte(tmp_path):
    with seller(paid=answer("200 OK", HOSTILE + b"\xff")) as asked:
        done = subprocess.run(
            [COMMAND, "pay", f"{asked.url}/"],
            env=environ(tmp_path, MPP_PRIVATE_KEY=KEY),
            capture_output=True,
            timeout=60,
            check=False,
        )

    assert done.stdout == HOSTILE + b"\xff"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_the_command_is_told_of_the_payment_that_the_seller_has(tmp_path, number):
    """`timeout 30 mpp-gateway pay`, and most runners of agents, end it with SIGTERM."""
    sent = threading.Event()

    async def silent(_):
        sent.set()
        await asyncio.sleep(WAIT_S)

    with seller(paid=silent) as asked:
        child = subprocess.Popen(
            [COMMAND, "pay", f"{asked.url}/"],
            env=environ(tmp_path, MPP_PRIVATE_KEY=KEY),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert sent.wait(WAIT_S)
        child.send_signal(number)
        _, err = child.communicate(timeout=WAIT_S)

    assert child.returncode == 128 + number
    assert "payment: not known; it may have been made, so do not pay again" in err
    assert_can_be_presented_again(err, asked)


@pytest.mark.parametrize("more", [(), ("-H", "Authorization: Bearer x")])
def test_a_url_with_a_password_is_refused_before_anything_is_signed(tmp_path, more):
    """The HTTP client refuses it beside a payment: that was told as `it may have been made`."""
    with seller() as asked:
        url = asked.url.replace("://", "://bob:swordfish@")
        done = run("pay", f"{url}/", *more, home=tmp_path, MPP_PRIVATE_KEY=KEY)

    assert (done.code, done.out, asked.connections) == (2, "", 0)
    assert "--header" in done.err
    assert "swordfish" not in done.err


@pytest.mark.parametrize(
    "node", ["http://bob:swordfish@127.0.0.1:9/v3/swordfish", "no-url/v3/swordfish"]
)
@pytest.mark.parametrize("token", [OTHER_TOKEN, USDC_SEPOLIA])
def test_the_key_in_the_address_of_a_node_is_in_no_complaint(tmp_path, node, token):
    """Before a price is paid, and when the node is asked what became of a payment."""
    with seller(token=token, paid=answer("500 X", b"no")) as asked:
        done = pay(tmp_path, asked, "--max", "1", "--rpc-url", node)

    assert "the token cannot be asked at the node of --rpc-url" in done.err
    assert "swordfish" not in done.err + done.out


def test_a_refusal_that_comes_byte_by_byte_does_not_keep_the_command_for_ever(monkeypatch):
    """412 is read before it is shown, and each byte starts the clock of the connection anew."""

    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 412 X\r\nContent-Type: application/problem+json\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.05)

    monkeypatch.setattr(buyer, "TIMEOUT_S", 0.5)
    with upstream(respond) as asked:
        options = parser().parse_args(["pay", f"{asked.url}/"])
        with pytest.raises(CommandFailed):
            asyncio.run(asyncio.wait_for(buyer.pay(options), 10))


def test_a_limit_that_cannot_be_read_is_refused_in_a_dry_run_too(tmp_path):
    """Or else the command that pays fails where its rehearsal did not."""
    with seller() as asked:
        done = pay(tmp_path, asked, "--dry-run", "--max", "0.05usd")

    assert (done.code, asked.connections) == (2, 0)
    assert "--max 0.05usd: not a plain decimal amount" in done.err


def test_who_takes_x402_alone_is_not_said_to_offer_nothing(tmp_path):
    async def respond(_, __, writer):
        writer.write(b"HTTP/1.1 402 X\r\nPAYMENT-REQUIRED: e30=\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        return True

    with upstream(respond) as asked:
        done = run("pay", f"{asked.url}/", home=tmp_path, MPP_PRIVATE_KEY=KEY)

    assert (done.code, done.out) == (5, "")
    assert "x402 alone, which this command does not speak; nothing was paid" in done.err
