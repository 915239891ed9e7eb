"""One buyer, two verbs; prints a JSON list of what came back. Runs in tests/peers/.venv.

client.py pay METHOD BODY URL...          calls each URL and pays whatever it asks
client.py present METHOD BODY URL URL...  pays the first URL's challenge, and presents that one
                                          credential at each of the other URLs in turn
"""

import asyncio
import json
import os
import sys

import httpx
from eth_account import Account
from mpp import Challenge, Receipt
from mpp.client import Mpp
from mpp.methods.evm import client as evm
from mpp.methods.stripe import client as stripe
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import client as tempo
from mpp.runtime import CredentialParams


def shown(response: httpx.Response) -> dict:
    encoded = response.headers.get("payment-receipt")
    receipt = None if encoded is None else Receipt.from_payment_receipt(encoded)
    asked = response.headers.get_list("www-authenticate") if response.status_code == 402 else []
    return {
        "body": response.text,
        "challenges": len([Challenge.from_www_authenticate(text) for text in asked]),
        "receipt": receipt
        and {
            "method": receipt.method,
            "reference": receipt.reference,
            "status": receipt.status,
            **({"externalId": receipt.external_id} if receipt.external_id else {}),
            **(receipt.extensions or {}),
        },
        "status": response.status_code,
    }


async def pay(method, request: dict, urls: list[str]) -> list[dict]:
    async with Mpp(methods=[method]) as client:
        return [shown(await client.fetch(url, **request)) for url in urls]


async def present(method, request: dict, urls: list[str]) -> list[dict]:
    async with httpx.AsyncClient() as client:
        unpaid = await client.request(url=urls[0], **request)
        challenge = Challenge.from_www_authenticate(unpaid.headers["www-authenticate"])
        credential = await method.create_credential(CredentialParams(challenge=challenge))
        request["headers"]["Authorization"] = credential
        return [shown(await client.request(url=url, **request)) for url in urls[1:]]


def by_card(wallet: dict):
    """Return pympp's `stripe` method; its tokens are minted by Stripe's test helper."""

    async def create_token(asked) -> str:
        form = {
            "payment_method": asked.payment_method,
            "usage_limits[currency]": asked.currency,
            "usage_limits[max_amount]": asked.amount,
            "usage_limits[expires_at]": str(asked.expires_at),
            "seller_details[network_id]": asked.network_id,
        }
        headers = {"Authorization": f"Bearer {wallet['mint_key']}"}
        async with httpx.AsyncClient() as client:
            minted = await client.post(wallet["mint_url"], data=form, headers=headers)
        return minted.json()["id"]

    return stripe.charge(create_token=create_token, payment_method=wallet["payment_method"])


def on_chain(wallet: dict):
    return evm.charge(
        account=Account.from_key(wallet["private_key"]),
        authorization={"name": wallet["name"], "version": wallet["version"]},
        chain_id=wallet["chain_id"],
        currency=wallet["token"],
        decimals=wallet["decimals"],
        max_amount=wallet["max_amount"],
    )


def on_tempo(wallet: dict):
    # It signs for 60 seconds, as Tempo takes it since its hard fork T11; the chain that npm has is
    # of T4, and takes 30 at most. mppx signs for 25.
    tempo.EXPIRING_NONCE_VALID_BEFORE_SECS = 25
    return tempo.charge(
        account=TempoAccount.from_key(wallet["private_key"]),
        chain_id=wallet["chain_id"],
        rpc_url=wallet["rpc_url"],
    )


def method_of(wallet: dict):
    if "mint_url" in wallet:
        return by_card(wallet)
    return on_tempo(wallet) if wallet.get("kind") == "tempo" else on_chain(wallet)


def main() -> None:
    wallet = json.loads(os.environ["PEER_WALLET"])
    method = method_of(wallet)
    verb, http_method, body, *urls = sys.argv[1:]
    request = {"method": http_method, "headers": {}}
    if body:
        request |= {"content": body, "headers": {"Content-Type": "application/json"}}
    if own := os.environ.get("PEER_AUTHORIZATION"):
        request["headers"]["Authorization"] = own
    answers = asyncio.run({"pay": pay, "present": present}[verb](method, request, urls))
    print(json.dumps(answers))


main()
