"""What crosses the gateway: no credential goes up, no forged receipt comes down, no key leaks."""

import json

import pytest

from mpp_gateway.protocol.challenge import Challenge
from tests.support.client import RawClient
from tests.support.paid import PRICE, fresh_key, paid_gateway, receipt_of, refused, token_of

FORGED = (
    "Payment-Receipt: forged",
    "payment-receipt: forged-too",
    'WWW-Authenticate: Payment id="forged"',
    "Set-Cookie: forged=1",
    "PAYMENT-RESPONSE: forged",
    "X-PAYMENT-RESPONSE: forged",
    "PAYMENT-REQUIRED: forged",
    "Payment-Session: forged",
    "X-Hop: forged",
    "Connection: keep-alive, X-Hop",
    "Keep-Alive: forged",
    "Proxy-Authenticate: forged",
)

SENT = {
    "X-PAYMENT": "marked",
    "PAYMENT-SIGNATURE": "marked",
    "Payment-Authorization": "marked",
    "Accept-Payment": "evm/charge",
    "Payment-Receipt": "marked",
    "PAYMENT-REQUIRED": "marked",
    "PAYMENT-RESPONSE": "marked",
    "X-PAYMENT-RESPONSE": "marked",
    "SIGN-IN-WITH-X": "marked",
    "X-Cashu": "marked",
    "Payment-Session": "marked",
    "Payment-Session-Snapshot": "marked",
    "Cookie": "marked=1",
    "Forwarded": "for=marked",
    "X-Forwarded-For": "marked",
    "X-Forwarded-Host": "marked",
    "X-Forwarded-Proto": "marked",
    "X-Forwarded-Anything": "marked",
    "X-Real-IP": "marked",
    "True-Client-IP": "marked",
    "CF-Connecting-IP": "marked",
    "Via": "marked",
    "Proxy-Authorization": "marked",
    "Proxy-Connection": "keep-alive",
    "Keep-Alive": "marked",
    "TE": "trailers",
    "Upgrade": "marked",
    "HTTP2-Settings": "marked",
    "X-Named": "marked",
    "Connection": "keep-alive, X-Named",
}


@pytest.mark.parametrize("target", ["/api/paid", "/api/free"])
def test_no_payment_or_hop_field_of_the_client_reaches_the_upstream(tmp_path, target):
    with paid_gateway(tmp_path) as gateway:
        fields = [f"{name}: {value}" for name, value in SENT.items()]
        credential = gateway.buy().format()
        fields += [f"Authorization: {credential}", "X-Kept: kept"]
        assert gateway.ask(target, *fields)[0] == 200
        seen = gateway.upstream.seen[0]
        names = {name.lower() for name, _ in seen.headers}
        assert not names & {name.lower() for name in SENT if name != "Connection"}
        assert "marked" not in json.dumps(seen.headers).replace("marked-upstream-secret", "")
        assert credential not in json.dumps(seen.headers)
        assert seen.get("x-kept") == "kept"
        assert seen.get("host") == f"127.0.0.1:{gateway.upstream.port}"


@pytest.mark.parametrize("target", ["/api/paid", "/api/free"])
def test_the_upstream_sees_our_secret_once_whatever_the_client_sent(tmp_path, target):
    auth = "auth: {header: {name: X-Api-Key, value: marked-upstream-secret}}"
    with paid_gateway(tmp_path, auth=auth) as gateway:
        fields = [
            "x-api-key: mine",
            "X-API-KEY: mine",
            "X-Api-Key: mine",
            "Authorization: Bearer mine",
        ]
        fields.append(f"Authorization: {gateway.buy().format()}")
        assert gateway.ask(target, *fields)[0] == 200
        found = [v for n, v in gateway.upstream.seen[0].headers if n.lower() == "x-api-key"]
        assert found == ["marked-upstream-secret"]
        assert gateway.upstream.seen[0].get("authorization") is None


def test_an_injected_field_wins_over_every_spelling_of_the_client(tmp_path):
    auth = "auth: {bearer: marked-upstream-secret}\n    headers: {X-Org-Id: ours}"
    with paid_gateway(tmp_path, auth=auth) as gateway:
        fields = [
            "x-org-id: theirs",
            "X-ORG-ID: theirs",
            f"Authorization: {gateway.buy().format()}",
        ]
        assert gateway.ask("/api/paid", *fields)[0] == 200
        seen = gateway.upstream.seen[0].headers
        assert [v for n, v in seen if n.lower() == "x-org-id"] == ["ours"]
        assert [v for n, v in seen if n.lower() == "authorization"] == [
            "Bearer marked-upstream-secret"
        ]


def test_fields_that_steer_the_sellers_account_never_reach_a_known_service(tmp_path):
    auth = "preset: openai\n    api_key: marked-upstream-secret"
    with paid_gateway(tmp_path, auth=auth) as gateway:
        fields = [
            "OpenAI-Organization: theirs",
            "openai-project: theirs",
            f"Authorization: {gateway.buy().format()}",
        ]
        assert gateway.ask("/api/paid", *fields)[0] == 200
        assert "theirs" not in json.dumps(gateway.upstream.seen[0].headers)


@pytest.mark.parametrize("target", ["/api/paid", "/api/free"])
def test_an_upstream_can_forge_no_receipt_no_challenge_and_no_cookie(tmp_path, target):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", *FORGED, "X-Kept: kept")
        status, headers, _ = response = gateway.send(gateway.buy(), target)
        assert (status, headers["x-kept"]) == (200, "kept")
        assert "forged" not in json.dumps(headers)
        if target == "/api/paid":
            assert receipt_of(response).method == "evm"
        else:
            assert "payment-receipt" not in headers


@pytest.mark.parametrize("status", ["401 Unauthorized", "404 Not Found", "500 Oops"])
def test_an_upstream_that_refuses_can_forge_nothing_either(tmp_path, status):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers(status, *FORGED)
        answer = gateway.send(gateway.buy())
        assert answer[0] == int(status[:3])
        assert "forged" not in json.dumps(answer[1])
        assert "payment-receipt" not in answer[1]


@pytest.mark.parametrize("target", ["/api/paid", "/api/free"])
def test_an_upstream_can_forge_nothing_by_trailers(tmp_path, target):
    with paid_gateway(tmp_path) as gateway:
        trailers = "\r\n".join(
            [*(f for f in FORGED if not f.startswith("Connection")), "X-Kept: kept"]
        )
        gateway.keeper.raw = (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
            "Trailer: Payment-Receipt, X-Kept\r\n\r\n"
            f"1\r\nx\r\n0\r\n{trailers.replace('X-Hop: forged', 'X-Other: ok')}\r\n\r\n"
        ).encode()
        status, headers, body = gateway.send(gateway.buy(), target)
        assert (status, body, headers["x-kept"]) == (200, b"x", "kept")
        assert "forged" not in json.dumps(headers)


def test_a_redirect_into_the_upstream_is_seen_from_outside_and_costs_nothing(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        inside = f"{gateway.upstream.url}/dear?x=1"
        for location, seen in (
            (inside, "/api/dear?x=1"),
            ("/dear", "/api/dear"),
            ("https://elsewhere.example/x", "https://elsewhere.example/x"),
            ("//elsewhere.example/x", "//elsewhere.example/x"),
        ):
            gateway.keeper.answers("302 Found", f"Location: {location}")
            status, headers, _ = gateway.send(gateway.buy())
            assert (status, headers["location"]) == (302, seen)
        assert (gateway.balance(), gateway.states()) == (0, {"released": 4})


def test_a_bearer_beside_a_credential_does_not_disturb_it(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy().format()
        assert gateway.ask("/api/paid", f"Authorization: Bearer x, {credential}")[0] == 200
        assert "marked-upstream-secret" in gateway.upstream.seen[0].get("authorization")
        assert gateway.balance() == PRICE


def test_members_that_nobody_knows_are_ignored(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        payload = dict(credential.payload) | {"future": {"deep": [1, {"er": None}]}}
        members = {
            "challenge": {
                name: getattr(credential.challenge, name)
                for name in ("id", "realm", "method", "intent", "request", "expires", "opaque")
            }
            | {"future": 1},
            "payload": payload,
            "future": [],
        }
        assert gateway.send(token_of(members))[0] == 200
        assert gateway.balance() == PRICE


# Caches


def test_every_402_says_no_store(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        spent = gateway.buy()
        gateway.send(spent)
        poor = gateway.sign(gateway.challenge(), key=fresh_key("poor"))
        for answer in (
            gateway.ask(),
            gateway.send("Payment x"),
            gateway.send(spent),
            gateway.send(poor),
            gateway.ask(method="HEAD"),
        ):
            assert (answer[0], answer[1]["cache-control"]) == (402, "no-store")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), "private"),
        (("public, max-age=60, s-maxage=5",), "private, max-age=60"),
        (("PUBLIC", "S-MaxAge = 5, no-transform"), "private, no-transform"),
        (('private="set-cookie, x-y", max-age=1',), "private, max-age=1"),
        (('no-cache="a, public", max-age=1',), 'private, no-cache="a, public", max-age=1'),
        (("no-store",), "private, no-store"),
    ],
)
def test_a_paid_answer_is_for_no_shared_cache(tmp_path, given, kept):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers(
            "200 OK",
            *(f"Cache-Control: {value}" for value in given),
            "CDN-Cache-Control: max-age=600",
            "Surrogate-Control: max-age=600",
            "X-Accel-Expires: 600",
        )
        status, headers, _ = gateway.send(gateway.buy())
        assert (status, headers["cache-control"]) == (200, kept)
        assert not {"cdn-cache-control", "surrogate-control", "x-accel-expires"} & set(headers)


def test_an_answer_that_is_charged_though_it_is_no_success_is_private_and_has_no_receipt(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("404 Not Found", "Cache-Control: public, max-age=60")
        status, headers, _ = gateway.send(gateway.buy("/api/teapot"), "/api/teapot")
        assert (status, headers["cache-control"]) == (404, "private, max-age=60")
        assert "payment-receipt" not in headers
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_a_free_answer_keeps_its_caching(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers("200 OK", "Cache-Control: public, max-age=60")
        assert gateway.ask("/api/free")[1]["cache-control"] == "public, max-age=60"


# Receipts


def test_the_receipt_says_what_the_chain_says(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        receipt = receipt_of(gateway.send(credential))
        assert (receipt.method, receipt.status) == ("evm", "success")
        assert receipt.extra == {
            "challengeId": credential.challenge.id,
            "chainId": gateway.chain.demo.chain_id,
        }
        mined = gateway.chain.transaction(receipt.reference)
        assert mined is not None
        assert mined["status"] == "0x1"
        transfer = mined["logs"][-1]
        assert int(transfer["data"], 16) == PRICE
        assert transfer["topics"][2][-40:] == gateway.payee[2:].lower()


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
def test_no_receipt_on_an_answer_that_is_no_success(tmp_path, status):
    with paid_gateway(tmp_path) as gateway:
        gateway.keeper.answers(f"{status} Whatever")
        answer = gateway.send(gateway.buy())
        assert (answer[0], "payment-receipt" in answer[1]) == (status, False)
        assert (gateway.balance(), gateway.states()) == (0, {"released": 1})


def test_a_head_is_challenged_paid_and_receipted_like_its_get_and_has_no_body(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        status, headers, _ = gateway.ask(method="HEAD")
        assert status == 402
        assert "payment-receipt" not in headers
        credential = gateway.sign(Challenge.parse(headers["www-authenticate"]))
        with RawClient(gateway.port) as client:
            for wanted in (200, 402):
                client.send(
                    f"HEAD /api/paid HTTP/1.1\r\nHost: x\r\nAuthorization: {credential.format()}"
                    "\r\n\r\n".encode()
                )
                status, headers, _ = client.response("HEAD")
                assert status == wanted
                assert ("payment-receipt" in headers) == (wanted == 200)
        assert gateway.balance() == PRICE


def test_no_log_line_holds_a_credential_a_signature_or_a_secret(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        assert gateway.send(credential)[0] == 200
        refused(gateway.send(credential), "invalid-challenge")
        log = "\n".join(gateway.proxy.log)
        for secret in (
            credential.format(),
            credential.payload["signature"],
            "marked-upstream-secret",
            "test-secret-test-secret",
        ):
            assert secret not in log
