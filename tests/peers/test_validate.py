"""`mppx validate` finds nothing wrong with a real gateway, and pays every route while it looks."""

import json
import subprocess

from tests.peers.shop import ANSWER_S, OTHER_PRICE, PRICE, PURSE, Buyer, Shop
from tests.support.components import PEERS

PAID = {
    "GET /api/paid": PRICE,
    "GET /api/other": OTHER_PRICE,
    "GET /api/first": PRICE,
    "POST /api/report": PRICE,
    "GET /own/paid": PRICE,
}
CHECKED_OF_A_PAYMENT = [
    "Payment [evm]: submitted",
    "Payment: successful",
    "Payment-Receipt header present",
    "Receipt parseable",
    'Receipt status is "success"',
    "Receipt reference valid",
    "Receipt timestamp recent",
    "Response body non-empty",
    "Content-Type header set",
]


def test_every_check_of_mppx_validate_passes_and_every_paid_route_is_paid(shop: Shop):
    buyer, takings = shop.buyer("mppx"), shop.takings

    report = _validate(shop, buyer)

    assert _not_passed(report) == []
    assert report["summary"]["passed"] == len(_checks(report))
    found = {f"{one['method']} {one['path']}": one["payment"] for one in report["endpoints"]}
    assert set(found) == set(PAID)
    for payment in found.values():
        assert [check["label"] for check in payment] == CHECKED_OF_A_PAYMENT
    assert buyer.balance == PURSE - sum(PAID.values())
    assert shop.takings == takings + sum(PAID.values())


def _validate(shop: Shop, buyer: Buyer) -> dict:
    done = subprocess.run(
        [PEERS / "node_modules" / ".bin" / "mppx", "validate", shop.url, "-j", "--yes"],
        env={**buyer.environ, "MPPX_CONFIG": str(PEERS / "mppx" / "config.mjs")},
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == 0, _not_passed(report)
    return report


def _checks(report: dict) -> list[dict]:
    found = list(report["discovery"]["checks"])
    for endpoint in report["endpoints"]:
        found += endpoint["challenge"] + endpoint["errorHandling"] + endpoint["payment"]
    return found


def _not_passed(report: dict) -> list[dict]:
    return [check for check in _checks(report) if check["severity"] != "pass"]
