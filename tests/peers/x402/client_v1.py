"""One buyer of x402 version 1, as the legacy x402-fetch reads and writes it; runs in .venv here.

Verbs as client.py.
Of ours it uses nothing: it signs with eth_account. What the legacy client throws on, this refuses.
"""

import base64
import json
import os
import secrets
import sys
import time

import requests
from eth_account import Account

CHAINS = {"base-sepolia": 84532, "base": 8453}
KNOWN = {"scheme", "network", "maxAmountRequired", "resource", "description", "mimeType",
         "outputSchema", "payTo", "maxTimeoutSeconds", "asset", "extra"}  # fmt: skip
WAIT_S = 60


def chosen(unpaid: requests.Response) -> dict:
    """Return what to pay; asserts the form of a version 1 body."""
    asked = unpaid.json()
    assert asked["x402Version"] == 1, asked
    (entry,) = [entry for entry in asked["accepts"] if entry["network"] in CHAINS]
    assert entry["scheme"] == "exact", entry
    assert set(entry) <= KNOWN, entry
    assert entry["resource"].startswith(("http://", "https://")), entry
    assert None not in entry.values(), entry
    texts = ("maxAmountRequired", "description", "mimeType", "payTo", "asset")
    assert all(isinstance(entry[name], str) for name in texts), entry
    assert isinstance(entry["maxTimeoutSeconds"], int), entry
    return entry


def signed(entry: dict, private_key: str) -> str:
    """Return the X-PAYMENT that takes up `entry`."""
    account, now_s = Account.from_key(private_key), int(time.time())
    terms = {
        "from": account.address,
        "to": entry["payTo"],
        "value": int(entry["maxAmountRequired"]),
        "validAfter": now_s - 600,
        "validBefore": now_s + entry["maxTimeoutSeconds"],
        "nonce": secrets.token_bytes(32),
    }
    domain = {
        "name": entry["extra"]["name"],
        "version": entry["extra"]["version"],
        "chainId": CHAINS[entry["network"]],
        "verifyingContract": entry["asset"],
    }
    members = {
        "from": "address",
        "to": "address",
        "value": "uint256",
        "validAfter": "uint256",
        "validBefore": "uint256",
        "nonce": "bytes32",
    }
    types = {"TransferWithAuthorization": [{"name": n, "type": t} for n, t in members.items()]}
    signature = account.sign_typed_data(domain, types, terms).signature
    nonce = "0x" + terms["nonce"].hex()
    authorization = {name: str(terms[name]) for name in members} | {"nonce": nonce}
    proof = {"signature": "0x" + signature.hex(), "authorization": authorization}
    payment = {"x402Version": 1, "scheme": "exact", "network": entry["network"], "payload": proof}
    return base64.b64encode(json.dumps(payment).encode()).decode()


def shown(response: requests.Response) -> dict:
    receipt = response.headers.get("x-payment-response")
    return {
        "body": response.text,
        "challenges": int(response.status_code == 402 and "accepts" in response.json()),
        "receipt": receipt and json.loads(base64.b64decode(receipt)),
        "status": response.status_code,
    }


def main() -> None:
    private_key = json.loads(os.environ["PEER_WALLET"])["private_key"]
    verb, method, body, *urls = sys.argv[1:]
    fields = {"Content-Type": "application/json"} if body else {}

    def call(url: str, payment: str = "", **more) -> requests.Response:
        paid = {"X-PAYMENT": payment} if payment else {}
        return requests.request(
            method, url, data=body or None, headers=fields | paid, timeout=WAIT_S, **more
        )

    def buy(url: str, **more) -> requests.Response:
        unpaid = call(url)
        if unpaid.status_code != 402:
            return unpaid
        return call(url, signed(chosen(unpaid), private_key), **more)

    if verb == "stream":
        response = buy(urls[0], stream=True)
        for chunk in response.iter_content(None):
            print(json.dumps(chunk.decode()), flush=True)
        ended = {
            "status": response.status_code,
            "receipt": "x-payment-response" in response.headers,
        }
        print(json.dumps(ended))
    elif verb == "present":
        payment = signed(chosen(call(urls[0])), private_key)
        print(json.dumps([shown(call(url, payment)) for url in urls[1:]]))
    else:
        print(json.dumps([shown(buy(url)) for url in urls]))


main()
