"""One buyer with the official Python client, three verbs; prints JSON. Runs in .venv here.

client.py pay METHOD BODY URL...          calls each URL and pays whatever it asks
client.py present METHOD BODY URL URL...  signs for the first URL's 402, and presents that one
                                          payment at each of the other URLs in turn
client.py stream METHOD BODY URL          pays, and prints what arrives as it arrives
"""

import asyncio
import json
import os
import sys

import httpx
from eth_account import Account
from x402 import x402Client
from x402.http import decode_payment_response_header
from x402.http.clients.httpx import wrapHttpxWithPayment
from x402.http.x402_http_client import x402HTTPClient
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.upto.client import UptoEvmScheme

WAIT_S = 60


def shown(response: httpx.Response) -> dict:
    receipt = response.headers.get("payment-response")
    return {
        "body": response.text,
        "challenges": int("payment-required" in response.headers),
        "receipt": receipt
        and decode_payment_response_header(receipt).model_dump(by_alias=True, exclude_none=True),
        "status": response.status_code,
    }


async def pay(client: x402Client, request: dict, urls: list[str]) -> list[dict]:
    async with wrapHttpxWithPayment(client, timeout=WAIT_S) as paying:
        return [shown(await paying.request(url=url, **request)) for url in urls]


async def permit(client: x402Client, request: dict, urls: list[str]) -> list[dict]:
    """Pay as one does whose token has no EIP-3009: by Permit2, for the price."""
    way = ("exact", "permit2")
    client.register_policy(
        lambda _, found: [e for e in found if (e.scheme, e.extra.get("assetTransferMethod")) == way]
    )
    return await pay(client, request, urls)


async def present(client: x402Client, request: dict, urls: list[str]) -> list[dict]:
    buyer = x402HTTPClient(client)
    async with httpx.AsyncClient(timeout=WAIT_S) as plain:
        unpaid = await plain.request(url=urls[0], **request)
        asked = buyer.get_payment_required_response(unpaid.headers.get)
        payment = await client.create_payment_payload(asked)
        request["headers"] |= buyer.encode_payment_signature_header(payment)
        return [shown(await plain.request(url=url, **request)) for url in urls[1:]]


async def stream(client: x402Client, request: dict, urls: list[str]) -> dict:
    async with (
        wrapHttpxWithPayment(client, timeout=WAIT_S) as paying,
        paying.stream(url=urls[0], **request) as response,
    ):
        async for chunk in response.aiter_text():
            print(json.dumps(chunk), flush=True)
        return {"status": response.status_code, "receipt": "payment-response" in response.headers}


def main() -> None:
    wallet = json.loads(os.environ["PEER_WALLET"])
    signer = EthAccountSigner(Account.from_key(wallet["private_key"]))
    client = register_exact_evm_client(x402Client(), signer)
    client.register("eip155:*", UptoEvmScheme(signer))
    verb, method, body, *urls = sys.argv[1:]
    request = {"method": method, "headers": {}}
    if body:
        request |= {"content": body, "headers": {"Content-Type": "application/json"}}
    verbs = {"pay": pay, "permit": permit, "present": present, "stream": stream}
    print(json.dumps(asyncio.run(verbs[verb](client, request, urls))))


main()
