"""A gateway that takes transactions of the buyer's own on the demo chain, and such a buyer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.evm_transaction import SignedTransaction, Unsigned
from mpp_gateway.rails.evm import abi
from tests.support.evm import address, now
from tests.support.paid import Paid, paid_parts

GAS = 100_000
MAX_FEE_WEI = 100 * 10**9


@dataclass
class BuyersShop(Paid):
    """`Paid`, with a buyer that pays the gas. `buy` signs a transaction for the gateway to send."""

    def nonce(self, key: bytes | None = None) -> int:
        owner = address(key or self.key)
        asked = {"method": "eth_getTransactionCount", "params": [owner, "latest"], "id": 1}
        answer = self.chain.run(self.chain.demo.run(lambda _: self.chain.demo._answer(asked)))
        return int(answer["result"], 16)

    def signed(
        self, challenge: Challenge, key: bytes | None = None, **changes: Any
    ) -> SignedTransaction:
        """Return the transfer that pays a challenge; `changes` are of it or of its fields."""
        request = challenge.request_object
        to = changes.pop("recipient", bytes.fromhex(request["recipient"][2:]))
        amount = changes.pop("amount_minor", int(request["amount"]))
        key = key or self.key
        unsigned = Unsigned(
            chain_id=self.chain.demo.chain_id,
            nonce=changes.pop("nonce", None) if "nonce" in changes else self.nonce(key),
            max_priority_fee=10**9,
            max_fee=MAX_FEE_WEI,
            gas_limit=GAS,
            to=self.chain.demo.token,
            value=0,
            data=abi.transfer(to, amount),
        )
        unsigned = replace(unsigned, **changes)
        return SignedTransaction.decode(unsigned.signed(sign(unsigned.digest, key)))

    def source(self, key: bytes | None = None, chain_id: int | None = None) -> str:
        chain = chain_id or self.chain.demo.chain_id
        return f"did:pkh:eip155:{chain}:{address(key or self.key)}"

    def pull(self, challenge: Challenge, **changes: Any) -> Credential:
        """Return a credential with a signed transaction."""
        return self.with_raw(challenge, self.signed(challenge, **changes).raw)

    def with_raw(self, challenge: Challenge, raw: bytes) -> Credential:
        payload = {"type": "transaction", "signature": "0x" + raw.hex()}
        return Credential(challenge, payload, self.source())

    def push(self, challenge: Challenge, tx_hash: str, key: bytes | None = None) -> Credential:
        """Return a credential with the hash of a transaction."""
        return Credential(challenge, {"type": "hash", "hash": tx_hash}, self.source(key))

    def buy(self, target: str = "/api/paid", **changes: Any) -> Credential:
        return self.pull(self.challenge(target), **changes)

    def broadcast(self, transaction: SignedTransaction) -> str:
        """Send it from elsewhere; the demo chain makes a block at once."""
        asked = {"method": "eth_sendRawTransaction", "params": ["0x" + transaction.raw.hex()]}
        answer = self.chain.run(
            self.chain.demo.run(lambda _: self.chain.demo._answer({"id": 1, **asked}))
        )
        assert answer["result"] == transaction.tx_hash, answer
        return transaction.tx_hash

    def transfer(self, challenge: Challenge, **changes: Any) -> str:
        """Let the buyer send the payment itself; return the transaction."""
        return self.broadcast(self.signed(challenge, **changes))

    def fund(self, key: bytes) -> None:
        self.chain.run(self.chain.demo.fund_gas(address(key)))


def owner(key: bytes) -> bytes:
    return address_of(key)


@contextmanager
def buyers_shop(tmp_path: Path, types: str, **options: Any) -> Iterator[BuyersShop]:
    """Run a gateway that takes these types of credential."""
    with paid_parts(tmp_path, **options) as paid:
        assert paid.config.count(", submit: {") == 1
        config = paid.config.replace(", submit: {", f", credential_types: [{types}], submit: {{")
        shop = BuyersShop(
            paid.chain, paid.node, paid.upstream, paid.keeper, paid.place, paid.payee, paid.key,
            config, paid.facilitator,
        )  # fmt: skip
        shop.fund(shop.key)
        shop.start()
        try:
            yield shop
        finally:
            shop.keeper.opened.set()
            shop.node.faults.clear()
            shop.node.lies.clear()
            shop.stack.close()


def later(shop: Paid, seconds: int) -> None:
    """Let the gateway's clock go on; the chain's stays."""
    later_s = now() + seconds
    assert shop.proxy is not None
    assert shop.proxy.runtime.serving is not None
    shop.proxy.runtime.serving.executor.clock = lambda: later_s
