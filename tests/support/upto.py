"""A gateway that sells by use, on a chain with stand-ins for Permit2 and x402's proxies."""

import asyncio
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.demo.chain import DemoChain
from mpp_gateway.demo.node import Node
from mpp_gateway.protocol import permit2
from mpp_gateway.protocol.x402_permits import EXACT_PROXY, UPTO_PROXY, X402Permit
from mpp_gateway.rails.evm import abi
from tests.support.contracts import deploy
from tests.support.evm import address, now
from tests.support.evm_permits import APPROVE, FOREVER
from tests.support.facilitator import StandInFacilitator
from tests.support.paid import ChainThread, fresh_key, paid_parts, wait_until
from tests.support.x402 import X402Buyer, encoded

ROUTES = """
      "GET /paid": {charge: "0.01", upto: true}
      "GET /dear": {charge: "0.09", upto: true}
      "GET /plain": {charge: "0.01"}
      "GET /refunded": {charge: "0.01", upto: true, charge_on: [404]}
"""


async def _runtimes() -> dict[bytes, bytes]:
    async with DemoChain() as scratch:
        places = {permit2.ADDRESS: "permit2", UPTO_PROXY: "upto", EXACT_PROXY: "exact"}
        made = {place: await deploy(scratch, name) for place, name in places.items()}
        return await scratch.run(
            lambda node: {
                place: bytes(node._vm("latest").state.get_code(at)) for place, at in made.items()
            }
        )


@functools.cache
def runtimes() -> dict[bytes, bytes]:
    """Return the code of the stand-ins, by the addresses of what they stand for."""
    return asyncio.run(_runtimes())


def new_chain() -> ChainThread:
    """Return a chain that has them."""
    begun = functools.partial(Node, contracts=runtimes())
    with mock.patch("mpp_gateway.demo.chain.Node", begun):
        return ChainThread()


@functools.cache
def upto_chain() -> ChainThread:
    """Return the one of this process."""
    return new_chain()


@dataclass
class UptoBuyer(X402Buyer):
    """Buys by use; Permit2 may move its tokens."""

    way = ("upto", "permit2")
    """Scheme and transfer method of the offers that it takes up."""

    @property
    def facilitator(self) -> StandInFacilitator:
        assert self.paid.facilitator is not None
        return self.paid.facilitator

    def entry(self, target: str = "/api/paid") -> dict[str, Any]:
        """Return the offer that it takes up, once there is one."""

        def found() -> dict[str, Any] | None:
            accepts = self.required(target)["accepts"]
            ways = ((e["scheme"], e["extra"].get("assetTransferMethod")) for e in accepts)
            return next((e for e, way in zip(accepts, ways, strict=True) if way == self.way), None)

        offer = wait_until(found, "an offer by permit")
        assert isinstance(offer, dict)
        return offer

    def approve(self, key: bytes | None = None, minor: int = FOREVER) -> None:
        demo, owner = self.paid.chain.demo, key or self.paid.key
        payload = APPROVE + abi.address_word(permit2.ADDRESS) + abi.uint_word(minor)
        self.call(owner, demo.token, payload)

    def call(self, key: bytes, contract: bytes, payload: bytes) -> str:
        """Let the owner of a key call a contract."""
        demo = self.paid.chain.demo
        self.paid.chain.run(demo.fund_gas(address(key)))
        return self.paid.chain.run(demo.run(lambda n: demo._transact(n, contract, payload, 0, key)))

    def permit(
        self,
        target: str = "/api/paid",
        key: bytes | None = None,
        chain_id: int | None = None,
        **changes: Any,
    ) -> X402Permit:
        """Return a permit that is good for `target`, or one that is changed and signed so."""
        entry, key = self.entry(target), key or self.paid.key
        named = entry["extra"].get("facilitatorAddress")
        unsigned = X402Permit(
            owner=address_of(key),
            token=parse_address(entry["asset"]),
            amount_minor=int(entry["amount"]),
            spender=UPTO_PROXY if named else EXACT_PROXY,
            nonce=int.from_bytes(fresh_key("nonce")),
            deadline=now() + entry["maxTimeoutSeconds"],
            to=parse_address(entry["payTo"]),
            facilitator=parse_address(named) if named else None,
            valid_after=0,
            signature=b"",
        )
        unsigned = replace(unsigned, **changes)
        digest = unsigned.digest(chain_id or self.paid.chain.demo.chain_id)
        return replace(unsigned, signature=sign(digest, key))

    def payment(self, permit: X402Permit, target: str = "/api/paid", **members: Any) -> str:
        document = {
            "x402Version": 2,
            "payload": permit.to_payload(),
            "accepted": self.entry(target),
        }
        return encoded(document | members)

    def buy(self, target: str = "/api/paid", **changes: Any) -> str:
        return self.payment(self.permit(target, **changes), target)

    def uses(self, said: str, *fields: str) -> None:
        """Let the upstream say what was used."""
        self.paid.keeper.answers("200 OK", f"Settlement-Overrides: {said}", *fields)


def asked(facilitator: StandInFacilitator, path: str) -> list[dict[str, Any]]:
    return [body for at, body in facilitator.asked if at == path]


@contextmanager
def upto_gateway(tmp_path: Path, *extensions: str, **options: Any) -> Iterator[UptoBuyer]:
    """Run one whose facilitator lists the scheme."""
    thread = options.pop("thread", None) or upto_chain()
    options = {
        "routes": ROUTES,
        "timeouts": "connect_s: 1, first_byte_s: 5, settle_s: 3",
        "method_more": ", x402: true",
    } | options
    with paid_parts(tmp_path, facilitator=True, thread=thread, **options) as paid:
        buyer = UptoBuyer(paid)
        buyer.facilitator.sells_by_use(*extensions)
        buyer.approve()
        paid.start()
        try:
            yield buyer
        finally:
            paid.keeper.opened.set()
            paid.node.faults.clear()
            paid.node.lies.clear()
            buyer.facilitator.fault = ""
            buyer.facilitator.faults.clear()
            paid.stack.close()
