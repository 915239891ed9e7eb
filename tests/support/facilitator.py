"""A stand-in for an x402 facilitator: real HTTP, real transactions on the demo chain, own gas key.

It is not a facilitator to run: it checks little, and `fault` makes it lie.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from eth_account import Account

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.demo.chain import DemoChain
from mpp_gateway.demo.node import RpcError
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.x402_permits import X402Permit
from mpp_gateway.rails.evm import abi
from tests.support.evm import address, served

STAND_IN_KEY = keccak256(b"stand-in facilitator")
NO_TRANSACTION = "0x" + "ab" * 32
STRANGER = {
    "isValid": False,
    "invalidReason": "invalid_api_key",
    "success": False,
    "errorReason": "invalid_api_key",
}
PLAIN = {
    "500": (500, "boom"),
    "401": (401, '{"error": "unauthorized"}'),
    "403": (403, json.dumps(STRANGER)),
    "429": (429, "slow down"),
    "503": (503, '{"isValid": false, "invalidReason": "unexpected_verify_error"}'),
    "garbage": (200, "<html>"),
    "shape": (200, "[]"),
}
"""Faults that are one answer, whatever was asked: its status and its text."""


@dataclass
class StandInFacilitator:
    """Speaks /verify, /settle and /supported. Set `fault` to make the next answers wrong.

    Faults: hang, 500, garbage, shape (JSON, and no object), 401, error:<reason>, reset, lost
    (settles, then cuts the connection), pending (settles, then says pending), lie (says success and
    settles nothing), takes (settles when it is only asked to verify). `faults` is by path.
    pending-once: settles, says pending, and what came of it when asked again; pending-ever: says
    pending for as long as it lasts; stuck: says pending of a transaction that never is in a block;
    overdrawn: says pending, and asked again that the payer has nothing left.
    """

    chain: DemoChain
    fault: str = ""
    faults: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict]] = field(default_factory=list)
    then: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """By path: what happens once before the next answer."""
    supports: Any = None
    """What it answers to /supported, if it is not the truth; a number is a status."""
    key: str = ""
    """The only `Authorization` that it takes, if it cares."""
    settles_minor: int | None = None
    """What it moves of every payment by use, whatever it is asked to."""
    pending: dict[str, str] = field(default_factory=dict)
    """By nonce: the transaction that was sent for it."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/supported":
            return self._supported()
        body = await request.json()
        self.asked.append((request.path, body))
        fault = self.faults.get(request.path) or self.fault
        if self.key and request.headers.get("Authorization") != self.key:
            fault = "401"
        if request.path in self.then:
            happened = self.then.pop(request.path)()
            if asyncio.iscoroutine(happened):
                await happened
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if fault in PLAIN:
            status, text = PLAIN[fault]
            return web.Response(status=status, text=text, content_type="application/json")
        if request.path == "/verify":
            return await self._verify(body, fault)
        return await self._settle(request, body, fault)

    def sells_by_use(self, *extensions: str) -> None:
        """List the scheme `upto` too, with its own account as the one that settles."""
        exact = {"x402Version": 2, "scheme": "exact", "network": self.network}
        named = {"facilitatorAddress": checksum(address_of(STAND_IN_KEY))}
        kinds = [exact, {**exact, "scheme": "upto", "extra": named}]
        self.supports = {"kinds": kinds, "extensions": list(extensions), "signers": {}}

    def _supported(self) -> web.Response:
        if isinstance(self.supports, int):
            return web.Response(status=self.supports)
        kind = {"x402Version": 2, "scheme": "exact", "network": self.network}
        truth = {"kinds": [kind], "extensions": [], "signers": {}}
        return web.json_response(truth if self.supports is None else self.supports)

    @property
    def network(self) -> str:
        return f"eip155:{self.chain.chain_id}"

    async def _verify(self, body: dict, fault: str) -> web.Response:
        if fault.startswith("error:"):
            reason = fault.removeprefix("error:")
            return web.json_response({"isValid": False, "invalidReason": reason})
        if fault == "takes":
            await self._submit(body)
        return web.json_response({"isValid": True, "payer": _signed(body)["from"]})

    async def _settle(self, request: web.Request, body: dict, fault: str) -> web.Response:
        if fault.startswith("error:"):
            return self._failure(fault.removeprefix("error:"))
        if fault == "lie":
            return self._success(NO_TRANSACTION)
        if fault == "stuck":
            return self._failure("settlement_pending", NO_TRANSACTION)
        sent = self.pending.get(_signed(body)["nonce"])
        if sent and fault == "overdrawn":
            return self._failure("invalid_exact_evm_insufficient_balance")
        if sent and fault in ("pending-once", "pending-ever"):
            return self._success(sent) if fault == "pending-once" else self._unmined(sent)
        try:
            tx_hash = await self._submit(body)
        except RpcError as error:
            used = "used" in error.message
            return self._failure(
                "invalid_exact_evm_nonce_already_used" if used else "transaction_failed"
            )
        if fault == "lost":
            request.transport.abort()
        if fault.startswith("pending") or fault == "overdrawn":
            self.pending[_signed(body)["nonce"]] = tx_hash
            return self._unmined(tx_hash)
        return self._success(tx_hash)

    async def _submit(self, body: dict) -> str:
        proof = body["paymentPayload"]["payload"]
        if "permit2Authorization" in proof:
            minor = self.settles_minor
            if minor is None:
                minor = int(body["paymentRequirements"]["amount"])
            by_use = body["paymentRequirements"]["scheme"] == "upto"
            permit = X402Permit.from_payload(proof, by_use=by_use)
            call = permit_settle(permit, minor)
            return await submit(self.chain, call, STAND_IN_KEY, to=permit.proxy)
        members = {**proof["authorization"], "signature": proof["signature"]}
        payload = abi.transfer_with_authorization(Authorization.from_payload(members))
        return await submit(self.chain, payload, STAND_IN_KEY)

    def _success(self, tx_hash: str) -> web.Response:
        return web.json_response(
            {"success": True, "transaction": tx_hash, "network": self.network, "payer": ""}
        )

    def _unmined(self, tx_hash: str) -> web.Response:
        return self._failure("settlement_pending", tx_hash)

    def _failure(self, reason: str, tx_hash: str = "") -> web.Response:
        return web.json_response(
            {
                "success": False,
                "errorReason": reason,
                "transaction": tx_hash,
                "network": self.network,
            }
        )


async def submit(
    chain: DemoChain,
    payload: bytes,
    key: bytes,
    gas: int | None = None,
    to: bytes | None = None,
) -> str:
    """Call the token, or `to`, with `payload` from the owner of `key`; return the transaction.

    A revert raises `RpcError`; where `gas` is given it is mined.
    """
    account = Account.from_key(key)
    sender = bytes.fromhex(account.address[2:])

    def work(node) -> str:
        signed = account.sign_transaction(
            {
                "type": 2,
                "chainId": chain.chain_id,
                "nonce": node.nonce(sender, "pending"),
                "gas": gas or node.estimate_gas(sender, to or chain.token, payload, 0),
                "maxFeePerGas": 3 * node.gas_price(),
                "maxPriorityFeePerGas": 10**9,
                "to": to or chain.token,
                "value": 0,
                "data": payload,
            }
        )
        return node.send(bytes(signed.raw_transaction))

    return await chain.run(work)


def stand_in(keep: list[StandInFacilitator]):
    """Return what `bench(facilitator=…)` takes; the stand-in is appended to `keep`."""

    @asynccontextmanager
    async def opened(chain: DemoChain):
        await chain.fund_gas(address(STAND_IN_KEY))
        facilitator = StandInFacilitator(chain)
        keep.append(facilitator)
        async with served(facilitator.serve) as url:
            yield url

    return opened


def _signed(body: dict) -> dict:
    proof = body["paymentPayload"]["payload"]
    return proof.get("authorization") or proof["permit2Authorization"]


def permit_settle(permit: X402Permit, minor: int) -> bytes:
    """Return the call of the permit's proxy that settles it; by use it moves so much."""
    terms = permit.amount_minor, permit.nonce, permit.deadline
    words = [abi.address_word(permit.token), *map(abi.uint_word, terms)]
    ends = [abi.address_word(permit.owner), abi.address_word(permit.to)]
    settle = abi.EXACT_SETTLE
    if permit.facilitator is not None:
        settle = abi.UPTO_SETTLE
        words.append(abi.uint_word(minor))
        ends.append(abi.address_word(permit.facilitator))
    words += [*ends, abi.uint_word(permit.valid_after)]
    start = abi.uint_word((len(words) + 1) * abi.WORD)
    return settle + b"".join(words) + start + abi.octets(permit.signature)
