"""A gateway that takes permits of Permit2, on a chain that has a stand-in for that contract."""

import asyncio
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.demo.chain import DemoChain
from mpp_gateway.demo.node import Node
from mpp_gateway.protocol import eip3009, permit2
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.permit2 import Move, Permit
from mpp_gateway.rails.evm import abi
from tests.support.contracts import deploy
from tests.support.evm import address, now
from tests.support.paid import ChainThread, Paid, fresh_key, paid_parts

FOREVER = 2**256 - 1
APPROVE = abi.selector("approve(address,uint256)")
GIVE_UP = abi.selector("invalidateUnorderedNonces(uint256,uint256)")


async def _runtime() -> bytes:
    async with DemoChain() as scratch:
        place = await deploy(scratch, "permit2")
        return await scratch.run(lambda node: bytes(node._vm("latest").state.get_code(place)))


@functools.cache
def permit2_chain() -> ChainThread:
    """Return the chain of this process that has the stand-in at Permit2's address."""
    code = asyncio.run(_runtime())
    begun = functools.partial(Node, contracts={permit2.ADDRESS: code})
    with mock.patch("mpp_gateway.demo.chain.Node", begun):
        return ChainThread()


@dataclass
class PermitShop(Paid):
    """`Paid`, with a buyer that has let Permit2 move its tokens. `buy` signs a permit."""

    def call(self, key: bytes, contract: bytes, payload: bytes) -> str:
        """Let the owner of a key call a contract."""
        demo = self.chain.demo
        self.chain.run(demo.fund_gas(address(key)))
        return self.chain.run(demo.run(lambda n: demo._transact(n, contract, payload, 0, key)))

    def approve(self, minor: int = FOREVER, key: bytes | None = None) -> None:
        payload = APPROVE + abi.address_word(permit2.ADDRESS) + abi.uint_word(minor)
        self.call(key or self.key, self.chain.demo.token, payload)

    def permit(
        self,
        challenge: Challenge,
        key: bytes | None = None,
        *,
        form: int = 0,
        json_hash: bool = False,
        spender: bytes | None = None,
        **changes: Any,
    ) -> Credential:
        """Return a credential with a permit; `changes` are of it, or of its one move."""
        request, key = challenge.request_object, key or self.key
        token = changes.pop("token", self.chain.demo.token)
        splits = request["methodDetails"].get("splits", [])
        shares = [
            Move(token, int(s["amount"]), bytes.fromhex(s["recipient"][2:]), int(s["amount"]))
            for s in splits
        ]
        rest = int(request["amount"]) - sum(share.requested for share in shares)
        move = Move(
            token=token,
            permitted=changes.pop("permitted", rest),
            to=changes.pop("to", bytes.fromhex(request["recipient"][2:])),
            requested=changes.pop("requested", rest),
        )
        hashes = eip3009.challenge_hashes(challenge.id, challenge.realm)
        unsigned = Permit(
            moves=(move, *shares),
            nonce=int.from_bytes(fresh_key("nonce")),
            deadline=now() + 600,
            challenge_hash=hashes[1 if json_hash else 0],
            signature=b"",
        )
        unsigned = replace(unsigned, **changes)
        witness = list(unsigned.witnesses())[form]
        told = request["methodDetails"]["permit2Spender"]
        digest = unsigned.digest(
            witness, self.chain.demo.chain_id, spender or bytes.fromhex(told[2:])
        )
        signed = replace(unsigned, signature=sign(digest, key))
        chain_id = self.chain.demo.chain_id
        source = f"did:pkh:eip155:{chain_id}:{address(key)}"
        return Credential(challenge, payload_of(signed), source)

    def buy(self, target: str = "/api/paid", **changes: Any) -> Credential:  # type: ignore[override]
        return self.permit(self.challenge(target), **changes)


def payload_of(permit: Permit) -> dict[str, Any]:
    """Return the payload as a client writes it (evm charge draft)."""
    return {
        "type": "permit2",
        "permit": {
            "permitted": [
                {"token": checksum(move.token), "amount": str(move.permitted)}
                for move in permit.moves
            ],
            "nonce": str(permit.nonce),
            "deadline": str(permit.deadline),
        },
        "transferDetails": [
            {"to": checksum(move.to), "requestedAmount": str(move.requested)}
            for move in permit.moves
        ],
        "witness": {"challengeHash": "0x" + permit.challenge_hash.hex()},
        "signature": "0x" + permit.signature.hex(),
    }


@contextmanager
def permit_shop(
    tmp_path: Path, types: str = "permit2", more: str = "", **options: Any
) -> Iterator[PermitShop]:
    """Run a gateway that takes permits."""
    with paid_parts(tmp_path, thread=permit2_chain(), **options) as paid:
        config = paid.config.replace(
            ", submit: {", f", credential_types: [{types}]{more}, submit: {{"
        )
        shop = PermitShop(
            paid.chain, paid.node, paid.upstream, paid.keeper, paid.place, paid.payee, paid.key,
            config,
        )  # fmt: skip
        shop.approve()
        shop.start()
        try:
            yield shop
        finally:
            shop.keeper.opened.set()
            shop.node.faults.clear()
            shop.node.lies.clear()
            shop.stack.close()


def owner(key: bytes) -> bytes:
    return address_of(key)
