"""Free calls through the gateway: who gets them, who tries to get more, and what is paid after."""

import json

import pytest

from tests.support.paid import PRICE, at_once, paid_gateway, refused, wait_until

FREE = "free_calls: {count: 3, per: day}"
PROXY = "trusted_proxies: [127.0.0.0/8]"
ONE, OTHER = "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 203.0.113.8"


def statuses(paid, times: int, *fields: str, target: str = "/api/paid") -> list[int]:
    return [paid.ask(target, *fields)[0] for _ in range(times)]


def test_the_first_calls_of_a_client_are_free_and_the_next_has_a_price(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        answers = [paid.ask("/api/paid") for _ in range(4)]
        assert [(a[0], a[1]["x-free-remaining"]) for a in answers] == [
            (200, "2"), (200, "1"), (200, "0"), (402, "0")
        ]  # fmt: skip
        assert all(0 < int(a[1]["x-free-reset"]) <= 86_400 for a in answers)
        assert answers[0][1]["cache-control"] == "private"
        assert "payment-receipt" not in answers[0][1]
        assert (paid.hits, paid.balance(), paid.states()) == (3, 0, {})
        refused(answers[3], "payment-required")
        assert paid.send(paid.buy())[0] == 200
        assert paid.balance() == PRICE


def test_who_shows_a_payment_pays_though_calls_are_left(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        paid.stop()
        paid.start(paid.config.replace(FREE, ""))
        credential = paid.buy()
        paid.stop()
        paid.start()
        status, fields, _ = paid.send(credential)
        assert (status, paid.balance()) == (200, PRICE)
        assert "x-free-remaining" not in fields
        refused(paid.send(credential), "invalid-challenge")
        refused(paid.ask("/api/paid", "Authorization: Payment e30"), "malformed-credential")
        assert paid.ask("/api/paid")[1]["x-free-remaining"] == "2"


def test_an_invented_forwarded_address_buys_no_more_free_calls(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        fields = [f"X-Forwarded-For: 198.51.100.{n}" for n in range(10)]
        got = [paid.ask("/api/paid", field)[0] for field in fields]
    assert got.count(200) == 3


def test_what_a_client_writes_before_its_proxys_word_buys_no_more_either(tmp_path):
    with paid_gateway(tmp_path, more=f"{FREE}\n{PROXY}") as paid:
        fields = [f"X-Forwarded-For: 198.51.100.{n}, 203.0.113.7" for n in range(10)]
        got = [paid.ask("/api/paid", field)[0] for field in fields]
        assert got.count(200) == 3
        assert statuses(paid, 4, OTHER).count(200) == 3


def test_addresses_of_one_ipv6_line_are_one_client_and_all_clients_share_a_total(tmp_path):
    more = f"free_calls: {{count: 3, total: 10}}\n{PROXY}"
    with paid_gateway(tmp_path, more=more) as paid:
        same = [f"X-Forwarded-For: 2001:db8:0:1::{n:x}" for n in range(1, 9)]
        assert [paid.ask("/api/paid", field)[0] for field in same].count(200) == 3
        others = [f"X-Forwarded-For: 2001:db8:{n:x}::1" for n in range(1, 30)]
        assert [paid.ask("/api/paid", field)[0] for field in others].count(200) == 7


def test_many_at_once_get_exactly_so_many(tmp_path):
    with paid_gateway(tmp_path, more="free_calls: {count: 5}") as paid:
        answers = at_once([lambda: paid.ask("/api/paid")] * 20)
        assert sorted(answer[0] for answer in answers) == [200] * 5 + [402] * 15
        assert paid.hits == 5


def test_a_restart_gives_none_anew(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        assert statuses(paid, 2) == [200, 200]
        paid.stop()
        paid.start()
        assert statuses(paid, 2) == [200, 402]


def test_a_store_that_cannot_count_gives_nothing_away(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        assert statuses(paid, 1) == [200]
        paid.place.rows("SELECT 1 AS one")
        paid.proxy.call(paid.proxy.runtime.serving.database.close)
        status, fields, _ = paid.ask("/api/paid")
        assert (status, paid.hits) == (402, 1)
        assert "x-free-remaining" not in fields


def test_a_call_that_the_api_fails_is_not_given_back(tmp_path):
    """Else whoever finds a request that fails could ask it for ever."""
    with paid_gateway(tmp_path, more=FREE) as paid:
        for status in ("500 Oops", "404 None", "200 OK"):
            paid.keeper.answers(status)
            assert paid.ask("/api/paid")[0] == int(status[:3])
        assert paid.ask("/api/paid")[0] == 402


def test_the_nearest_word_counts_and_each_counts_for_itself(tmp_path):
    routes = """
      "GET /paid": {charge: "0.01"}
      "GET /dear": {charge: "0.09", free_calls: {count: 1}}
      "GET /never": {charge: "0.09", free_calls: {count: 0}}
      "GET /free": free"""
    services = "\n    free_calls: {count: 2, per: hour}"
    with paid_gateway(tmp_path, routes=routes, services=services, more=FREE) as paid:
        assert statuses(paid, 3) == [200, 200, 402]
        assert statuses(paid, 2, target="/api/dear") == [200, 402]
        assert statuses(paid, 2, target="/api/never") == [402, 402]
        free = paid.ask("/api/free")
        assert free[0] == 200
        assert "x-free-remaining" not in free[1]


def test_an_upstream_cannot_say_how_many_are_left(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        paid.keeper.answers("200 OK", "X-Free-Remaining: 99", "Cache-Control: public")
        _, fields, _ = paid.ask("/api/paid")
        assert (fields["x-free-remaining"], fields["cache-control"]) == ("2", "private")
        _, fields, _ = paid.ask("/api/free")
        assert "x-free-remaining" not in fields


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_head_is_a_call(tmp_path, method):
    with paid_gateway(tmp_path, more="free_calls: {count: 1}") as paid:
        assert paid.ask("/api/paid", method=method)[0] == 200
        assert paid.ask("/api/paid")[0] == 402


def test_a_limit_to_prices_asks_for_no_free_call(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        assert paid.ask("/api/dear", "X-Max-Price: 0.01")[0] == 412
        assert paid.ask("/api/dear")[1]["x-free-remaining"] == "2"


def test_the_documents_say_how_many_are_free(tmp_path):
    with paid_gateway(tmp_path, more=FREE) as paid:
        document = json.loads(paid.ask("/openapi.json")[2])
        assert document["paths"]["/api/paid"]["get"]["x-free-calls"] == {"count": 3, "per": "day"}
        assert "x-free-calls" not in document["paths"]["/api/free"]["get"]
        assert b"; 3 free for each client a day" in paid.ask("/discover/all.md")[2]


def test_the_sweep_forgets_periods_that_are_over(tmp_path):
    with paid_gateway(tmp_path, more="free_calls: {count: 3, per: minute}") as paid:
        assert statuses(paid, 1) == [200]
        serving = paid.proxy.runtime.serving
        executor = serving.executor
        purge = executor.free_calls.purge
        wait_until(lambda: len(paid.place.rows("SELECT * FROM free_calls")) == 2, "two rows")
        assert paid.proxy.call(lambda: purge(executor.clock() + 61)) == 2
        assert paid.place.rows("SELECT * FROM free_calls") == []


@pytest.mark.parametrize("target", ["/api/paid", "/api/bound"])
def test_a_free_call_with_an_idempotency_key_is_answered_and_not_kept(tmp_path, target):
    with paid_gateway(tmp_path, more=FREE) as paid:
        got = [
            paid.ask(target, "Idempotency-Key: one", method="POST", body=b"{}") for _ in range(4)
        ]
        assert [answer[0] for answer in got] == [200, 200, 200, 402]
        assert (paid.hits, paid.states(), paid.crashes()) == (3, {}, [])
        assert paid.place.rows("SELECT * FROM answers") == []


def test_whoever_looks_inside_sees_a_free_call_and_no_refusal(tmp_path):
    seen = []

    class Watch:
        def response(self, flow):
            seen.append(flow)

    with paid_gateway(tmp_path, more="free_calls: {count: 1}") as paid:
        paid.proxy.call(lambda: paid.proxy.master.addons.add(Watch()))
        assert statuses(paid, 2) == [200, 402]
        wait_until(lambda: len(seen) == 2 and seen[1].comment, "both are commented")
    assert [flow.comment.split(" · ")[-1] for flow in seen] == ["free call", "payment required"]
